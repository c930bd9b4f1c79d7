"""A block in training on a CPU: the same values and gradients as module by module, and less is kept for them."""
from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch.autograd.graph import saved_tensors_hooks

from m3snet.models import NAFBlock, apply_tlc, cpu_training, create_model, kernels

pytestmark = pytest.mark.skipif(not kernels.available(), reason="kernels.c is not compiled here")


def filled_block(chs: int) -> NAFBlock:
    """One that is far from the identity, and whose LayerNorms scale and shift."""
    torch.manual_seed(chs)
    block = NAFBlock(chs).to(memory_format=torch.channels_last)
    for name, parameter in block.named_parameters():
        if name.partition(".")[0] in ("beta", "gamma", "norm1", "norm2"):
            torch.nn.init.normal_(parameter)
    return block


def features(chs: int) -> torch.Tensor:
    """Numbers that bfloat16 has."""
    x = torch.randn(3, chs, 10, 14, generator=torch.Generator().manual_seed(1)) + 1
    return x.bfloat16().float().contiguous(memory_format=torch.channels_last)


def step(block: NAFBlock, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """The result, and the gradients by the input and by every parameter."""
    block.zero_grad()
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=x.dtype == torch.bfloat16):
        y = block(x)
    assert y.dtype == x.dtype
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(2))
    (y.float() * weights).sum().backward()
    assert x.grad is not None
    found = {"result": y, "input": x.grad}
    for name, parameter in block.named_parameters():
        assert parameter.grad is not None
        found[name] = parameter.grad
    return {name: tensor.detach().float().clone() for name, tensor in found.items()}


def by_modules(block: NAFBlock, x: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    with monkeypatch.context() as patched:
        patched.setattr(cpu_training, "takes", lambda _: False)
        return step(block, x)


def errors(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> dict[str, float]:
    """Relative, of each tensor."""
    return {name: ((found[name] - tensor).norm() / tensor.norm()).item() for name, tensor in expected.items()}


@pytest.mark.parametrize("chs", [8, 16, 24, 32, 64, 128])
def test_the_same_gradients_as_by_modules(chs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    block, x = filled_block(chs), features(chs)
    assert max(errors(step(block, x), by_modules(block, x, monkeypatch)).values()) < 1e-5


@pytest.mark.parametrize("chs", [8, 16, 64])
def test_bfloat16_is_closer_to_float32_than_by_modules(chs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    block, x = filled_block(chs), features(chs)
    exact = step(block, x)
    found = errors(step(block, x.bfloat16()), exact)
    plain = errors(by_modules(block, x.bfloat16(), monkeypatch), exact)
    assert max(found.values()) < 0.02
    assert sum(found.values()) < 0.8 * sum(plain.values())  # torch sums the gradients of LayerNorms in bfloat16


def test_the_number_of_threads_changes_roundings_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_WORTH_A_THREAD", 1)
    monkeypatch.setattr(kernels, "_ROWS", 4)  # several runs of rows in each image, the last one shorter
    block, x = filled_block(16), features(16)
    found = []
    for threads in (1, 4):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        found.append(step(block, x))
    assert max(errors(*found).values()) < 1e-6  # pixels at the ends of threads' shares are rounded otherwise


def test_rows_in_runs_have_their_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    block, x = filled_block(16), features(16)
    whole = step(block, x)
    monkeypatch.setattr(kernels, "_ROWS", 3)
    assert max(errors(step(block, x), whole).values()) < 1e-6


def test_upsampled_features_are_added_as_by_modules() -> None:
    found = []
    for add in (cpu_training.add_upsampled, lambda x, coarse, conv: x + F.pixel_shuffle(conv(coarse), 2)):
        torch.manual_seed(0)
        conv = torch.nn.Conv2d(16, 32, 1, bias=False)
        x, coarse = torch.randn(2, 8, 12, 14).requires_grad_(), torch.randn(2, 16, 6, 7).requires_grad_()
        y = add(x, coarse, conv)
        (y * torch.randn(y.shape)).sum().backward()
        found.append({"y": y.detach(), "x": x.grad, "coarse": coarse.grad, "weight": conv.weight.grad})
    assert max(errors(*found).values()) < 1e-6


def kept_bytes(block: NAFBlock, x: torch.Tensor) -> int:
    """Memory that the forward pass leaves for the backward pass."""
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        block(x.requires_grad_())
    return sum(kept.values())


def test_less_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    block, x = filled_block(16), features(16)
    found = kept_bytes(block, x)
    monkeypatch.setattr(cpu_training, "takes", lambda _: False)
    assert found < 0.8 * kept_bytes(block, x)


def test_not_for_numbers_of_channels_that_the_loops_cannot_take() -> None:
    for chs, taken in ((12, False), (24, True)):
        assert cpu_training.takes(features(chs)) == taken


def test_only_where_gradients_are_asked_for_and_not_with_tlc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_training, "block", lambda *_: pytest.fail("taken"))
    model = create_model("M3SNet-T").to(memory_format=torch.channels_last)
    image = torch.rand(1, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        model(image)
    apply_tlc(copy.deepcopy(model), 16)(image)


def test_loops_of_another_version_are_not_called(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(kernels, "_VERSION", -1)
    kernels._library.cache_clear()
    try:
        assert not kernels.available()
    finally:
        kernels._library.cache_clear()
    found = capsys.readouterr().err
    assert "was compiled for another version" in found and "install it again" in found
