"""What a training tells while it runs: a progress bar or lines, a log file, tables, curves, TensorBoard, W&B."""
from __future__ import annotations

import contextlib
import csv
import json
import os
import secrets
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from accelerate import Accelerator
from torch.utils.tensorboard import SummaryWriter
from torchvision.utils import make_grid
from tqdm import tqdm
from yacs.config import CfgNode

from ..config import ConfigError, to_dict
from ..images import to_tensor
from ..provenance import provenance
from .curves import draw_curves

METRICS = ("step", "epoch", "psnr", "learning_rate", "gradient_norm", "images_per_s", "data_wait", "memory_gib")
VALIDATION = ("step", "epoch", "psnr")


class TrainingLog:
    """Averages what happens between two reports; silent in all processes but the first.

    On a terminal one bar shows step, epoch, loss (as PSNR in dB: the loss is negative PSNR), learning rate, images per
    second, the share of time spent waiting for data, memory, and the time left; elsewhere there is one line every
    TRAINING.LOG_EVERY steps. `metrics.csv` and `validation.csv` keep the same numbers with every digit, `curves.png`
    and `tensorboard/` draw them, `environment.json` says what the run was started on.
    """

    def __init__(self, folder: Path, config: CfgNode, first_step: int, steps: int, accelerator: Accelerator) -> None:
        """`first_step` steps of the training are done already, `steps` are to come.

        Raises:
            ConfigError: TRAINING.WANDB is set and wandb is not installed.
        """
        self.active, self.folder, self.done = accelerator.is_main_process, folder, first_step
        self.every, self.batch_size = config.TRAINING.LOG_EVERY, config.OPTIM.BATCH_SIZE
        self._device = accelerator.device
        self._losses: list[float] = []
        self._norms: list[float] = []
        self._since, self._waited = time.perf_counter(), 0.0
        self._wandb: Any = None
        if not self.active:
            return
        folder.mkdir(parents=True, exist_ok=True)
        if config.TRAINING.WANDB:
            self._wandb = _start_wandb(folder, config)
        environment = {
            "started": time.strftime("%Y-%m-%d %H:%M:%S %z"),
            "command": shlex.join(sys.argv),
            "processes": accelerator.num_processes,
            **provenance(accelerator.device),
        }
        (folder / "environment.json").write_text(json.dumps(environment, indent=2) + "\n", encoding="utf-8")
        self._file = (folder / "train.log").open("a", encoding="utf-8")
        self._metrics = _reopen(folder / "metrics.csv", METRICS, first_step)
        self._validation = _reopen(folder / "validation.csv", VALIDATION, first_step)
        # Steps after the checkpoint were lost with the interrupted run: their points go too.
        self._board = SummaryWriter(folder / "tensorboard", purge_step=first_step + 1 if first_step else None)
        self._bar = tqdm(
            total=first_step + steps,
            initial=first_step,
            dynamic_ncols=True,
            disable=not sys.stderr.isatty(),
            bar_format="{desc}|{bar}| {remaining} left",  # tqdm's own is cut off at 80 columns
        )

    def say(self, line: str) -> None:
        """Print one line above the bar and keep it in train.log."""
        if self.active:
            tqdm.write(line, file=sys.stdout)
            sys.stdout.flush()
            self._file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")
            self._file.flush()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """What is done inside is waiting for data."""
        begun = time.perf_counter()
        yield
        self._waited += time.perf_counter() - begun

    @contextlib.contextmanager
    def pausing(self) -> Iterator[None]:
        """What is done inside, validating say, does not count as the training's time."""
        begun = time.perf_counter()
        yield
        self._since += time.perf_counter() - begun

    def step(self, epoch: int, loss: float, grad_norm: float, lr: float) -> None:
        """Count one optimizer step."""
        self.done += 1
        if not self.active:
            return
        self._losses.append(loss)
        self._norms.append(grad_norm)
        self._bar.update()
        if self.done % self.every:
            return
        passed = time.perf_counter() - self._since
        speed, wait, memory = len(self._losses) * self.batch_size / passed, self._waited / passed, self._memory()
        psnr, norm = -sum(self._losses) / len(self._losses), sum(self._norms) / len(self._norms)
        numbers = (self.done, epoch, psnr, lr, norm, round(speed, 2), round(wait, 4), round(memory, 3))
        self._metrics.write(",".join(map(str, numbers)) + "\n")
        for name, value in zip(METRICS[2:], numbers[2:], strict=True):
            self._board.add_scalar(f"train/{name}", value, self.done)
        if self._bar.disable:
            left = tqdm.format_interval((self._bar.total - self.done) * self.batch_size / speed)
            self.say(
                f"step {self.done}  epoch {epoch}  PSNR {psnr:.2f} dB  lr {lr:.2e}  |grad| {norm:.3g}  "
                f"{speed:.1f} images/s  data wait {wait:.0%}  {memory:.1f} GiB  left {left}"
            )
        else:
            self._bar.set_description_str(  # epoch, step, PSNR, learning rate, images/s, ...
                f"{epoch}: {self.done}/{self._bar.total} {psnr:.2f} dB lr {lr:.1e} {speed:.1f}/s "
                f"wait {wait:.0%} {memory:.1f}G"
            )
        self._losses, self._norms = [], []
        self._since, self._waited = time.perf_counter(), 0.0

    def validation(self, epoch: int, psnr: float, samples: Sequence[Sequence[np.ndarray]]) -> None:
        """Report a validation and show `samples`: (degraded, restored, target) images of equal size each."""
        if not self.active:
            return
        self.say(f"epoch {epoch}: validation PSNR {psnr:.3f} dB")
        self._validation.write(f"{self.done},{epoch},{psnr}\n")
        self._board.add_scalar("validation/psnr", psnr, self.done)
        for number, images in enumerate(samples):
            grid = make_grid(torch.cat([to_tensor(image) for image in images]), nrow=3)
            self._board.add_image(f"validation/{number}: degraded, restored, target", grid, self.done)
        self._board.flush()
        draw_curves(self.folder)

    def close(self) -> None:
        """Flush and close the files."""
        if self.active:
            self._bar.close()
            self._board.close()
            self._metrics.close()
            self._validation.close()
            draw_curves(self.folder)
            self._file.close()
            if self._wandb is not None:
                self._wandb.finish()

    def _memory(self) -> float:
        """GiB: the peak on the GPU, or what this process holds on the CPU."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) / 2**30
        return psutil.Process(os.getpid()).memory_info().rss / 2**30


def _reopen(path: Path, columns: Sequence[str], first_step: int) -> Any:
    """A table to append to, without the rows after `first_step`: those steps were lost with the interrupted run."""
    rows = []
    if first_step and path.is_file():
        with path.open(newline="", encoding="utf-8") as file:
            rows = [row for row in list(csv.reader(file))[1:] if len(row) == len(columns) and int(row[0]) <= first_step]
    file = path.open("w", encoding="utf-8", buffering=1)
    file.writelines(",".join(row) + "\n" for row in (columns, *rows))
    return file


def _start_wandb(folder: Path, config: CfgNode) -> Any:
    """A Weights & Biases run that takes over what TensorBoard is given; a resumed training continues its run."""
    try:
        import wandb
    except ImportError as error:
        raise ConfigError(
            "TRAINING.WANDB needs the package wandb: pip install wandb, or set TRAINING.WANDB ''"
        ) from error
    run_id = folder / "wandb_id.txt"
    if not run_id.is_file():
        run_id.write_text(secrets.token_hex(4), encoding="utf-8")
    return wandb.init(
        project=config.TRAINING.WANDB,
        name=config.MODEL.SESSION,
        id=run_id.read_text(encoding="utf-8").strip(),
        resume="allow",
        dir=str(folder),
        config=to_dict(config),
        sync_tensorboard=True,
    )
