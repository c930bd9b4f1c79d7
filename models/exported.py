"""The form of M3SNet that torch.export, ONNX and OpenVINO take: any height and width, without a decision in Python."""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .fused import FusedBlock, fuse
from .m3snet import M3SNet
from .tlc import LocalAvgPool2d

SMALLEST_SIDE = 17  # pixels: at one pixel of the coarsest features, programs take other branches
LARGEST_SIDE = 1 << 16


def exportable(model: M3SNet, dtype: torch.dtype = torch.float32) -> ExportableM3SNet:
    """A copy of `model`, with or without TLC: N x 3 x H x W float32 -> the same, as `model` gives it.

    H and W from `SMALLEST_SIDE`. With `dtype` float16 the features are of that type, as in `models.fused`.
    """
    return ExportableM3SNet(model, dtype)


class ExportableM3SNet(nn.Module):
    """What `exportable` makes."""

    def __init__(self, model: M3SNet, dtype: torch.dtype) -> None:
        super().__init__()
        self.network = fuse(model, dtype).network.to(memory_format=torch.contiguous_format)
        self.multiple = 2 ** len(model.downs)
        self.dtype = dtype
        for name, module in list(self.network.named_modules()):
            if isinstance(module, FusedBlock):
                parent, _, child = name.rpartition(".")
                setattr(self.network.get_submodule(parent), child, ExportableBlock(module))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        height, width = image.shape[2], image.shape[3]
        padded = _padded(_padded(image, self.multiple, 2), self.multiple, 3)
        restored = padded + self.network.residual(padded.to(self.dtype)).to(image.dtype)
        # Not slices: these would tie the exported program to heights and widths that are padded.
        rows, columns = (torch.arange(size, device=image.device) for size in (height, width))
        return restored.index_select(2, rows).index_select(3, columns)


class ExportableBlock(nn.Module):
    """A `FusedBlock` that is the same operations at every size."""

    def __init__(self, block: FusedBlock) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        block = self.block
        a, b = block.conv2(block.conv1(self._norm(x))).chunk(2, dim=1)
        y = a * b
        means = y.float()
        if isinstance(block.pool, LocalAvgPool2d):
            for window, axis in zip(block.pool.window, (2, 3), strict=True):
                means = _local_means(means, window, axis)
        else:
            means = means.mean((2, 3), keepdim=True)
        x = x + block.conv3(y * block.sca(means.to(y.dtype)))
        a, b = block.conv4(self._norm(x)).chunk(2, dim=1)
        return x + block.conv5(a * b)

    def _norm(self, x: torch.Tensor) -> torch.Tensor:
        """In elementary operations: OpenVINO computes a LayerNorm between two permutes at half the speed."""
        deviations = x - x.mean(1, keepdim=True)
        return deviations * (deviations.square().mean(1, keepdim=True) + self.block.eps).rsqrt()


def _padded(image: torch.Tensor, multiple: int, axis: int) -> torch.Tensor:
    """With zeros at the end of an axis, up to a multiple of its length."""
    size = image.shape[axis]
    places = torch.arange((size + multiple - 1) // multiple * multiple, device=image.device)
    inside = (places < size).to(image.dtype)
    return image.index_select(axis, places.clamp(max=size - 1)) * (inside[:, None] if axis == 2 else inside)


def _local_means(x: torch.Tensor, window: int, axis: int) -> torch.Tensor:
    """Means over the nearest window inside the image, or all of it where the window is larger; prefix sums."""
    size = x.shape[axis]
    places = torch.arange(size, device=x.device)
    length = places.new_full((), size)
    start = torch.minimum((places - (window - 1) // 2).clamp(min=0), (length - window).clamp(min=0))
    end = torch.minimum(start + window, length)
    centre = x.mean(axis, keepdim=True)
    sums = F.pad((x - centre).cumsum(axis), (1, 0) if axis == 3 else (0, 0, 1, 0))
    count = (end - start).to(x.dtype)
    inside = sums.index_select(axis, end) - sums.index_select(axis, start)
    return inside / (count[:, None] if axis == 2 else count) + centre
