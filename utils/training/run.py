"""The training loop: data, model, optimizer, resume, loop."""
from __future__ import annotations

import contextlib
import math
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, set_seed
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, default_collate
from yacs.config import CfgNode

from ...models import M3SNet
from ..config import differences, save_config, to_dict
from ..data.pairs import Pair
from ..data.patches import CentrePatches, Patch, PatchBatches, PatchDataset, Process
from ..data.train_sets import Sources, make_train_set
from ..images import write_image
from ..provenance import code_version
from ..restoring.restorer import restore_image
from ..scoring.metrics import psnr, rgb_to_y
from ..tasks import Task
from .build import (
    TrainingError,
    build_model,
    build_optimizer,
    compile_model,
    fitting_parts,
    start_accelerator,
)
from .checkpoint import (
    BEST,
    LATEST,
    CheckpointError,
    load_checkpoint,
    newest_checkpoint,
    prune_checkpoints,
    save_checkpoint,
    tidy,
)
from .dry_run import rehearse
from .log import TrainingLog
from .loss import PSNRLoss
from .schedule import warmup_cosine
from .signals import Interruption, Stopped, ignore_ctrl_c
from .state import TrainState
from .step import Stepping, on_device

OVERFIT_PSNR = 40.0  # dB that a network must reach on a handful of patches it sees again and again
_SHOWN_SAMPLES = 4  # restored validation images in TensorBoard


def train(config: CfgNode, task: Task, dry_run: bool = False) -> Path:
    """Train as `config` says; returns the run's folder: checkpoints, logs and the resolved configuration.

    With `dry_run` it only says what would be done and how long it would take, after a few steps that are not kept.

    Raises:
        TrainingError, ConfigError, PairError: before the first step.
        CheckpointError: what should be resumed cannot be, or a checkpoint cannot be written.
        TrainingError: the loss or the gradient broke, or memory ran out; the state before it is saved.
        Stopped: SIGTERM or SIGINT came; the state is saved.
    """
    accelerator = start_accelerator(config)
    say = accelerator.print
    set_seed(config.TRAINING.SEED)
    run = Path(config.TRAINING.SAVE_DIR) / task.name / config.MODEL.SESSION
    resumed = None if dry_run else find_resume(config.TRAINING.RESUME, run, say)

    # Data
    training, epochs = config.TRAINING, config.OPTIM.NUM_EPOCHS
    process = Process(accelerator.process_index, accelerator.num_processes)
    data = make_train_set(task, Sources.of(training), process, say)
    dataset = data.patches

    # Model and optimizer
    model = build_model(config).to(accelerator.device).to(memory_format=torch.channels_last)
    optimizer = build_optimizer(model, config)
    average = training.EMA_DECAY
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(average)) if average else None
    order = data.order(config.OPTIM.BATCH_SIZE, training.EPOCH_STEPS, training.OVERFIT)
    state = TrainState(model, optimizer, ema, accelerator.scaler, order.facts)
    parameters, processes = sum(p.numel() for p in model.parameters()), accelerator.num_processes
    say(f"{parameters:,} parameters, {accelerator.device.type}, on {processes} process{'es' * (processes > 1)}")

    # Resume
    if resumed is not None:
        resume(state, *resumed, config, say)
        if accelerator.is_main_process and resumed[0].parent == run:
            tidy(*resumed)
    scheduler = warmup_cosine(optimizer, epochs, config.OPTIM.LR_MIN, config.OPTIM.WARMUP_EPOCHS, state.epoch + 1)
    parts = parts_of_a_batch(model, config, accelerator)
    share = config.OPTIM.BATCH_SIZE // processes // parts
    network = compile_model(model, (share, 3, *2 * [training.TRAIN_PS]), say) if training.COMPILE else model
    wrapped, stepper = accelerator.prepare(network, optimizer)
    optim = config.OPTIM
    stepping = Stepping(wrapped, stepper, state, accelerator, parts, optim.CLIP_NORM, training.SEED, optim.LOSS_EPS)
    batches = PatchBatches(order, range(state.epoch + 1, epochs + 1), process, skip=state.epoch_step)
    loader = DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=training.NUM_WORKERS,
        worker_init_fn=ignore_ctrl_c,
        pin_memory=accelerator.device.type == "cuda",
    )
    if dry_run:
        with contextlib.closing(in_turn(loader)) as steps:
            rehearse(config, run, model, stepping.step, steps, len(batches), len(data.validation), accelerator)
        return run
    if accelerator.is_main_process:
        save_config(config, run / "config.yml")
    log = TrainingLog(run, config, state.step, len(batches), accelerator)

    # Loop
    every = 1 if accelerator.device.type == "cpu" else training.LOG_EVERY  # elsewhere, reading a loss makes it wait
    with (
        contextlib.closing(in_turn(loader)) as steps,
        Interruption() as interruption,
        rescue(interruption, state, run, config, accelerator, parts),
    ):
        for epoch in range(state.epoch + 1, epochs + 1):
            while state.epoch_step < order.steps_per_epoch:
                with log.waiting():
                    patch = next(steps)
                stepping.step(patch)
                saving = training.SAVE_STEPS and state.step % training.SAVE_STEPS == 0
                if state.step % every == 0 or saving or state.epoch_step == order.steps_per_epoch:
                    settle(stepping, interruption, state, log, epoch, dataset.pairs, run, config, accelerator)
                if saving:
                    save(state, run, config, accelerator)
            scheduler.step()
            names = []
            if epoch % training.VAL_AFTER_EVERY == 0 or epoch == epochs:
                with log.pausing():
                    score = validate(state.restorer, data.validation, config, task, accelerator, log, epoch)
                if score > state.best:
                    state.best = score
                    names.append(BEST)
            if epoch % training.CHECKPOINT_EVERY == 0:
                names.append(f"model_epoch_{epoch}.pth")
            state.epoch, state.epoch_step = epoch, 0  # not earlier: a run that stops in a validation repeats it
            save(state, run, config, accelerator, names)
    if training.OVERFIT:
        check_overfit(state.model, dataset, training.OVERFIT, accelerator, log)
    log.say(f"{epochs} epochs done, best {state.best:.3f} dB on the validation images: {run / BEST}")
    log.close()
    accelerator.end_training()
    return run


