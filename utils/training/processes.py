"""The processes of a training, one or many: where they run, how they find each other, and that they fail together."""
from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import gather_object
from yacs.config import CfgNode

from ..cli import UserError
from ..config import ConfigError
from ..data.patches import Process

T = TypeVar("T")


def start_accelerator(config: CfgNode) -> Accelerator:
    """Choose device, processes and precision; must run before anything touches CUDA."""
    choose_devices(config.GPU)
    cpu = not (torch.cuda.is_available() or torch.backends.mps.is_available())
    precision = {"fp32": "no"}.get(config.TRAINING.PRECISION, config.TRAINING.PRECISION)
    if precision == "fp16" and cpu:
        raise ConfigError("TRAINING.PRECISION fp16 needs a GPU; on a CPU use fp32 or bf16")
    workers = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if torch.cuda.is_available() and workers > torch.cuda.device_count():
        raise ConfigError(
            f"torchrun started {workers} processes on this host, but only {torch.cuda.device_count()} CUDA devices are "
            f"visible (GPU {config.GPU}); name one for each, or all that are there: --opts GPU '[]'"
        )
    join_restarted(cpu)
    # Without cpu=True, torchrun on a machine without an accelerator starts independent runs, not one run of many.
    accelerator = Accelerator(cpu=cpu, mixed_precision=precision)
    if accelerator.device.type == "cuda" and accelerator.num_processes == 1 and torch.cuda.device_count() > 1:
        count = torch.cuda.device_count()
        accelerator.print(
            f"GPU names {count} devices, but one process uses one. To use them all:\n"
            f"    torchrun --nproc_per_node {count} {' '.join(sys.argv)}"
        )
    return accelerator


def choose_devices(numbers: Sequence[int]) -> None:
    """Let this process see no CUDA devices but those of these numbers; none given, or no CUDA: nothing is done.

    An outer CUDA_VISIBLE_DEVICES (a cluster's) is narrowed: numbers count within it, from 0, as CUDA counts. Numbers
    beyond the devices are passed over, as CUDA does, so that a recipe for two GPUs runs on one.

    Raises:
        ConfigError: no device has any of the numbers.
    """
    if not numbers or torch.cuda.is_initialized():  # once started, CUDA does not look again
        return
    count = torch.cuda.device_count()  # asks the driver; CUDA itself is not started by that
    if not count:
        return
    outer = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(number) for number in range(count)] if outer is None else outer.split(",")[:count]
    chosen = [names[number] for number in numbers if 0 <= number < len(names)]
    if not chosen:
        where = "" if outer is None else f" in CUDA_VISIBLE_DEVICES {outer}"
        raise ConfigError(
            f"GPU {list(numbers)}: there are {count} CUDA devices{where}, numbered from 0; name some of them, or all: "
            "--opts GPU '[]'"
        )
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(chosen)


def join_restarted(cpu: bool) -> None:
    """Let the workers that torchrun has restarted (--max-restarts) find each other.

    They meet in the store of the agent, where the addresses of the killed workers still are: whoever comes first
    would wait for those. Hence a corner of the store for each restart.
    """
    restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    if restart == "0" or dist.is_initialized():
        return
    store, rank, world = next(dist.rendezvous("env://"))
    store = dist.PrefixStore(f"restart {restart}", store)
    dist.init_process_group("gloo" if cpu else None, store=store, rank=rank, world_size=world)


def in_all_processes(work: Callable[[], T]) -> list[T]:
    """What `work` gives in each of the processes, by rank; all must call it.

    Raises:
        UserError: it failed in another process; of the kind that it is there, if it is a UserError. Its own error is
            raised as it is. No process waits for the others.
    """
    result: T | None = None
    failure: Exception | None = None
    try:
        result = work()
    except Exception as error:
        failure = error
    kind = type(failure) if isinstance(failure, UserError) else UserError
    text = None if failure is None else str(failure) or type(failure).__name__
    results, kinds, texts = zip(*gather_object([(result, kind, text)]), strict=True)
    if failure is not None:
        raise failure
    for rank, reason in enumerate(texts):
        if reason is not None:
            raise kinds[rank](f"process {rank} failed: {reason}")  # what is done about it depends on its kind
    return list(results)


def this_process(accelerator: Accelerator) -> Process:
    """Which of the processes of this training this one is."""
    return Process(accelerator.process_index, accelerator.num_processes)
