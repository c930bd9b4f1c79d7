"""A NAFBlock in training on a CPU as one step of autograd: few passes over the memory, by the loops of kernels.c.

Scales and shifts are applied to weights, as models.fused does at test time. Of a LayerNorm only its result is kept,
which the convolution after it needs anyway, and the gradient between the gate and the depthwise convolution is never
stored.
"""
from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from . import kernels

Weights = tuple[torch.Tensor, torch.Tensor]  # of a 1 x 1 convolution, and its bias


def takes(x: torch.Tensor) -> bool:
    """Whether `block` is for such features: gradients are asked for, and the compiled loops take them."""
    return (
        torch.is_grad_enabled()
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.bfloat16)
        and 2 * x.shape[1] % kernels.LANES == 0
        and x.is_contiguous(memory_format=torch.channels_last)
        and not (torch.compiler.is_compiling() or torch.jit.is_tracing())
        and kernels.available()
    )


def block(x: torch.Tensor, module: Any) -> torch.Tensor:
    """What `module`, a NAFBlock, makes of N x C x H x W features for which `takes` is true."""
    parts = module.norm1, module.conv1, module.conv2, module.sca.conv, module.conv3, module.norm2, module.conv4
    parameters = [tensor for part in (*parts, module.conv5) for tensor in (part.weight, part.bias)]
    return _Block.apply(x, module.norm1.eps, module.beta, module.gamma, *parameters)


