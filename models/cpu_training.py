"""Steps of a NAFBlock in training on a CPU: few passes over the memory, by the loops of kernels.c.

Less is kept for the backward pass as well: a LayerNorm needs its result alone, which the convolution after it keeps
anyway, and a gate's product is computed again.
"""
from __future__ import annotations

from typing import Any

import torch
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from . import kernels


def takes(x: torch.Tensor) -> bool:
    """Whether these steps are for such features: gradients are asked for, and the compiled loops take them."""
    return (
        torch.is_grad_enabled()
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.bfloat16)
        and x.is_contiguous(memory_format=torch.channels_last)
        and not (torch.compiler.is_compiling() or torch.jit.is_tracing())
        and kernels.available()
    )


def normalise(x: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    """`x` itself, and `x` normalised over its channels. As one, so that their gradients are added in passing."""
    return _Normalise.apply(x, eps)


def gate(x: torch.Tensor) -> torch.Tensor:
    """The product of the two halves of the channels: N x 2C x H x W -> N x C x H x W."""
    return _Gate.apply(x)


def attended_gate(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """`gate`, each channel rescaled by a linear function of all channels' means, which are taken in float32.

    N x 2C x H x W, C x C x 1 x 1, C -> N x C x H x W.
    """
    return _AttendedGate.apply(x, weight, bias)


class _Normalise(Function):
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