def find_resume(resume: str | bool, run: Path, say: Callable[[str], Any]) -> tuple[Path, dict[str, Any]] | None:
    """The checkpoint that TRAINING.RESUME means, and what is in it: the run's newest whole one, a named one, or none.

    Raises:
        CheckpointError: there is none to use, or a new run would overwrite an old one.
    """
    if resume is True or str(resume).lower() == "auto":
        return newest_checkpoint(run, say)
    if resume is False or str(resume).lower() in ("", "false", "none"):
        if (run / LATEST).is_file():
            raise CheckpointError(
                f"{run / LATEST} belongs to an earlier run, which RESUME false would overwrite: set TRAINING.RESUME "
                "auto to continue it, another MODEL.SESSION, or delete the folder"
            )
        return None
    return Path(resume), load_checkpoint(resume)


def resume(state: TrainState, path: Path, saved: dict[str, Any], config: CfgNode, say: Callable[[str], Any]) -> None:
    """Go on from what was saved, and say where that is and which settings are others now."""
    try:
        state.load_state_dict(saved)
    except (RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{path}: does not fit the network or the optimizer of this configuration (MODEL.NAME {config.MODEL.NAME}, "
            f"OPTIM.NAME {config.OPTIM.NAME}): {str(error).splitlines()[0]}"
        ) from error
    within = f" and {state.epoch_step} steps" if state.epoch_step else ""
    say(
        f"resumed from {path}: {state.epoch} of {config.OPTIM.NUM_EPOCHS} epochs{within} done, "
        f"best {state.best:.3f} dB"
    )
    changed = differences(saved.get("config", {}), to_dict(config))
    for line in changed:
        say(f"  changed since: {line}")
    if saved["order"] != state.order:
        say(f"  the order of the samples is another one: epoch {state.epoch + 1} starts from its beginning")


def parts_of_a_batch(model: M3SNet, config: CfgNode, accelerator: Accelerator) -> int:
    """OPTIM.ACCUMULATE, or with TRAINING.AUTO_BATCH as many parts as it takes in the process with the least memory."""
    share, parts = config.OPTIM.BATCH_SIZE // accelerator.num_processes, config.OPTIM.ACCUMULATE
    if share % parts:
        raise TrainingError(f"OPTIM.ACCUMULATE {parts} must divide the {share} images of each process")
    if not config.TRAINING.AUTO_BATCH:
        return parts

    def run(images: torch.Tensor) -> torch.Tensor:
        with accelerator.autocast():
            return model(images).float().mean()

    needed = max(gather_object([fitting_parts(model, share, parts, config.TRAINING.TRAIN_PS, run)]))
    if needed > parts:
        accelerator.print(f"TRAINING.AUTO_BATCH: {share} images do not fit; taken {share // needed} at a time")
    return needed


def in_turn(loader: DataLoader[Patch]) -> Generator[Patch, None, None]:
    """The batches; closed, it ends the worker processes at once, whoever may still hold this frame."""
    yield from loader


def settle(
    stepping: Stepping,
    interruption: Interruption,
    state: TrainState,
    log: TrainingLog,
    epoch: int,
    pairs: Sequence[Pair],
    run: Path,
    config: CfgNode,
    accelerator: Accelerator,
) -> None:
    """Read what the last steps gave, in all processes at the same step: log it, stop where it has to be.

    Raises:
        TrainingError: TRAINING.NONFINITE_LIMIT steps in a row were not finite.
        Stopped: one of the processes was asked to stop.
    """
    outcomes, signum = stepping.read(interruption.signum)
    for outcome in outcomes:
        log.step(epoch, outcome.loss, outcome.norm, outcome.rate)
        if outcome.finite:
            continue
        names = ", ".join(pairs[number].name for number in outcome.pairs)
        what = "loss" if not math.isfinite(outcome.loss) else "gradient"
        log.say(f"epoch {epoch}: the {what} is not finite, step skipped; this process's batch: {names}")
        if outcome.broken >= config.TRAINING.NONFINITE_LIMIT:
            save(state, run, config, accelerator)
            raise TrainingError(
                f"stopped: the {what} was not finite for {outcome.broken} step(s) in a row, the last on {names}. "
                f"The weights before it are in {run / LATEST}. Look at these images, or lower OPTIM.LR_INITIAL, or "
                "set OPTIM.CLIP_NORM 0.01"
            )
    if signum:
        save(state, run, config, accelerator)
        log.say(f"{signal.Signals(signum).name}: stopped after step {state.step}, TRAINING.RESUME auto goes on from it")
        log.close()
        raise Stopped(signum)


@contextlib.contextmanager
def rescue(
    interruption: Interruption,
    state: TrainState,
    run: Path,
    config: CfgNode,
    accelerator: Accelerator,
    parts: int,
) -> Iterator[None]:
    """Save the state when something crashes between two steps; say what to change when memory ran out."""
    try:
        yield
    except (TrainingError, CheckpointError):
        raise  # the state has been saved, or cannot be
    except Exception as error:
        if state.whole:
            save(state, run, config, accelerator)
            accelerator.print(f"the state after step {state.step} is saved: {run / LATEST}")
        if interruption.signum:  # it reached the workers that read data as well, and they are gone
            raise Stopped(interruption.signum) from error
        if isinstance(error, torch.OutOfMemoryError):
            training, share = config.TRAINING, config.OPTIM.BATCH_SIZE // accelerator.num_processes
            raise TrainingError(
                f"out of memory with {share // parts} images of {training.TRAIN_PS} x {training.TRAIN_PS} at once in "
                f"{training.PRECISION}: set TRAINING.AUTO_BATCH true or OPTIM.ACCUMULATE {2 * parts} (the same "
                "result in smaller parts), TRAINING.PRECISION bf16, or TRAINING.GRAD_CHECKPOINTING true"
            ) from error
        raise


def validate(
    model: nn.Module,
    images: CentrePatches,
    config: CfgNode,
    task: Task,
    accelerator: Accelerator,
    log: TrainingLog,
    epoch: int,
) -> float:
    """Mean PSNR in dB over the 8-bit centre crops `images`, shared among the processes; -inf without any."""
    training = config.TRAINING
    channel: Callable[[np.ndarray], np.ndarray] = rgb_to_y if task.protocol == "y" else lambda image: image
    model.eval()
    scores: list[float] = []
    shown: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for number in range(accelerator.process_index, len(images), accelerator.num_processes):
        degraded, target = images[number]
        restored = restore_image(model, degraded)
        # Equal images have no finite PSNR; one grey level in one pixel would already give less than 100 dB.
        scores.append(min(psnr(channel(restored), channel(target)), 100.0))
        if len(shown) < _SHOWN_SAMPLES:
            shown.append((degraded, restored, target))
        if training.SAVE_IMAGES:
            folder = Path(training.SAVE_DIR) / task.name / config.MODEL.SESSION / "validation"
            write_image(folder / f"epoch_{epoch}" / f"{images.pairs[number].name}.png", restored)
    model.train()
    scores = gather_object(scores)
    score = math.fsum(scores) / len(scores) if scores else -math.inf  # the same, however many processes share them
    log.validation(epoch, score, shown)
    return score


def check_overfit(
    model: M3SNet, dataset: PatchDataset, count: int, accelerator: Accelerator, log: TrainingLog
) -> None:
    """Say how well the `count` patches of TRAINING.OVERFIT were learned.

    Raises:
        TrainingError: less than 40 dB: something in the loop, or in the recipe, keeps the network from learning.
    """
    patches = default_collate([dataset[0, index] for index in range(count)])
    (degraded, target), *_ = on_device(patches, 1, accelerator.device)
    with torch.inference_mode():
        reached, before = -float(PSNRLoss()(model(degraded), target)), -float(PSNRLoss()(degraded, target))
    log.say(f"overfit: {count} patches from {before:.2f} to {reached:.2f} dB")
    if reached < OVERFIT_PSNR:
        raise TrainingError(
            f"TRAINING.OVERFIT: {count} patches reached {reached:.2f} dB of {OVERFIT_PSNR:.0f}: train longer or with "
            "another learning rate; if that does not help, the loop is broken"
        )


def save(
    state: TrainState, run: Path, config: CfgNode, accelerator: Accelerator, names: Sequence[str] = ()
) -> None:
    """Write the run's latest checkpoint, in the first process; it says which code and configuration made it."""
    if accelerator.is_main_process:
        content = {**state.state_dict(), "config": to_dict(config), "code": code_version()}
        save_checkpoint(content, run, names)
        prune_checkpoints(run, config.TRAINING.KEEP)
