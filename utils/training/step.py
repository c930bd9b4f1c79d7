"""One training step: forward, backward, optimizer. Nothing in it makes the host wait for the device."""
from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from yacs.config import CfgNode

from ..data.augment import orient
from ..data.patches import Patch
from .loss import PSNRLoss, fourier_error
from .signals import SIGNALS
from .state import TrainState


class Outcome(NamedTuple):
    """What became of one step."""

    loss: float  # the negative PSNR, mean over all processes
    norm: float  # of the gradient, before clipping
    rate: float  # learning rate
    pairs: list[int]  # this process's samples
    finite: bool  # false: the step was skipped
    broken: int  # steps in a row that were not finite, up to this one


class TrainStep:
    """Takes steps that change a training state, and remembers what they gave until it is read.

    A step whose gradient is not finite is skipped on the device: the optimizer's fused kernels look at a flag, as
    they do for a gradient scaler. Only `read` makes the host wait.
    """

    def __init__(
        self,
        network: nn.Module,
        state: TrainState,
        accelerator: Accelerator,
        config: CfgNode,
        accumulation_steps: int,
    ) -> None:
        """`network` is the state's model, compiled or as it is; `accumulation_steps` parts make a batch."""
        self.state, self.accelerator, self.accumulation_steps = state, accelerator, accumulation_steps
        self.clip_norm, self.seed = config.OPTIM.CLIP_NORM, config.TRAINING.SEED
        self._network, self._optimizer = accelerator.prepare(network, state.optimizer)
        self._criterion, self._fourier = PSNRLoss(config.OPTIM.LOSS_EPS), config.OPTIM.LOSS_FOURIER
        self._weights = list(state.model.parameters())
        self._unread: list[tuple[torch.Tensor, torch.Tensor, float, torch.Tensor]] = []
        self._broken = 0

    def __call__(self, patch: Patch) -> None:
        """Take one step on a collated batch."""
        state = self.state
        # What a network may draw (dropout, say) depends on the step alone: a resumed run draws the same.
        draw = np.random.SeedSequence((self.seed, state.step, self.accelerator.process_index))
        torch.manual_seed(int(draw.generate_state(1)[0]))
        loss = self._backward(patch)
        self.accelerator.unscale_gradients(self._optimizer)
        norm = get_total_norm([weight.grad for weight in self._weights if weight.grad is not None])
        if self.clip_norm:
            clip_grads_with_norm_(self._weights, self.clip_norm, norm)
        if state.scaler is None:
            state.optimizer.found_inf = (~norm.isfinite()).float()  # type: ignore[attr-defined]
        rate = state.optimizer.param_groups[0]["lr"]
        state.whole = False
        self._optimizer.step()
        if state.ema is not None:
            state.ema.update_parameters(state.model)
        state.step += 1
        state.epoch_step += 1
        state.whole = True
        self._optimizer.zero_grad()
        self._unread.append((loss, norm, rate, torch.as_tensor(patch.pair)))

    def read(self, signum: int = 0) -> tuple[list[Outcome], int]:
        """The outcomes of the steps since the last call, and the signal that any process has got: `signum` is ours.

        All processes must call it after the same steps.
        """
        flags = [float(signum == number) for number in SIGNALS]
        losses = torch.stack([loss for loss, *_ in self._unread])
        means = self.accelerator.reduce(torch.cat([losses, losses.new_tensor(flags)]), "mean").tolist()
        norms = torch.stack([norm for _, norm, *_ in self._unread]).tolist()
        outcomes = []
        for loss, norm, (_, _, rate, pairs) in zip(means, norms, self._unread, strict=False):
            # An infinite gradient of a finite loss is what a gradient scaler looks for: it deals with that itself.
            finite = math.isfinite(loss) and (math.isfinite(norm) or self.state.scaler is not None)
            self._broken = 0 if finite else self._broken + 1
            self.state.skipped += not finite
            outcomes.append(Outcome(loss, norm, rate, pairs.tolist(), finite, self._broken))
        self._unread = []
        return outcomes, next((number for number, flag in zip(SIGNALS, means[-len(SIGNALS) :], strict=True) if flag), 0)

    def _backward(self, patch: Patch) -> torch.Tensor:
        """Forward and backward of one batch, in parts; returns this process's mean negative PSNR, on the device."""
        total = torch.zeros((), device=self.accelerator.device)
        parts = on_device(patch, self.accumulation_steps, self.accelerator.device)
        for part, (degraded, target) in enumerate(parts, start=1):
            # Only the last part exchanges gradients between processes.
            last = part == self.accumulation_steps
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self._network):
                restored = self._network(degraded)
                loss = self._criterion(restored, target)
                total += loss.detach() / self.accumulation_steps
                if self._fourier:
                    loss = loss + self._fourier * fourier_error(restored, target)
                self.accelerator.backward(loss / self.accumulation_steps)
        return total


def on_device(patch: Patch, parts: int, device: torch.device) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Cut a collated uint8 batch into pieces, move them to the device, and turn and convert them there.

    Yields (degraded, target), each N x 3 x S x S float32 in [0, 1], channels_last.
    """

    def ready(images: torch.Tensor, orientations: torch.Tensor) -> torch.Tensor:
        # N x S x S x 3 is what channels_last means: only the names of the axes change.
        images = orient(images.to(device, non_blocking=True).permute(0, 3, 1, 2), orientations)
        return images.float().div(255).contiguous(memory_format=torch.channels_last)

    orientations = torch.as_tensor(patch.orientation)
    for degraded, target, turns in zip(
        patch.degraded.chunk(parts), patch.target.chunk(parts), orientations.chunk(parts), strict=True
    ):
        yield ready(degraded, turns), ready(target, turns)
