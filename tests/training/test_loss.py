"""The loss against its closed form."""
import math

import numpy as np
import pytest
import torch

from m3snet.utils.training.loss import PSNRLoss, fourier_error


def off_by(*errors: float, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch of images that are wrong by one constant each."""
    target = torch.full((len(errors), 3, 8, 8), 0.25, dtype=dtype)
    return target + torch.tensor(errors, dtype=dtype).reshape(-1, 1, 1, 1), target


def test_it_is_the_negative_psnr_in_db():
    assert PSNRLoss()(*off_by(0.1)).item() == pytest.approx(-20, abs=1e-4)
    restored, target = torch.rand(2, 1, 3, 9, 7, generator=torch.Generator().manual_seed(0)).double()
    psnr = -10 * math.log10(((restored - target) ** 2).mean())
    assert PSNRLoss()(restored, target).item() == pytest.approx(-psnr, abs=1e-4)


def test_the_mean_is_over_images_not_over_pixels_of_the_batch():
    assert PSNRLoss()(*off_by(0.1, 0.01)).item() == pytest.approx((-20 - 40) / 2, abs=1e-2)
    pooled = 10 * math.log10((0.1**2 + 0.01**2) / 2)
    assert abs(PSNRLoss()(*off_by(0.1, 0.01)).item() - pooled) > 5


def test_eps_bounds_what_clean_images_gain_and_weigh():
    assert PSNRLoss(eps=1e-4)(*off_by(0)).item() == pytest.approx(-40, abs=1e-4)
    for eps, ratio in ((1e-8, 100), (1e-4, (1e-2 + 1e-4) / (1e-4 + 1e-4))):
        restored, target = off_by(0.1, 0.01)
        PSNRLoss(eps)(restored.requires_grad_(), target).backward()
        weights = restored.grad[:, 0, 0, 0] / (restored - target).detach()[:, 0, 0, 0]
        assert float(weights[1] / weights[0]) == pytest.approx(ratio, rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    restored, target = off_by(2**-10, dtype=torch.float32)  # its square, 2^-20, has 3 bits left in float16
    restored, target = (restored - 0.25).to(dtype), (target - 0.25).to(dtype)
    loss = PSNRLoss()(restored, target)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(10 * math.log10(2**-20 + 1e-8), abs=1e-4)


def test_equal_images_have_a_finite_loss_and_no_gradient():
    restored = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = PSNRLoss()(restored, restored.detach().clone())
    loss.backward()
    assert loss.item() == pytest.approx(-80, abs=1e-4)
    assert torch.equal(restored.grad, torch.zeros_like(restored))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_fourier_error_is_numpys(dtype):
    generator = torch.Generator().manual_seed(0)
    restored, target = (torch.rand(2, 3, 10, 12, generator=generator).to(dtype) for _ in range(2))
    error = np.fft.rfft2((restored.float() - target.float()).numpy(), norm="ortho")
    found = fourier_error(restored, target)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(np.abs(error).mean(), rel=1e-5)


def test_equal_images_have_no_fourier_error_and_no_gradient():
    restored = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    error = fourier_error(restored, restored.detach().clone())
    error.backward()
    assert error.item() == 0
    assert torch.equal(restored.grad, torch.zeros_like(restored))
