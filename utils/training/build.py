"""What a configuration asks for, built: data, network, optimizer."""
from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from yacs.config import CfgNode

from ...models import M3SNet, create_model, load_model, widen
from ..cli import UserError
from ..data.patches import CentrePatches, Order, Patch, PatchBatches
from ..data.train_sets import TrainSet
from ..tasks import Task
from .processes import in_all_processes, this_process
from .signals import leave_to_trainer
from .state import TrainState
from .step import TrainStep

Log = Callable[[str], Any]


class TrainingError(UserError):
    """A training that cannot start or go on; the message says why and what to do."""


def build_batches(
    config: CfgNode, data: TrainSet, state: TrainState, accelerator: Accelerator
) -> PatchBatches:
    """Which patches make which batch, from where `state` stands to the last epoch."""
    epochs = range(state.epoch + 1, config.OPTIM.NUM_EPOCHS + 1)
    return PatchBatches(order_of(config, data), epochs, this_process(accelerator), skip=state.epoch_step)


def load_batches(
    config: CfgNode, data: TrainSet, batches: PatchBatches, accelerator: Accelerator
) -> Generator[Patch, None, None]:
    """The batches, collated; closed, it ends the worker processes at once, whoever may still hold this frame."""
    yield from DataLoader(
        data.patches,
        batch_sampler=batches,
        num_workers=config.TRAINING.NUM_WORKERS,
        worker_init_fn=leave_to_trainer,
        pin_memory=accelerator.device.type == "cuda",
    )


def build_model(config: CfgNode) -> M3SNet:
    """The network that the MODEL keys name, or that of TRAINING.WEIGHTS, grown by TRAINING.WIDEN; in training mode."""
    if config.TRAINING.WEIGHTS:
        model = load_model(config.TRAINING.WEIGHTS)
        for doubling in range(config.TRAINING.WIDEN):
            model = widen(model, config.TRAINING.SEED + doubling)
    else:
        wanted = config.MODEL
        model = create_model(wanted.NAME, wanted.FFM, wanted.MHAMB, wanted.ENC_BLK_NUMS)
    model.set_grad_checkpointing(config.TRAINING.GRAD_CHECKPOINTING)
    return model.train()


def build_optimizer(model: nn.Module, config: CfgNode) -> torch.optim.Optimizer:
    """Adam (the paper's) or AdamW (NAFNet's), as the OPTIM keys say."""
    kinds: dict[str, type[torch.optim.Adam]] = {"Adam": torch.optim.Adam, "AdamW": torch.optim.AdamW}
    optim = config.OPTIM
    return kinds[optim.NAME](
        model.parameters(),
        lr=optim.LR_INITIAL,
        betas=(optim.BETA1, optim.BETA2),
        eps=1e-8,
        weight_decay=optim.WEIGHT_DECAY,
        fused=True,
    )


def build_state(
    config: CfgNode, task: Task, model: M3SNet, data: TrainSet, accelerator: Accelerator
) -> TrainState:
    """The state of a training that has not begun."""
    average = config.TRAINING.EMA_DECAY
    return TrainState(
        model,
        build_optimizer(model, config),
        AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(average)) if average else None,
        accelerator.scaler,
        order_of(config, data).facts,
        fingerprint(data.validation, task.protocol),
    )


