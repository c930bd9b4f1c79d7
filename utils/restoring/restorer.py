"""One image through a network: 8 or 16 bits in, the same out."""
from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ...models import M3SNet, apply_tlc, load_model, tlc_window
from ...models.tlc import ENLARGEMENT
from ...models.weights import PRETRAINED, WeightsError, released
from ..cli import UserError, warn
from .backends import EXPORTED, find_device, open_backend, open_file
from .ensemble import mean_of_views
from .memory import largest_tile
from .padding import PADDINGS, padded
from .tiling import Progress, in_tiles

PUBLISHED_PATCH = 256  # pixels; the patches that the published weights were trained on


class RestoringError(UserError):
    """An image that could not be restored; the message says why, and what to do."""


class NotFiniteError(RestoringError):
    """The output of the network holds NaN or infinity."""


class Restorer:
    """A network ready for images: on a device, in a precision, through a backend, in tiles where that is needed.

    Calls from several threads do not disturb each other.

    Attributes:
        network: N x 3 x H x W float32 in [0, 1] on `device` -> the restored images, whole.
        model: the network that it runs, with TLC if that was asked for; None for a file of export.py.
        name: of the weights, for people.
        device: what was asked for, or the fastest that is there.
        precision: what was asked for, or what auto stands for.
        backend: likewise; for a file of export.py, what runs it.
        tile: the largest side of a tile in pixels; 0: images are restored whole; None: what fits into the memory.
            When the memory did not suffice it becomes smaller.
        smallest_tile: the least that it can be; two neighbours overlap by half of it.
        grid: tiles begin at multiples of it.
        ensemble: as asked for; it may be changed.
        strength: as asked for; it may be changed.
        padding: as asked for; it may be changed.
    """

    def __init__(
        self,
        model: M3SNet | str | Path,
        device: str | torch.device | None = None,
        precision: str = "auto",
        backend: str = "auto",
        tlc: bool = True,
        tile: int | None = None,
        ensemble: bool = False,
        strength: float = 1.0,
        padding: str = "reflect",
    ) -> None:
        """
        Args:
            model: a network, the name of released weights, a file of weights, or one of export.py (which says itself
                whether it has TLC).
            device: cpu, cuda, cuda:1, mps; by default that of a network, and for weights CUDA, else MPS, else the CPU.
            precision: float32, bfloat16 or, not on a CPU, float16; auto: bfloat16 where the device computes in it, else
                float32.
            backend: torch, compile, openvino, onnxruntime or exact (docs/restoring.md); auto: the fastest that was
                measured for the device.
            tlc: pool over windows, as the network did in training, not over the whole image (`models.tlc`).
            tile: restore an image with more pixels than `tile` x `tile` in overlapping tiles of at most that side;
                None: with more pixels than fit into the memory that is free; 0: never.
            ensemble: the mean of eight views, mirrored and turned: a little better, eight times as slow.
            strength: 0 to 1, from the image as it came to the restored one; between them the two are blended.

        Raises:
            WeightsError: no such weights, not those of an M3SNet, or of one for other images than RGB.
            BackendError: the device, precision or backend is not to be had here.
            RestoringError: `tile` is less than `smallest_tile`, `strength` not in [0, 1], or no such `padding`.
        """
        self.name = Path(model).stem if isinstance(model, (str, Path)) else "M3SNet"
        self.tile, self.ensemble, self.strength, self.padding = tile, ensemble, strength, padding
        if isinstance(model, (str, Path)) and Path(model).suffix in EXPORTED:
            self._open_file(Path(model), device, precision, backend)
        else:
            self._open_model(model, device, precision, backend, tlc)
        if self.tile and self.tile < self.smallest_tile:
            raise RestoringError(f"tile {tile}: with these weights expected 0, or at least {self.smallest_tile} pixels")
        if not 0 <= strength <= 1:
            raise RestoringError(f"strength {strength}: expected 0 to 1")
        if padding not in PADDINGS:
            raise RestoringError(f"padding {padding}: expected {' or '.join(PADDINGS)}")

    def _open_model(
        self, model: M3SNet | str | Path, device: str | torch.device | None, precision: str, backend: str, tlc: bool
    ) -> None:
        network = load_model(model) if isinstance(model, (str, Path)) else model
        if (channels := network.config["img_channel"]) != 3:
            raise WeightsError(f"{model}: for images of {channels} channel{'s' * (channels > 1)}; photographs have 3")
        if tlc and tlc_window(network) is None:
            network = apply_tlc(network, network.patch_size or PUBLISHED_PATCH)
        if device is None and isinstance(model, M3SNet):
            device = next(model.parameters()).device
        self.device = find_device(device)
        self.model: M3SNet | None = network.to(self.device).to(memory_format=torch.channels_last)
        self.network, self.backend, self.precision = open_backend(backend, network, precision)
        self.smallest_tile = smallest_tile(network)
        self.grid = 2 ** len(network.downs)
        self._width = network.config["width"]

    def _open_file(self, path: Path, device: str | torch.device | None, precision: str, backend: str) -> None:
        self.device = find_device(device or "cpu")
        if self.device.type != "cpu":
            raise RestoringError(f"{path}: runs on the CPU, not on {self.device}")
        self.model = None
        self.network, facts, self.backend, self.precision = open_file(path, backend, precision)
        self.smallest_tile = 2 * (facts.window or math.floor(ENLARGEMENT * (facts.patch_size or PUBLISHED_PATCH)))
        self.grid, self._width = 2**facts.levels, facts.width

    def __str__(self) -> str:
        views = ", mean of 8 views" * self.ensemble
        blended = f", strength {self.strength:g}" * (self.strength != 1)
        return f"{self.name}: {self.precision}, {self.backend} on {self.device}{views}{blended}"

    def __call__(self, image: np.ndarray, progress: Progress | None = None) -> np.ndarray:
        """Restore an H x W x 3 RGB image, uint8, uint16 or float32 in [0, 1]; the same shape and type come back.

        Out of memory, it begins again in tiles of half the side, and says so. `progress` is called after every tile
        with their number and that of all; without it a bar is shown on a terminal.

        Raises:
            ValueError: the array is of another shape or type, or floats lie outside of [0, 1].
            RestoringError: the memory is too small, or what comes out is not finite.
        """
        if image.dtype not in (np.uint8, np.uint16, np.float32) or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"expected an H x W x 3 uint8, uint16 or float32 image, found {image.shape} {image.dtype}")
        if image.dtype == np.float32 and image.size and not (image.min() >= 0 and image.max() <= 1):  # NaN is neither
            raise ValueError(f"expected floats in [0, 1], found {image.min():g} to {image.max():g}")
        height, width = image.shape[:2]
        tile = self._largest_tile() if self.tile is None else self.tile
        while True:
            try:
                with torch.inference_mode():
                    return in_tiles(self._part, image, tile, self.smallest_tile // 2, self.grid, progress)
            except (MemoryError, RuntimeError) as error:
                if not _is_out_of_memory(error):
                    raise
                side = min(tile, math.isqrt(height * width))
                if side <= self.smallest_tile:
                    raise RestoringError(
                        f"not enough memory on {self.device.type} for {width} x {height} pixels"
                        + "; restore it in tiles" * (self.tile == 0)
                    ) from error
            tile = self.tile = max(side // 2, self.smallest_tile)
            warn(f"not enough memory on {self.device.type} for {side} x {side} pixels; now in tiles of {tile} x {tile}")

    def _largest_tile(self) -> int:
        fits = largest_tile(self._width, self.backend, self.precision, self.device)
        return max(fits, self.smallest_tile)

    def _part(self, image: torch.Tensor) -> torch.Tensor:
        image = image.to(self.device, memory_format=torch.channels_last)
        network = partial(mean_of_views, self.network) if self.ensemble else self.network
        restored = padded(network, image, self.grid, self.padding)
        if not restored.isfinite().all():
            raise NotFiniteError("the network's output is not finite: its weights or its precision do not serve")
        return torch.lerp(image, restored, self.strength)


def smallest_tile(model: nn.Module) -> int:
    """The least side of a tile in pixels. Two neighbours overlap by half of it: by the window of the model's TLC.

    Without TLC it is what it would be with it.
    """
    patch_size = getattr(model, "patch_size", None) or PUBLISHED_PATCH
    return 2 * (tlc_window(model) or math.floor(ENLARGEMENT * patch_size))


def warn_of_other_task(file: Path, task: str) -> None:
    """Say so where the released weights in `file` were trained for another task than `task` (Deraining, Deblurring)."""
    for name, entry in released().items():
        if entry["task"] != task and file.resolve() == PRETRAINED / entry["file"]:
            warn(f"{name} was trained for {entry['task']}, and this is {task}")


def _is_out_of_memory(error: Exception) -> bool:
    """CUDA has a class for it, NumPy another; on the CPU and on MPS torch only says so."""
    classes = (MemoryError, torch.OutOfMemoryError)
    # The last two are oneDNN's.
    words = ("allocate memory", "out of memory", "could not create a primitive", "could not create a memory")
    return isinstance(error, classes) or any(part in str(error) for part in words)
