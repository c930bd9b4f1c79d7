"""One training: data, model, optimizer, resume, loop."""
from __future__ import annotations

import contextlib
import math
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch.utils.data import default_collate
from yacs.config import CfgNode

from ...models import size_name
from ..config import argument_parser, differences, load_config, load_task_config, save_config, to_dict
from ..data.train_sets import Sources, TrainSet, make_train_set
from ..images import write_image
from ..provenance import code_version
from ..restoring.restorer import NotFiniteError, Restorer
from ..scoring.metrics import PROTOCOLS
from ..settings import default_config
from ..tasks import Task
from .build import TrainingError, build_batches, build_model, build_state, build_step, load_batches
from .checkpoint import (
    BEST,
    LATEST,
    STOPPED,
    CheckpointError,
    checkpoints,
    load_checkpoint,
    newer_checkpoints,
    newest_checkpoint,
    prune_checkpoints,
    save_checkpoint,
    tidy,
)
from .dry_run import print_estimates
from .log import TrainingLog
from .loss import PSNRLoss
from .processes import in_all_processes, start_accelerator, this_process
from .schedule import warmup_cosine
from .session import hold
from .signals import Interruption, Stopped
from .state import TrainState
from .step import TrainStep, on_device

OVERFIT_PSNR = 40.0  # dB that a network must reach on a handful of patches it sees again and again
_SHOWN_SAMPLES = 4  # restored validation images in TensorBoard
_SET_AT_THE_START = ("TRAINING.WEIGHTS", "TRAINING.WIDEN")  # of a resumed run, the checkpoint's weights are taken

Saved = tuple[Path, dict[str, Any]]  # a checkpoint, and what is in it


def parse_arguments(
    defaults: CfgNode, description: str | None, argv: Sequence[str] | None = None
) -> tuple[CfgNode, bool]:
    """What the command line of a train.py asks for: the configuration, and whether it is a dry run."""
    parser = argument_parser(description)
    parser.add_argument("--dry-run", action="store_true", help="say what would be done and how long it takes, and stop")
    arguments = parser.parse_args(argv)
    return load_task_config(defaults, arguments.config, arguments.opts), arguments.dry_run


def train(config: CfgNode, task: Task, dry_run: bool = False) -> Path:
    """Train as `config` says; returns the run's folder: checkpoints, logs and the resolved configuration.

    With `dry_run` it only says what would be done and how long it would take, after a few steps that are not kept.

    Raises:
        TrainingError, ConfigError, PairError, SessionError: before the first step.
        CheckpointError: what should be resumed cannot be, or a checkpoint cannot be written.
        TrainingError: the loss or the gradient broke, or memory ran out; the state before it is saved, in the first
            case to a file of its own.
        Stopped: SIGTERM, SIGINT or SIGHUP came; the state is saved.
    """
    accelerator = start_accelerator(config)
    set_seed(config.TRAINING.SEED)
    folder = Path(config.TRAINING.SAVE_DIR) / task.name / config.MODEL.SESSION
    with contextlib.nullcontext() if dry_run else hold(folder, accelerator):
        log = TrainingLog(None if dry_run else folder, config, accelerator)
        saved = None if dry_run else find_saved(config.TRAINING.RESUME, folder, log.info)

        # Data
        data = make_train_set(task, Sources.of(config.TRAINING), this_process(accelerator), log.info)

        # Model and optimizer
        model = build_model(config).to(accelerator.device).to(memory_format=torch.channels_last)
        if config.TRAINING.WEIGHTS:
            size = size_name(model) or "M3SNet"
            log.info(f"the network is that of TRAINING.WEIGHTS {config.TRAINING.WEIGHTS}, not of MODEL.NAME: {size}")
        state = build_state(config, task, model, data, accelerator)
        train_step = build_step(state, config, accelerator, log.info)
        parameters, processes = sum(p.numel() for p in model.parameters()), accelerator.num_processes
        place = f"{accelerator.device.type}, on {processes} process{'es' * (processes > 1)}"
        log.info(f"{parameters:,} parameters, {place}")

        # Resume
        run = Run(config, task, folder, accelerator, data, state, train_step, log)
        if saved is not None:
            run.resume(*saved)

        # Loop
        if dry_run:
            run.dry_run()
        else:
            run.fit()
    return folder


