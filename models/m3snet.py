"""M3SNet: Gao et al., "A Mountain-Shaped Single-Stage Network for Accurate Image Restoration" (arXiv 2305.05146).

A U-Net of NAFBlocks with two additions: between encoder and decoder a pyramid of feature fusion middleware (FFM),

    row 1: f_i = FFM(e_i, e_{i+1}), i = 0, 1, 2        row 2: g_i = FFM(f_i, f_{i+1}), i = 0, 1

whose results g_0, g_1, f_2, e_3 are the decoder's skips, and a multi-head attention block (MHAMB) as bridge. The
network predicts the difference between the restored and the degraded image.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from . import cpu_training
from .blocks import NAFBlock


class MHAMB(nn.Module):
    """Multi-head attention middle block: attention between channels, its cost linear in the number of pixels.

    N x C x H x W -> N x C x H x W.

    Raises:
        ValueError: `num_heads` does not divide C.
    """

    def __init__(self, chs: int, num_heads: int = 8) -> None:
        super().__init__()
        if chs % num_heads:
            raise ValueError(f"MHAMB: {num_heads} heads do not divide {chs} channels")
        self.num_heads = num_heads
        self.temperature = nn.Parameter(torch.ones(num_heads, 1, 1))
        self.qkv = nn.Conv2d(chs, 3 * chs, 1, bias=False)
        self.qkv_dwconv = nn.Conv2d(3 * chs, 3 * chs, 3, padding=1, groups=3 * chs, bias=False)
        self.project_out = nn.Conv2d(chs, chs, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, c, h, w = x.shape
        qkv = self.qkv_dwconv(self.qkv(x)).reshape(n, 3, self.num_heads, c // self.num_heads, h * w)
        q, k, v = qkv.unbind(1)  # each n, heads, c / heads, pixels
        eps = max(1e-12, torch.finfo(q.dtype).tiny)  # 1e-12 is zero in float16: flat images would become NaN
        q, k = F.normalize(q, dim=-1, eps=eps), F.normalize(k, dim=-1, eps=eps)
        attention = (q @ k.transpose(-2, -1) * self.temperature).softmax(dim=-1)
        return self.project_out((attention @ v).reshape(n, c, h, w))


class FFM(nn.Module):
    """Feature fusion middleware: NAFBlock(fine + up(coarse)).

    `fine` is N x C x H x W, `coarse` N x 2C x H/2 x W/2; the result is like `fine`.
    """

    def __init__(self, chs: int) -> None:
        super().__init__()
        self.up = upsample(2 * chs)
        self.block = NAFBlock(chs)

    def forward(self, fine: torch.Tensor, coarse: torch.Tensor) -> torch.Tensor:
        return self.block(_add_upsampled(fine, coarse, self.up))


def upsample(in_chs: int) -> nn.Sequential:
    """Twice the height and width, half the channels: a 1x1 convolution and a pixel shuffle."""
    return nn.Sequential(nn.Conv2d(in_chs, 2 * in_chs, 1, bias=False), nn.PixelShuffle(2))


def _add_upsampled(fine: torch.Tensor, coarse: torch.Tensor, up: nn.Module) -> torch.Tensor:
    if cpu_training.takes(fine):
        return cpu_training.add_upsampled(fine, coarse, up[0])  # type: ignore[index]
    return fine + up(coarse)


class M3SNet(nn.Module):
    """The mountain-shaped single-stage network.

    N x img_channel x H x W floating point in [0, 1], any H and W from 1 -> the restored images, same size. They are
    not clamped.

    Args:
        img_channel: channels of the images.
        width: channels at full resolution; each level below has twice as many.
        middle_blk_num: blocks in the bridge.
        enc_blk_nums: NAFBlocks of each encoder level, finest first.
        dec_blk_nums: NAFBlocks of each decoder level, coarsest first; as many levels as the encoder.
        ffm: False replaces the fusion pyramid by plain skips (ablation).
        mhamb: False replaces the attention in the bridge by NAFBlocks, as in NAFNet (ablation).

    Raises:
        ValueError: encoder and decoder differ in levels, or the attention's 8 heads do not divide its channels.
    """

    def __init__(
        self,
        img_channel: int = 3,
        width: int = 32,
        middle_blk_num: int = 1,
        enc_blk_nums: Sequence[int] = (1, 1, 1, 28),
        dec_blk_nums: Sequence[int] = (1, 1, 1, 1),
        ffm: bool = True,
        mhamb: bool = True,
    ) -> None:
        super().__init__()
        if len(enc_blk_nums) != len(dec_blk_nums):
            raise ValueError(f"encoder {tuple(enc_blk_nums)} and decoder {tuple(dec_blk_nums)} differ in levels")
        # What weights.py writes beside the tensors, so that a file says which network it is of.
        self.config: dict[str, Any] = {
            "img_channel": img_channel,
            "width": width,
            "middle_blk_num": middle_blk_num,
            "enc_blk_nums": tuple(enc_blk_nums),
            "dec_blk_nums": tuple(dec_blk_nums),
            "ffm": ffm,
            "mhamb": mhamb,
        }
        # Side of the patches it was trained on, where that is known: the windows of TLC follow from it.
        self.patch_size: int | None = None
        levels = len(enc_blk_nums)
        chs = [width * 2**level for level in range(levels + 1)]
        self.intro = nn.Conv2d(img_channel, width, 3, padding=1)
        self.ending = nn.Conv2d(width, img_channel, 3, padding=1)
        self.encoders = nn.ModuleList(_blocks(c, number) for c, number in zip(chs, enc_blk_nums, strict=False))
        self.downs = nn.ModuleList(nn.Conv2d(c, 2 * c, 2, stride=2) for c in chs[:-1])
        self.middle_blks = nn.Sequential(
            *(MHAMB(chs[-1]) if mhamb else NAFBlock(chs[-1]) for _ in range(middle_blk_num))
        )
        # Two rows: one FFM between each two neighbouring levels, then one between each two neighbours of these.
        self.rows = (levels - 1, levels - 2) if ffm else ()
        self.ffms = nn.ModuleList(FFM(chs[level]) for row in self.rows for level in range(row))
        self.ups = nn.ModuleList(upsample(c) for c in reversed(chs[1:]))
        self.decoders = nn.ModuleList(_blocks(c, number) for c, number in zip(chs[-2::-1], dec_blk_nums, strict=True))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.check(image)
        height, width = image.shape[-2:]
        x = self.pad(image)
        restored = x + self.residual(x)
        return restored[..., :height, :width]

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Train in less memory: keep only the NAFBlocks' inputs, and compute the blocks again in the backward pass.

        The loss and the gradients stay the same.
        """
        for module in self.modules():
            if isinstance(module, NAFBlock):
                module.grad_checkpointing = enable

    def levels(self) -> dict[str, int]:
        """How often the image was halved for the features in each part: name of the part -> 0 at full resolution."""
        count = len(self.downs)
        fused = [level for row in self.rows for level in range(row)]
        return {
            **{f"encoders.{level}": level for level in range(count)},
            **{f"ffms.{index}": level for index, level in enumerate(fused)},
            "middle_blks": count,
            **{f"decoders.{index}": count - 1 - index for index in range(count)},
        }

    def residual(self, image: torch.Tensor) -> torch.Tensor:
        """What the network adds to a padded image; the same shape."""
        x = self.intro(image)
        skips = []
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            x = encoder(x)
            skips.append(x)
            x = down(x)
        x = self.middle_blks(x)
        self._fuse(skips)
        for up, decoder in zip(self.ups, self.decoders, strict=True):
            x = decoder(_add_upsampled(skips.pop(), x, up))
        return self.ending(x)

    def _fuse(self, skips: list[torch.Tensor]) -> None:
        """The fusion pyramid: each row fuses every level with the next coarser one of the row before.

        In place: features of full resolution that nothing needs any more would take half of the memory.
        """
        ffms = iter(self.ffms)
        for row in self.rows:
            for level in range(row):
                skips[level] = next(ffms)(skips[level], skips[level + 1])

    def pad(self, image: torch.Tensor) -> torch.Tensor:
        """The image with zeros at the bottom and right, up to multiples of what the levels divide by."""
        multiple = 2 ** len(self.downs)
        height, width = image.shape[-2:]
        return F.pad(image, (0, -width % multiple, 0, -height % multiple))

    def check(self, image: torch.Tensor) -> None:
        """Whether `image` is what `forward` takes.

        Raises:
            ValueError: it is of another shape or type, or empty.
        """
        channels = self.intro.in_channels
        if image.ndim != 4 or image.shape[1] != channels or not image.numel() or not image.is_floating_point():
            raise ValueError(
                f"M3SNet expects N x {channels} x H x W floating point images in [0, 1] of at least one pixel; "
                f"found {' x '.join(map(str, image.shape)) or 'a scalar'} {image.dtype}"
            )


