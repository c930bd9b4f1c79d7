"""The inference form of M3SNet: the same function in fewer passes over the memory.

In every NAFBlock the scale and shift of a LayerNorm are folded into the 1x1 convolution that follows it, beta and gamma
into the one that precedes them. With TLC the means of windows, and the 1x1 convolution of these means, are computed
only where the window lies inside the image; its border repeats the nearest of them. Without TLC the channels' scales
become a part of the weights of one small convolution.
"""
from __future__ import annotations

import copy

import cv2
import torch
import torch.nn.functional as F
from torch import nn

from .blocks import LayerNorm2d, NAFBlock
from .m3snet import M3SNet
from .tlc import LocalAvgPool2d

_MOST_CHANNELS = 128  # of OpenCV 5's arrays


def fuse(model: M3SNet, dtype: torch.dtype = torch.float32) -> FusedM3SNet:
    """A copy of `model`, with or without TLC, for inference: N x 3 x H x W float32 -> the same, as `model` gives it.

    With `dtype` bfloat16 or float16 the features are of that type. What the network adds to the image is added in
    float32, and window means are computed in float32, or the image would lose levels.
    """
    return FusedM3SNet(model, dtype)


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

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.network.check(image)
        padded = self.network.pad(image)
        features = padded.to(self.dtype, memory_format=torch.channels_last)
        restored = padded + self.network.residual(features).to(padded.dtype)
        return restored[..., : image.shape[-2], : image.shape[-1]]


class FusedBlock(nn.Module):
    """A NAFBlock with its scales folded into its convolutions."""

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
        a, b = self.conv2(self.conv1(self._norm(x))).chunk(2, dim=1)
        x = self._attended(a * b).add_(x)
        a, b = self.conv4(self._norm(x)).chunk(2, dim=1)
        return self.conv5(a * b).add_(x)

    def _norm(self, x: torch.Tensor) -> torch.Tensor:
        pixels = x.permute(0, 2, 3, 1)
        return F.layer_norm(pixels, pixels.shape[-1:], eps=self.eps).permute(0, 3, 1, 2)

    def _attended(self, y: torch.Tensor) -> torch.Tensor:
        """`conv3` of `y` scaled by its channel attention."""
        height, width = y.shape[-2:]
        window = self.pool.window if isinstance(self.pool, LocalAvgPool2d) else (height, width)
        if window[0] >= height and window[1] >= width:
            scale = self.sca(y.mean((2, 3), keepdim=True, dtype=torch.float32).to(y.dtype))
            if len(y) == 1:
                return F.conv2d(y, self.conv3.weight * scale, self.conv3.bias)
            return self.conv3(y * scale)
        rows, columns = min(window[0], height), min(window[1], width)
        scale = self.sca(window_means(y.float(), rows, columns).to(y.dtype))
        down, right = height - scale.shape[-2], width - scale.shape[-1]
        above, left = min((rows - 1) // 2, down), min((columns - 1) // 2, right)
        return self.conv3(y * F.pad(scale, (left, right - left, above, down - above), mode="replicate"))


def window_means(x: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """The means of all windows of that size that lie inside the image.

    N x C x H x W float32 -> N x C x (H - rows + 1) x (W - columns + 1).
    """
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
    if x.device.type != "cpu" or traced or x.requires_grad:
        return _means_along(_means_along(x, rows, -2), columns, -1)
    down, right = x.shape[2] - rows + 1, x.shape[3] - columns + 1
    # OpenCV keeps one running sum, in double precision, and reads channels_last memory as it is.
    means = []
    for image in x.permute(0, 2, 3, 1):
        parts = [
            cv2.boxFilter(part.contiguous().numpy(), cv2.CV_32F, (columns, rows), anchor=(0, 0))
            for part in image.split(_MOST_CHANNELS, dim=-1)
        ]
        whole = [torch.from_numpy(part).view(*image.shape[:2], -1) for part in parts]
        means.append(torch.cat([part[:down, :right] for part in whole], dim=-1))
    return torch.stack(means).permute(0, 3, 1, 2)


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
