"""The training state: all that a run needs to go on as if it had never stopped."""
from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel

from ...models import M3SNet
from ...models.weights import from_published, to_published


@dataclass
class TrainState:
    """All that changes while training; saved and loaded whole.

    There is no random state in it: every random choice is a function of (seed, epoch, index), and what a network
    may draw is a function of (seed, step, process). Nor are there accumulated gradients: states are saved between
    steps, never within one.
    """

    model: M3SNet
    optimizer: torch.optim.Optimizer
    ema: AveragedModel | None
    scaler: Any  # torch's gradient scaler with fp16, else None
    order: list[int]  # what the order of the samples depends on; with another one, an epoch cannot be continued
    validation: str  # what the validation images are, see `fingerprint`; with others, `best` means nothing
    epoch: int = 0  # completed epochs
    epoch_step: int = 0  # steps done in the epoch after them
    step: int = 0  # all steps done, skipped ones included
    skipped: int = 0  # steps whose loss or gradient was not finite
    best: float = -math.inf  # dB on the validation images; -inf: not validated yet
    whole: bool = True  # false while a step is changing it

    def state_dict(self) -> dict[str, Any]:
        """The state as a checkpoint keeps it: `state_dict` in published names, as users of MPRNet expect it."""
        state = {
            "epoch": self.epoch,
            "epoch_step": self.epoch_step,
            "step": self.step,
            "skipped": self.skipped,
            "order": self.order,
            "validation": self.validation,
            "best": self.best,
            "state_dict": to_published(self.model.state_dict()),
            "optimizer": self.optimizer.state_dict(),
        }
        if self.ema is not None:
            state["params_ema"] = to_published(self.ema.module.state_dict())
            state["ema_updates"] = int(self.ema.n_averaged)
        if self.scaler is not None:
            state["scaler"] = self.scaler.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a saved state, but not its rates, betas and decay: they are the configuration's.

        An epoch begun with another order of samples begins anew, and so does the best score on other images.
        """
        self.model.load_state_dict(from_published(state["state_dict"]))
        settings = [{**group} for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state["optimizer"])
        for group, wanted in zip(self.optimizer.param_groups, settings, strict=True):
            group.update((name, value) for name, value in wanted.items() if name != "params")
        for name in ("epoch", "epoch_step", "step", "skipped", "best"):
            setattr(self, name, state[name])
        if state["order"] != self.order:
            self.epoch_step = 0
        if state.get("validation", self.validation) != self.validation:
            self.best = -math.inf
        if self.ema is not None and "params_ema" in state:
            self.ema.module.load_state_dict(from_published(state["params_ema"]))
            self.ema.n_averaged.fill_(state["ema_updates"])
        if self.scaler is not None and "scaler" in state:
            self.scaler.load_state_dict(state["scaler"])

    def is_finite(self) -> bool:
        """Whether all weights, and their average, are finite numbers."""
        tensors = [*self.model.parameters(), *(() if self.ema is None else self.ema.module.parameters())]
        return bool(torch.stack([tensor.isfinite().all() for tensor in tensors]).all())

    @property
    def averaged(self) -> M3SNet:
        """The weights that are validated and released: the average, where one is kept."""
        return self.model if self.ema is None else self.ema.module  # type: ignore[return-value]