def _blocks(chs: int, number: int) -> nn.Sequential:
    return nn.Sequential(*(NAFBlock(chs) for _ in range(number)))


# The paper's two, and two for machines without a GPU.
SIZES: dict[str, dict[str, Any]] = {
    "M3SNet-32": {"width": 32, "enc_blk_nums": (1, 1, 1, 28)},
    "M3SNet-64": {"width": 64, "enc_blk_nums": (1, 1, 1, 28)},
    "M3SNet-S": {"width": 16, "enc_blk_nums": (1, 1, 1, 28)},
    "M3SNet-T": {"width": 8, "enc_blk_nums": (1, 1, 1, 28)},
}


def size_name(model: M3SNet) -> str | None:
    """The name in `SIZES` of a network; None where it has none, or lacks FFM or MHAMB."""
    common = {"img_channel": 3, "middle_blk_num": 1, "dec_blk_nums": (1, 1, 1, 1), "ffm": True, "mhamb": True}
    return next((name for name, size in SIZES.items() if model.config == {**common, **size}), None)


def create_model(name: str, ffm: bool = True, mhamb: bool = True, enc_blk_nums: Sequence[int] = ()) -> M3SNet:
    """A new network of a named size, with or without the paper's two additions, or with other numbers of blocks.

    Args:
        name: M3SNet-64 or M3SNet-32, the paper's; M3SNet-S or M3SNet-T, for machines without a GPU.
        ffm: False replaces the fusion pyramid by plain skips (ablation).
        mhamb: False replaces the attention in the bridge by a NAFBlock (ablation).
        enc_blk_nums: NAFBlocks of each encoder level, finest first; (): those of the size.

    Raises:
        ValueError: no size of that name, or not as many numbers as the network has levels.
    """
    if name not in SIZES:
        raise ValueError(f"no network size {name!r}; there are {', '.join(SIZES)}")
    size = SIZES[name] | ({"enc_blk_nums": tuple(enc_blk_nums)} if enc_blk_nums else {})
    return M3SNet(**size, ffm=ffm, mhamb=mhamb)
