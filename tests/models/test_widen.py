"""Growing a network: the same function with twice the channels, whose copies can learn apart."""
from __future__ import annotations

from typing import Any

import pytest
import torch

from m3snet.models import M3SNet, widen
from m3snet.models.m3snet import SIZES, size_name


def trained(**keys: Any) -> M3SNet:
    """A network whose every tensor matters: none is left at the zeros and ones it starts with."""
    model = M3SNet(width=8, enc_blk_nums=(1, 2, 1, 1), **keys)
    rng = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=rng), alpha=0.1)
    return model.eval()


@pytest.mark.parametrize("keys", [{}, {"ffm": False}, {"mhamb": False}, {"middle_blk_num": 2, "img_channel": 1}])
def test_a_widened_network_computes_the_same(keys: dict[str, Any]) -> None:
    model = trained(**keys)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    image = torch.rand(2, keys.get("img_channel", 3), 40, 56, generator=torch.Generator().manual_seed(1))
    once = widen(model)
    twice = widen(once, seed=7)
    assert [wide.config["width"] for wide in (once, twice)] == [16, 32]
    assert not once.training
    with torch.no_grad():
        expected = model(image)
        assert float((expected - image).abs().mean()) > 0.1
        for wide in (once, twice):
            torch.testing.assert_close(wide(image), expected, atol=2e-5, rtol=1e-4)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_copies_learn_apart() -> None:
    wide = widen(trained()).train()
    optimizer = torch.optim.Adam(wide.parameters(), 1e-3)
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    for _ in range(2):
        optimizer.zero_grad()
        wide(image).square().mean().backward()
        optimizer.step()
    for name in ("encoders.0.0.conv2.weight", "decoders.1.0.norm1.weight", "ffms.0.up.0.weight"):
        rows = {tuple(row.flatten().tolist()) for row in wide.state_dict()[name]}
        assert len(rows) == len(wide.state_dict()[name]), f"{name} still has two equal channels"


def test_the_named_sizes_grow_into_each_other() -> None:
    model = M3SNet(**SIZES["M3SNet-T"])
    model.patch_size = 128
    for name in ("M3SNet-S", "M3SNet-32", "M3SNet-64"):
        model = widen(model)
        assert (size_name(model), model.patch_size) == (name, 128)
