"""The inference form of M3SNet: the same function in fewer passes over the memory.

In every NAFBlock the scale and shift of a LayerNorm are folded into the 1x1 convolution that follows it, beta and gamma
into the one that precedes them. With TLC the means of windows, and the 1x1 convolution of these means, are computed
only where the window lies inside the image; its border repeats the nearest of them. Without TLC the channels' scales
become a part of the weights of one small convolution.

On a CPU a block works through its features in stripes of rows, small enough that what one operation writes is still in
the cache when the next one reads it, and in place: large intermediate tensors would cost more time than the arithmetic,
and most of the memory.
"""
from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from . import kernels
from .blocks import LayerNorm2d, NAFBlock
from .m3snet import M3SNet
from .tlc import LocalAvgPool2d

_STRIPE = 1 << 23  # elements of a block's widest tensor, in one stripe
_SUMMED_ROWS = 4  # of window sums at a time


def fuse(model: M3SNet, dtype: torch.dtype = torch.float32) -> FusedM3SNet:
    """A copy of `model`, with or without TLC, for inference: N x 3 x H x W float32 -> the same, as `model` gives it.

    With `dtype` bfloat16 or float16 the features are of that type. What the network adds to the image is added in
    float32, and window means are computed in float32, or the image would lose levels.
    """
    return FusedM3SNet(model, dtype)


Conv = Callable[[torch.Tensor], torch.Tensor]
Scale = Callable[[torch.Tensor, int], torch.Tensor]  # some rows, and which is the first -> the same rows, scaled


class FusedM3SNet(nn.Module):
    """What `fuse` makes."""

    def __init__(self, model: M3SNet, dtype: torch.dtype) -> None:
        super().__init__()
        self.network = copy.deepcopy(model).eval().requires_grad_(False)
        self.dtype = dtype
        self.patch_size = model.patch_size
        for name, block in model.named_modules():
            if isinstance(block, NAFBlock):
                parent, _, child = name.rpartition(".")
                setattr(self.network.get_submodule(parent), child, FusedBlock(block))
        self.network.to(dtype).to(memory_format=torch.channels_last)

    @torch.no_grad()  # blocks work in place
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.network.check(image)
        padded = self.network.pad(image)
        features = padded.to(self.dtype, memory_format=torch.channels_last)
        restored = padded + self.network.residual(features).to(padded.dtype)
        return restored[..., : image.shape[-2], : image.shape[-1]]