def add_upsampled(x: torch.Tensor, coarse: torch.Tensor, conv: nn.Conv2d) -> torch.Tensor:
    """`x` plus the pixel shuffle of `conv` of `coarse`: N x C x H x W, N x 2C x H/2 x W/2 -> N x C x H x W.

    With the filters in another order, the shuffle moves runs of channels instead of single ones, and adds in passing.
    """
    n, chs, height, width = x.shape
    weight = conv.weight.view(chs, 2, 2, -1).permute(1, 2, 0, 3).reshape_as(conv.weight)
    shuffled = _pixels(F.conv2d(coarse, weight)).view(n, height // 2, width // 2, 2, 2 * chs).transpose(2, 3)
    pixels = _pixels(x).view(n, height // 2, 2, width // 2, 2 * chs)
    return _images((pixels + shuffled).view(n, height, width, chs))


class _Block(Function):
    """The steps are those of NAFBlock; `by_x` is the gradient of the loss by x. Pixels are N x H x W x C."""

    @staticmethod
    @torch.autocast("cpu", enabled=False)
    def forward(ctx: Any, x: torch.Tensor, eps: float, *parameters: torch.Tensor) -> torch.Tensor:
        beta, gamma, scale1, shift1, w1, b1, w2, b2, ws, bs, w3, b3, scale2, shift2, w4, b4, w5, b5 = parameters
        weights1 = _after_norm(scale1, shift1, w1, b1, x.dtype)
        weights3 = _scaled(beta, w3, b3, x.dtype)
        weights4 = _after_norm(scale2, shift2, w4, b4, x.dtype)
        weights5 = _scaled(gamma, w5, b5, x.dtype)
        depthwise = torch.cat([w2.flatten(1).t(), b2[None]])
        deviations1, deviations2 = x.new_empty(2, x.shape[0], *x.shape[2:], dtype=torch.float32)
        ones = deviations1.new_ones(x.shape[0], x.shape[1])

        normal1 = kernels.normalise(_pixels(x), eps, deviations1)
        wide = _pixels(torch.conv2d(_images(normal1), *weights1))
        mixed, sums = kernels.depthwise(wide, depthwise)
        means = sums / (x.shape[2] * x.shape[3])
        scales = torch.addmm(bs, means, ws.flatten(1).t())
        attended = kernels.gate(mixed, scales)
        branch = _pixels(torch.conv2d(_images(attended), *weights3))
        middle, normal2 = kernels.add_normalise(_pixels(x), branch, eps, deviations2)
        halves = _pixels(torch.conv2d(_images(normal2), *weights4))
        gated = kernels.gate(halves, ones)
        result = torch.conv2d(_images(gated), *weights5).add_(_images(middle))

        features = normal1, wide, mixed, attended, normal2, halves, gated
        weights = weights1[0], weights3[0], weights4[0], weights5[0], depthwise
        ctx.save_for_backward(*features, deviations1, deviations2, means, scales, *weights, *parameters)
        return result

    @staticmethod
    @torch.autocast("cpu", enabled=False)
    @once_differentiable
    def backward(ctx: Any, by_result: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        normal1, wide, mixed, attended, normal2, halves, gated, *rest = ctx.saved_tensors
        deviations1, deviations2, means, scales, weight1, weight3, weight4, weight5, depthwise, *parameters = rest
        beta, gamma, scale1, shift1, w1, _, w2, _, ws, _, w3, b3, scale2, shift2, w4, _, w5, b5 = parameters
        ones = torch.ones_like(scales)
        by_result = _pixels(by_result)

        by_gated, by_weights5 = _pointwise_backward(by_result, gated, weight5)
        by_halves = kernels.gate_backward(halves, ones, torch.zeros_like(ones), by_gated)
        by_normal2, by_weights4 = _pointwise_backward(by_halves, normal2, weight4)
        by_middle = kernels.normalise_backward(normal2, deviations2, by_normal2, by_result)
        by_attended, by_weights3 = _pointwise_backward(by_middle, attended, weight3)
        by_scales = kernels.gate_sums(mixed, by_attended)
        by_means = by_scales @ ws.flatten(1)
        by_product = by_means / (mixed.shape[1] * mixed.shape[2])
        by_wide, by_depthwise = kernels.depthwise_backward(wide, mixed, depthwise, scales, by_product, by_attended)
        by_normal1, by_weights1 = _pointwise_backward(by_wide, normal1, weight1)
        by_x = kernels.normalise_backward(normal1, deviations1, by_normal1, by_middle)

        by_scale1, by_shift1, by_w1, by_b1 = _after_norm_backward(*by_weights1, scale1, shift1, w1)
        by_beta, by_w3, by_b3 = _scaled_backward(*by_weights3, beta, w3, b3)
        by_scale2, by_shift2, by_w4, by_b4 = _after_norm_backward(*by_weights4, scale2, shift2, w4)
        by_gamma, by_w5, by_b5 = _scaled_backward(*by_weights5, gamma, w5, b5)
        by_w2, by_b2 = by_depthwise[:9].t().reshape(w2.shape), by_depthwise[9]
        by_ws, by_bs = (by_scales.t() @ means).view_as(ws), by_scales.sum(0)
        return (
            *(_images(by_x), None, by_beta, by_gamma, by_scale1, by_shift1, by_w1, by_b1, by_w2, by_b2, by_ws, by_bs),
            *(by_w3, by_b3, by_scale2, by_shift2, by_w4, by_b4, by_w5, by_b5),
        )


def _after_norm(
    scale: torch.Tensor, shift: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, dtype: torch.dtype
) -> Weights:
    """Those that do after a LayerNorm without scale and shift what `weight` and `bias` do after one that has them."""
    shifted = torch.addmv(bias, weight.flatten(1), shift)
    return (weight * scale.view(1, -1, 1, 1)).to(dtype), shifted.to(dtype)


def _after_norm_backward(
    by_folded: torch.Tensor, by_bias: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor, weight: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    flat, by_flat = weight.flatten(1), by_folded.flatten(1)
    by_weight = torch.addr(by_flat * scale, by_bias, shift)
    return (by_flat * flat).sum(0), by_bias @ flat, by_weight.view_as(weight), by_bias


def _scaled(scale: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, dtype: torch.dtype) -> Weights:
    """Those whose results are `scale` times those of `weight` and `bias`."""
    return (weight * scale.view(-1, 1, 1, 1)).to(dtype), (bias * scale.flatten()).to(dtype)


def _scaled_backward(
    by_folded: torch.Tensor, by_bias: torch.Tensor, scale: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    by_scale = (by_folded * weight).flatten(1).sum(1) + by_bias * bias
    return by_scale.view_as(scale), by_folded * scale.view(-1, 1, 1, 1), by_bias * scale.flatten()


def _pointwise_backward(
    by_result: torch.Tensor, pixels: torch.Tensor, weight: torch.Tensor
) -> tuple[torch.Tensor, Weights]:
    """The gradients of a 1 x 1 convolution by its pixels, and by its weights and bias in float32."""
    flat, by_flat = pixels.flatten(0, 2), by_result.flatten(0, 2)
    by_pixels = (by_flat @ weight.flatten(1)).view_as(pixels)
    by_weight = (flat.t() @ by_flat).t().float().view_as(weight)
    return by_pixels, (by_weight, kernels.sums(by_result))


def _pixels(images: torch.Tensor) -> torch.Tensor:
    """N x C x H x W -> N x H x W x C in one piece of memory; without a copy, as a rule."""
    return images.permute(0, 2, 3, 1).contiguous()


def _images(pixels: torch.Tensor) -> torch.Tensor:
    return pixels.permute(0, 3, 1, 2)
