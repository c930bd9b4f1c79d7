"""Images that a program holds, restored: arrays, Pillow's images, tensors."""
from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar, overload

import numpy as np
import torch
from PIL import Image

from ...models import M3SNet
from ..images import Photograph
from .photographs import restore_photograph
from .restorer import Restorer

T = TypeVar("T", np.ndarray, Image.Image, torch.Tensor)
MODES = ("RGB", "RGBA", "L", "LA", "I;16")  # of Pillow


@overload
def restore_image(model: M3SNet | Restorer, image: T) -> T: ...


@overload
def restore_image(model: M3SNet | Restorer, image: Sequence[T]) -> list[T]: ...


def restore_image(
    model: M3SNet | Restorer, image: np.ndarray | Image.Image | torch.Tensor | Sequence[T]
) -> np.ndarray | Image.Image | torch.Tensor | list[T]:
    """Restore an image as restore.py does; what comes back is of the same kind, size and type.

    Calls from several threads do not disturb each other. With a network each call makes a `Restorer` of it, which
    takes as long as a small image; for many calls, or for another device, precision or strength, give a `Restorer`.

    Args:
        model: a network, or a `Restorer`.
        image: one of these, or a list of them, which gives a list.

            - numpy: H x W x 3 RGB, uint8 or uint16, or float32 in [0, 1].
            - Pillow: RGB, L or I;16, which stays gray, or RGBA or LA, whose alpha stays.
            - torch: N x 3 x H x W floats in [0, 1], on any device; no gradients.

    Raises:
        ValueError: the image is of another shape, type or mode, or floats lie outside of [0, 1].
        RestoringError: the memory is too small, or what comes out is not finite.
    """
    restorer = model if isinstance(model, Restorer) else Restorer(model)
    if isinstance(image, np.ndarray):
        return restorer(image)
    if isinstance(image, Image.Image):
        return _restore_pillow(restorer, image)
    if isinstance(image, torch.Tensor):
        return _restore_tensor(restorer, image)
    if not isinstance(image, Sequence) or isinstance(image, (str, bytes)):
        raise ValueError(f"expected a numpy array, a Pillow image, a tensor, or a list of them, found {image!r:.80}")
    return [restore_image(restorer, one) for one in image]


def _restore_pillow(restorer: Restorer, image: Image.Image) -> Image.Image:
    if image.mode not in MODES:
        raise ValueError(f"expected an image of mode {', '.join(MODES)}, found {image.mode}: convert it first")
    bands = np.atleast_3d(np.asarray(image))  # H x W x 1 to 4
    alpha = bands[..., -1] if image.mode in ("RGBA", "LA") else None
    gray = not image.mode.startswith("RGB")
    pixels = np.repeat(bands[..., :1], 3, axis=2) if gray else np.ascontiguousarray(bands[..., :3])
    restored = restore_photograph(restorer, Photograph(pixels)).pixels
    result = Image.fromarray(restored[..., 0].copy() if gray else restored)
    if alpha is not None:
        result.putalpha(Image.fromarray(alpha))
    result.info = dict(image.info)  # EXIF and colour profile
    return result


def _restore_tensor(restorer: Restorer, images: torch.Tensor) -> torch.Tensor:
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise ValueError(f"expected N x 3 x H x W floats, found {tuple(images.shape)} {images.dtype}")
    restored = [
        torch.from_numpy(restorer(image.detach().float().permute(1, 2, 0).contiguous().cpu().numpy())).permute(2, 0, 1)
        for image in images
    ]
    return torch.stack(restored).to(images) if restored else images.clone()
