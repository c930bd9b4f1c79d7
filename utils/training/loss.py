"""Training losses."""
from __future__ import annotations

import torch
from torch import nn


class PSNRLoss(nn.Module):
    """Negative PSNR in dB for images in [0, 1]: mean over the batch of 10 log10(MSE + eps).

    N x C x H x W in any float type -> float32 scalar. Negative by nature; its gradient grows as the error falls, until
    the MSE comes near `eps`. With a small one the cleanest patches of a batch, a clear sky or one that was hardly
    degraded, outweigh all others; one near the MSE of a restored image weighs patches as that image's PSNR does.
    """

    def __init__(self, eps: float = 1e-8) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, restored: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        mse = (restored.float() - target.float()).square().mean(dim=(1, 2, 3))
        return 10 * torch.log10(mse + self.eps).mean()


def fourier_error(restored: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """How far the Fourier transforms of the images lie apart: the mean modulus of their orthonormal difference.

    N x C x H x W in any float type -> float32 scalar, in units of the images. A loss of MIMO-UNet (Cho et al., arXiv
    2108.05054): a streak or an edge is an error of few frequencies, and weighs more than noise of the same energy.
    """
    return torch.fft.rfft2(restored.float() - target.float(), norm="ortho").abs().mean()
