"""The loops of kernels.c on tensors: normalised pixels, means of windows, scaling by a map; much faster than in torch.

They are compiled when the package is installed, where there is a C compiler; without, `available` is false, and
`models.fused` does the same with torch. For float32 and bfloat16 on a CPU.
"""
from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from pathlib import Path

import torch

_WORTH_A_THREAD = 1 << 16  # elements; to start a thread costs as much as to work through about as many
_POINTER, _NUMBER = ctypes.c_void_p, ctypes.c_int64
_KINDS = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


def available() -> bool:
    """Whether they were compiled."""
    return _library() is not None


def normalise(pixels: torch.Tensor, eps: float) -> torch.Tensor:
    """F.layer_norm over the last axis without scale and shift; an even number of channels, in one piece of memory."""
    assert pixels.is_contiguous()
    channels = pixels.shape[-1]
    result = torch.empty_like(pixels)
    function = _function("normalise", pixels.dtype, (_POINTER, _POINTER, _NUMBER, _NUMBER, ctypes.c_float))
    size = channels * pixels.element_size()

    def work(first: int, last: int) -> None:
        function(pixels.data_ptr() + first * size, result.data_ptr() + first * size, last - first, channels, eps)

    _share(work, pixels.numel() // channels, pixels.numel())
    return result


def window_means(image: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Means of all windows inside an H x W x C image, summed in float32: (H - rows + 1) x (W - columns + 1) x C.

    Each sum is the one before it, with a pixel added and one taken away.

    Raises:
        MemoryError: there is none for a row of sums.
    """
    image = image.contiguous()
    height, width, channels = image.shape
    down, right = height - rows + 1, width - columns + 1
    means = image.new_empty(down, right, channels)
    function = _function("window_means", image.dtype, (_POINTER, _POINTER, *[_NUMBER] * 6))
    size = right * channels * image.element_size()

    def work(first: int, last: int) -> None:
        if not function(
            image.data_ptr(), means.data_ptr() + first * size, first, last, width, channels, rows, columns
        ):
            raise MemoryError("window_means: no memory for a row of sums")

    _share(work, down, image.numel())
    return means


def scale(rows: torch.Tensor, factors: torch.Tensor, first: int, above: int, left: int) -> torch.Tensor:
    """Multiply some rows of an image, from `first` on, with a smaller map whose border repeats; in place.

    Both are ... x W x C in one piece of memory. The pixel at (i, j) takes the factor at (i - above, j - left), or the
    nearest to it.
    """
    assert rows.is_contiguous() and factors.is_contiguous() and rows.dtype == factors.dtype
    count, width, channels = rows.shape
    down, right = factors.shape[:2]
    function = _function("scale", rows.dtype, (_POINTER, _POINTER, *[_NUMBER] * 8))
    size = width * channels * rows.element_size()

    def work(start: int, stop: int) -> None:
        place = rows.data_ptr() + start * size
        function(place, factors.data_ptr(), first + start, first + stop, width, channels, down, right, above, left)

    _share(work, count, rows.numel())
    return rows


def _share(work: Callable[[int, int], None], count: int, elements: int) -> None:
    """`work` on all of 0 ... count - 1, in as many ranges as torch has threads, where that pays."""
    parts = max(1, min(torch.get_num_threads(), count, elements // _WORTH_A_THREAD))
    bounds = [count * part // parts for part in range(parts + 1)]
    others = [_threads().submit(work, *span) for span in pairwise(bounds[:-1])]
    work(bounds[-2], count)
    for other in others:
        other.result()


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), "kernels")


if hasattr(os, "register_at_fork"):  # a forked process has the pool, but not its threads
    os.register_at_fork(after_in_child=_threads.cache_clear)


@cache
def _function(name: str, dtype: torch.dtype, arguments: tuple[type, ...]) -> Callable[..., int]:
    library = _library()
    assert library is not None
    function = library[f"{name}_{_KINDS[dtype]}"]
    function.argtypes = arguments
    return function


@cache
def _library() -> ctypes.CDLL | None:
    for file in Path(__file__).parent.glob("_kernels*.so"):
        try:
            return ctypes.CDLL(str(file))
        except OSError:  # for another system or processor
            continue
    return None
