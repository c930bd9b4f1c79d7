"""What a training tells while it runs: a progress bar or lines, a log file, tables, TensorBoard, Weights & Biases."""
from __future__ import annotations

import contextlib
import json
import os
import secrets
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

import numpy as np
import psutil
import torch
from accelerate import Accelerator
from accelerate.tracking import TensorBoardTracker, WandBTracker
from torchvision.utils import make_grid
from tqdm import tqdm
from yacs.config import CfgNode

from ..config import ConfigError, to_dict
from ..files import write_atomically
from ..provenance import provenance
from .session import ENVIRONMENT, whose

METRICS = ("step", "epoch", "psnr", "learning_rate", "gradient_norm", "images_per_s", "data_wait", "memory_gib")
VALIDATION = ("step", "epoch", "psnr")


class TrainingLog:
    """Prints lines and, after `start`, averages what happens between two reports; silent but in the first process.

    On a terminal one bar shows step, epoch, loss (as PSNR in dB: the loss is negative PSNR), learning rate, images per
    second, the share of time spent waiting for data, memory, and the time left; elsewhere there is one line every
    TRAINING.LOG_EVERY steps. `metrics.csv` and `validation.csv` keep the same numbers with every digit, `tensorboard/`
    draws them, `environment.json` says what the run was started on.
    """

    def __init__(self, folder: Path | None, config: CfgNode, accelerator: Accelerator) -> None:
        """Without a `folder`, lines are printed and nothing is written."""
        self.active, self.folder, self.config = accelerator.is_main_process, folder, config
        self.every, self.batch_size = config.TRAINING.LOG_EVERY, config.OPTIM.BATCH_SIZE
        self.done = 0  # steps
        self._device = accelerator.device
        self._losses: list[float] = []
        self._norms: list[float] = []
        self._since, self._waited = time.perf_counter(), 0.0
        self._file: TextIO | None = None
        if not self.active or folder is None:
            return
        environment = {
            "started": time.strftime("%Y-%m-%d %H:%M:%S %z"),
            **whose(),
            "command": shlex.join(sys.argv),
            "processes": accelerator.num_processes,
            **provenance(accelerator.device),
        }
        with write_atomically(folder / ENVIRONMENT) as file:
            file.write((json.dumps(environment, indent=2) + "\n").encode())
        self._file = (folder / "train.log").open("a", encoding="utf-8", errors="backslashreplace")

    def start(self, first_step: int, steps: int) -> None:
        """Open tables, trackers and bar: `first_step` steps of the training are done already, `steps` are to come.

        Raises:
            ConfigError: TRAINING.WANDB is set and wandb is not installed.
        """
        self.done, self._since = first_step, time.perf_counter()
        if not self.active:
            return
        assert self.folder is not None  # a training has one
        # Steps after the checkpoint were lost with the interrupted run: their points go too.
        self._board = TensorBoardTracker("tensorboard", self.folder, purge_step=first_step + 1 if first_step else None)
        self._trackers = [self._board, *_wandb(self.folder, self.config)]
        for tracker in self._trackers:
            tracker.start()
        self._metrics = open_table(self.folder / "metrics.csv", METRICS, first_step)
        self._validation = open_table(self.folder / "validation.csv", VALIDATION, first_step)
        self._bar = tqdm(
            total=first_step + steps,
            initial=first_step,
            dynamic_ncols=True,
            disable=not sys.stderr.isatty(),
            bar_format="{desc}|{bar}| {remaining} left",  # tqdm's own is cut off at 80 columns
        )

    def info(self, line: str) -> None:
        """Print one line above the bar and keep it in train.log."""
        if not self.active:
            return
        tqdm.write(line, file=sys.stdout)
        sys.stdout.flush()
        if self._file is not None:
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
        """What is done inside, a validation for one, does not count as the training's time."""
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
        self._track({f"train/{name}": value for name, value in zip(METRICS[2:], numbers[2:], strict=True)})
        if self._bar.disable:
            left = tqdm.format_interval((self._bar.total - self.done) * self.batch_size / speed)
            self.info(
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
        self.info(f"epoch {epoch}: validation PSNR {psnr:.3f} dB")
        self._validation.write(f"{self.done},{epoch},{psnr}\n")
        self._track({"validation/psnr": psnr})
        shown = {f"validation/{n} (degraded, restored, target)": _in_a_row(images) for n, images in enumerate(samples)}
        for tracker in self._trackers:
            layout = {"dataformats": "NHWC"} if tracker is self._board else {}
            tracker.log_images(shown, step=self.done, **layout)

    def close(self) -> None:
        """Flush and close the files."""
        if self.active and self._file is not None:
            self._bar.close()
            for tracker in self._trackers:
                tracker.finish()
            self._metrics.close()
            self._validation.close()
            self._file.close()

    def _track(self, values: dict[str, float]) -> None:
        for tracker in self._trackers:
            tracker.log(values, step=self.done)

    def _memory(self) -> float:
        """GiB: the peak on the GPU, or what this process holds on the CPU."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) / 2**30
        return psutil.Process(os.getpid()).memory_info().rss / 2**30


def open_table(path: Path, columns: Sequence[str], first_step: int) -> TextIO:
    """A table to append to, without the rows after `first_step`: those steps were lost with the interrupted run.

    So is a last row that lacks its end. All else stays, whoever wrote it. The old table is there until the new one is
    whole.
    """
    header, rows = ",".join(columns) + "\n", []
    if path.is_file():
        with path.open(encoding="utf-8", errors="surrogateescape") as file:
            rows = [row for row in file if row.endswith("\n") and row != header and _step(row) <= first_step]
    with write_atomically(path) as new:
        new.write("".join([header, *rows]).encode("utf-8", "surrogateescape"))
    return path.open("a", encoding="utf-8", buffering=1)


def _step(row: str) -> int:
    """The step of a table's row; 0 for a line that is none."""
    text = row.partition(",")[0]
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else 0


def _wandb(folder: Path, config: CfgNode) -> list[WandBTracker]:
    """A tracker for the Weights & Biases project of TRAINING.WANDB, if any; a resumed training continues its run."""
    if not config.TRAINING.WANDB:
        return []
    try:
        import wandb  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "TRAINING.WANDB needs the package wandb: pip install wandb, or set TRAINING.WANDB ''"
        ) from error
    run_id = folder / "wandb_id.txt"
    if not run_id.is_file():
        run_id.write_text(secrets.token_hex(4), encoding="utf-8")
    return [
        WandBTracker(
            config.TRAINING.WANDB,
            name=config.MODEL.SESSION,
            id=run_id.read_text(encoding="utf-8").strip(),
            resume="allow",
            dir=str(folder),
            config=to_dict(config),
        )
    ]


def _in_a_row(images: Sequence[np.ndarray]) -> np.ndarray:
    """H x W x 3 uint8 images side by side, as a batch of one."""
    grid = make_grid(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2), nrow=len(images))
    return grid.permute(1, 2, 0).numpy()[None]
