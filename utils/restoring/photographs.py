"""A photograph through a network, with what its file holds besides RGB."""
from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from ..images import Photograph
from .restorer import Restorer
from .tiling import Progress


def restore_photograph(
    restorer: Restorer, photograph: Photograph, progress: Progress | None = None
) -> Photograph:
    """Restore a photograph; its alpha and colour profile stay, and gray stays gray.

    The network sees the numbers of the file, whatever colours they mean.

    Raises:
        RestoringError, ValueError: as `Restorer`.
    """
    restored = restorer(photograph.pixels, progress)
    if is_gray(photograph.pixels):
        restored = np.repeat(cv2.cvtColor(restored, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    return replace(photograph, pixels=restored)


def is_gray(image: np.ndarray) -> bool:
    """Whether the three channels of an H x W x 3 image are equal."""
    return np.array_equal(image[..., 0], image[..., 1]) and np.array_equal(image[..., 1], image[..., 2])
