"""Geometric augmentation: which part of an image is cropped, and which of its eight orientations is seen."""
from __future__ import annotations

import cv2
import numpy as np
import torch

ORIENTATIONS = 8


def crop(image: np.ndarray, top: int, left: int, height: int, width: int) -> np.ndarray:
    """Cut `height` x `width` pixels out of an H x W x C image, reflecting at borders where the cut reaches over them.

    The reflection does not repeat the edge pixel; it repeats itself where the cut is larger than the image.
    """
    bottom, right = top + height, left + width
    pads = max(0, -top), max(0, bottom - image.shape[0]), max(0, -left), max(0, right - image.shape[1])
    if any(pads):
        image = cv2.copyMakeBorder(image, *pads, cv2.BORDER_REFLECT_101)
        top, left = top + pads[0], left + pads[2]
    return image[top : top + height, left : left + width]


def random_corner(height: int, width: int, size: int, rng: np.random.Generator) -> tuple[int, int]:
    """The top left corner of a `size` x `size` patch, uniform over an image; 0 where the image is smaller."""
    top = rng.integers(0, max(height - size, 0), endpoint=True)
    left = rng.integers(0, max(width - size, 0), endpoint=True)
    return int(top), int(left)


def orient(patches: torch.Tensor, orientations: torch.Tensor) -> torch.Tensor:
    """Turn each square patch of an N x C x S x S batch into its orientation: k % 4 quarter turns, mirrored if k > 3."""
    turned = [
        torch.rot90(patch.flip(-1) if k >= 4 else patch, k % 4, (-2, -1))
        for patch, k in zip(patches, orientations.tolist(), strict=True)
    ]
    return torch.stack(turned)
