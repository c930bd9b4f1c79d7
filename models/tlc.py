"""TLC, the test-time local converter: Chu et al., "Improving Image Restoration by Revisiting Global Information
Aggregation" (arXiv 2112.04491).

A network with global pooling is trained on patches and tested on whole images, whose means are those of a much larger
area than any it has seen. TLC pools over a window instead, 1.5 times as large as what a pool saw in training.
"""
from __future__ import annotations

import copy
import math
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import nn

from ..utils.cli import UserError
from .m3snet import M3SNet

ENLARGEMENT = 1.5  # of the window over the training patch, as published

Model = TypeVar("Model", bound=nn.Module)


class TLCError(UserError):
    """A model that TLC cannot be applied to; the message says why."""


class LocalAvgPool2d(nn.Module):
    """The mean over a window around every pixel; over the whole image where the window covers it.

    N x C x H x W -> N x C x H x W; an axis that the window covers has length 1 in the result. The window stays inside
    the image: pixels near a border take the mean of the nearest window that does.

    Whether the window covers the image is decided in Python: torch.jit.trace and ONNX keep what was decided for the
    size that they saw, and at another size the result is wrong without an error.
    """

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.window = height, width

    def extra_repr(self) -> str:
        return f"window={self.window}"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = self.window
        if height >= x.shape[-2] and width >= x.shape[-1]:
            return F.adaptive_avg_pool2d(x, 1)
        precise = x.to(torch.promote_types(x.dtype, torch.float32))  # running sums need more than 16 bits
        return _local_mean(_local_mean(precise, height, -2), width, -1).to(x.dtype)


def apply_tlc(model: Model, patch_size: int) -> Model:
    """A copy of `model`, trained on `patch_size` x `patch_size` patches, whose global average pools are local ones.

    Finds `nn.AdaptiveAvgPool2d(1)`. The copy shares no memory with `model`, which stays as it is. Trace or export the
    copy once for every size of image (`LocalAvgPool2d`).

    Raises:
        TLCError: the model has no global average pool, uses one at several sizes, or cannot take such a patch.
    """
    if patch_size < 1:
        raise TLCError(f"TLC: expected the size of the training patches in pixels, found {patch_size}")
    model = copy.deepcopy(model)
    # A pool has no weights, so a model may use one object in several places: each place gets its own window.
    pools = [name for name, module in model.named_modules(remove_duplicate=False) if name and _is_global(module)]
    if not pools:
        raise TLCError(f"TLC: {type(model).__name__} has no nn.AdaptiveAvgPool2d(1) to replace")
    for name, (height, width) in _pooled_sizes(model, pools, patch_size).items():
        _replace(model, name, LocalAvgPool2d(math.floor(ENLARGEMENT * height), math.floor(ENLARGEMENT * width)))
    return model


def tlc_window(model: nn.Module) -> int | None:
    """The side of the largest window of a model with TLC, that at full resolution, in pixels; None without TLC."""
    return max((max(module.window) for module in model.modules() if isinstance(module, LocalAvgPool2d)), default=None)


def _is_global(module: nn.Module) -> bool:
    return isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size in (1, (1, 1), [1, 1])


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def _pooled_sizes(model: nn.Module, names: list[str], patch_size: int) -> dict[str, tuple[int, int]]:
    """The height and width of what each pool sees in a training patch; found without computing anything."""
    if not isinstance(model, M3SNet):
        return _traced_sizes(model, names, patch_size)
    levels = model.levels()
    halvings = [next(level for part, level in levels.items() if name.startswith(f"{part}.")) for name in names]
    padded = -(-patch_size // 2 ** len(model.downs)) * 2 ** len(model.downs)
    return {name: (padded // 2**level, padded // 2**level) for name, level in zip(names, halvings, strict=True)}


def _traced_sizes(model: nn.Module, names: list[str], patch_size: int) -> dict[str, tuple[int, int]]:
    """The same for any model. Takes a second or more: the first operation on the meta device loads half of torch."""
    sizes: dict[str, tuple[int, int]] = {}
    shapes = copy.deepcopy(model).to("meta").eval()
    for name in names:

        def record(_: nn.Module, inputs: tuple[torch.Tensor, ...], name: str = name) -> None:
            size = inputs[0].shape[-2], inputs[0].shape[-1]
            if sizes.setdefault(name, size) != size:
                raise TLCError(f"TLC: {name} pools features of two sizes, {sizes[name]} and {size}")

        pool = nn.AdaptiveAvgPool2d(1)
        pool.register_forward_pre_hook(record)
        _replace(shapes, name, pool)
    conv = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    if conv is None:
        raise TLCError(f"TLC: {type(model).__name__} has no nn.Conv2d to tell how many channels its images have")
    patch = torch.empty(1, conv.in_channels, patch_size, patch_size, dtype=conv.weight.dtype, device="meta")
    try:
        with torch.no_grad():
            shapes(patch)
    except RuntimeError as error:
        raise TLCError(f"TLC: {type(model).__name__} takes no {patch_size} x {patch_size} patch ({error})") from error
    return sizes


def _local_mean(x: torch.Tensor, window: int, axis: int) -> torch.Tensor:
    size = x.shape[axis]
    if window >= size:
        return x.mean(axis, keepdim=True)
    # Sums of any window are differences of running sums. They run over deviations from the mean, which stay small.
    centre = x.mean(axis, keepdim=True)
    sums = F.pad((x - centre).cumsum(axis), (1, 0) if axis == -1 else (0, 0, 1, 0))
    means = sums.narrow(axis, window, size - window + 1) - sums.narrow(axis, 0, size - window + 1)
    means = means / window + centre
    before = (window - 1) // 2
    after = window - 1 - before
    return F.pad(means, (before, after, 0, 0) if axis == -1 else (0, 0, before, after), mode="replicate")
