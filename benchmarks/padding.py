"""What should stand beyond the border of an image whose sides 16 does not divide? `python benchmarks/padding.py`.

    python benchmarks/padding.py --weights derain --pairs Datasets/Rain13K/train --first 24

Each pair is cut to one row and one column more than a multiple of 16, so that 15 are added: zeros, as the network does
itself; the reflection of the image, without or with its outermost pixels; or these pixels repeated. PSNR (luma) of the
whole image, and of its last 16 rows and columns.
"""
from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from m3snet.utils.cli import run_program
from m3snet.utils.data.pairs import find_pairs
from m3snet.utils.images import read_image
from m3snet.utils.restoring.restorer import Restorer
from m3snet.utils.scoring.metrics import psnr, rgb_to_y

MULTIPLE = 16
Mode = Literal["constant", "reflect", "symmetric", "edge"]  # numpy's names
PADDINGS: dict[str, Mode] = {"zeros": "constant", "reflect": "reflect", "symmetric": "symmetric", "repeated": "edge"}


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table for the weights and pairs that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="derain", metavar="FILE|NAME")
    parser.add_argument("--pairs", type=Path, required=True, metavar="DIR", help="holds input/ and target/")
    parser.add_argument("--first", type=int, metavar="N", help="so many of them (default: all)")
    arguments = parser.parse_args(argv)
    restorer = Restorer(arguments.weights, tile=0)
    scores: dict[str, list[tuple[float, ...]]] = {padding: [] for padding in PADDINGS}
    pairs = find_pairs(arguments.pairs)[: arguments.first]
    for pair in pairs:
        assert pair.input is not None
        degraded, target = (one_more(read_image(path)) for path in (pair.input, pair.target))
        for padding, found in scores.items():
            found.append(border_scores(restorer, degraded, target, PADDINGS[padding]))
    print(f"{restorer}, {len(pairs)} pairs")
    print(f"{'PSNR, dB':12}{'image':>8}{'rows':>8}{'columns':>9}  image against zeros")
    zeros = np.array(scores["zeros"])[:, 0]
    for padding, found in scores.items():
        changes = np.array(found)[:, 0] - zeros
        whole, rows, columns = np.mean(found, axis=0)
        print(f"{padding:12}{whole:8.2f}{rows:8.2f}{columns:9.2f}  {changes.min():+.2f} to {changes.max():+.2f}")


def one_more(image: np.ndarray) -> np.ndarray:
    """The image cut to one pixel more than a multiple of 16 a side."""
    height, width = ((length - 1) // MULTIPLE * MULTIPLE + 1 for length in image.shape[:2])
    return np.ascontiguousarray(image[:height, :width])


def border_scores(restorer: Restorer, degraded: np.ndarray, target: np.ndarray, mode: Mode) -> tuple[float, ...]:
    """PSNR of the whole image, of its last rows and of its last columns, with a border as numpy's `mode` makes it."""
    height, width = degraded.shape[:2]
    padded = np.pad(degraded, ((0, -height % MULTIPLE), (0, -width % MULTIPLE), (0, 0)), mode=mode)
    restored, truth = rgb_to_y(restorer(padded)[:height, :width]), rgb_to_y(target)
    parts = np.s_[:], np.s_[-MULTIPLE:], np.s_[:, -MULTIPLE:]
    return tuple(psnr(restored[part], truth[part]) for part in parts)


if __name__ == "__main__":
    run_program(main)
