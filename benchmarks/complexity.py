"""Measure the networks of this project: `python benchmarks/complexity.py`.

Parameters, MACs, latency and peak memory of every size, with and without FFM and MHAMB. The table is printed line by
line; `--json` keeps it.

    python benchmarks/complexity.py --runs 0  # counts only
    python benchmarks/complexity.py --sizes M3SNet-32 --image 1280x720 --json complexity.json
"""
from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from m3snet.benchmarks.cost import Cost, count_macs, count_parameters, in_new_process, measure
from m3snet.models import SIZES, create_model
from m3snet.utils.cli import run_program
from m3snet.utils.provenance import machine, provenance
from m3snet.utils.restoring.backends import find_device

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

_TITLES = ("Network", "Parameters", "GMACs", "at 720p", "ms", "MiB", "Published code: M, GMACs; paper: dB")
_WIDTHS = (15, 10, 6, 7, 7, 6, 35)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table, and keep its rows if they are wanted."""
    args = parse(argv)
    height, width = args.image
    name = machine(torch.device(args.device))
    print(f"{name}, {torch.get_num_threads()} thread(s), torch {torch.__version__}, {args.device}")
    print("GMACs: convolutions and matrix products of one image, at 256x256 and at 1280x720.")
    if args.runs:
        print(f"ms: one {width}x{height} image, float32, without TLC, the fastest of {args.runs} runs: what else the")
        print("machine does only slows them. MiB: peak, with weights.")
    print("Published code: parameters and GMACs measured on it, not printed in a paper; dB: the paper's PSNR on GoPro.")
    print(f"\n{_line(_TITLES)}\n{'-' * (sum(_WIDTHS) + 2 * len(_WIDTHS) - 2)}")
    rows = []
    for row in measured(args.sizes, args.image, args.device, args.runs):
        print(_line(_cells(row)), flush=True)
        rows.append(row)
    if args.json:
        origin = {"machine": machine(torch.device(args.device)), **provenance(torch.device(args.device))}
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps({"provenance": origin, "rows": rows}, indent=2) + "\n", encoding="utf-8")
        print(f"\nwritten: {args.json}")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES), metavar="NAME", help=", ".join(SIZES))
    parser.add_argument("--device", default=find_device().type, help="cpu, cuda, cuda:1, mps (default: the fastest)")
    parser.add_argument("--runs", type=whole, default=3, help="the fastest of how many; 0: only count (default: 3)")
    parser.add_argument(
        "--image", type=size, default=(256, 256), metavar="WxH", help="image to measure on (default: 256x256)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows with every digit and their origin")
    args = parser.parse_args(argv)
    try:
        torch.zeros(1, device=args.device)
    except (RuntimeError, AssertionError) as error:  # torch's way to say that it was built without
        parser.error(f"--device {args.device}: {str(error).splitlines()[0]}")
    return args


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


def measured(sizes: Sequence[str], image: tuple[int, int], device: str, runs: int) -> Iterator[Row]:
    """One row for each size and ablation; "seconds" (the fastest run) and "peak_bytes" are None for 0 `runs`."""
    for name in sizes:
        for ffm, mhamb in ABLATIONS:
            build = partial(create_model, name, ffm, mhamb)
            with torch.device("meta"):
                model = build().eval()
            cost: Cost | None = in_new_process(measure, build, *image, device, runs) if runs else None
            published = PUBLISHED.get((name, ffm, mhamb))
            yield {
                "network": name,
                "ffm": ffm,
                "mhamb": mhamb,
                "parameters": count_parameters(model),
                "macs": count_macs(model, 256, 256),
                "macs_720p": count_macs(model, *HD),
                "image": [image[1], image[0]],
                "runs": runs,
                "seconds": cost.seconds if cost else None,
                "peak_bytes": cost.peak_bytes if cost else None,
                "threads": cost.threads if cost else None,
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
        "-" if row["seconds"] is None else f"{1000 * row['seconds']:.1f}",
        "-" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 2**20:.0f}",
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
