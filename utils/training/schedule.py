"""The learning rate: linear warm-up, then cosine, stepped once per epoch."""
from __future__ import annotations

import math
import warnings

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from warmup_scheduler import GradualWarmupScheduler


class Cosine(LRScheduler):
    """Half a cosine from the base rate to `lr_min`, one epoch ahead: the warm-up hands over without stepping it.

    A closed form, not torch's CosineAnnealingLR, whose recursion starts from whatever rate the warm-up left and
    overshoots the base.
    """

    def __init__(self, optimizer: Optimizer, epochs: int, lr_min: float) -> None:
        self.epochs, self.lr_min = epochs, lr_min
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        """The rates of epoch `last_epoch` + 1 of the cosine."""
        share = (1 + math.cos(math.pi * (self.last_epoch + 1) / self.epochs)) / 2
        return [self.lr_min + (base - self.lr_min) * share for base in self.base_lrs]


def warmup_cosine(
    optimizer: Optimizer, epochs: int, lr_min: float, warmup_epochs: int = 3, start_epoch: int = 1
) -> LRScheduler:
    """A scheduler whose rate at epoch e (from 1) is LR e/W for e <= W, then a cosine from LR to `lr_min` at `epochs`.

    The rate of `start_epoch` is set on return; call `step()` after every epoch. To resume, make a new one with
    `start_epoch`: warmup-scheduler's own state_dict pickles the optimizer and freezes the rate when loaded.
    """
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] = optimizer.defaults["lr"]
    scheduler: LRScheduler = Cosine(optimizer, epochs - warmup_epochs, lr_min)
    replays = start_epoch - 1
    if warmup_epochs:
        scheduler = GradualWarmupScheduler(optimizer, 1, warmup_epochs, after_scheduler=scheduler)
        replays += 1  # it starts at rate 0, an epoch before the first
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step\\(\\)` before")
        for _ in range(replays):
            scheduler.step()
    return scheduler
