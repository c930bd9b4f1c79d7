"""How fast this machine restores images of one size: `python benchmarks/latency.py`.

One line for each network: the seconds until the first image is restored, then the time of an image (median, and what
95 % of them stay under), images a second, peak memory, and how far that is from what the machine can do. `matrix` is
the share of its rate of multiply-accumulates, measured on a product of two large matrices; `memory` the share of its
bandwidth, measured on a copy of a large tensor, if every convolution read its input and wrote its output there. What
stays in a cache is not read there, so this share may exceed 100 %.

    python benchmarks/latency.py --sizes M3SNet-S M3SNet-32 --image 1280x720
    python benchmarks/latency.py --device cuda --precision float16 --runs 50 --json latency.json
"""
from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from m3snet.benchmarks.complexity import size, whole
from m3snet.benchmarks.cost import convolution_bytes, count_macs, in_new_process, peak_bytes, resident_bytes
from m3snet.models import SIZES, create_model
from m3snet.utils.allocator import keep_freed_memory
from m3snet.utils.cli import run_program
from m3snet.utils.provenance import machine, provenance
from m3snet.utils.restoring.backends import BACKENDS, PRECISIONS, find_device
from m3snet.utils.restoring.restorer import Restorer

PATCH = 128  # pixels, of the released weights: TLC's window is 192
SIDE = 4096  # of the matrices that are multiplied, on a GPU; half of it on a CPU


class Case(NamedTuple):
    """What is measured; picklable."""

    network: str
    image: tuple[int, int]  # height, width
    device: str | None
    precision: str
    backend: str
    tlc: bool
    runs: int


class Latency(NamedTuple):
    """What was measured."""

    backend: str
    precision: str
    first: float  # seconds from the network in memory to the first restored image
    seconds: list[float]
    peak_bytes: int | None


class Rates(NamedTuple):
    """What the machine can do."""

    macs: float  # multiply-accumulates a second
    bytes: float  # read or written a second


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table, and keep the raw times if they are wanted."""
    args = parse(argv)
    height, width = args.image
    device = find_device(args.device)
    print(f"{machine(device)}, {torch.get_num_threads()} thread(s), torch {torch.__version__}, {device}")
    print(f"{width}x{height}, {'TLC' if args.tlc else 'without TLC'}, {args.runs} runs after the first\n")
    print(f"{'network':10}{'backend':>12}{'precision':>10}{'first s':>9}{'median ms':>11}{'p95 ms':>8}", end="")
    print(f"{'images/s':>10}{'MiB':>7}{'matrix':>8}{'memory':>8}")
    rows = []
    rates: dict[str, Rates] = {}
    for name in args.sizes:
        case = Case(name, args.image, args.device, args.precision, args.backend, args.tlc, args.runs)
        found = in_new_process(measure, case)
        if found.precision not in rates:
            rates[found.precision] = in_new_process(machine_rates, str(device), found.precision)
        with torch.device("meta"):
            model = create_model(name).eval()
        dtype = PRECISIONS[found.precision]
        middle, high = median(found.seconds), percentile_95(found.seconds)
        matrix = count_macs(model, height, width) / middle / rates[found.precision].macs
        memory = convolution_bytes(model, height, width, dtype) / middle / rates[found.precision].bytes
        mib = "-" if found.peak_bytes is None else f"{found.peak_bytes / 2**20:.0f}"
        print(f"{name:10}{found.backend:>12}{found.precision:>10}{found.first:9.2f}{1000 * middle:11.1f}", end="")
        print(f"{1000 * high:8.1f}{1 / middle:10.2f}{mib:>7}{matrix:8.0%}{memory:8.0%}", flush=True)
        rows.append({**case._asdict(), **found._asdict(), "matrix_share": matrix, "memory_share": memory})
    for precision, rate in rates.items():
        print(f"\n{precision}: {rate.macs / 1e9:.0f} GMAC/s, {rate.bytes / 1e9:.0f} GB/s of this machine")
    if args.json:
        origin = {"machine": machine(device), **provenance(device)}
        measured = {precision: rate._asdict() for precision, rate in rates.items()}
        content = {"provenance": origin, "rates": measured, "rows": rows}
        args.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        print(f"written: {args.json}")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ", ".join(SIZES)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["M3SNet-S"], metavar="NAME", help=names)
    parser.add_argument("--image", type=size, default=(256, 256), metavar="WxH", help="default: 256x256")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps (default: the fastest that is there)")
    parser.add_argument("--precision", choices=["auto", *PRECISIONS], default="auto")
    parser.add_argument("--backend", choices=["auto", *BACKENDS], default="auto")
    parser.add_argument("--no-tlc", dest="tlc", action="store_false", help="pool over the whole image")
    parser.add_argument("--runs", type=whole, default=20, help="default: 20")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every time, and where it comes from")
    args = parser.parse_args(argv)
    if args.runs < 1:
        parser.error("--runs: expected at least 1")
    return args


def measure(case: Case) -> Latency:
    """Restore one image again and again, in a process that has restored nothing before."""
    keep_freed_memory()
    device = find_device(case.device)
    model = create_model(case.network).eval()
    model.patch_size = PATCH
    for name, parameter in model.named_parameters():
        if name.endswith(("beta", "gamma")):
            nn.init.normal_(parameter, std=0.1)  # a new block is the identity
    image = np.random.default_rng(0).integers(0, 256, (*case.image, 3), np.uint8)
    nn.Conv2d(3, 3, 3).to(device)(torch.rand(1, 3, 64, 64, device=device))  # loads the libraries
    before = resident_bytes(device)
    start = time.perf_counter()
    restorer = Restorer(model, device, case.precision, case.backend, case.tlc, tile=0)
    restorer(image)
    first = time.perf_counter() - start
    seconds = [_seconds(lambda: restorer(image)) for _ in range(case.runs)]
    after = peak_bytes(device)
    peak = None if before is None or after is None else max(0, after - before)
    return Latency(restorer.backend, restorer.precision, first, seconds, peak)


def machine_rates(device: str, precision: str) -> Rates:
    """What a matrix product and a copy reach on a device; the fastest of several."""
    side = SIDE if device != "cpu" else SIDE // 2
    a, b = (torch.rand(side, side, device=device).to(PRECISIONS[precision]) for _ in range(2))
    source = torch.rand(1 << 26, device=device)
    target = torch.empty_like(source)

    def run(function: Callable[[], object]) -> Callable[[], None]:
        def whole() -> None:
            function()
            if device != "cpu":
                torch.accelerator.synchronize()

        return whole

    product = min(_seconds(run(lambda: torch.matmul(a, b))) for _ in range(10))
    copy = min(_seconds(run(lambda: target.copy_(source))) for _ in range(10))
    return Rates(side**3 / product, 2 * source.nbytes / copy)


def percentile_95(seconds: Sequence[float]) -> float:
    """What 95 % of them stay under."""
    return quantiles(seconds, n=20, method="inclusive")[-1] if len(seconds) > 1 else seconds[0]


def _seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


if __name__ == "__main__":
    run_program(main)
