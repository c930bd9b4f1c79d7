"""What stands beyond the border of an image whose sides the network's levels do not divide."""
from __future__ import annotations

from collections.abc import Callable

import torch

PADDINGS = ("reflect", "zeros")  # what a photograph is restored with; the published one, the network's own


def pad(image: torch.Tensor, multiple: int, padding: str) -> torch.Tensor:
    """N x C x H x W, reflected at the bottom and right up to multiples; as it is with "zeros", which the network adds.

    The outermost pixels are not repeated, but those of an image of one pixel.
    """
    if padding == "zeros":
        return image
    for axis in (-2, -1):
        size = image.shape[axis]
        if size % multiple:
            places = torch.arange(-(-size // multiple) * multiple, device=image.device) % max(2 * size - 2, 1)
            image = image.index_select(axis, torch.minimum(places, 2 * size - 2 - places))
    return image.contiguous(memory_format=torch.channels_last)


def padded(
    network: Callable[[torch.Tensor], torch.Tensor], image: torch.Tensor, multiple: int, padding: str
) -> torch.Tensor:
    """`network` of an image with a border as `pad` makes it, without that border."""
    height, width = image.shape[-2:]
    return network(pad(image, multiple, padding))[..., :height, :width]
