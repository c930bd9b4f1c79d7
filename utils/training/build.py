"""What a configuration asks for, built: processes and precision, data, network, optimizer."""
from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import nn
from yacs.config import CfgNode

from ...models import M3SNet, create_model, load_model, widen
from ..cli import UserError


class TrainingError(UserError):
    """A training that cannot start or go on; the message says why and what to do."""


def start_accelerator(config: CfgNode) -> Accelerator:
    """Choose device, processes and precision; must run before anything touches CUDA."""
    if config.GPU:
        # An outer restriction (a cluster's) is narrowed, not overridden.
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        if visible is None:
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(str(number) for number in config.GPU)
    cpu = not (torch.cuda.is_available() or torch.backends.mps.is_available())
    precision = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}.get(config.TRAINING.PRECISION)
    if precision is None:
        raise TrainingError(f"TRAINING.PRECISION {config.TRAINING.PRECISION}: expected fp32, bf16 or fp16")
    if precision == "fp16" and cpu:
        raise TrainingError("TRAINING.PRECISION fp16 needs a GPU; on a CPU use fp32 or bf16")
    workers = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if torch.cuda.is_available() and workers > torch.cuda.device_count():
        raise TrainingError(
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


def build_model(config: CfgNode) -> M3SNet:
    """The network that the MODEL keys name, or that of TRAINING.WEIGHTS, grown by TRAINING.WIDEN; in training mode."""
    if config.TRAINING.WEIGHTS:
        model = load_model(config.TRAINING.WEIGHTS)
        for doubling in range(config.TRAINING.WIDEN):
            model = widen(model, config.TRAINING.SEED + doubling)
    elif config.TRAINING.WIDEN:
        raise TrainingError("TRAINING.WIDEN grows the network of TRAINING.WEIGHTS, which is not set")
    else:
        wanted = config.MODEL
        model = create_model(wanted.NAME, wanted.FFM, wanted.MHAMB, wanted.ENC_BLK_NUMS)
    model.set_grad_checkpointing(config.TRAINING.GRAD_CHECKPOINTING)
    return model.train()


def build_optimizer(model: nn.Module, config: CfgNode) -> torch.optim.Optimizer:
    """Adam (the paper's) or AdamW (NAFNet's), as the OPTIM keys say."""
    kinds: dict[str, type[torch.optim.Adam]] = {"Adam": torch.optim.Adam, "AdamW": torch.optim.AdamW}
    optim = config.OPTIM
    if optim.NAME not in kinds:
        raise TrainingError(f"OPTIM.NAME {optim.NAME}: expected one of {', '.join(kinds)}")
    return kinds[optim.NAME](
        model.parameters(),
        lr=optim.LR_INITIAL,
        betas=(optim.BETA1, optim.BETA2),
        eps=1e-8,
        weight_decay=optim.WEIGHT_DECAY,
        fused=True,
    )


def compile_model(model: nn.Module, shape: tuple[int, ...], say: Callable[[str], Any]) -> nn.Module:
    """`model` through torch.compile, tried on one batch of `shape`; as it is, with a message, where that fails."""
    device = next(model.parameters()).device
    try:
        fast: nn.Module = torch.compile(model)  # type: ignore[assignment]
        fast(torch.zeros(shape, device=device).contiguous(memory_format=torch.channels_last)).sum().backward()
    except Exception as error:  # a missing compiler, an unsupported device, a bug: none is a reason not to train
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        say(f"TRAINING.COMPILE: torch.compile does not work here, training goes on without it ({reason})")
        fast = model
    model.zero_grad()
    return fast


def fitting_parts(
    model: nn.Module, share: int, parts: int, patch_size: int, run: Callable[[torch.Tensor], torch.Tensor]
) -> int:
    """Into how many parts a process must cut its `share` of the batch so that a step fits into memory.

    Tries forward and backward passes with `run` (images -> scalar), beside as much memory as the optimizer will take,
    and doubles `parts` while there is too little.

    Raises:
        TrainingError: not even a single image fits.
    """
    weights = list(model.parameters())

    def fits() -> bool:
        ballast: list[torch.Tensor] = []
        try:
            ballast += (torch.empty_like(weight) for weight in weights for _ in range(3))  # two moments, one exchange
            run(torch.zeros(share // parts, 3, patch_size, patch_size, device=weights[0].device)).backward()
        except torch.OutOfMemoryError:
            return False
        finally:
            ballast.clear()
            model.zero_grad()
        return True

    while not fits():
        if weights[0].is_cuda:
            torch.cuda.empty_cache()
        if parts >= share:
            raise TrainingError(
                f"out of memory with a single {patch_size} x {patch_size} image; lower TRAINING.TRAIN_PS, set "
                "TRAINING.GRAD_CHECKPOINTING true or TRAINING.PRECISION bf16, or take a smaller MODEL.NAME"
            )
        parts = next(count for count in range(2 * parts, share + 1) if share % count == 0)
    return parts
