"""How long scoring rain pairs takes, beside scikit-image at the same settings: `python benchmarks/scoring.py`.

PSNR and SSIM of 8-bit luma (protocol `y`), in one process. The two take turns image by image, and medians over the
rounds are compared, so that whatever else the machine does meets both alike.
"""
from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import cv2
import numpy as np
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from m3snet.utils.cli import run_program
from m3snet.utils.data.pairs import check_pairs, find_pairs
from m3snet.utils.images import read_image
from m3snet.utils.scoring.metrics import psnr, rgb_to_y, ssim

Scores = tuple[float, float]  # PSNR, SSIM
Scorer = Callable[[np.ndarray, np.ndarray], Scores]

SETTINGS = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}


def this_project(restored: np.ndarray, target: np.ndarray) -> Scores:
    """m3snet.utils.scoring.metrics."""
    return psnr(restored, target), ssim(restored, target)


def scikit_image(restored: np.ndarray, target: np.ndarray) -> Scores:
    """skimage.metrics at the settings of protocol `y`."""
    return (
        float(peak_signal_noise_ratio(target, restored, data_range=255)),
        float(structural_similarity(restored, target, **SETTINGS)),
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Time both, and print the times, their ratio and the largest difference of the scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "folder",
        nargs="?",
        type=Path,
        default=Path("Datasets/Rain13K/test/Rain100L"),
        help="holds input/ and target/ (default: %(default)s)",
    )
    parser.add_argument("--rounds", type=int, default=9, help="how often all pairs are scored (default: 9)")
    parser.add_argument("--threads", type=int, help="of OpenCV, which this project filters with (default: all cores)")
    args = parser.parse_args(argv)
    if args.rounds < 1:
        parser.error("--rounds must be at least 1")
    if args.threads is not None:
        cv2.setNumThreads(args.threads)
    pairs = find_pairs(args.folder)
    check_pairs(pairs)
    images = [(read_image(pair.input), read_image(pair.target)) for pair in pairs if pair.input]
    lumas = [(rgb_to_y(degraded), rgb_to_y(target)) for degraded, target in images]
    ours, theirs, difference = compare(lumas, args.rounds)
    print(f"{len(lumas)} pairs of {args.folder}, {args.rounds} rounds, {cv2.getNumThreads()} thread(s), ", end="")
    print(f"{os.cpu_count()} core(s)")
    print(f"scoring.metrics    {1000 * ours:8.2f} ms a pair")
    print(f"scikit-image     {1000 * theirs:8.2f} ms a pair")
    print(f"ratio            {ours / theirs:8.2f}")
    print(f"largest difference: PSNR {difference[0]:.1e} dB, SSIM {difference[1]:.1e}")


def compare(lumas: Sequence[tuple[np.ndarray, np.ndarray]], rounds: int) -> tuple[float, float, Scores]:
    """Seconds a pair takes in this project and in scikit-image, and by how much PSNR and SSIM differ at most."""
    times: dict[Scorer, list[float]] = {this_project: [], scikit_image: []}
    scores: dict[Scorer, list[Scores]] = {this_project: [], scikit_image: []}
    for scorer in times:
        scorer(*lumas[0])  # the first call loads libraries
    for _ in range(rounds):
        spent = dict.fromkeys(times, 0.0)
        for luma in lumas:
            for scorer in times:
                start = time.perf_counter()
                scores[scorer].append(scorer(*luma))
                spent[scorer] += time.perf_counter() - start
        for scorer, seconds in spent.items():
            times[scorer].append(seconds / len(lumas))
    # Equal images have an infinite PSNR in both.
    with np.errstate(invalid="ignore"):
        errors = np.nan_to_num(np.abs(np.subtract(scores[this_project], scores[scikit_image])))
    largest = errors.max(axis=0)
    return median(times[this_project]), median(times[scikit_image]), (float(largest[0]), float(largest[1]))


if __name__ == "__main__":
    run_program(main)
