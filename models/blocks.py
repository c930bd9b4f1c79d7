"""The blocks that M3SNet is made of.

NAFBlock and its parts follow Chen et al., "Simple Baselines for Image Restoration" (arXiv 2204.04676): a transformer
block whose attention is reduced to a product of channel halves and a rescaling of channels, without any activation
function. All modules map N x C x H x W to N x C x H x W unless they say otherwise.
"""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from . import cpu_training


class LayerNorm2d(nn.Module):
    """Layer normalisation over the channels of each pixel, with a learned scale and shift per channel."""

    def __init__(self, chs: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(chs))
        self.bias = nn.Parameter(torch.zeros(chs))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # In channels_last memory both permutes are free, and the fused kernel reads each pixel's channels in one run.
        x = F.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class SimpleGate(nn.Module):
    """The product of the two halves of the channels: N x 2C x H x W -> N x C x H x W."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = x.chunk(2, dim=1)
        return a * b


class SCA(nn.Module):
    """Simplified channel attention: each channel is rescaled by a linear function of all channels' means."""

    def __init__(self, chs: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)  # what models.tlc replaces at test time
        self.conv = nn.Conv2d(chs, chs, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.conv(self.pool(x))


class NAFBlock(nn.Module):
    """Depthwise mixing of space with channel attention, then a gated feed-forward part; both residual.

    Starts as the identity: the residual scales beta and gamma are zero at first.
    """

    def __init__(self, chs: int) -> None:
        super().__init__()
        self.norm1 = LayerNorm2d(chs)
        self.conv1 = nn.Conv2d(chs, 2 * chs, 1)
        self.conv2 = nn.Conv2d(2 * chs, 2 * chs, 3, padding=1, groups=2 * chs)
        self.gate = SimpleGate()
        self.sca = SCA(chs)
        self.conv3 = nn.Conv2d(chs, chs, 1)
        self.beta = nn.Parameter(torch.zeros(1, chs, 1, 1))

        self.norm2 = LayerNorm2d(chs)
        self.conv4 = nn.Conv2d(chs, 2 * chs, 1)
        self.conv5 = nn.Conv2d(chs, chs, 1)
        self.gamma = nn.Parameter(torch.zeros(1, chs, 1, 1))

        self.grad_checkpointing = False  # M3SNet.set_grad_checkpointing

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.grad_checkpointing and self.training and torch.is_grad_enabled():
            # The block draws no random numbers, so the states of their generators need not be kept either.
            return checkpoint(self._forward, x, use_reentrant=False, preserve_rng_state=False)
        return self._forward(x)

    def _forward(self, x: torch.Tensor) -> torch.Tensor:
        if cpu_training.takes(x) and isinstance(self.sca.pool, nn.AdaptiveAvgPool2d):
            return cpu_training.block(x, self)
        y = self.gate(self.conv2(self.conv1(self.norm1(x))))
        x = x + _scaled(self.beta, self.conv3, self.sca(y))
        y = self.gate(self.conv4(self.norm2(x)))
        return x + _scaled(self.gamma, self.conv5, y)


def _scaled(scale: torch.Tensor, conv: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    """`scale * conv(x)`, by scaled weights: these are few, and training need not keep what was to be scaled."""
    return F.conv2d(x, scale.view(-1, 1, 1, 1) * conv.weight, scale.flatten() * conv.bias)  # type: ignore[operator]