def build_step(state: TrainState, config: CfgNode, accelerator: Accelerator, log: Log) -> TrainStep:
    """What takes the steps: the network compiled if asked for, the batch in as many parts as needed."""
    accumulation_steps = find_accumulation_steps(state.model, config, accelerator, log)
    network: nn.Module = state.model
    if config.TRAINING.COMPILE:
        local_batch, side = config.OPTIM.BATCH_SIZE // accelerator.num_processes, config.TRAINING.TRAIN_PS
        shape = (local_batch // accumulation_steps, 3, side, side)
        network = compile_model(state.model, shape, accelerator, log)
    return TrainStep(network, state, accelerator, config, accumulation_steps)


def compile_model(model: nn.Module, shape: tuple[int, ...], accelerator: Accelerator, log: Log) -> nn.Module:
    """`model` through torch.compile, tried on one batch of `shape`; as it is, with a message, where that fails."""
    device = next(model.parameters()).device
    try:
        fast: nn.Module = torch.compile(model)  # type: ignore[assignment]
        with accelerator.autocast():  # as in training: in another precision it would be compiled again
            restored = fast(torch.zeros(shape, device=device).contiguous(memory_format=torch.channels_last))
        restored.sum().backward()
    except Exception as error:  # a missing compiler, an unsupported device, a bug: none is a reason not to train
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        log(f"TRAINING.COMPILE: torch.compile does not work here, training goes on without it ({reason})")
        fast = model
    model.zero_grad()
    return fast


def find_accumulation_steps(model: M3SNet, config: CfgNode, accelerator: Accelerator, log: Log) -> int:
    """OPTIM.ACCUMULATE, or with TRAINING.AUTO_BATCH as many parts as it takes in the process with the least memory."""
    local_batch, accumulation_steps = config.OPTIM.BATCH_SIZE // accelerator.num_processes, config.OPTIM.ACCUMULATE
    if local_batch % accumulation_steps:
        raise TrainingError(
            f"OPTIM.ACCUMULATE {accumulation_steps} must divide the {local_batch} images of each process"
        )
    if not config.TRAINING.AUTO_BATCH:
        return accumulation_steps

    def run(images: torch.Tensor) -> torch.Tensor:
        with accelerator.autocast():
            return model(images).float().mean()

    size = config.TRAINING.TRAIN_PS
    needed = max(in_all_processes(lambda: fitting_steps(model, local_batch, accumulation_steps, size, run)))
    if needed > accumulation_steps:
        log(f"TRAINING.AUTO_BATCH: {local_batch} images do not fit; taken {local_batch // needed} at a time")
    return needed


def fitting_steps(
    model: nn.Module,
    local_batch: int,
    accumulation_steps: int,
    patch_size: int,
    run: Callable[[torch.Tensor], torch.Tensor],
) -> int:
    """Into how many parts a process must cut its `local_batch` images so that a step fits into memory.

    Tries forward and backward passes with `run` (images -> scalar), beside as much memory as the optimizer will take,
    and doubles `accumulation_steps` while there is too little.

    Raises:
        TrainingError: not even a single image fits.
    """
    weights = list(model.parameters())

    def fits() -> bool:
        ballast: list[torch.Tensor] = []
        try:
            ballast += (torch.empty_like(weight) for weight in weights for _ in range(3))  # two moments, one exchange
            size = local_batch // accumulation_steps
            run(torch.zeros(size, 3, patch_size, patch_size, device=weights[0].device)).backward()
        except torch.OutOfMemoryError:
            return False
        finally:
            ballast.clear()
            model.zero_grad()
        return True

    while not fits():
        if weights[0].is_cuda:
            torch.cuda.empty_cache()
        if accumulation_steps >= local_batch:
            raise TrainingError(
                f"out of memory with a single {patch_size} x {patch_size} image; lower TRAINING.TRAIN_PS, set "
                "TRAINING.GRAD_CHECKPOINTING true or TRAINING.PRECISION bf16, or take a smaller MODEL.NAME"
            )
        more = range(2 * accumulation_steps, local_batch + 1)
        accumulation_steps = next(count for count in more if local_batch % count == 0)
    return accumulation_steps


def order_of(config: CfgNode, data: TrainSet) -> Order:
    """The order in which the training looks at the patches."""
    return data.order(config.OPTIM.BATCH_SIZE, config.TRAINING.EPOCH_STEPS, config.TRAINING.OVERFIT)


def fingerprint(images: CentrePatches, protocol: str) -> str:
    """What a validation score depends on beside the weights, as one word: another one, and scores do not compare.

    The images count by name and length of their files, so that a data set may be moved.
    """
    files = [[path.stat().st_size for path in (pair.input, pair.target) if path is not None] for pair in images.pairs]
    names = [pair.name for pair in images.pairs]
    return hashlib.sha256(repr((names, files, images.size, images.seed, protocol)).encode()).hexdigest()
