"""What one pass of a network takes per pixel, beside what is reckoned with: `python benchmarks/memory.py`.

Measured is by how much a process grows, at most, when the network restores an image in one piece: of 1024 x 1024
pixels less that of 512 x 512, for each pixel between them. On the CPU, with TLC, in a new process each time, with the
allocator as this project's programs set it. How buffers fall into its gaps is another in each process: the largest of
five measurements counts. Reckoned with is what utils/restoring/memory.py says.

    python benchmarks/memory.py --sizes M3SNet-S --json memory.json
"""
from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch

from m3snet.benchmarks.cost import in_new_process, peak_bytes, resident_bytes
from m3snet.models import SIZES, apply_tlc, create_model
from m3snet.utils.allocator import keep_freed_memory
from m3snet.utils.cli import UserError, run_program
from m3snet.utils.provenance import machine, provenance
from m3snet.utils.restoring.memory import BYTES_PER_PIXEL, bytes_per_pixel
from m3snet.utils.restoring.restorer import Restorer

SIDES = 512, 1024
RUNS = 5
PATCH = 128  # pixels, of the released weights: TLC's window is 192


def main(argv: Sequence[str] | None = None) -> None:
    """Print a line for each size, backend and precision."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES), metavar="NAME", help=", ".join(SIZES))
    parser.add_argument("--backends", nargs="+", default=[*dict.fromkeys(backend for backend, _ in BYTES_PER_PIXEL)])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows, and where they come from")
    args = parser.parse_args(argv)
    print(f"{machine()}, {torch.get_num_threads()} thread(s), torch {torch.__version__}, CPU; bytes per pixel\n")
    print(f"{'':12}{'backend':14}{'precision':12}{'measured':>10}{'reckoned':>10}")
    rows = []
    for size in args.sizes:
        for backend, precision in BYTES_PER_PIXEL:
            if backend in args.backends:
                measured = max(measure(size, backend, precision) for _ in range(RUNS))
                reckoned = bytes_per_pixel(SIZES[size]["width"], backend, precision)
                print(f"{size:12}{backend:14}{precision:12}{measured:10.0f}{reckoned:10}", flush=True)
                rows.append({"size": size, "backend": backend, "precision": precision, "bytes_per_pixel": measured})
    if args.json:
        origin = {"machine": machine(), **provenance(torch.device("cpu"))}
        args.json.write_text(json.dumps({"provenance": origin, "rows": rows}, indent=2) + "\n", encoding="utf-8")
        print(f"\nwritten: {args.json}")


def measure(size: str, backend: str, precision: str) -> float:
    """The bytes per pixel of one pass, measured once."""
    low, high = (in_new_process(growth, size, backend, precision, side) for side in SIDES)
    return (high - low) / (SIDES[1] ** 2 - SIDES[0] ** 2)


def growth(size: str, backend: str, precision: str, side: int) -> int:
    """The bytes by which this process grows, at most, when a new network of that size restores an image."""
    keep_freed_memory()
    network = Restorer(apply_tlc(create_model(size).eval(), PATCH), "cpu", precision, backend).network
    image = torch.rand(1, 3, side, side).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        network(image[..., :256, :256])  # loads the libraries
        before = resident_bytes(torch.device("cpu"))
        network(image)
    after = peak_bytes(torch.device("cpu"))
    if before is None or after is None:
        raise UserError("nothing tells here how much memory a process holds; measure on Linux")
    return max(0, after - before)


if __name__ == "__main__":
    run_program(main)
