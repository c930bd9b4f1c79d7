"""Large images through a network in overlapping tiles, so that what the network needs does not grow with the image."""
from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from itertools import pairwise, zip_longest
from math import ceil

import numpy as np
import torch
from tqdm import tqdm

from ..allocator import give_back_freed_memory
from ..images import to_image, to_tensor

Progress = Callable[[int, int], None]  # is given the tiles that are done, and all
_FADE = 0.2  # of the overlap: its outer parts, nearest to the tiles' borders, are farthest off (benchmarks/tiles.py)


def in_tiles(
    network: Callable[[torch.Tensor], torch.Tensor],
    image: np.ndarray,
    tile: int,
    overlap: int,
    grid: int = 1,
    progress: Progress | None = None,
) -> np.ndarray:
    """`network` of an H x W x 3 uint8, uint16 or float32 image, from tiles of at most `tile` pixels a side.

    An image of no more pixels than one tile (`tile` squared) goes through whole; with a tile of 0 every image does. Two
    neighbours share `overlap` pixels or more; in the middle of these one fades into the other. A network that sees
    farther than half the overlap gives another result than on the whole image: docs/restoring.md says how far off.
    Tiles begin at multiples of `grid`: a network that halves its image n times depends on where the halves fall, and
    gives the same in tiles only where these begin at multiples of 2^n.

    The same shape and type come back. One row of tiles at a time is float32. `progress` is called after every tile;
    without it a bar is shown on a terminal.

    Raises:
        ValueError: `tile` is no larger than the overlap, both in steps of `grid`.
    """
    height, width = image.shape[:2]
    if not tile or height * width <= tile * tile:
        restored = to_image(network(to_tensor(image)), image.dtype)
        if progress:
            progress(1, 1)
        return restored
    if tile // grid <= ceil(overlap / grid):
        raise ValueError(f"tiles of {tile} pixels are too small; expected more than their overlap of {overlap}")
    rows, columns = (spans_of(length, tile, overlap, grid) for length in (height, width))
    down, across = fades(rows, ceil(_FADE * overlap)), fades(columns, ceil(_FADE * overlap))
    give_back_freed_memory()  # of reading the file: its holes do not fit what comes now
    restored = np.empty_like(image)
    band = torch.zeros(1, 3, rows[0].stop, width)  # the rows that a row of tiles covers
    hidden = progress is not None or not sys.stderr.isatty()
    with tqdm(total=len(rows) * len(columns), desc="tiles", leave=False, dynamic_ncols=True, disable=hidden) as bar:
        for i, (row, row_after) in enumerate(zip_longest(rows, rows[1:])):
            finished = (row_after.start if row_after else height) - row.start  # rows that the next tiles do not change
            for j, (column, column_after) in enumerate(zip_longest(columns, columns[1:])):
                part = network(to_tensor(image[row, column])).to(band)
                band[..., : part.shape[-2], column] += part.mul_(down[i][:, None]).mul_(across[j])
                ready = slice(column.start, column_after.start if column_after else width)
                restored[row.start : row.start + finished, ready] = to_image(band[..., :finished, ready], image.dtype)
                bar.update()
                if progress:
                    progress(i * len(columns) + j + 1, len(rows) * len(columns))
            kept = band[..., finished:, :].clone()
            band.zero_()[..., : kept.shape[-2], :] = kept
    return restored


def spans_of(length: int, tile: int, overlap: int, grid: int = 1) -> list[slice]:
    """As few spans, of at most `tile` pixels, as cover `length` pixels evenly and overlap by `overlap` or more.

    They begin, and but for the last one end, at multiples of `grid`.
    """
    length_, tile, overlap = ceil(length / grid), tile // grid, ceil(overlap / grid)
    count = max(ceil((length_ - overlap) / (tile - overlap)), 1)
    size = ceil((length_ + (count - 1) * overlap) / count)  # not `tile`: a little more than one tile would cost four
    starts = [round(index * (length_ - size) / max(count - 1, 1)) for index in range(count)]
    return [slice(start * grid, min((start + size) * grid, length)) for start in starts]


def fades(spans: Sequence[slice], fade: int) -> list[torch.Tensor]:
    """The weights of the pixels of each span. At every pixel those of all spans add up to 1.

    From one span to the next they change over `fade` pixels, in the middle of what the two share.
    """
    places = torch.arange(spans[-1].stop) + 0.5
    begun = [torch.ones_like(places)]  # how far each span has taken over from the one before
    for before, after in pairwise(spans):
        begun.append(((places - (before.stop + after.start) / 2) / fade + 0.5).clamp(0, 1))
    begun.append(torch.zeros_like(places))
    return [(begun[i] - begun[i + 1])[span] for i, span in enumerate(spans)]
