"""What a network costs: parameters, multiply-accumulates, what its convolutions move, and memory at the peak."""
from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

Result = TypeVar("Result")


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


def convolution_bytes(model: nn.Module, height: int, width: int, dtype: torch.dtype, chs: int = 3) -> int:
    """Bytes that the convolutions read and write for one image, weights included, with features of `dtype`.

    For a model on the meta device: nothing is computed.
    """
    numbers = 0

    def count(conv: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal numbers
        numbers += inputs[0].numel() + output.numel() + sum(weight.numel() for weight in conv.parameters())

    hooks = [module.register_forward_hook(count) for module in model.modules() if isinstance(module, nn.Conv2d)]
    with torch.no_grad():
        model(torch.empty(1, chs, height, width, device=next(model.parameters()).device))
    for hook in hooks:
        hook.remove()
    return numbers * dtype.itemsize


def in_new_process(function: Callable[..., Result], *arguments: object) -> Result:
    """`function(*arguments)`, computed in a fresh process; both must be importable and picklable."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def peak_bytes(device: torch.device) -> int | None:
    """The most memory in use so far: allocated on a GPU, held by this process on a CPU; None where nothing tells."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _peak_resident_bytes() if device.type == "cpu" else None


def resident_bytes(device: torch.device) -> int | None:
    """The memory in use now: allocated on a GPU, held by this process on a CPU; None where nothing tells."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    statm = Path("/proc/self/statm")
    if device.type != "cpu" or not statm.is_file():
        return None
    return int(statm.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


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
