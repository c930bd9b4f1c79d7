"""The inference form computes what the network computes, with and without TLC, in every precision."""
from __future__ import annotations

import math

import pytest
import torch

from m3snet.models import M3SNet, apply_tlc, load_model
from m3snet.models.fused import fuse, window_means
from m3snet.tests.filled import tiny

LEVEL = 1 / 255
SIZES = [(48, 64), (37, 101), (130, 75)]


def networks() -> dict[str, M3SNet]:
    """Random weights in which no block is the identity, and released ones; with windows smaller than the images."""
    random, bare, released = tiny(3, enc_blk_nums=(1, 2, 1, 1)), tiny(4, ffm=False, mhamb=False), load_model("derain")
    for model in (random, bare):  # what they add is to have the size of an image, not of ten
        model.ending.requires_grad_(False).weight *= 0.05
    return {
        "random": random,
        "random, TLC": apply_tlc(random, 32),
        "no FFM or MHAMB, TLC": apply_tlc(bare, 16),
        "released": released,
        "released, TLC": apply_tlc(released, 32),
    }


@pytest.fixture(scope="module", params=networks().items(), ids=lambda item: item[0])
def network(request: pytest.FixtureRequest) -> M3SNet:
    return request.param[1]


def image(height: int, width: int, images: int = 1) -> torch.Tensor:
    return torch.rand(images, 3, height, width, generator=torch.Generator().manual_seed(height))


@pytest.mark.parametrize("size", SIZES)
@torch.inference_mode()
def test_float32_is_the_same_within_a_fraction_of_a_level(network: M3SNet, size: tuple[int, int]) -> None:
    expected, found = network(image(*size)), fuse(network)(image(*size))
    assert found.dtype == torch.float32 and found.shape == expected.shape
    assert (found - expected).abs().max() < 0.02 * LEVEL


@pytest.mark.parametrize("size", SIZES)
@torch.inference_mode()
def test_bfloat16_is_within_48_db(network: M3SNet, size: tuple[int, int]) -> None:
    expected, found = network(image(*size)).clamp(0, 1), fuse(network, torch.bfloat16)(image(*size)).clamp(0, 1)
    assert found.dtype == torch.float32
    assert 10 * math.log10(1 / (found - expected).square().mean()) > 48


@torch.inference_mode()
def test_images_of_a_batch_do_not_meet(network: M3SNet) -> None:
    batch = image(40, 56, 3)
    fused = fuse(network)
    torch.testing.assert_close(fused(batch), torch.cat([fused(one[None]) for one in batch]), rtol=0, atol=1e-5)


def test_the_network_stays_as_it_was(network: M3SNet) -> None:
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    fused = fuse(network)
    for parameter in fused.parameters():
        parameter.data.zero_()
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("chs", [5, 300])  # OpenCV 5 takes 128 at once
def test_running_and_prefix_sums_agree(chs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.rand(2, chs, 23, 31).contiguous(memory_format=torch.channels_last) + 5
    slow = x.unfold(2, 7, 1).unfold(3, 10, 1).mean((-2, -1))
    torch.testing.assert_close(window_means(x, 7, 10), slow, rtol=0, atol=2e-6)
    monkeypatch.setattr(torch.jit, "is_tracing", lambda: True)
    torch.testing.assert_close(window_means(x, 7, 10), slow, rtol=0, atol=5e-6)


def test_what_is_no_image_is_refused(network: M3SNet) -> None:
    with pytest.raises(ValueError, match="expects N x 3 x H x W"):
        fuse(network)(torch.rand(3, 16, 16))
