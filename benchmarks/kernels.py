"""The compiled loops of models/kernels.c beside what does the same in torch: `python benchmarks/kernels.py`.

Features as they are at full resolution of a 1280 x 720 image. Each pair takes turns in one process; medians.
`normalise` is beside F.layer_norm, `gate` beside a product of chunks, `depthwise` beside a convolution and the sums of
the gate of its result, and their gradients beside those of torch;
`window means` beside the sums that models/fused.py takes without the loops, and beside OpenCV's box filter in float32.
"""
from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from statistics import median

import cv2
import torch
import torch.nn.functional as F

from m3snet.models import fused, kernels
from m3snet.utils.allocator import keep_freed_memory
from m3snet.utils.cli import UserError, run_program
from m3snet.utils.provenance import machine
from m3snet.utils.restoring.backends import PRECISIONS

ROWS, COLUMNS, WINDOW = 720, 1280, 192  # pixels
EPS = 1e-6


def main(argv: Sequence[str] | None = None) -> None:
    """Print milliseconds and ratios for the numbers of channels that the command line names.

    Raises:
        UserError: the loops are not compiled.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", type=int, nargs="+", default=[16, 32], metavar="C", help="default: 16 32")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="bfloat16", help="default: bfloat16")
    parser.add_argument("--rounds", type=int, default=7, help="after one that warms up (default: 7)")
    args = parser.parse_args(argv)
    if not kernels.available():
        raise UserError("models/kernels.c is not compiled here: it needs a C compiler when the package is installed")
    keep_freed_memory()
    print(f"{machine()}, {torch.get_num_threads()} thread(s), torch {torch.__version__}")
    print(f"1 x C x {ROWS} x {COLUMNS} {args.precision}, medians of {args.rounds} rounds in turn, milliseconds\n")
    print(f"{'':30}{'C':>4}{'compiled':>10}{'beside it':>11}{'times as fast':>15}")
    for channels in args.channels:
        for name, sides in pairs(channels, PRECISIONS[args.precision]).items():
            ours, other = in_turn(sides, args.rounds)
            print(f"{name:30}{channels:4}{ours:10.2f}{other:11.2f}{other / ours:15.1f}", flush=True)


Sides = tuple[Callable[[], object], Callable[[], object]]  # compiled, beside it


def pairs(channels: int, dtype: torch.dtype) -> dict[str, Sides]:
    """What is compared, ready to be called."""
    torch.manual_seed(0)
    shape = (1, ROWS, COLUMNS, channels)
    x, other, grad = (torch.randn(shape).to(dtype) for _ in range(3))
    both = torch.randn(*shape[:-1], 2 * channels).to(dtype)
    first, second = both.chunk(2, dim=-1)
    scales, ones, zeros = torch.empty(shape[:-1]), torch.ones(1, channels), torch.zeros(1, channels)
    normal = kernels.normalise(x, EPS, scales)
    _, mean, deviation = torch.native_layer_norm(x, (channels,), None, None, EPS)
    backward = torch.ops.aten.native_layer_norm_backward
    image = x[0].float().numpy()
    weights = torch.randn(10, 2 * channels)
    images = both.permute(0, 3, 1, 2)
    filters = weights[:9].t().reshape(-1, 1, 3, 3).to(dtype).contiguous(memory_format=torch.channels_last)
    biases = weights[9].to(dtype)
    return {
        "normalise": (
            lambda: kernels.normalise(x, EPS),
            lambda: F.layer_norm(x, (channels,), eps=EPS),
        ),
        "its gradient, added to other": (
            lambda: kernels.normalise_backward(normal, scales, grad, other),
            lambda: other + backward(grad, x, (channels,), mean, deviation, None, None, (True, False, False))[0],
        ),
        "gate": (
            lambda: kernels.gate(both, ones),
            lambda: first * second,
        ),
        "its gradient": (
            lambda: kernels.gate_backward(both, ones, zeros, grad),
            lambda: torch.cat([grad * second, grad * first], dim=-1),
        ),
        "depthwise, sums of its gate": (
            lambda: kernels.depthwise(both, weights)[0],
            lambda: _convolved(images, filters, biases),
        ),
        "its gradient through the gate": (
            lambda: kernels.depthwise_backward(both, both, weights, ones, zeros, grad)[0],
            lambda: _convolved_backward(torch.cat([grad * second, grad * first], dim=-1), images, filters),
        ),
        "window means, torch": (
            lambda: kernels.window_means(x[0], WINDOW, WINDOW),
            lambda: fused.running_means(x[0], WINDOW, WINDOW),
        ),
        "window means, OpenCV": (
            lambda: kernels.window_means(x[0], WINDOW, WINDOW),
            lambda: cv2.boxFilter(image, cv2.CV_32F, (WINDOW, WINDOW)),
        ),
    }


def _convolved(images: torch.Tensor, filters: torch.Tensor, biases: torch.Tensor) -> torch.Tensor:
    result = F.conv2d(images, filters, biases, padding=1, groups=len(filters))
    first, second = result.chunk(2, dim=1)
    (first * second).sum((2, 3), dtype=torch.float32)
    return result.permute(0, 2, 3, 1)


def _convolved_backward(grad: torch.Tensor, images: torch.Tensor, filters: torch.Tensor) -> torch.Tensor:
    sizes = [[len(filters)], [1, 1], [1, 1], [1, 1], False, [0, 0], len(filters), [True, True, True]]
    by_images, _, _ = torch.ops.aten.convolution_backward(grad.permute(0, 3, 1, 2), images, filters, *sizes)
    return by_images.permute(0, 2, 3, 1)


def in_turn(sides: Sides, rounds: int) -> tuple[float, float]:
    """Median milliseconds of each side."""
    times: tuple[list[float], list[float]] = ([], [])
    for round_ in range(1 + rounds):
        for side, found in zip(sides, times, strict=True):
            start = time.perf_counter()
            side()
            if round_:
                found.append(1000 * (time.perf_counter() - start))
    return median(times[0]), median(times[1])


if __name__ == "__main__":
    run_program(main)
