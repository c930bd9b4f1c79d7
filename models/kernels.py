"""The loops of kernels.c on tensors, faster than torch: normalised pixels, depthwise convolutions, gates, sums, means.

They are compiled when the package is installed, where there is a C compiler; without, `available` is false, and
`models.fused` and `models.blocks` do the same with torch. For float32 and bfloat16 on a CPU; every tensor lies in one
piece of memory, with the channels of a pixel next to each other.
"""
from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch

from ..utils.cli import warn

_VERSION = 3  # kernels_version of kernels.c
_WORTH_A_THREAD = 1 << 14  # elements; below, threads cost more than they save
_RUN = 128  # pixels whose sums are taken by one thread
_ROWS = 32  # likewise, of the gradients by weights of `depthwise`
LANES = 16  # channels that `depthwise` takes at once
_KINDS = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


def available() -> bool:
    """Whether they were compiled."""
    return _library() is not None


def normalise(pixels: torch.Tensor, eps: float, scales: torch.Tensor | None = None) -> torch.Tensor:
    """F.layer_norm over the last axis without scale and shift.

    `scales`, float32, one for each pixel, is filled with 1 / the standard deviation.
    """
    result = torch.empty_like(pixels)
    channels = pixels.shape[-1]
    _run("normalise", pixels.numel() // channels, pixels, None, None, result, scales, eps, channels)
    return result


def add_normalise(
    pixels: torch.Tensor, other: torch.Tensor, eps: float, scales: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """`pixels + other`, and `normalise` of it."""
    total, result = torch.empty_like(pixels), torch.empty_like(pixels)
    channels = pixels.shape[-1]
    _run("normalise", pixels.numel() // channels, pixels, other, total, result, scales, eps, channels)
    return total, result


def normalise_backward(
    result: torch.Tensor, scales: torch.Tensor, grad: torch.Tensor, other: torch.Tensor
) -> torch.Tensor:
    """The gradient by the pixels that `normalise` was given: `grad` is that by its `result`; `other` is added."""
    by_pixels = torch.empty_like(result)
    channels = result.shape[-1]
    _run("normalise_backward", result.numel() // channels, result, scales, grad, other, by_pixels, channels)
    return by_pixels


def gate(images: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """The product of both halves of the channels, times one factor for each image and channel.

    N x H x W x 2C, N x C float32 -> N x H x W x C.
    """
    count, height, width, channels = images.shape
    result = images.new_empty(count, height, width, channels // 2)
    _run("gate", count * height * width, images, scales, result, height * width, channels // 2)
    return result


def gate_backward(
    images: torch.Tensor, scales: torch.Tensor, shifts: torch.Tensor, grad: torch.Tensor
) -> torch.Tensor:
    """The gradient by `images` of `gate`, where that by the product of both halves is `grad * scales + shifts`."""
    count, height, width, channels = images.shape
    result = torch.empty_like(images)
    places = images, scales, shifts, grad, result
    _run("gate_backward", count * height * width, *places, height * width, channels // 2)
    return result


def gate_sums(images: torch.Tensor, grad: torch.Tensor | None = None) -> torch.Tensor:
    """Sums over the pixels of the product of both halves of the channels, and of `grad`: N x C float32."""
    count, height, width, channels = images.shape
    runs = -(-height * width // _RUN)  # summed apart: threads share them, whose number does not change the sums
    sums = torch.zeros(count, runs, channels // 2)
    _run("gate_sums", count * runs, images, grad, sums, height * width, _RUN, channels // 2)
    return sums.sum(1)


def depthwise(images: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A 3 x 3 convolution of each channel with zeros around the images, and `gate_sums` of the result.

    N x H x W x 2C, 10 x 2C float32 (nine weights, row by row, and a bias) -> N x H x W x 2C, N x C float32. 2C is a
    multiple of `LANES`.
    """
    count, height, width, channels = images.shape
    result = torch.empty_like(images)
    sums = torch.zeros(count, height, channels // 2)
    places = images, weights, result, sums, _ring(width, channels)
    _run("depthwise", count * height, *places, height, width, channels // 2)
    return result, sums.sum(1)


def depthwise_backward(
    images: torch.Tensor,
    result: torch.Tensor,
    weights: torch.Tensor,
    scales: torch.Tensor,
    shifts: torch.Tensor,
    grad: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradients by the images and weights of `depthwise`, where that by the gate of its result is given.

    It is `grad * scales + shifts`, as in `gate_backward`; that by the result is made row by row and never stored.
    """
    count, height, width, channels = images.shape
    by_images = torch.empty_like(images)
    runs = count * -(-height // _ROWS)
    by_weights = torch.zeros(runs, 10, channels)
    places = images, result, grad, weights, scales, shifts, by_images, by_weights, _ring(width, channels)
    _run("depthwise_backward", runs, *places, height, width, _ROWS, channels // 2)
    return by_images, by_weights.sum(0)


def _ring(width: int, channels: int) -> torch.Tensor:
    """Room for three rows and the zeros at their ends, for each thread."""
    return torch.zeros(torch.get_num_threads(), 3, width + 2, channels)


def sums(pixels: torch.Tensor) -> torch.Tensor:
    """Sums over all axes but the last, the channels: C float32."""
    channels = pixels.shape[-1]
    count = pixels.numel() // channels
    runs = -(-count // _RUN)
    result = torch.zeros(runs, channels)
    _run("sums", runs, pixels, result, count, _RUN, channels)
    return result.sum(0)


def window_means(image: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Means of all windows inside an H x W x C image, summed in float32: (H - rows + 1) x (W - columns + 1) x C.

    Each sum is the one before it, with a pixel added and one taken away.
    """
    image = image.contiguous()
    height, width, channels = image.shape
    means = image.new_empty(height - rows + 1, width - columns + 1, channels)
    sums = torch.zeros(torch.get_num_threads(), width + 1, channels)
    _run("window_means", len(means), image, means, sums, width, channels, rows, columns)
    return means


def scale(image: torch.Tensor, factors: torch.Tensor, first: int, above: int, left: int) -> torch.Tensor:
    """Multiply rows of an image, from `first` on, with a smaller map whose border repeats; in place.

    Both are ... x W x C. The pixel at (i, j) takes the factor at (i - above, j - left), or the nearest to it.
    """
    width, channels = image.shape[1:]
    _run("scale", len(image), image, factors, width, channels, *factors.shape[:2], above - first, left)
    return image


def _run(name: str, count: int, image: torch.Tensor, *arguments: torch.Tensor | float | None) -> None:
    """A function of kernels.c for `count` pixels, rows or images, in as many threads as torch has where that pays."""
    function = _function(f"{name}_{_KINDS[image.dtype]}")
    threads = torch.get_num_threads()
    if image.numel() < threads * _WORTH_A_THREAD:
        threads = 1
    function(*map(_native, (image, *arguments, count, threads)))


def _native(argument: torch.Tensor | float | None) -> ctypes.c_void_p | ctypes.c_int64 | ctypes.c_float | None:
    if isinstance(argument, torch.Tensor):
        assert argument.is_contiguous()
        return ctypes.c_void_p(argument.data_ptr())
    if isinstance(argument, float):
        return ctypes.c_float(argument)
    return None if argument is None else ctypes.c_int64(argument)


@cache
def _function(name: str) -> Callable[..., None]:
    library = _library()
    assert library is not None
    function = library[name]
    function.restype = None
    return function


@cache
def _library() -> ctypes.CDLL | None:
    for file in Path(__file__).parent.glob("_kernels*.so"):
        try:
            library = ctypes.CDLL(str(file))
        except OSError:  # for another system or processor
            continue
        try:
            if ctypes.c_int64.in_dll(library, "kernels_version").value == _VERSION:
                return library
        except ValueError:  # before there were versions
            pass
        warn(f"{file.name} was compiled for another version of this program, which is slower now; install it again")
    return None