def find_saved(resume: str | Literal[False], folder: Path, log: Callable[[str], Any]) -> Saved | None:
    """What TRAINING.RESUME means: the newest whole checkpoint of a run's folder, a named one, or none.

    Raises:
        CheckpointError: there is none to use, or a run would overwrite what another one, or itself, has done since.
    """
    if resume == "auto":
        return newest_checkpoint(folder, log)
    if resume is False:
        if earlier := checkpoints(folder):
            raise CheckpointError(
                f"{earlier[0]} belongs to an earlier run, which RESUME false would overwrite: set TRAINING.RESUME "
                "auto to continue it, another MODEL.SESSION, or delete the folder"
            )
        return None
    saved = load_checkpoint(resume)
    if newer := newer_checkpoints(folder, saved):
        names = ", ".join(path.name for path in newer)
        raise CheckpointError(
            f"{resume}: {folder} holds checkpoints that are further ({names}), which going on from it would overwrite: "
            "set TRAINING.RESUME auto to continue from them, another MODEL.SESSION, or delete them"
        )
    return Path(resume), saved


@dataclass
class Run:
    """A training: its parts, and the loop that puts them to work."""

    config: CfgNode
    task: Task
    folder: Path  # of checkpoints, logs and the resolved configuration
    accelerator: Accelerator
    data: TrainSet
    state: TrainState
    train_step: TrainStep
    log: TrainingLog
    interruption: Interruption = field(default_factory=Interruption, init=False)

    def resume(self, path: Path, saved: dict[str, Any]) -> None:
        """Go on from a checkpoint, and say where that is and which settings are others now.

        Raises:
            CheckpointError: it does not fit, or nothing is left to train.
        """
        state, epochs, log = self.state, self.config.OPTIM.NUM_EPOCHS, self.log.info
        try:
            state.load_state_dict(saved)
        except (RuntimeError, ValueError, KeyError) as error:
            raise CheckpointError(
                f"{path}: does not fit the network or the optimizer of this configuration (MODEL.NAME "
                f"{self.config.MODEL.NAME}, OPTIM.NAME {self.config.OPTIM.NAME}): {str(error).splitlines()[0]}"
            ) from error
        within = f" and {state.epoch_step} steps" if state.epoch_step else ""
        if state.epoch + bool(state.epoch_step) > epochs:
            raise CheckpointError(
                f"{path}: {state.epoch} epochs{within} are done, more than OPTIM.NUM_EPOCHS {epochs}: raise it to go "
                "on, or set another MODEL.SESSION to start anew"
            )
        best = f"best {state.best:.3f} dB" if math.isfinite(state.best) else "not validated yet"
        log(f"resumed from {path}: {state.epoch} of {epochs} epochs{within} done, {best}")
        defaults = to_dict(load_config(default_config(self.task.name)))
        for line in differences(saved.get("config", {}), to_dict(self.config), defaults):
            ignored = " (of no effect: the weights are the checkpoint's)" if line.startswith(_SET_AT_THE_START) else ""
            log(f"  changed since: {line}{ignored}")
        if saved["order"] != state.order:
            log(f"  the order of the samples is another one: epoch {state.epoch + 1} starts from its beginning")
        if saved.get("validation", state.validation) != state.validation:
            log("  the validation images are others: the best score is looked for anew")
        if self.accelerator.is_main_process and path.parent == self.folder:
            tidy(path, saved)

    def dry_run(self) -> None:
        """Print what the run would do and take; a few steps are taken, and nothing is kept."""
        batches = build_batches(self.config, self.data, self.state, self.accelerator)
        with contextlib.closing(load_batches(self.config, self.data, batches, self.accelerator)) as patches:
            print_estimates(self.config, self.train_step, patches, len(batches), len(self.data.validation))

    def fit(self) -> None:
        """Train from where the state stands to the last epoch."""
        config, training, state, log = self.config, self.config.TRAINING, self.state, self.log
        epochs = config.OPTIM.NUM_EPOCHS
        scheduler = warmup_cosine(
            state.optimizer, epochs, config.OPTIM.LR_MIN, config.OPTIM.WARMUP_EPOCHS, state.epoch + 1
        )
        batches = build_batches(config, self.data, state, self.accelerator)
        steps_per_epoch = batches.order.steps_per_epoch
        every = 1 if self.accelerator.device.type == "cpu" else training.LOG_EVERY  # reading a loss makes a GPU wait
        in_all_processes(lambda: self._begin(len(batches)))
        with (
            contextlib.closing(load_batches(config, self.data, batches, self.accelerator)) as patches,
            self.interruption,
            self.save_on_crash(),
        ):
            for epoch in range(state.epoch + 1, epochs + 1):
                while state.epoch_step < steps_per_epoch:
                    with log.waiting():
                        patch = next(patches)
                    self.train_step(patch)
                    saving = training.SAVE_STEPS and state.step % training.SAVE_STEPS == 0
                    if state.step % every == 0 or saving or state.epoch_step == steps_per_epoch:
                        self.log_and_check(epoch)
                    if saving:
                        self.save()
                scheduler.step()
                names = [f"model_epoch_{epoch}.pth"] if epoch % training.CHECKPOINT_EVERY == 0 else []
                if self.data.validation and (epoch % training.VAL_AFTER_EVERY == 0 or epoch == epochs):
                    with log.pausing():
                        score = self.validate(epoch)
                    if score > state.best:
                        state.best = score
                        names.append(BEST)
                state.epoch, state.epoch_step = epoch, 0  # not earlier: a run that stops in a validation repeats it
                self.save(names)
        self.finish()

    def _begin(self, steps: int) -> None:
        """Write the configuration and open the log, if this is the first process."""
        if self.accelerator.is_main_process:
            save_config(self.config, self.folder / "config.yml")
        self.log.start(self.state.step, steps)

    def log_and_check(self, epoch: int) -> None:
        """Log the steps since the last call, in all processes at the same step; stop where it has to be.

        Raises:
            TrainingError: TRAINING.NONFINITE_LIMIT steps in a row were not finite.
            Stopped: one of the processes was asked to stop.
        """
        outcomes, signum = self.train_step.read(self.interruption.signum)
        for outcome in outcomes:
            self.log.step(epoch, outcome.loss, outcome.norm, outcome.rate)
            if outcome.finite:
                continue
            names = ", ".join(self.data.patches.pairs[number].name for number in outcome.pairs)
            what = "loss" if not math.isfinite(outcome.loss) else "gradient"
            self.log.info(f"epoch {epoch}: the {what} is not finite, step skipped; this process's batch: {names}")
            if outcome.broken >= self.config.TRAINING.NONFINITE_LIMIT:
                self.save(file=STOPPED)
                raise TrainingError(
                    f"stopped: the {what} was not finite for {outcome.broken} step(s) in a row, the last on {names}. "
                    "Look at these images, or lower OPTIM.LR_INITIAL, or set OPTIM.CLIP_NORM 0.01. What was saved "
                    "before stays, and TRAINING.RESUME auto goes on from it; the state before this step, whose "
                    f"weights may be spoilt, is in {self.folder / STOPPED}"
                )
        if signum:
            self.stop(signum)

    def validate(self, epoch: int) -> float:
        """Mean PSNR in dB, by the task's protocol, over the centre crops of the validation images.

        They are shared among the processes.

        Raises:
            TrainingError: the network's output is not finite; its weights are not saved.
        """
        training, model, score = self.config.TRAINING, self.state.averaged, PROTOCOLS[self.task.protocol]
        images, process = self.data.validation, this_process(self.accelerator)
        shown: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

        def scores() -> list[float]:
            found = []
            restore = Restorer(model, None, "float32", "exact", tlc=False, tile=0)
            for number in range(process.rank, len(images), process.world):
                degraded, target = images[number]
                try:
                    restored = restore(degraded)
                except NotFiniteError as error:  # finite weights, but so large that what they compute is not
                    raise TrainingError(
                        f"stopped: validation after step {self.state.step}: {error}. The weights are not saved, and "
                        "what was saved before stays. Lower OPTIM.LR_INITIAL, or set OPTIM.CLIP_NORM 0.01"
                    ) from error
                # Equal images have no finite PSNR; one grey level in one pixel would already give less than 100 dB.
                found.append(min(score(restored, target)["psnr"], 100.0))
                if len(shown) < _SHOWN_SAMPLES:
                    shown.append((degraded, restored, target))
                if training.SAVE_IMAGES:
                    name = f"epoch_{epoch}/{images.pairs[number].name}.png"
                    write_image(self.folder / "validation" / name, restored)
            return found

        model.eval()
        every = [one for part in in_all_processes(scores) for one in part]
        model.train()
        mean = math.fsum(every) / len(every)  # the same, however many processes share them
        self.log.validation(epoch, mean, shown)
        return mean

    def save(self, names: Sequence[str] = (), file: str = LATEST) -> None:
        """Write the latest checkpoint, or another `file`, in the first process; all must call it.

        Raises:
            TrainingError: the weights are broken; nothing is written.
            CheckpointError: it cannot be written.
        """
        if not self.state.is_finite():
            raise TrainingError(
                f"stopped: after step {self.state.step} the weights are not finite (NaN or infinite). They are not "
                "saved, and what was saved before stays. Lower OPTIM.LR_INITIAL, or set OPTIM.CLIP_NORM 0.01"
            )
        in_all_processes(lambda: self._write(names, file))

    def _write(self, names: Sequence[str] = (), file: str = LATEST) -> None:
        """Write a checkpoint, if this is the first process; it says which code and configuration made it."""
        if self.accelerator.is_main_process:
            content = {**self.state.state_dict(), "config": to_dict(self.config), "code": code_version()}
            save_checkpoint(content, self.folder, names, file)
            prune_checkpoints(self.folder, self.config.TRAINING.KEEP, self.state.epoch)

    @contextlib.contextmanager
    def save_on_crash(self) -> Iterator[None]:
        """Save the state when something crashes between two steps; say what to change when memory ran out."""
        try:
            yield
        except (TrainingError, CheckpointError):
            raise  # the state has been saved, or cannot be
        except Exception as error:
            if self.state.whole and self.state.is_finite():
                self._write()  # the other processes may not have crashed
                self.log.info(f"the state after step {self.state.step} is saved: {self.folder / LATEST}")
            if self.interruption.signum:  # it reached the workers that read data as well, and they are gone
                raise Stopped(self.interruption.signum) from error
            if isinstance(error, torch.OutOfMemoryError):
                training, parts = self.config.TRAINING, self.train_step.accumulation_steps
                size = self.config.OPTIM.BATCH_SIZE // self.accelerator.num_processes // parts
                raise TrainingError(
                    f"out of memory with {size} images of {training.TRAIN_PS} x {training.TRAIN_PS} at once in "
                    f"{training.PRECISION}: set TRAINING.AUTO_BATCH true or OPTIM.ACCUMULATE {2 * parts} (the same "
                    "result in smaller parts), TRAINING.PRECISION bf16, or TRAINING.GRAD_CHECKPOINTING true"
                ) from error
            raise

    def stop(self, signum: int) -> NoReturn:
        """Save the state and leave the program, as a signal asked for.

        Raises:
            Stopped: always.
        """
        self.save()
        name, step = signal.Signals(signum).name, self.state.step
        self.log.info(f"{name}: stopped after step {step}, TRAINING.RESUME auto goes on from it")
        self.log.close()
        raise Stopped(signum)

    def finish(self) -> None:
        """Say how it ended, and where its weights are.

        Raises:
            TrainingError: with TRAINING.OVERFIT, the patches were not learned.
        """
        if self.config.TRAINING.OVERFIT:
            self.check_overfit()
        done, best, latest = f"{self.state.epoch} epochs done", self.folder / BEST, self.folder / LATEST
        if not self.data.validation:
            self.log.info(f"{done}, without validation images: {latest}")
        elif best.is_file():
            self.log.info(f"{done}, best {self.state.best:.3f} dB on the validation images: {best}")
        else:
            self.log.info(f"{done}, none better than the {self.state.best:.3f} dB it was resumed with: {latest}")
        self.log.close()
        self.accelerator.end_training()

    def check_overfit(self) -> None:
        """Say how well the patches of TRAINING.OVERFIT were learned.

        Raises:
            TrainingError: less than 40 dB: something in the loop, or in the recipe, keeps the network from learning.
        """
        count = self.config.TRAINING.OVERFIT
        patches = default_collate([self.data.patches[0, index] for index in range(count)])
        (degraded, target), *_ = on_device(patches, 1, self.accelerator.device)
        loss = PSNRLoss()
        with torch.inference_mode():
            reached, before = -float(loss(self.state.model(degraded), target)), -float(loss(degraded, target))
        self.log.info(f"overfit: {count} patches from {before:.2f} to {reached:.2f} dB")
        if reached < OVERFIT_PSNR:
            raise TrainingError(
                f"TRAINING.OVERFIT: {count} patches reached {reached:.2f} dB of {OVERFIT_PSNR:.0f}: train longer or "
                "with another learning rate; if that does not help, the loop is broken"
            )
