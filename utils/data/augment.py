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
    """Turn each square patch of an N x C x S x S batch into its orientation: k % 4 quarter turns, mirrored if k > 3.

    The memory format stays. The N `orientations` are moved to the patches' device; the host does not wait for that
    where they are in pinned memory.

    Raises:
        ValueError: there are not as many orientations as patches.
    """
    if len(orientations) != len(patches):
        raise ValueError(f"expected {len(patches)} orientations, one per patch, found {len(orientations)}")
    kinds = orientations.to(patches.device, non_blocking=True).reshape(-1, 1, 1, 1)
    # A quarter turn is a flip and a transposition. All patches take the same few kernels, which choose by flags.
    turns, mirrored = kinds % 4, kinds > 3
    patches = torch.where(mirrored ^ (turns == 1) ^ (turns == 2), patches.flip(-1), patches)
    patches = torch.where(turns > 1, patches.flip(-2), patches)
    transposed = torch.empty_like(patches).copy_(patches.transpose(-2, -1))  # where() is faster in one memory format
    return torch.where(turns % 2 == 1, transposed, patches)
