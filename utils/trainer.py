"""The training loop: data, model, optimizer, resume, loop."""
from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from yacs.config import CfgNode

from models import M3SNet, create_model, load_model, widen
from models.weights import WeightsError, from_published, to_published
from utils.augment import orient
from utils.checkpoint import BEST, LATEST, CheckpointError, load_checkpoint, prune_checkpoints, save_checkpoint
from utils.config import ConfigError, save_config, to_dict
from utils.images import ImageError, write_image
from utils.losses import PSNRLoss
from utils.metrics import psnr, rgb_to_y
from utils.pairs import Pair, PairError, check_pairs, find_pairs, find_photographs, split_by_scene
from utils.patches import Patch, PatchBatches, PatchDataset, centre_patch
from utils.progress import TrainingLog
from utils.restorer import restore
from utils.samples import photographs
from utils.schedule import warmup_cosine
from utils.synthesis import DEGRADATIONS, MARGINS
from utils.tasks import Task

_SHOWN_SAMPLES = 4  # restored validation images in TensorBoard


class TrainingError(RuntimeError):
    """A training that cannot start or go on; the message says why and what to do."""


# What a person can mend: the programs print these without a traceback.
ERRORS = (TrainingError, CheckpointError, ConfigError, ImageError, PairError, WeightsError)


