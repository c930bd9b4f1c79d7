"""The inference form computes what the network computes, with and without TLC, in every precision."""
from __future__ import annotations

import math
import os

import pytest
import torch
import torch.nn.functional as F

from m3snet.models import M3SNet, apply_tlc, kernels, load_model
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


@pytest.fixture(params=[True, False], ids=["compiled loops", "torch alone"])
def loops(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if not request.param:
        monkeypatch.setattr(kernels, "available", lambda: False)
    elif not kernels.available():
        pytest.skip("kernels.c is not compiled here")


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_stripes_of_rows_meet_without_a_seam(
    loops: None, network: M3SNet, precision: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    fused = fuse(network, precision)
    whole = fused(image(130, 75))
    monkeypatch.setattr("m3snet.models.fused._STRIPE", 1 << 13)  # five rows, and of the coarsest level one
    torch.testing.assert_close(fused(image(130, 75)), whole, rtol=0, atol=1e-5 if precision == torch.float32 else 0.02)


@pytest.mark.parametrize("chs", [6, 130])
@pytest.mark.parametrize("window", [(7, 10), (23, 10), (1, 1), (7, 31)])
def test_window_means_are_means(
    loops: None, chs: int, window: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.rand(2, chs, 23, 31).contiguous(memory_format=torch.channels_last) + 5
    slow = x.unfold(2, window[0], 1).unfold(3, window[1], 1).mean((-2, -1))
    torch.testing.assert_close(window_means(x, *window), slow, rtol=0, atol=2e-5)
    short = x.bfloat16()
    torch.testing.assert_close(window_means(short, *window).float(), slow, rtol=0.01, atol=0)
    monkeypatch.setattr(torch.jit, "is_tracing", lambda: True)
    torch.testing.assert_close(window_means(x, *window), slow, rtol=0, atol=5e-6)


@pytest.mark.skipif(not kernels.available(), reason="kernels.c is not compiled here")
@pytest.mark.parametrize("chs", [5, 8, 16, 32, 64, 70, 128, 256])
def test_normalised_pixels_are_those_of_layer_norm(chs: int) -> None:
    pixels = torch.randn(3, 211, 17, chs) * 3 + 1
    pixels[0, 0, 0] = 7  # all channels alike
    expected = F.layer_norm(pixels, (chs,), eps=1e-6)
    torch.testing.assert_close(kernels.normalise(pixels, 1e-6), expected, rtol=0, atol=2e-5)
    short = pixels.bfloat16()
    expected = F.layer_norm(short.float(), (chs,), eps=1e-6).bfloat16()
    torch.testing.assert_close(kernels.normalise(short, 1e-6), expected, rtol=0.008, atol=0.001)  # one last place
    pixels[0, 1, 2, 1] = math.nan
    for broken in (pixels, pixels.bfloat16()):
        found = kernels.normalise(broken, 1e-6)
        assert found[0, 1, 2].isnan().all() and found.isnan().sum() == chs


@pytest.mark.skipif(not kernels.available(), reason="kernels.c is not compiled here")
def test_threads_and_a_forked_process_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = torch.rand(97, 1001, 8)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    alone = kernels.normalise(pixels, 1e-6), kernels.window_means(pixels, 30, 40)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5)
    shared = kernels.normalise(pixels, 1e-6), kernels.window_means(pixels, 30, 40)
    for found, expected in zip(shared, alone, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    if hasattr(os, "fork"):
        monkeypatch.setattr(torch, "get_num_threads", lambda: 1)  # as in a data loader's worker
        child = os.fork()
        if not child:  # it would wait for ever for threads that it has not
            os._exit(not torch.allclose(kernels.normalise(pixels, 1e-6), alone[0]))
        assert os.waitpid(child, 0)[1] == 0


def test_what_is_no_image_is_refused(network: M3SNet) -> None:
    with pytest.raises(ValueError, match="expects N x 3 x H x W"):
        fuse(network)(torch.rand(3, 16, 16))
