"""A dry run: what a configuration would do, how long it would take, and what memory, found out in a few steps."""
from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import timedelta

import psutil
import torch
from torch import nn
from yacs.config import CfgNode

from ..data.patches import Patch
from .schedule import warmup_cosine
from .step import TrainStep

_STEPS = 4  # the first one, which also warms up, is not timed


def print_estimates(
    config: CfgNode, train_step: TrainStep, patches: Iterator[Patch], steps: int, validation_images: int
) -> None:
    """Print the configuration, the learning rate at its milestones, and estimates of time and memory.

    `steps` and `validation_images` are what the run would take. A few steps are taken, and nothing is kept.
    """
    log, device = train_step.accelerator.print, train_step.accelerator.device
    log(f"\n{config.dump().strip()}\n")

    rates = learning_rates(config)
    last = len(rates)
    warm = max(1, config.OPTIM.WARMUP_EPOCHS)
    milestones = sorted({1, warm, *(max(1, round(last * share)) for share in (0.25, 0.5, 0.75, 1))})
    log("epoch    learning rate")
    for epoch in milestones:
        log(f"{epoch:5}    {rates[epoch - 1]:.3e}")

    times = []
    for _ in range(min(_STEPS, steps)):
        begun = time.perf_counter()
        train_step(next(patches))
        _wait(device)
        times.append(time.perf_counter() - begun)
    second = sum(times[1:] or times) / len(times[1:] or times)
    looks = len(range(0, last, config.TRAINING.VAL_AFTER_EVERY)) if validation_images else 0
    images = -(-validation_images // train_step.accelerator.num_processes)
    validation = _validation_time(train_step.state.model, config.TRAINING.VAL_PS, device) * images * looks
    log(f"\n{steps:,} steps of {config.OPTIM.BATCH_SIZE} images, {second:.3g} s each (the mean of {len(times[1:])})")
    log(f"{looks:,} validations of {validation_images:,} images, {_duration(validation)} in all")
    log(f"about {_duration(second * steps + validation)} (hours:minutes:seconds), {_memory(device)}")
    log("a dry run: no checkpoint was written")


def learning_rates(config: CfgNode) -> list[float]:
    """The learning rate of every epoch."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=config.OPTIM.LR_INITIAL)
    epochs = config.OPTIM.NUM_EPOCHS
    scheduler = warmup_cosine(optimizer, epochs, config.OPTIM.LR_MIN, config.OPTIM.WARMUP_EPOCHS)
    optimizer.step()
    rates = []
    for _ in range(epochs):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        scheduler.step()
    return rates


def _validation_time(model: nn.Module, size: int, device: torch.device) -> float:
    """Seconds that one validation image takes, reading it not counted."""
    image = torch.zeros(1, 3, size, size, device=device)
    with torch.inference_mode():
        model(image)
        _wait(device)
        begun = time.perf_counter()
        model(image)
        _wait(device)
    return time.perf_counter() - begun


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _memory(device: torch.device) -> str:
    if device.type == "cuda":
        peak, total = torch.cuda.max_memory_allocated(device), torch.cuda.get_device_properties(device).total_memory
        return f"at most {peak / 2**30:.1f} of the GPU's {total / 2**30:.1f} GiB used"
    held, total = psutil.Process(os.getpid()).memory_info().rss, psutil.virtual_memory().total
    return f"{held / 2**30:.1f} of this machine's {total / 2**30:.1f} GiB used"
