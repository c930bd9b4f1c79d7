"""The learning rate against the closed form of the paper's recipe."""
import math

import pytest
import torch

from m3snet.utils.training.schedule import warmup_cosine

LR, LR_MIN = 1e-3, 1e-6


def closed_form(epoch: int, epochs: int, warmup: int) -> float:
    if epoch <= warmup:
        return LR * epoch / warmup
    return LR_MIN + (LR - LR_MIN) * (1 + math.cos(math.pi * (epoch - warmup) / (epochs - warmup))) / 2


@pytest.mark.parametrize(("epochs", "warmup"), [(13, 3), (40, 3), (8, 0), (5, 1), (2, 1), (1, 0)])
def test_the_rate_of_every_epoch_from_every_start(epochs, warmup):
    for start in range(1, epochs + 1):
        optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=LR)
        scheduler = warmup_cosine(optimizer, epochs, LR_MIN, warmup, start_epoch=start)
        for epoch in range(start, epochs + 1):
            assert optimizer.param_groups[0]["lr"] == pytest.approx(closed_form(epoch, epochs, warmup), rel=1e-12)
            optimizer.step()
            scheduler.step()


def test_a_restored_optimizer_does_not_bring_its_old_rate():
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=LR)
    optimizer.param_groups[0]["lr"] = 0.5  # as a loaded state_dict leaves it
    warmup_cosine(optimizer, 20, LR_MIN, 3, start_epoch=3)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(LR)
