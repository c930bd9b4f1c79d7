"""How many training pairs a second each TRAINING.CACHE gives: `python benchmarks/loader.py [--data DIR]`.

Measures the data loader alone: batches of random crops, uint8, in the order a training asks for them; `disk` from files
that are in the system's page cache. Beside it, the way of MPRNet and the many codes that follow it: both PNG files are
decoded whole by Pillow, become float tensors, are cropped and turned, and collated, by two workers. All take turns in
every round, and medians over the rounds are compared, so that whatever else the machine does meets all alike; the
CPU time a pair takes, in all processes together, says what cores without other work would give.
"""
from __future__ import annotations

import argparse
import os
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision.transforms.functional import to_tensor

from m3snet.utils.cli import run_program
from m3snet.utils.data.cache import open_cache
from m3snet.utils.data.pairs import Pair, PairError, check_pairs, find_pairs
from m3snet.utils.data.patches import Order, PatchBatches, PatchDataset
from m3snet.utils.data.rain import RAIN
from m3snet.utils.data.samples import photographs
from m3snet.utils.images import read_image, write_image
from m3snet.utils.provenance import machine
from m3snet.utils.settings import CACHES

Loader = Callable[[], DataLoader[Any]]

WORKERS = 2
MADE_UP = 32  # pairs of 1280x720
ENDLESS = 10**9  # more than is ever asked for


class FloatPatches(Dataset[tuple[torch.Tensor, torch.Tensor, str]]):
    """Patches as MPRNet's loader makes them: 3 x S x S float32 in [0, 1], turned on the CPU."""

    def __init__(self, pairs: Sequence[Pair], patch_size: int) -> None:
        self.pairs, self.patch_size = pairs, patch_size

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor, str]:
        pair, size = self.pairs[index], self.patch_size
        whole = [to_tensor(Image.open(path)) for path in (pair.target, pair.input) if path]
        top = random.randint(0, whole[0].shape[1] - size)
        left = random.randint(0, whole[0].shape[2] - size)
        turn = random.randrange(8)
        target, degraded = (image[:, top : top + size, left : left + size] for image in whole)
        if turn >= 4:
            target, degraded = target.flip(-1), degraded.flip(-1)
        return torch.rot90(target, turn % 4, (1, 2)), torch.rot90(degraded, turn % 4, (1, 2)), pair.name


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, help="holds input/ and target/ (default: photographs, tiled to PNG pairs of 1280x720)"
    )
    parser.add_argument("--pairs", type=int, default=256, help="of DATA, evenly spread (default: %(default)s)")
    parser.add_argument("--patch", type=int, default=256, help="side of a crop (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=32, help="pairs in a batch (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=10, help="a measurement takes (default: %(default)s)")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        pairs = chosen_pairs(args.data, args.pairs, args.patch) if args.data else made_up_pairs(Path(scratch))
        loaders = all_loaders(pairs, args.patch, args.batch, Path(scratch) / "cache")
        print(conditions())
        print(f"{len(pairs)} pairs of {args.data or 'sample photographs, 1280x720'}, ", end="")
        print(f"crops of {args.patch}x{args.patch}, batches of {args.batch}, {args.rounds} x {args.seconds:g} s each\n")
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in loaders}
        for _ in range(args.rounds):
            for name, loader in loaders.items():
                found[name].append(measure(loader(), args.batch, args.seconds))
    print(f"{'':32}{'pairs/s':>10}{'from':>9}{'to':>9}{'ratio':>9}{'CPU ms a pair':>16}")
    theirs = median(rate for rate, _ in next(iter(found.values())))
    for name, values in found.items():
        rates, costs = zip(*values, strict=True)
        rate = median(rates)
        print(f"{name:32}{rate:>10,.0f}{min(rates):>9,.0f}{max(rates):>9,.0f}{rate / theirs:>9.1f}", end="")
        print(f"{median(costs):>16.2f}")


def made_up_pairs(folder: Path) -> list[Pair]:
    """PNG pairs in `folder`: the sample photographs, tiled and shifted, and rain on them."""
    sharp = [read_image(path) for split in ("train", "test") for path in photographs(split).values()]
    for i in range(MADE_UP):
        rng = np.random.default_rng(i)
        tile = np.roll(sharp[i % len(sharp)], rng.integers(0, 500, 2), (0, 1))
        repeats = (-(-720 // tile.shape[0]), -(-1280 // tile.shape[1]), 1)
        target = np.tile(tile, repeats)[:720, :1280]
        write_image(folder / f"target/{i}.png", target)
        write_image(folder / f"input/{i}.png", RAIN.apply(target, rng))
    return find_pairs(folder)


def chosen_pairs(folder: Path, count: int, size: int) -> list[Pair]:
    """At most `count` of the folder's pairs, without those smaller than a crop: FloatPatches does not pad."""
    pairs = [pair for pair in find_pairs(folder) if min(Image.open(pair.target).size) >= size]
    if not pairs:
        raise PairError(f"{folder}: no image has {size} x {size} pixels")
    return pairs[:: -(-len(pairs) // count)]


def all_loaders(pairs: Sequence[Pair], patch: int, batch: int, folder: Path) -> dict[str, Loader]:
    """What is compared, by name; MPRNet's way first."""
    theirs = FloatPatches(pairs, patch)
    sampler = RandomSampler(theirs, replacement=True, num_samples=ENDLESS)
    loaders: dict[str, Loader] = {
        f"PNG as MPRNet reads, {WORKERS} workers": partial(
            DataLoader, theirs, batch_size=batch, sampler=sampler, num_workers=WORKERS
        )
    }
    paths = [path for pair in pairs for path in (pair.input, pair.target) if path]
    for kind in CACHES:
        read = open_cache(kind, folder, paths)
        if kind != "none":
            check_pairs(pairs, read)  # fills it
        ours = PatchDataset(pairs, patch, seed=1, read=read)
        batches = PatchBatches(Order((len(ours),), batch, seed=1), range(1, ENDLESS))
        for workers in (0, WORKERS):
            loaders[f"CACHE {kind}, NUM_WORKERS {workers}"] = partial(
                DataLoader, ours, batch_sampler=batches, num_workers=workers
            )
    return loaders


def measure(loader: DataLoader[Any], batch: int, seconds: float) -> tuple[float, float]:
    """Pairs a second, and the milliseconds of CPU time that a pair takes in all processes.

    Counting begins when the workers have started and what they prepared meanwhile is used up.
    """
    batches, together = iter(loader), max(1, loader.num_workers)  # workers deliver at nearly the same time
    for _ in range(together * (loader.prefetch_factor or 1)):
        next(batches)
    count, elapsed, busy, start = 0, 0.0, cpu_seconds(), time.perf_counter()
    while not count or elapsed < seconds:
        for _ in range(together):
            next(batches)
        count += together * batch
        elapsed = time.perf_counter() - start
    return count / elapsed, 1000 * (cpu_seconds() - busy) / count


def cpu_seconds() -> float:
    """What this process and its workers have used so far."""
    this = psutil.Process()
    times = [process.cpu_times() for process in (this, *this.children())]
    return sum(each.user + each.system for each in times)


def conditions() -> str:
    """Processor, cores, version, and what else the machine does."""
    busy = f", load average {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{os.cpu_count()} cores of {machine()}, torch {torch.__version__}{busy}"


if __name__ == "__main__":
    run_program(main)
