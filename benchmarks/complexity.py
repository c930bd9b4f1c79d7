"""Count what the networks of this project cost: `python benchmarks/complexity.py`.

Parameters and MACs of every size, with and without FFM and MHAMB. `--json` keeps the table. How long they take:
benchmarks/latency.py.

    python benchmarks/complexity.py --sizes M3SNet-32 --json complexity.json
"""
from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from m3snet.benchmarks.cost import count_macs, count_parameters
from m3snet.models import SIZES, create_model
from m3snet.utils.cli import run_program
from m3snet.utils.provenance import provenance

Row = dict[str, Any]


class Published(NamedTuple):
    """The published code of a network as measured, and what its paper reports."""

    network: str
    parameters: float  # millions; measured
    gmacs: float  # at 256x256; measured
    gopro_psnr: float  # dB, with TLC; the paper's


# (size, FFM, MHAMB) -> M3SNet, arXiv 2305.05146; NAFNet, arXiv 2204.04676, which M3SNet is without its two additions.
PUBLISHED = {
    ("M3SNet-32", True, True): Published("M3SNet-32", 16.73, 18.65, 32.91),
    ("M3SNet-64", True, True): Published("M3SNet-64", 66.36, 73.57, 33.74),
    ("M3SNet-32", False, False): Published("NAFNet-32", 17.11, 15.96, 32.87),
    ("M3SNet-64", False, False): Published("NAFNet-64", 67.89, 63.05, 33.71),
}

ABLATIONS = ((True, True), (False, True), (True, False), (False, False))  # FFM, MHAMB
HD = 720, 1280

_TITLES = ("Network", "Parameters", "GMACs", "at 720p", "Published code: M, GMACs; paper: dB")
_WIDTHS = (15, 10, 6, 7, 35)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table, and keep its rows if they are wanted."""
    args = parse(argv)
    print("GMACs: convolutions and matrix products of one image, at 256x256 and at 1280x720.")
    print("Published code: parameters and GMACs measured on it, not printed in a paper; dB: the paper's PSNR on GoPro.")
    print(f"\n{_line(_TITLES)}\n{'-' * (sum(_WIDTHS) + 2 * len(_WIDTHS) - 2)}")
    rows = []
    for row in counted(args.sizes):
        print(_line(_cells(row)), flush=True)
        rows.append(row)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps({"provenance": provenance(), "rows": rows}, indent=2) + "\n", encoding="utf-8")
        print(f"\nwritten: {args.json}")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES), metavar="NAME", help=", ".join(SIZES))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows with every digit and their origin")
    return parser.parse_args(argv)


def whole(text: str) -> int:
    """A number of runs."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number from 0, found {text!r}")
    return int(text)


def size(text: str) -> tuple[int, int]:
    """Height and width from "WIDTHxHEIGHT"."""
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if not found:
        raise argparse.ArgumentTypeError(f"expected WIDTHxHEIGHT such as 1280x720, found {text!r}")
    return int(found[2]), int(found[1])


def counted(sizes: Sequence[str]) -> Iterator[Row]:
    """One row for each size and ablation."""
    for name in sizes:
        for ffm, mhamb in ABLATIONS:
            with torch.device("meta"):
                model = create_model(name, ffm, mhamb).eval()
            published = PUBLISHED.get((name, ffm, mhamb))
            yield {
                "network": name,
                "ffm": ffm,
                "mhamb": mhamb,
                "parameters": count_parameters(model),
                "macs": count_macs(model, 256, 256),
                "macs_720p": count_macs(model, *HD),
                "published": published._asdict() if published else None,
            }


def _cells(row: Row) -> list[str]:
    without = [part for part in ("FFM", "MHAMB") if not row[part.lower()]]
    published = row["published"]
    return [
        "  no " + ", ".join(without) if without else row["network"],
        f"{row['parameters']:,}",
        f"{row['macs'] / 1e9:.2f}",
        f"{row['macs_720p'] / 1e9:.1f}",
        "{network}: {parameters:.2f}, {gmacs:.2f}; {gopro_psnr:.2f}".format(**published) if published else "",
    ]


def _line(cells: Sequence[str]) -> str:
    first, *numbers, last = (
        f"{cell:<{width}}" if i in (0, len(_WIDTHS) - 1) else f"{cell:>{width}}"
        for i, (cell, width) in enumerate(zip(cells, _WIDTHS, strict=True))
    )
    return "  ".join([first, *numbers, last]).rstrip()


if __name__ == "__main__":
    run_program(main)
