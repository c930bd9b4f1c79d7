"""Gradient checkpointing: the same loss and gradients, of activations that are computed again instead of kept."""
from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from m3snet.models import M3SNet, NAFBlock, apply_tlc, create_model, widen
from m3snet.tests.filled import tiny
from m3snet.utils.training.loss import PSNRLoss


def images(side: int = 40, number: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    degraded, target = (torch.rand(number, 3, side, side, generator=rng) for _ in range(2))
    return degraded, target


def step(model: M3SNet, side: int = 40) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Loss and gradients of one step."""
    model.zero_grad()
    degraded, target = images(side)
    loss = PSNRLoss()(model(degraded), target)
    loss.backward()
    return loss.detach(), {name: parameter.grad for name, parameter in model.named_parameters()}


def both(model: M3SNet) -> tuple[M3SNet, M3SNet]:
    """Two copies in training mode, the second one with gradient checkpointing."""
    plain, saving = copy.deepcopy(model).train(), copy.deepcopy(model).train()
    saving.set_grad_checkpointing()
    return plain, saving


def assert_same_step(model: M3SNet, **keys: int) -> None:
    plain, saving = both(model)
    (loss, grads), (saving_loss, saving_grads) = step(plain, **keys), step(saving, **keys)
    assert torch.equal(saving_loss, loss)
    assert all(grad.any() for grad in grads.values())
    assert [name for name, grad in grads.items() if not torch.equal(saving_grads[name], grad)] == []
    assert kept_bytes(saving) < kept_bytes(plain)


def kept_bytes(model: M3SNet, side: int = 64) -> int:
    """The memory of all that one forward pass keeps for the backward pass, without the parameters."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage
        return tensor

    degraded, target = images(side, number=1)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = PSNRLoss()(model(degraded), target)
    assert loss.requires_grad
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("config", [{}, {"mhamb": False, "middle_blk_num": 2}, {"ffm": False}], ids=str)
def test_loss_and_gradients_are_the_same_to_the_last_bit(config: dict[str, Any]) -> None:
    assert_same_step(tiny(**config))


def test_images_that_need_padding_in_channels_last_memory() -> None:
    assert_same_step(tiny().to(memory_format=torch.channels_last), side=37)


def test_less_than_half_is_kept() -> None:
    plain, saving = both(create_model("M3SNet-T"))
    assert kept_bytes(saving) < kept_bytes(plain) / 2


def test_no_more_than_one_block_is_computed_again_at_a_time() -> None:
    """Every block's gradients are there before the block before it is computed again."""
    _, model = both(tiny(enc_blk_nums=(1, 2, 1, 3), mhamb=False))
    blocks = {name: module for name, module in model.named_modules() if isinstance(module, NAFBlock)}
    events: list[tuple[str, str]] = []
    for name, block in blocks.items():
        block.conv2.register_forward_hook(lambda *_, name=name: events.append(("computed", name)))
        block.norm1.weight.register_post_accumulate_grad_hook(lambda _, name=name: events.append(("grad", name)))
    step(model)
    forward, backward = events[: len(blocks)], events[len(blocks) :]
    assert sorted(forward) == sorted(("computed", name) for name in blocks)
    assert sorted(backward[::2]) == sorted(forward)
    assert backward[1::2] == [("grad", name) for _, name in backward[::2]]


@pytest.mark.parametrize(("training", "grad"), [(False, True), (True, False)])
def test_only_where_there_will_be_a_backward_pass(
    training: bool, grad: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, saving = both(tiny())
    monkeypatch.setattr("m3snet.models.blocks.checkpoint", lambda *_, **__: pytest.fail("checkpointed"))
    degraded, _ = images()
    with torch.set_grad_enabled(grad):
        assert torch.equal(saving.train(training)(degraded), plain.train(training)(degraded))


def test_can_be_switched_off_again() -> None:
    plain, saving = both(tiny())
    expected = kept_bytes(plain)
    assert kept_bytes(saving) < expected
    saving.set_grad_checkpointing(False)
    assert kept_bytes(saving) == expected


def test_weights_and_their_names_are_untouched() -> None:
    plain, saving = both(tiny())
    state = saving.state_dict()
    assert list(state) == list(plain.state_dict())
    assert saving.config == plain.config
    plain.load_state_dict(state)


def test_local_pools_train_too() -> None:
    _, saving = both(tiny())
    local = apply_tlc(saving, patch_size=16)
    local.set_grad_checkpointing(False)
    assert_same_step(local)
    local.set_grad_checkpointing()
    assert kept_bytes(local) < kept_bytes(apply_tlc(tiny().train(), patch_size=16))


def test_widened_networks_train_too() -> None:
    _, saving = both(tiny())
    assert_same_step(widen(saving))
    with torch.no_grad():
        degraded, _ = images()
        torch.testing.assert_close(widen(saving)(degraded), saving(degraded), atol=2e-5, rtol=1e-4)


def test_autocast_reaches_the_second_computation() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert_same_step(tiny())
