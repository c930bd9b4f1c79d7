"""TLC against a slow loop that spells its definition out, and what it promises about models."""
from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from m3snet.models import NAFBlock, apply_tlc, tlc_window
from m3snet.models.tlc import LocalAvgPool2d, _pooled_sizes, _traced_sizes
from m3snet.tests.filled import tiny


def slow_mean(x: torch.Tensor, window: tuple[int, int]) -> torch.Tensor:
    """The mean of every window inside the image; pixels without one of their own take the nearest."""
    height, width = (min(size, side) for size, side in zip(x.shape[-2:], window, strict=True))
    rows, columns = x.shape[-2] - height + 1, x.shape[-1] - width + 1
    result = torch.empty_like(x)
    for i in range(x.shape[-2]):
        for j in range(x.shape[-1]):
            top = min(max(i - (x.shape[-2] - rows) // 2, 0), rows - 1)
            left = min(max(j - (x.shape[-1] - columns) // 2, 0), columns - 1)
            result[..., i, j] = x[..., top : top + height, left : left + width].mean((-2, -1))
    return result


def windows(model: nn.Module) -> list[tuple[int, int]]:
    return [module.window for module in model.modules() if isinstance(module, LocalAvgPool2d)]


@pytest.mark.parametrize("window", [(1, 1), (3, 3), (4, 4), (5, 2), (2, 9), (11, 17), (12, 4), (5, 99), (99, 99)])
def test_pool_is_the_slow_mean(window: tuple[int, int]) -> None:
    x = torch.rand(2, 3, 12, 18, dtype=torch.float64)
    found = LocalAvgPool2d(*window)(x)
    assert found.shape[-2:] == tuple(1 if w >= s else s for w, s in zip(window, (12, 18), strict=True))
    assert torch.allclose(found.expand_as(x), slow_mean(x, window), rtol=0, atol=1e-12)


def test_windows_are_one_and_a_half_patches() -> None:
    found = windows(apply_tlc(tiny(), patch_size=256))
    assert set(found) == {(384, 384), (192, 192), (96, 96), (48, 48)}
    assert windows(apply_tlc(tiny(), patch_size=48))[0] == (72, 72)
    odd = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d((1, 1)))
    assert windows(apply_tlc(odd, patch_size=9)) == [(math.floor(1.5 * 7),) * 2]


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"ffm": False, "middle_blk_num": 2, "mhamb": False},
        {"enc_blk_nums": (2, 0, 1), "dec_blk_nums": (1, 2, 1)},
        {"enc_blk_nums": (1,), "dec_blk_nums": (2,)},
        {"enc_blk_nums": (1,) * 5, "dec_blk_nums": (1,) * 5},
    ],
)
@pytest.mark.parametrize("patch_size", [1, 33, 128])
def test_windows_that_are_reckoned_are_those_of_a_patch_that_goes_through(
    config: dict[str, object], patch_size: int
) -> None:
    model = tiny(**config)  # type: ignore[arg-type]
    pools = [name for name, module in model.named_modules() if isinstance(module, nn.AdaptiveAvgPool2d)]
    assert len(pools) == sum(isinstance(module, NAFBlock) for module in model.modules())
    assert _pooled_sizes(model, pools, patch_size) == _traced_sizes(model, pools, patch_size)


def test_the_window_at_full_resolution() -> None:
    assert tlc_window(tiny()) is None
    assert tlc_window(apply_tlc(tiny(), patch_size=128)) == 192
    assert tlc_window(apply_tlc(tiny(), patch_size=256)) == 384


def test_original_is_left_as_it_was() -> None:
    model = tiny()
    before, text = copy.deepcopy(model.state_dict()), str(model)
    image = torch.rand(1, 3, 48, 80)
    with torch.no_grad():
        expected = model(image)
        local = apply_tlc(model, patch_size=16)
        assert not torch.allclose(local(image), expected, atol=1e-3)
        for parameter in local.parameters():
            parameter.zero_()
        assert torch.equal(model(image), expected)
    assert str(model) == text
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_keeps_mode_and_what_the_weights_say() -> None:
    model = tiny()
    model.patch_size = 64
    assert not apply_tlc(model, patch_size=16).training
    local = apply_tlc(model.train(), patch_size=16)
    assert (local.training, model.training, local.patch_size) == (True, True, 64)


