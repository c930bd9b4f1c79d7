"""Speed and memory of restoring one image, beside the published network: `python benchmarks/inference.py`.

The variants take turns in one process, image by image, so that whatever else the machine does meets them alike; medians
are compared. `published` is the packaged network of spandrel_extra_arches (extra `test`), eager float32 in contiguous
memory, with TLC as models/tlc.py gives it to any network; the others are this project's: `exact` is what test.py runs,
`fused` what restore.py runs, and with `--openvino` that backend (extra `fast`). The table stands twice: with glibc's
allocator as it is, and as this project's programs set it (utils/allocator.py); each in a process of its own, and so is
each measurement of peak memory.

    python benchmarks/inference.py --size M3SNet-S --image 1280x720 --rounds 5 --json inference.json
"""
from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from torch import nn

from m3snet.benchmarks.complexity import size
from m3snet.benchmarks.cost import in_new_process, peak_bytes, resident_bytes
from m3snet.benchmarks.train_step import published_network
from m3snet.models import SIZES, M3SNet, apply_tlc, create_model, fuse, tlc_window
from m3snet.utils.allocator import keep_freed_memory
from m3snet.utils.cli import run_program
from m3snet.utils.provenance import machine, provenance
from m3snet.utils.restoring.exports import Network, export, facts_of, open_export

PATCH = 128  # pixels, of the released weights: TLC's window is 192
VARIANTS: dict[str, Callable[[M3SNet], Network]] = {
    "published": lambda model: published(model),
    "exact": lambda model: model.to(memory_format=torch.channels_last),
    "fused float32": fuse,
    "fused bfloat16": lambda model: fuse(model, torch.bfloat16),
}
OPENVINO: dict[str, Callable[[M3SNet], Network]] = {
    "openvino float32": lambda model: openvino(model, "float32"),
    "openvino bfloat16": lambda model: openvino(model, "bfloat16"),
}


class Case(NamedTuple):
    """What is measured; picklable."""

    size: str
    image: tuple[int, int]  # height, width
    tlc: bool
    rounds: int
    keep: bool  # whether the process keeps freed memory
    variants: tuple[str, ...]


def main(argv: Sequence[str] | None = None) -> None:
    """Print a table for each allocator setting, and keep the raw times if they are wanted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="M3SNet-S")
    parser.add_argument("--image", type=size, default=(256, 256), metavar="WxH", help="default: 256x256")
    parser.add_argument("--no-tlc", dest="tlc", action="store_false", help="pool over the whole image")
    parser.add_argument("--openvino", action="store_true", help="OpenVINO as well")
    parser.add_argument("--rounds", type=int, default=5, help="after one that warms up (default: 5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every time, and where it comes from")
    args = parser.parse_args(argv)
    height, width = args.image
    print(f"{machine()}, {torch.get_num_threads()} thread(s), torch {torch.__version__}, CPU")
    print(f"{args.size}, {width}x{height}, {'TLC' if args.tlc else 'without TLC'}, medians of {args.rounds} rounds\n")
    rows = []
    variants = (*VARIANTS, *(OPENVINO if args.openvino else ()))
    for keep in (False, True):
        case = Case(args.size, args.image, args.tlc, args.rounds, keep, variants)
        times = in_new_process(measure, case)
        peaks = {name: in_new_process(peak, case._replace(variants=(name,))) for name in variants}
        print("allocator: " + ("keeps freed memory, as in this project's programs" if keep else "as glibc has it"))
        print(f"{'':17}{'seconds':>9}{'times as fast':>15}{'GiB over idle':>15}")
        for name, seconds in times.items():
            faster = median(times["published"]) / median(seconds)
            print(f"{name:17}{median(seconds):9.3f}{faster:15.2f}{(peaks[name] or 0) / 2**30:15.2f}")
        print()
        rows.append({**case._asdict(), "seconds": times, "peak_bytes_over_idle": peaks})
    if args.json:
        origin = {"machine": machine(), **provenance(torch.device("cpu"))}
        args.json.write_text(json.dumps({"provenance": origin, "rows": rows}, indent=2) + "\n", encoding="utf-8")
        print(f"written: {args.json}")


def measure(case: Case) -> dict[str, list[float]]:
    """The seconds of every round of each variant."""
    networks, image = _prepare(case)
    times: dict[str, list[float]] = {name: [] for name in networks}
    with torch.inference_mode():
        for round_ in range(1 + case.rounds):
            for name, network in networks.items():
                start = time.perf_counter()
                network(image)
                if round_:
                    times[name].append(time.perf_counter() - start)
    return times


def peak(case: Case) -> int | None:
    """By how many bytes the process grows, at most, when the first variant restores an image; None: nothing tells."""
    networks, image = _prepare(case)
    network = networks[case.variants[0]]
    with torch.inference_mode():
        network(image[..., :64, :64])  # loads the libraries
        before = resident_bytes(torch.device("cpu"))
        network(image)
    after = peak_bytes(torch.device("cpu"))
    return None if before is None or after is None else max(0, after - before)


def _prepare(case: Case) -> tuple[dict[str, Network], torch.Tensor]:
    if case.keep:
        keep_freed_memory()
    torch.manual_seed(0)
    model = create_model(case.size).eval()
    for name, parameter in model.named_parameters():
        if name.endswith(("beta", "gamma")):
            nn.init.normal_(parameter, std=0.1)  # a new block is the identity
    image = torch.rand(1, 3, *case.image)
    if case.tlc:
        model = apply_tlc(model, PATCH)
    return {name: {**VARIANTS, **OPENVINO}[name](model) for name in case.variants}, image


def published(model: M3SNet) -> nn.Module:
    """The published network with the weights of `model`, and its TLC."""
    plain = M3SNet(**model.config)
    plain.load_state_dict(model.state_dict())
    network = published_network(plain).eval()
    return apply_tlc(network, PATCH) if tlc_window(model) else network


def openvino(model: M3SNet, precision: str) -> Network:
    """The network through OpenVINO, from a file that is made for this."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.xml"
        export(model, facts_of(model, "network", "float32"), "openvino", path)
        return open_export(path, precision)[0]


if __name__ == "__main__":
    run_program(main)
