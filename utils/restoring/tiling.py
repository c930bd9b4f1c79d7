"""Large images through a network in overlapping tiles, so that what the network needs does not grow with the image."""
from __future__ import annotations

import sys
from collections.abc import Callable
from math import ceil

import torch
from tqdm import tqdm


def in_tiles(
    network: Callable[[torch.Tensor], torch.Tensor], image: torch.Tensor, tile: int, overlap: int
) -> torch.Tensor:
    """`network` of a 1 x 3 x H x W image, from tiles of at most `tile` pixels a side; the same shape comes back.

    An image of no more pixels than one tile (`tile` squared) goes through whole. Two neighbours share `overlap` pixels
    or more; their results are averaged there, with weights that fall linearly towards a tile's border. A network that
    sees farther than the overlap gives another result than on the whole image: docs/restoring.md says how far off.

    Raises:
        ValueError: `tile` is less than twice the overlap.
    """
    if tile < 2 * overlap:
        raise ValueError(f"tiles of {tile} pixels are too small; expected at least {2 * overlap}")
    height, width = image.shape[-2:]
    if height * width <= tile * tile:
        return network(image)
    spans = [(rows, columns) for rows in spans_of(height, tile, overlap) for columns in spans_of(width, tile, overlap)]
    total, weights = torch.zeros_like(image), torch.zeros(height, width, device=image.device)
    for rows, columns in tqdm(spans, "tiles", leave=False, dynamic_ncols=True, disable=not sys.stderr.isatty()):
        down, across = (_fade(span.stop - span.start, overlap, image.device) for span in (rows, columns))
        weight = down[:, None] * across
        total[..., rows, columns] += network(image[..., rows, columns]).to(image.device) * weight
        weights[rows, columns] += weight
    return total.div_(weights)


def spans_of(length: int, tile: int, overlap: int) -> list[slice]:
    """As few spans of one length, at most `tile`, as cover `length` pixels evenly and overlap by `overlap` or more."""
    count = max(ceil((length - overlap) / (tile - overlap)), 1)
    size = ceil((length + (count - 1) * overlap) / count)  # not `tile`: a little more than one tile would cost four
    starts = [round(index * (length - size) / max(count - 1, 1)) for index in range(count)]
    return [slice(start, start + size) for start in starts]


def _fade(length: int, overlap: int, device: torch.device) -> torch.Tensor:
    """Weights along one side of a tile: 1, but within `overlap` of either end, where they fall to nearly 0."""
    places = torch.arange(length, device=device)
    return ((torch.minimum(places, length - 1 - places) + 0.5) / overlap).clamp(max=1)