@dataclass
class TrainState:
    """All that changes while training; saved and loaded whole.

    There is no random state in it: every random choice is a function of (seed, epoch, index), and the network draws
    none.
    """

    model: M3SNet
    optimizer: torch.optim.Optimizer
    ema: AveragedModel | None
    scaler: Any  # torch's gradient scaler with fp16, else None
    epoch: int = 0  # completed epochs
    best: float = -math.inf  # dB on the validation images

    def state_dict(self) -> dict[str, Any]:
        """The state as a checkpoint keeps it: `state_dict` in published names, as users of MPRNet expect it."""
        state = {
            "epoch": self.epoch,
            "state_dict": to_published(self.model.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "best": self.best,
        }
        if self.ema is not None:
            state["params_ema"] = to_published(self.ema.module.state_dict())
            state["ema_updates"] = int(self.ema.n_averaged)
        if self.scaler is not None:
            state["scaler"] = self.scaler.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a saved state."""
        self.model.load_state_dict(from_published(state["state_dict"]))
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.best = state["epoch"], state["best"]
        if self.ema is not None and "params_ema" in state:
            self.ema.module.load_state_dict(from_published(state["params_ema"]))
            self.ema.n_averaged.fill_(state["ema_updates"])
        if self.scaler is not None and "scaler" in state:
            self.scaler.load_state_dict(state["scaler"])

    @property
    def restorer(self) -> nn.Module:
        """The weights that are validated and released: the average, where one is kept."""
        return self.model if self.ema is None else self.ema.module


def train(config: CfgNode, task: Task) -> Path:
    """Train as `config` says; returns the run's folder: checkpoints, logs and the resolved configuration.

    Raises:
        TrainingError, ConfigError, PairError, CheckpointError: before the first step, or when the loss breaks.
    """
    accelerator = start_accelerator(config)
    say = accelerator.print
    set_seed(config.TRAINING.SEED)
    run = Path(config.TRAINING.SAVE_DIR) / task.name / config.MODEL.SESSION
    resume = find_resume(config.TRAINING.RESUME, run)

    # Data
    pairs, val_pairs = training_pairs(config, task, say)
    check_pairs([*pairs, *val_pairs])
    dataset = PatchDataset(
        pairs,
        config.TRAINING.TRAIN_PS,
        config.TRAINING.SEED,
        DEGRADATIONS[task.degradation],
        MARGINS[task.degradation],
        cache=config.TRAINING.CACHE == "ram",
    )
    dataset.preload()
    say(f"{len(pairs)} training images, {len(val_pairs)} for validation")

    # Model and optimizer
    model = build_model(config).train().to(accelerator.device).to(memory_format=torch.channels_last)
    optimizer = build_optimizer(model, config)
    average = config.TRAINING.EMA_DECAY
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(average)) if average else None
    state = TrainState(model, optimizer, ema, accelerator.scaler)
    parameters, processes = sum(p.numel() for p in model.parameters()), accelerator.num_processes
    say(f"{parameters:,} parameters, {accelerator.device.type}, on {processes} process{'es' * (processes > 1)}")

    # Resume
    epochs = config.OPTIM.NUM_EPOCHS
    if resume is not None:
        state.load_state_dict(load_checkpoint(resume))
        say(f"resumed from {resume}: {state.epoch} of {epochs} epochs done, best {state.best:.3f} dB")
    scheduler = warmup_cosine(optimizer, epochs, config.OPTIM.LR_MIN, config.OPTIM.WARMUP_EPOCHS, state.epoch + 1)
    wrapped, stepper = accelerator.prepare(model, optimizer)
    batches = PatchBatches(
        len(dataset),
        config.OPTIM.BATCH_SIZE,
        config.TRAINING.SEED,
        state.epoch + 1,
        epochs,
        config.TRAINING.EPOCH_STEPS,
        accelerator.process_index,
        accelerator.num_processes,
    )
    loader = DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=config.TRAINING.NUM_WORKERS,
        pin_memory=accelerator.device.type == "cuda",
    )
    if accelerator.is_main_process:
        save_config(config, run / "config.yml")
    log = TrainingLog(
        run,
        epochs * batches.steps_per_epoch,
        config.OPTIM.BATCH_SIZE,
        config.TRAINING.LOG_EVERY,
        state.epoch * batches.steps_per_epoch,
        accelerator.is_main_process,
    )

    # Loop
    criterion = PSNRLoss()
    clip = config.OPTIM.CLIP_NORM or math.inf
    steps = iter(loader)
    broken = 0
    for epoch in range(state.epoch + 1, epochs + 1):
        for _ in range(batches.steps_per_epoch):
            patch = next(steps)
            loss, grad_norm = backward(wrapped, criterion, patch, config.OPTIM.ACCUMULATE, accelerator), math.nan
            if math.isfinite(loss):
                broken = 0
                grad_norm = float(accelerator.clip_grad_norm_(model.parameters(), clip))
                stepper.step()
                if ema is not None:
                    ema.update_parameters(model)
            else:
                broken += 1
                names = [dataset.pairs[number].name for number in patch.pair.tolist()]
                log.say(f"epoch {epoch}: the loss is {loss}; this process's batch: {', '.join(names)}")
                if broken >= config.TRAINING.NONFINITE_LIMIT:
                    save(state, run / LATEST, config, accelerator)
                    raise TrainingError(
                        f"stopped: the loss was not finite for {broken} step(s) in a row, the last on "
                        f"{', '.join(names)}. The weights before it are in {run / LATEST}. Look at these images, or "
                        "lower OPTIM.LR_INITIAL, or set OPTIM.CLIP_NORM 0.01"
                    )
            stepper.zero_grad()
            log.step(epoch, loss, grad_norm, optimizer.param_groups[0]["lr"])
        state.epoch = epoch
        scheduler.step()
        if epoch % config.TRAINING.VAL_AFTER_EVERY == 0 or epoch == epochs:
            score = validate(state.restorer, val_pairs, config, task, accelerator, log, epoch)
            if score > state.best:
                state.best = score
                save(state, run / BEST, config, accelerator)
        if epoch % config.TRAINING.CHECKPOINT_EVERY == 0:
            save(state, run / f"model_epoch_{epoch}.pth", config, accelerator)
            if accelerator.is_main_process:
                prune_checkpoints(run, config.TRAINING.KEEP)
        save(state, run / LATEST, config, accelerator)
    log.say(f"{epochs} epochs done, best {state.best:.3f} dB on the validation images: {run / BEST}")
    log.close()
    accelerator.end_training()
    return run


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
    # Without cpu=True, torchrun on a machine without an accelerator starts independent runs, not one run of many.
    accelerator = Accelerator(cpu=cpu, mixed_precision=precision)
    if accelerator.device.type == "cuda" and accelerator.num_processes == 1 and torch.cuda.device_count() > 1:
        count = torch.cuda.device_count()
        accelerator.print(
            f"GPU names {count} devices, but one process uses one. To use them all:\n"
            f"    torchrun --nproc_per_node {count} {' '.join(sys.argv)}"
        )
    return accelerator


def find_resume(resume: str | bool, run: Path) -> Path | None:
    """The checkpoint that TRAINING.RESUME means: the run's latest, a named one, or none.

    Raises:
        CheckpointError: a new run would overwrite an old one.
    """
    latest = run / LATEST
    if resume is True or str(resume).lower() == "auto":
        return latest if latest.is_file() else None
    if resume is False or str(resume).lower() in ("", "false", "none"):
        if latest.is_file():
            raise CheckpointError(
                f"{latest} belongs to an earlier run, which RESUME false would overwrite: set TRAINING.RESUME auto to "
                "continue it, another MODEL.SESSION, or delete the folder"
            )
        return None
    return Path(resume)


def training_pairs(config: CfgNode, task: Task, say: Any) -> tuple[list[Pair], list[Pair]]:
    """The pairs to train on and those to validate on, as the TRAINING keys say."""
    training = config.TRAINING
    pairs = find_pairs(training.TRAIN_DIR) if training.TRAIN_DIR else []
    folders = [folder for folder in training.SHARP_DIRS if folder != "samples"]
    sharp = find_photographs(folders)
    if "samples" in training.SHARP_DIRS:
        sharp += [Pair(name, None, path) for name, path in photographs("train").items()]
    if not pairs and not sharp:
        raise TrainingError("no training data: set TRAINING.TRAIN_DIR (pairs) or TRAINING.SHARP_DIRS (photographs)")
    if training.VAL_DIR and task.is_test_set(training.VAL_DIR) and not training.VAL_ON_TEST_SET:
        say(
            f"warning: TRAINING.VAL_DIR {training.VAL_DIR} is a test set; a checkpoint chosen on it has no honest test "
            "score. Validation images are split from the training set instead (TRAINING.VAL_ON_TEST_SET true: use it)."
        )
    elif training.VAL_DIR:
        return pairs + sharp, find_pairs(training.VAL_DIR)
    # Real pairs alone are the better judges; synthetic ones stand in where there are none.
    rest, held = split_by_scene(pairs or sharp, training.VAL_COUNT, training.SEED)
    return (rest + sharp, held) if pairs else (rest, held)


def build_model(config: CfgNode) -> M3SNet:
    """The network that the MODEL keys name, or that of TRAINING.WEIGHTS, grown by TRAINING.WIDEN."""
    if config.TRAINING.WEIGHTS:
        model = load_model(config.TRAINING.WEIGHTS)
        for doubling in range(config.TRAINING.WIDEN):
            model = widen(model, config.TRAINING.SEED + doubling)
        return model
    return create_model(config.MODEL.NAME, ffm=config.MODEL.FFM, mhamb=config.MODEL.MHAMB)


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


def backward(model: nn.Module, criterion: nn.Module, patch: Patch, parts: int, accelerator: Accelerator) -> float:
    """Forward and backward of one batch, in `parts` pieces; returns its mean loss over all processes."""
    if len(patch.degraded) % parts:
        raise TrainingError(f"OPTIM.ACCUMULATE {parts} must divide the {len(patch.degraded)} images of each process")
    total = torch.zeros((), device=accelerator.device)
    for part, (degraded, target) in enumerate(on_device(patch, parts, accelerator.device), start=1):
        # Only the last piece exchanges gradients between processes.
        with contextlib.nullcontext() if part == parts else accelerator.no_sync(model):
            loss = criterion(model(degraded), target) / parts
            accelerator.backward(loss)
        total += loss.detach()
    return float(accelerator.reduce(total, "mean"))


def on_device(patch: Patch, parts: int, device: torch.device) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Cut a collated uint8 batch into pieces, move them to the device, and turn, convert and lay them out there."""

    def ready(images: torch.Tensor, orientations: torch.Tensor) -> torch.Tensor:
        images = orient(images.to(device, non_blocking=True), orientations)
        return images.float().div(255).contiguous(memory_format=torch.channels_last)

    orientations = torch.as_tensor(patch.orientation)
    for degraded, target, turns in zip(
        patch.degraded.chunk(parts), patch.target.chunk(parts), orientations.chunk(parts), strict=True
    ):
        yield ready(degraded, turns), ready(target, turns)


def validate(
    model: nn.Module,
    pairs: Sequence[Pair],
    config: CfgNode,
    task: Task,
    accelerator: Accelerator,
    log: TrainingLog,
    epoch: int,
) -> float:
    """Mean PSNR in dB over the 8-bit centre crops of `pairs`, shared among the processes; -inf without pairs."""
    training = config.TRAINING
    channel: Callable[[np.ndarray], np.ndarray] = rgb_to_y if task.protocol == "y" else lambda image: image
    model.eval()
    total = 0.0
    shown: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for pair in pairs[accelerator.process_index :: accelerator.num_processes]:
        degraded, target = centre_patch(pair, training.VAL_PS, training.SEED, DEGRADATIONS[task.degradation])
        restored = restore(model, degraded)
        # Equal images have no finite PSNR; one grey level in one pixel would already give less than 100 dB.
        total += min(psnr(channel(restored), channel(target)), 100.0)
        if len(shown) < _SHOWN_SAMPLES:
            shown.append((degraded, restored, target))
        if training.SAVE_IMAGES:
            folder = Path(training.SAVE_DIR) / task.name / config.MODEL.SESSION / "validation"
            write_image(folder / f"epoch_{epoch}" / f"{pair.name}.png", restored)
    model.train()
    score = float(accelerator.reduce(torch.tensor(total, device=accelerator.device), "sum"))
    score = score / len(pairs) if pairs else -math.inf
    log.validation(epoch, score, shown)
    return score


def save(state: TrainState, path: Path, config: CfgNode, accelerator: Accelerator) -> None:
    """Write a checkpoint, in the first process; it also carries the configuration it was trained with."""
    if accelerator.is_main_process:
        save_checkpoint({**state.state_dict(), "config": to_dict(config)}, path)
