"""Images as tensors."""
from __future__ import annotations

import numpy as np
import torch


def to_tensor(image: np.ndarray) -> torch.Tensor:
    """H x W x 3 uint8 -> 1 x 3 x H x W float32 in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float() / 255


def to_image(tensor: torch.Tensor) -> np.ndarray:
    """1 x 3 x H x W or 3 x H x W float -> H x W x 3 uint8, clamped to [0, 1] and rounded to the nearest level."""
    if tensor.ndim == 4:
        if tensor.shape[0] != 1:
            raise ValueError(f"expected one image, found a batch of {tensor.shape[0]}")
        tensor = tensor[0]
    levels = tensor.detach().float().clamp(0, 1).mul(255).round().to(torch.uint8)
    return levels.permute(1, 2, 0).cpu().numpy()
