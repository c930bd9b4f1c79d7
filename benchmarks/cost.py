"""What a network costs: parameters, multiply-accumulates, time, and the memory it needs at its peak."""
from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

Result = TypeVar("Result")


class Cost(NamedTuple):
    """What restoring one image took."""

    seconds: float  # of the fastest run: what else the machine does only slows them
    peak_bytes: int | None  # None: the device does not tell
    threads: int


def count_parameters(model: nn.Module) -> int:
    """How many numbers training sets."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, height: int, width: int, chs: int = 3) -> int:
    """Multiply-accumulates of the convolutions and matrix products that one image takes.

    As the papers of the field count: normalisation, gates, means and biases are not in it. On the meta device
    (`with torch.device("meta"): model = ...`) nothing is computed.
    """
    image = torch.empty(1, chs, height, width, device=next(model.parameters()).device)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(image)
    return counter.get_total_flops() // 2  # torch counts the multiplication and the addition


def measure(build: Callable[[], nn.Module], height: int, width: int, device: str, runs: int, chs: int = 3) -> Cost:
    """Time and peak memory (weights included) of one N=1 float32 image in channels_last memory, after a warm-up.

    CUDA's peak is what its allocator handed out. The CPU's is by how much the process grew, which never shrinks
    again: call it through `in_new_process`, or an earlier, larger network hides this one.
    """
    place = torch.device(device)
    with torch.inference_mode():
        # Loads the libraries, which are not the network's.
        nn.Conv2d(chs, chs, 3).to(place)(torch.rand(1, chs, 64, 64, device=place))
        before = peak_bytes(place)
        model = build().eval().to(place).to(memory_format=torch.channels_last)
        image = torch.rand(1, chs, height, width, device=place).to(memory_format=torch.channels_last)
        seconds = [_seconds(model, image) for _ in range(1 + runs)][1:]
    after = peak_bytes(place)
    peak = None if before is None or after is None else after - before
    return Cost(min(seconds), peak, torch.get_num_threads())


def in_new_process(function: Callable[..., Result], *arguments: object) -> Result:
    """`function(*arguments)`, computed in a fresh process; both must be importable and picklable."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def _seconds(model: nn.Module, image: torch.Tensor) -> float:
    start = time.perf_counter()
    model(image)
    if image.device.type != "cpu":
        torch.accelerator.synchronize(image.device)
    return time.perf_counter() - start


def peak_bytes(device: torch.device) -> int | None:
    """The most memory in use so far: allocated on a GPU, held by this process on a CPU; None where nothing tells."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _peak_resident_bytes() if device.type == "cpu" else None


def resident_bytes() -> int | None:
    """The memory that this process holds now; None: nothing tells."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.is_file() else None


def _peak_resident_bytes() -> int | None:
    """The most memory this process has held at once."""
    status = Path("/proc/self/status")
    if status.is_file():  # Linux; its getrusage begins at what the parent process held
        line = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    if sys.platform == "darwin":
        import resource  # not on Windows

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return None