def test_is_the_global_pool_where_windows_cover_the_image() -> None:
    model = tiny()
    image = torch.rand(1, 3, 48, 40)
    with torch.no_grad():
        assert torch.allclose(apply_tlc(model, patch_size=32)(image), model(image), atol=1e-5)
        assert not torch.allclose(apply_tlc(model, patch_size=16)(image), model(image), atol=1e-3)


def test_large_bright_images_lose_no_precision() -> None:
    """Plain running sums would reach four millions, where float32 counts in steps of 1/4."""
    x = 1000 + torch.randn(1, 2, 4000, 20, generator=torch.Generator().manual_seed(0))
    pool = LocalAvgPool2d(100, 10)
    assert (pool(x) - pool(x.double())).abs().max() < 3e-4  # the spacing of float32 at 1000 is 6e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_pool_keeps_the_type_and_computes_in_more_than_16_bits(dtype: torch.dtype) -> None:
    # Dark on the left, bright on the right: running sums reach hundreds, where 16 bits count in steps of 1/8 and 1.
    x = torch.rand(1, 2, 64, 400, dtype=torch.float64) - torch.linspace(1, -1, 400, dtype=torch.float64).sign()
    x = x.to(dtype)
    found = LocalAvgPool2d(16, 24)(x)
    assert found.dtype == dtype
    assert (found.double() - LocalAvgPool2d(16, 24)(x.double())).abs().max() <= torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_models(dtype: torch.dtype) -> None:
    assert windows(apply_tlc(tiny().to(dtype), patch_size=16))[0] == (24, 24)


# Other models


class Squeeze(nn.Module):
    """Squeeze-and-excitation of another family, with batch norm that cannot train on one value per channel."""

    def __init__(self, pool: nn.Module) -> None:
        super().__init__()
        self.pool = pool
        self.weigh = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Sigmoid())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weigh(self.pool(x))


def test_any_model_that_pools_globally() -> None:
    torch.manual_seed(0)
    squeeze = Squeeze(nn.AdaptiveAvgPool2d(1))
    model = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), squeeze)  # in training mode
    local = apply_tlc(model, patch_size=8)
    image = torch.rand(1, 2, 17, 30)
    features = model[0](image)
    expected = features * squeeze.weigh.eval()(slow_mean(features, (12, 12)))
    assert torch.allclose(local.eval()(image), expected, atol=1e-6)


def test_one_pool_in_several_places_gets_a_window_in_each() -> None:
    pool = nn.AdaptiveAvgPool2d(1)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), Squeeze(pool), nn.Conv2d(4, 4, 2, stride=2), Squeeze(pool))
    assert windows(apply_tlc(model, patch_size=16)) == [(24, 24), (12, 12)]
    assert model[1].pool is model[3].pool is pool


def test_one_block_at_two_sizes_has_no_window() -> None:
    block = Squeeze(nn.AdaptiveAvgPool2d(1))
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), block, nn.Conv2d(4, 4, 2, stride=2), block)
    with pytest.raises(ValueError, match=r"pools features of two sizes, \(16, 16\) and \(8, 8\)"):
        apply_tlc(model, patch_size=16)


@pytest.mark.parametrize(
    "model", [nn.Conv2d(3, 3, 3), nn.Sequential(nn.Conv2d(3, 3, 3), nn.AdaptiveAvgPool2d(2))], ids=["none", "2x2"]
)
def test_models_without_a_global_pool_are_refused(model: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"has no nn\.AdaptiveAvgPool2d\(1\) to replace"):
        apply_tlc(model, patch_size=16)


def test_local_models_are_not_made_local_again() -> None:
    with pytest.raises(ValueError, match="has no"):
        apply_tlc(apply_tlc(tiny(), patch_size=16), patch_size=16)


def test_patches_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="size of the training patches in pixels, found 0"):
        apply_tlc(tiny(), patch_size=0)
    model = nn.Sequential(nn.Conv2d(3, 4, 5), nn.AdaptiveAvgPool2d(1))
    with pytest.raises(ValueError, match="Sequential takes no 4 x 4 patch"):
        apply_tlc(model, patch_size=4)
    with pytest.raises(ValueError, match=r"no nn\.Conv2d to tell how many channels"):
        apply_tlc(nn.Sequential(nn.AdaptiveAvgPool2d(1)), patch_size=4)
