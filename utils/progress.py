"""What a training tells while it runs: a progress bar or lines, a log file, and TensorBoard."""
from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter
from torchvision.utils import make_grid
from tqdm import tqdm

from utils.images import to_tensor


class TrainingLog:
    """Averages what happens between two reports; silent in all processes but the first.

    On a terminal one bar shows epoch, loss (as PSNR in dB: the loss is negative PSNR), learning rate, images per
    second and the time left; elsewhere there is one line every `every` steps. `metrics.csv` keeps the same numbers
    with every digit, `tensorboard/` draws them.
    """

    def __init__(self, folder: Path, steps: int, batch_size: int, every: int, first_step: int, active: bool) -> None:
        """`steps` is the length of the whole training, `first_step` how many of them a resumed run has behind it."""
        self.active, self.every, self.batch_size, self.done = active, every, batch_size, first_step
        self._losses: list[float] = []
        self._norms: list[float] = []
        self._since = time.perf_counter()
        if active:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = (folder / "train.log").open("a", encoding="utf-8")
            metrics = folder / "metrics.csv"
            new = not (first_step and metrics.is_file())
            self._metrics = metrics.open("w" if new else "a", encoding="utf-8", buffering=1)
            if new:
                self._metrics.write("step,epoch,psnr,learning_rate,gradient_norm,images_per_s\n")
            # Steps after the checkpoint were lost with the interrupted run: their points go too.
            self._board = SummaryWriter(folder / "tensorboard", purge_step=first_step + 1 if first_step else None)
            self._bar = tqdm(
                total=steps,
                initial=first_step,
                dynamic_ncols=True,
                disable=not sys.stderr.isatty(),
                bar_format="{desc}{percentage:3.0f}%|{bar}| {remaining} left",  # tqdm's own is cut off at 80 columns
            )

    def say(self, line: str) -> None:
        """Print one line above the bar and keep it in train.log."""
        if self.active:
            tqdm.write(line, file=sys.stdout)
            sys.stdout.flush()
            self._file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")
            self._file.flush()

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
        speed = len(self._losses) * self.batch_size / (time.perf_counter() - self._since)
        psnr, norm = -sum(self._losses) / len(self._losses), sum(self._norms) / len(self._norms)
        for name, value in (("psnr", psnr), ("learning_rate", lr), ("gradient_norm", norm), ("images_per_s", speed)):
            self._board.add_scalar(f"train/{name}", value, self.done)
        numbers = (self.done, epoch, psnr, lr, norm, round(speed, 2))
        self._metrics.write(",".join(map(str, numbers)) + "\n")
        status = f"epoch {epoch}  PSNR {psnr:.2f} dB  lr {lr:.2e}  {speed:.1f} images/s"
        self._bar.set_description_str(f"{status}  ")
        if self._bar.disable:
            left = (self._bar.total - self.done) * self.batch_size / speed
            self.say(f"step {self.done}  {status}  |grad| {norm:.3g}  left {tqdm.format_interval(left)}")
        self._losses, self._norms, self._since = [], [], time.perf_counter()

    def validation(self, epoch: int, psnr: float, samples: Sequence[Sequence[np.ndarray]]) -> None:
        """Report a validation and show `samples`: (degraded, restored, target) images of equal size each."""
        if not self.active:
            return
        self.say(f"epoch {epoch}: validation PSNR {psnr:.3f} dB")
        self._board.add_scalar("validation/psnr", psnr, self.done)
        for number, images in enumerate(samples):
            grid = make_grid(torch.cat([to_tensor(image) for image in images]), nrow=3)
            self._board.add_image(f"validation/{number}: degraded, restored, target", grid, self.done)
        self._board.flush()
        self._since = time.perf_counter()  # the time spent validating is not the training's

    def close(self) -> None:
        """Flush and close the files."""
        if self.active:
            self._bar.close()
            self._board.close()
            self._metrics.close()
            self._file.close()
