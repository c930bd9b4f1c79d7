"""Images as tensors."""
from __future__ import annotations

import numpy as np
import torch
from numpy.typing import DTypeLike


def to_tensor(image: np.ndarray) -> torch.Tensor:
    """H x W x 3 uint8, uint16 or float32 -> 1 x 3 x H x W float32; in [0, 1], floats as they are."""
    array = np.require(image, requirements=["C", "W"])  # torch warns of one that may not be written to
    return torch.from_numpy(array).permute(2, 0, 1)[None].float() / _levels(image.dtype)


def to_image(tensor: torch.Tensor, dtype: DTypeLike = np.uint8) -> np.ndarray:
    """1 x 3 x H x W or 3 x H x W float -> H x W x 3 uint8, uint16 or float32.

    Clamped to [0, 1]; integers are rounded to the nearest level.

    Raises:
        ValueError: a batch of several images.
    """
    if tensor.ndim == 4:
        if tensor.shape[0] != 1:
            raise ValueError(f"expected one image, found a batch of {tensor.shape[0]}")
        tensor = tensor[0]
    values = tensor.detach().float().clamp(0, 1)
    if np.dtype(dtype) != np.float32:
        values = values.mul(_levels(dtype)).round().to(torch.uint16 if np.dtype(dtype) == np.uint16 else torch.uint8)
    return values.permute(1, 2, 0).cpu().numpy()


def _levels(dtype: DTypeLike) -> int:
    return 1 if np.dtype(dtype) == np.float32 else int(np.iinfo(dtype).max)
