"""One image through a network: 8 bits in, 8 bits out."""
from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ...models import M3SNet, apply_tlc, load_model, tlc_window
from ...models.fused import FusedM3SNet, fuse
from ...models.tlc import ENLARGEMENT
from ...models.weights import PRETRAINED, WeightsError, released
from ..cli import UserError, warn
from ..images import to_image, to_tensor
from .tiling import in_tiles

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
PUBLISHED_PATCH = 256  # pixels; the patches that the published weights were trained on


class RestoringError(UserError):
    """An image that could not be restored; the message says why, and what to do."""


def restore_image(model: nn.Module, image: np.ndarray, tile: int = 0) -> np.ndarray:
    """Restore an H x W x 3 uint8 RGB image on the model's device; the same shape and type come back.

    With `tile`, an image with more pixels than `tile` x `tile` is restored in overlapping tiles of at most that side.

    Raises:
        ValueError: the array is of another shape or type, or `tile` is less than `smallest_tile`.
        RestoringError: the memory is too small, or what comes out is not finite.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"expected an H x W x 3 uint8 image, found {image.shape} {image.dtype}")
    device = next(model.parameters()).device

    def network(part: torch.Tensor) -> torch.Tensor:
        return model(part.to(device, memory_format=torch.channels_last))

    try:
        with torch.inference_mode():
            whole = to_tensor(image)
            restored = in_tiles(network, whole, tile, smallest_tile(model) // 2) if tile else network(whole)
            if not restored.isfinite().all():
                raise RestoringError("the network's output is not finite: its weights or its precision do not serve")
            return to_image(restored)
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        height, width = image.shape[:2]
        raise RestoringError(
            f"not enough memory on {device.type} for {width} x {height} pixels; restore it in (smaller) tiles"
        ) from error


def smallest_tile(model: nn.Module) -> int:
    """The least side of a tile in pixels. Two neighbours overlap by half of it: by the window of the model's TLC.

    Without TLC it is what it would be with it.
    """
    patch_size = getattr(model, "patch_size", None) or PUBLISHED_PATCH
    return 2 * (tlc_window(model) or math.floor(ENLARGEMENT * patch_size))


def load_restorer(
    weights: str | Path, tlc: bool = True, patch_size: int | None = None, device: str | torch.device | None = None
) -> M3SNet:
    """A network ready for `restore_image`, from a file or the name of released weights.

    With `tlc` it pools locally, as it did in training on patches of `patch_size`: by default what the weights say, or
    else the published 256. Without `device` it runs on CUDA, else on MPS, else on the CPU.

    Raises:
        WeightsError: no such weights, not those of an M3SNet, or of one for other images than RGB.
    """
    model = load_model(weights)
    if (channels := model.config["img_channel"]) != 3:
        raise WeightsError(f"{weights}: for images of {channels} channel{'s' * (channels > 1)}; photographs have 3")
    if tlc:
        model = apply_tlc(model, patch_size or model.patch_size or PUBLISHED_PATCH)
    return model.to(device or best_device()).to(memory_format=torch.channels_last)


def fast_restorer(model: M3SNet, precision: str = "auto") -> FusedM3SNet:
    """The inference form of `model`, on its device; `precision` is a key of `PRECISIONS`, or auto.

    auto: bfloat16 where the processor has instructions for it, else float32. Restored images differ by a grey level.

    Raises:
        RestoringError: an unknown precision.
    """
    device = next(model.parameters()).device
    if precision == "auto":
        precision = "bfloat16" if _has_bfloat16(device) else "float32"
    if precision not in PRECISIONS:
        raise RestoringError(f"precision {precision}: expected auto, {' or '.join(PRECISIONS)}")
    return fuse(model, PRECISIONS[precision])


def _has_bfloat16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16; where it does not, that is emulated, and slower than float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    flags = Path("/proc/cpuinfo")
    if device.type != "cpu" or not flags.is_file():
        return False
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(flags.read_text(encoding="utf-8", errors="replace").split())


def warn_of_other_task(file: Path, task: str) -> None:
    """Say so where the released weights in `file` were trained for another task than `task` (Deraining, Deblurring)."""
    for name, entry in released().items():
        if entry["task"] != task and file.resolve() == PRETRAINED / entry["file"]:
            warn(f"{name} was trained for {entry['task']}, and this is {task}")


def _is_out_of_memory(error: Exception) -> bool:
    """CUDA has a class for it, NumPy another; on the CPU and on MPS torch only says so."""
    classes = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, classes) or any(words in str(error) for words in ("allocate memory", "out of memory"))


def best_device() -> torch.device:
    """The fastest device of this machine."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
