"""How far tiles are from the whole image, and what they cost: `python benchmarks/tiles.py --photographs FOLDER`.

Every photograph is restored whole, and in tiles that overlap by several numbers of pixels; a pixel is off by the
largest difference of its three channels, in grey levels of 255. What tiles cost is the pixels that the network computes
for each pixel of the result, here and on a photograph of 6000 x 4000 in tiles of 1600.

    python tools/degrade.py rain Datasets/clean/kodak -o Kodak-rain
    python benchmarks/tiles.py --weights derain --photographs Kodak-rain/input
"""
from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import numpy as np
import torch

from m3snet.utils.cli import run_program
from m3snet.utils.data.pairs import find_photographs
from m3snet.utils.images import read_image
from m3snet.utils.restoring.restorer import Restorer
from m3snet.utils.restoring.tiling import in_tiles, spans_of

LEVELS = (1, 2)
LARGE = 4000, 6000, 1600  # height, width, tile


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="derain", metavar="FILE|NAME")
    parser.add_argument("--photographs", type=Path, required=True, metavar="DIR", help="degraded photographs")
    parser.add_argument("--first", type=int, metavar="N", help="the first N photographs (default: all)")
    parser.add_argument("--tile", type=int, default=512, help="largest side in pixels (default: 512)")
    parser.add_argument("--overlaps", type=int, nargs="+", default=[96, 192, 288, 384], metavar="PIXELS")
    parser.add_argument("--precision", default="float32")
    args = parser.parse_args(argv)
    restorer = Restorer(args.weights, precision=args.precision, tile=0)
    print(f"{restorer}; tiles of at most {args.tile} pixels a side\n")
    differences: dict[int, list[np.ndarray]] = {overlap: [] for overlap in args.overlaps}
    costs: dict[int, list[float]] = {overlap: [] for overlap in args.overlaps}
    for photograph in find_photographs([args.photographs])[: args.first]:
        image = read_image(photograph.target)
        height, width = image.shape[:2]
        whole = restorer(image)
        for overlap in args.overlaps:
            differences[overlap].append(np.abs(tiled(restorer, image, args.tile, overlap).astype(int) - whole).max(2))
            costs[overlap].append(cost(height, width, args.tile, overlap, restorer.grid))
    print(f"{'':>8}{'pixels off by more than':^34}{'most,':>8}{'pixels computed per pixel':>28}")
    print(f"{'overlap':>8}{'1 level':>10}{'2 levels':>10}{'worst image':>14}{'levels':>8}{'here':>14}{'24 MP':>14}")
    for overlap, found in differences.items():
        above = [[float((difference > level).mean()) for difference in found] for level in LEVELS]
        shares = "".join(f"{share:10.4%}" for share in map(fmean, above)) + f"{max(above[-1]):14.4%}"
        most = max(int(difference.max()) for difference in found)
        large = cost(*LARGE, overlap, restorer.grid)
        print(f"{overlap:8}{shares}{most:8}{fmean(costs[overlap]):14.2f}{large:14.2f}")


def tiled(restorer: Restorer, image: np.ndarray, tile: int, overlap: int) -> np.ndarray:
    """`image`, restored in tiles that overlap by other than the restorer's own number of pixels."""
    with torch.inference_mode():
        return in_tiles(lambda part: restorer.network(part.to(restorer.device)), image, tile, overlap, restorer.grid)


def cost(height: int, width: int, tile: int, overlap: int, grid: int) -> float:
    """The pixels that tiles have in all, for each pixel of an image."""
    sides = (sum(s.stop - s.start for s in spans_of(length, tile, overlap, grid)) for length in (height, width))
    return np.prod(list(sides)).item() / (height * width)


if __name__ == "__main__":
    run_program(main)