class FusedBlock(nn.Module):
    """A NAFBlock with its scales folded into its convolutions. Its result may take the place of its input."""

    def __init__(self, block: NAFBlock) -> None:
        super().__init__()
        self.conv1 = _after_norm(block.norm1, block.conv1)
        self.conv2 = copy.deepcopy(block.conv2)
        self.sca = copy.deepcopy(block.sca.conv)
        self.conv3 = _scaled(block.conv3, block.beta)
        self.conv4 = _after_norm(block.norm2, block.conv4)
        self.conv5 = _scaled(block.conv5, block.gamma)
        self.eps = block.norm1.eps
        self.pool = copy.deepcopy(block.sca.pool)  # says which window; what it does is done here

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.device.type != "cpu" or _is_traced():
            return self._whole(x)
        stripes = _stripes(x.shape[2], 2 * x.shape[1] * x.shape[3])
        if len(stripes) == 1:
            return self._whole(x)
        for image in x.split(1):  # only the rows of a single image lie in one piece
            self._in_stripes(image, stripes)
        return x

    def _whole(self, x: torch.Tensor) -> torch.Tensor:
        mixed = self._mixed(x)
        if _has_kernels(mixed) and not self._window(mixed):  # their product need not be written to know its means
            means = kernels.gate_sums(_pixels(mixed)) / (mixed.shape[2] * mixed.shape[3])
            everywhere = self.sca(means.to(mixed.dtype)[:, :, None, None]).flatten(1).float()
            return self._added(x, self.conv3(_gate(mixed, everywhere)))
        y = _gate(mixed)
        conv3, scale = self._attention(y)
        return self._added(x, conv3(scale(y, 0) if scale else y))

    def _in_stripes(self, x: torch.Tensor, stripes: list[tuple[int, int]]) -> None:
        y = torch.empty_like(x)
        for first, last in stripes:  # conv2 sees one row beyond each end
            top = max(first - 1, 0)
            y[:, :, first:last] = _gate(self._mixed(x[:, :, top : last + 1])[:, :, first - top : last - top])
        conv3, scale = self._attention(y)
        for first, last in stripes:
            part, gated = x[:, :, first:last], y[:, :, first:last]
            part.copy_(self._added(part, conv3(scale(gated, first) if scale else gated)))

    def _added(self, x: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        """`x` after both residual parts of the block."""
        x = attended.add_(x)
        return self.conv5(_gate(self.conv4(self._norm(x)))).add_(x)

    def _mixed(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv2(self.conv1(self._norm(x)))

    def _norm(self, x: torch.Tensor) -> torch.Tensor:
        pixels = _pixels(x)
        if _has_kernels(x) and pixels.is_contiguous():
            return kernels.normalise(pixels, self.eps).permute(0, 3, 1, 2)
        return F.layer_norm(pixels, pixels.shape[-1:], eps=self.eps).permute(0, 3, 1, 2)

    def _window(self, x: torch.Tensor) -> tuple[int, int] | None:
        """Rows and columns of the windows that the attention's means are over; None where it is all of `x`."""
        height, width = x.shape[-2:]
        rows, columns = self.pool.window if isinstance(self.pool, LocalAvgPool2d) else (height, width)
        return (min(rows, height), min(columns, width)) if rows < height or columns < width else None

    def _attention(self, y: torch.Tensor) -> tuple[Conv, Scale | None]:
        """What stands for `conv3`, and what scales `y` before it, in place: None where the former does."""
        height, width = y.shape[-2:]
        window = self._window(y)
        if window is None:
            everywhere = self.sca(y.mean((2, 3), keepdim=True, dtype=torch.float32).to(y.dtype))
            if len(y) > 1:
                return self.conv3, lambda part, first: part.mul_(everywhere)
            weight = self.conv3.weight * everywhere
            return lambda part: F.conv2d(part, weight, self.conv3.bias), None
        rows, columns = window
        inside = self._scales(window_means(y, rows, columns))
        down, right = height - inside.shape[2], width - inside.shape[3]
        above, left = min((rows - 1) // 2, down), min((columns - 1) // 2, right)
        if len(y) == 1 and _has_kernels(y) and _pixels(y).is_contiguous():
            factors = _pixels(inside)[0].contiguous()

            def scale(part: torch.Tensor, first: int) -> torch.Tensor:
                kernels.scale(_pixels(part)[0], factors, first, above, left)
                return part

        else:
            nearest = (torch.arange(height, device=y.device) - above).clamp(0, inside.shape[2] - 1)

            def scale(part: torch.Tensor, first: int) -> torch.Tensor:
                rows = nearest[first : first + part.shape[2]]
                found = _pixels(inside).index_select(1, rows).permute(0, 3, 1, 2)
                return part.mul_(F.pad(found, (left, right - left, 0, 0), mode="replicate"))

        return self.conv3, scale

    def _scales(self, means: torch.Tensor) -> torch.Tensor:
        """`sca` of the means of windows, which takes their place on a CPU."""
        if means.device.type != "cpu" or _is_traced():
            return self.sca(means)
        for first, last in _stripes(means.shape[2], means.shape[1] * means.shape[3]):
            means[:, :, first:last] = self.sca(means[:, :, first:last])
        return means


def _gate(x: torch.Tensor, scales: torch.Tensor | None = None) -> torch.Tensor:
    """The product of both halves of the channels, times N x C float32 `scales`."""
    if _has_kernels(x) and _pixels(x).is_contiguous():
        scales = torch.ones(x.shape[0], x.shape[1] // 2) if scales is None else scales
        return kernels.gate(_pixels(x), scales).permute(0, 3, 1, 2)
    a, b = x.chunk(2, dim=1)
    return a * b if scales is None else a * b * scales[:, :, None, None].to(x.dtype)


def _pixels(x: torch.Tensor) -> torch.Tensor:
    """N x C x H x W -> N x H x W x C."""
    return x.permute(0, 2, 3, 1)


def _stripes(height: int, row: int) -> list[tuple[int, int]]:
    """(first, last + 1) of stripes of about `_STRIPE` elements, where a row of the image has `row` elements."""
    rows = max(1, _STRIPE // row)
    return [(first, min(first + rows, height)) for first in range(0, height, rows)]


def _has_kernels(x: torch.Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype != torch.float16 and not _is_traced() and kernels.available()


def _is_traced() -> bool:
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def window_means(x: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """The means of all windows of that size that lie inside the image, summed in float32.

    N x C x H x W -> N x C x (H - rows + 1) x (W - columns + 1).
    """
    if x.device.type != "cpu" or _is_traced():
        return _means_along(_means_along(x.float(), rows, -2), columns, -1).to(x.dtype)
    running = kernels.window_means if _has_kernels(x) else running_means
    means = [running(image, rows, columns) for image in _pixels(x)]
    return torch.stack(means).permute(0, 3, 1, 2) if len(means) > 1 else means[0].permute(2, 0, 1)[None]


def running_means(image: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """`window_means` of one H x W x C image: each row of sums is the one above it, with a row added and one taken away.

    It reads the image twice, and a few rows at a time stay in the cache.
    """
    height, width, channels = image.shape
    down, right = height - rows + 1, width - columns + 1
    means = image.new_empty(down, right, channels)
    above = image[:rows].sum(0, dtype=torch.float32)
    for first in range(0, down, _SUMMED_ROWS):
        last = min(first + _SUMMED_ROWS, down)
        sums = torch.empty(last - first, width, channels)
        sums[0] = above
        sums[1:] = image[first + rows : last + rows - 1]
        sums[1:] -= image[first : last - 1]
        sums = sums.cumsum(0)
        if last < down:
            above = sums[-1] + image[last + rows - 1] - image[last - 1]
        sums = sums.cumsum(1).mul_(1 / (rows * columns))
        means[first:last, 0] = sums[:, columns - 1]
        means[first:last, 1:] = sums[:, columns:] - sums[:, : right - 1]
    return means


def _means_along(x: torch.Tensor, window: int, axis: int) -> torch.Tensor:
    """Differences of prefix sums. These run over deviations from the mean, which stay small."""
    centre = x.mean(axis, keepdim=True)
    sums = F.pad((x - centre).cumsum(axis), (1, 0) if axis == -1 else (0, 0, 1, 0))
    count = x.shape[axis] - window + 1
    return (sums.narrow(axis, window, count) - sums.narrow(axis, 0, count)) / window + centre


def _after_norm(norm: LayerNorm2d, conv: nn.Conv2d) -> nn.Conv2d:
    """`conv` of what `norm` scales and shifts, as one 1x1 convolution of what is only normalised."""
    folded = copy.deepcopy(conv)
    assert folded.bias is not None
    with torch.no_grad():
        folded.bias += conv.weight.flatten(1) @ norm.bias
        folded.weight *= norm.weight.view(1, -1, 1, 1)
    return folded


def _scaled(conv: nn.Conv2d, scale: torch.Tensor) -> nn.Conv2d:
    """`scale * conv(x)` as one convolution."""
    folded = copy.deepcopy(conv)
    assert folded.bias is not None
    with torch.no_grad():
        folded.weight *= scale.view(-1, 1, 1, 1)
        folded.bias *= scale.flatten()
    return folded
