"""Images as tensors."""
from __future__ import annotations

import numpy as np
import torch
from numpy.typing import DTypeLike


def to_tensor(image: np.ndarray) -> torch.Tensor:
    """H x W x 3 uint8 or uint16 -> 1 x 3 x H x W float32 in [0, 1]."""
    levels = np.iinfo(image.dtype).max
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float() / levels


def to_image(tensor: torch.Tensor, dtype: DTypeLike = np.uint8) -> np.ndarray:
    """1 x 3 x H x W or 3 x H x W float -> H x W x 3 uint8 or uint16, clamped, rounded to the nearest level."""
    if tensor.ndim == 4:
        if tensor.shape[0] != 1:
            raise ValueError(f"expected one image, found a batch of {tensor.shape[0]}")
        tensor = tensor[0]
    kind = torch.uint16 if np.dtype(dtype) == np.uint16 else torch.uint8
    levels = tensor.detach().float().clamp(0, 1).mul(np.iinfo(dtype).max).round().to(kind)
    return levels.permute(1, 2, 0).cpu().numpy()
