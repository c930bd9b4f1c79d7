"""NAFBlocks in training on a CPU: the function of `models.blocks` in fewer passes over the memory, loops of kernels.c.

The scale and shift of a LayerNorm become part of the 1x1 convolution that follows it, as in `models.fused`. A gate and
the channel attention after it are one step, whose backward pass computes their product again instead of keeping it.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from . import kernels

if TYPE_CHECKING:
    from .blocks import LayerNorm2d, NAFBlock


def takes(x: torch.Tensor) -> bool:
    """Whether `forward` is for these features: gradients are asked for, and the compiled loops are for them."""
    return (
        torch.is_grad_enabled()
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.bfloat16)
        and x.is_contiguous(memory_format=torch.channels_last)
        and not (torch.compiler.is_compiling() or torch.jit.is_tracing())
        and kernels.available()
    )


def forward(block: NAFBlock, x: torch.Tensor) -> torch.Tensor:
    """A block whose attention has not been replaced by TLC's, on features that `takes` takes; the same shape."""
    x, y = _Normalise.apply(x, block.norm1.eps)
    y = block.conv2(_after_norm(block.norm1, block.conv1, y))
    y = _AttendedGate.apply(y, block.sca.conv.weight, block.sca.conv.bias)
    x = x + scaled(block.beta, block.conv3, y)
    x, y = _Normalise.apply(x, block.norm2.eps)
    y = _Gate.apply(_after_norm(block.norm2, block.conv4, y))
    return x + scaled(block.gamma, block.conv5, y)


def scaled(scale: torch.Tensor, conv: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    """`scale * conv(x)`, by scaled weights: these are few, and training need not keep what was to be scaled."""
    return F.conv2d(x, scale.view(-1, 1, 1, 1) * conv.weight, scale.flatten() * conv.bias)  # type: ignore[operator]


def _after_norm(norm: LayerNorm2d, conv: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    """`conv` of `x`, scaled and shifted as `norm` does."""
    shift = (conv.weight.flatten(1) * norm.bias).sum(1)  # not a matrix product, which autocast would take in bfloat16
    return F.conv2d(x, conv.weight * norm.weight.view(1, -1, 1, 1), conv.bias + shift)  # type: ignore[operator]


class _Normalise(Function):
    """`x` itself, and `x` normalised over its channels. As one, so that their gradients are added in passing."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
        pixels = x.permute(0, 2, 3, 1)
        scales = torch.empty(pixels.shape[:-1])
        y = kernels.normalise(pixels, eps, scales).permute(0, 3, 1, 2)
        ctx.save_for_backward(y, scales)
        return x, y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_x: torch.Tensor, by_y: torch.Tensor) -> tuple[torch.Tensor, None]:
        y, scales = ctx.saved_tensors
        grad = kernels.normalise_backward(_pixels(y), scales, _pixels(by_y), _pixels(by_x))
        return grad.permute(0, 3, 1, 2), None


class _Gate(Function):
    """`SimpleGate`."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return kernels.gate(_pixels(x), torch.ones(x.shape[0], x.shape[1] // 2)).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_y: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        ones = torch.ones(x.shape[0], x.shape[1] // 2)
        return kernels.gate_backward(_pixels(x), ones, torch.zeros_like(ones), _pixels(by_y)).permute(0, 3, 1, 2)


class _AttendedGate(Function):
    """`SCA` of `SimpleGate`; means, attention and their gradients in float32."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        means = kernels.gate_sums(_pixels(x)) / (x.shape[2] * x.shape[3])
        with torch.autocast("cpu", enabled=False):
            scales = torch.addmm(bias, means, weight.flatten(1).t())
        ctx.save_for_backward(x, weight, means, scales)
        return kernels.gate(_pixels(x), scales).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        x, weight, means, scales = ctx.saved_tensors
        by_scales = kernels.gate_sums(_pixels(x), _pixels(by_y))
        with torch.autocast("cpu", enabled=False):
            by_means = by_scales @ weight.flatten(1) / (x.shape[2] * x.shape[3])
            by_weight = by_scales.t() @ means
        by_x = kernels.gate_backward(_pixels(x), scales, by_means, _pixels(by_y)).permute(0, 3, 1, 2)
        return by_x, by_weight.view_as(weight), by_scales.sum(0)


def _pixels(images: torch.Tensor) -> torch.Tensor:
    """N x C x H x W -> N x H x W x C in one piece of memory; without a copy, as a rule."""
    return images.permute(0, 2, 3, 1).contiguous()
