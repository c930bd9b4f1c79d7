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

ENLARGEMENT = 1.5  # of the window over the training patch, as published

Model = TypeVar("Model", bound=nn.Module)


class LocalAvgPool2d(nn.Module):
    """The mean over a window around every pixel; over the whole image where the window covers it.

    N x C x H x W -> N x C x H x W; an axis that the window covers has length 1 in the result. The window stays inside
    the image: pixels near a border take the mean of the nearest window that does.
    """

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.window = height, width

    def extra_repr(self) -> str:
        return f"window={self.window}"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = self.window
        return _local_mean(_local_mean(x.float(), height, -2), width, -1).to(x.dtype)


def local_pooling(model: Model, patch_size: int) -> Model:
    """A copy of `model`, trained on `patch_size` x `patch_size` patches, whose global average pools are local ones.

    Finds `nn.AdaptiveAvgPool2d(1)`. The copy shares no memory with `model`, which stays as it is.

    Raises:
        ValueError: the model has no global average pool, or cannot take a patch of this size.
    """
    if patch_size < 1:
        raise ValueError(f"TLC: expected the size of the training patches in pixels, found {patch_size}")
    model = copy.deepcopy(model)
    pools = {name: pool for name, pool in model.named_modules() if _is_global(pool)}
    if not pools:
        raise ValueError(f"TLC: {type(model).__name__} has no nn.AdaptiveAvgPool2d(1) to replace")
    for name, (height, width) in _pooled_sizes(model, list(pools), patch_size).items():
        local = LocalAvgPool2d(math.floor(ENLARGEMENT * height), math.floor(ENLARGEMENT * width))
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, local)
    return model


def _is_global(module: nn.Module) -> bool:
    return isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size in (1, (1, 1))


def _pooled_sizes(model: nn.Module, names: list[str], patch_size: int) -> dict[str, tuple[int, int]]:
    """The height and width of what each pool sees in a training patch; found without computing anything."""
    sizes: dict[str, tuple[int, int]] = {}
    shapes = copy.deepcopy(model).to("meta")
    for name in names:

        def record(_: nn.Module, inputs: tuple[torch.Tensor, ...], name: str = name) -> None:
            sizes[name] = (inputs[0].shape[-2], inputs[0].shape[-1])

        shapes.get_submodule(name).register_forward_pre_hook(record)
    channels = next(conv.in_channels for conv in model.modules() if isinstance(conv, nn.Conv2d))
    with torch.no_grad():
        shapes(torch.empty(1, channels, patch_size, patch_size, device="meta"))
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
