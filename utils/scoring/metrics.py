"""PSNR and SSIM, as the papers of each data set compute them: three protocols that do not compare with each other.

| protocol | papers on | scores |
|---|---|---|
| `y` | deraining (Rain13K's test sets) | 8-bit luma; PSNR, SSIM over the valid region; `psnr_rgb`, `ssim_rgb` |
| `rgb` | deblurring (GoPro, HIDE) | 8-bit RGB; PSNR, SSIM of the image as one 3-D volume, `ssim_2d` per channel |
| `aligned` | RealBlur | the restored image is first brought to the target's brightness and position |

Images are H x W x 3 uint8 RGB. SSIM: Wang et al., "Image quality assessment: from error visibility to structural
similarity", 2004.
"""
from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np

Protocol = Callable[[np.ndarray, np.ndarray], dict[str, float]]

_RADIUS = 5  # the 11 x 11 window
_WINDOW = cv2.getGaussianKernel(2 * _RADIUS + 1, 1.5, cv2.CV_64F)
SMALLEST_SIDE = len(_WINDOW)  # pixels of an image that SSIM can be taken of


def rgb_to_y(image: np.ndarray) -> np.ndarray:
    """The luma of an image: H x W x 3 uint8 RGB -> H x W uint8 in [16, 235], rounded, as MATLAB's rgb2ycbcr gives it.

    ITU-R BT.601, studio swing: Y = 16 + (65.481 R + 128.553 G + 24.966 B) / 255.
    """
    # In integers, so that no machine rounds a half the other way.
    red, green, blue = np.moveaxis(image.astype(np.int32), -1, 0)
    luma = 65_481 * red + 128_553 * green + 24_966 * blue
    return (16 + (luma + 127_500) // 255_000).astype(np.uint8)


def psnr(restored: np.ndarray, target: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of two uint8 images, over all channels; infinite when they are equal.

    Raises:
        ValueError: the sizes differ, or the images are not uint8.
    """
    _check(restored, target)
    return _decibels(float(np.mean(np.square(restored.astype(np.float64) - target))), peak=255)


def ssim(restored: np.ndarray, target: np.ndarray) -> float:
    """Structural similarity of two H x W or H x W x C uint8 images: the mean over channels of Wang's 2-D index.

    11 x 11 Gaussian window with sigma 1.5, only where it lies wholly inside the image; K 0.01 and 0.03.

    Raises:
        ValueError: the sizes differ, are below 11 x 11, or the images are not uint8.
    """
    _check(restored, target, smallest=SMALLEST_SIDE)
    return float(_inside(_ssim_map(_local_moments(restored, target), peak=255)).mean())


def ssim_3d(restored: np.ndarray, target: np.ndarray) -> float:
    """Structural similarity of two H x W x 3 uint8 images taken as one volume, as MATLAB's `ssim` does it.

    The 11 x 11 x 11 Gaussian window with sigma 1.5 runs over the channels too, borders replicated: it mixes red,
    green and blue, and the index comes out much higher than `ssim`.

    Raises:
        ValueError: the sizes differ, or the images are not uint8.
    """
    _check(restored, target)
    return float(_ssim_map(_blur_channels(_local_moments(restored, target)), peak=255).mean())


def score_y(restored: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """Protocol `y`: {"psnr", "ssim"} of the 8-bit luma, and the same of RGB, {"psnr_rgb", "ssim_rgb"}.

    Raises:
        ValueError: the sizes differ, are below 11 x 11, or the images are not uint8.
    """
    _check(restored, target)
    luma = rgb_to_y(restored), rgb_to_y(target)
    return {
        "psnr": psnr(*luma),
        "ssim": ssim(*luma),
        "psnr_rgb": psnr(restored, target),
        "ssim_rgb": ssim(restored, target),
    }


def score_rgb(restored: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """Protocol `rgb`: {"psnr", "ssim", "ssim_2d"}, where "ssim" is `ssim_3d` and "ssim_2d" is `ssim`.

    Raises:
        ValueError: as `score_y`.
    """
    _check(restored, target, smallest=SMALLEST_SIDE)
    moments = _local_moments(restored, target)  # the costly part, which both indices share
    return {
        "psnr": psnr(restored, target),
        "ssim": float(_ssim_map(_blur_channels(moments), peak=255).mean()),
        "ssim_2d": float(_inside(_ssim_map(moments, peak=255)).mean()),
    }


def score_aligned(restored: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """Protocol `aligned`: {"psnr", "ssim", "aligned"} over what `restored`, laid over `target`, still covers.

    RealBlur's input and target come from two cameras. "aligned" is 1, or 0 where no alignment could be found (the
    images have nothing in common, or one is flat): such a pair is scored as it lies.

    Raises:
        ValueError: as `score_y`.
    """
    _check(restored, target, smallest=SMALLEST_SIDE)
    x = target.astype(np.float32) / 255
    z = restored.astype(np.float32) / 255
    if energy := np.sum(z * z, dtype=np.float64):
        z *= np.float32(np.sum(x * z, dtype=np.float64) / energy)
    z, mask, found = _align(z, x)
    z, x = z * mask, x * mask
    error = np.sum(np.square(z.astype(np.float64) - x)) / (3 * mask.sum(dtype=np.float64))
    similarity = _inside(_ssim_map(_local_moments(z, x), peak=1) * mask).sum()
    return {
        "psnr": _decibels(float(error), peak=1),
        "ssim": float(similarity / (3 * _inside(mask).sum(dtype=np.float64))),
        "aligned": float(found),
    }


PROTOCOLS: dict[str, Protocol] = {"y": score_y, "rgb": score_rgb, "aligned": score_aligned}


def _check(restored: np.ndarray, target: np.ndarray, smallest: int = 1) -> None:
    for image in (restored, target):
        if image.dtype != np.uint8:
            raise ValueError(f"scores are taken from 8-bit images; expected uint8, found {image.dtype}")
    if restored.shape != target.shape:
        raise ValueError(f"the restored image is {_size(restored)} but its target is {_size(target)}")
    if min(target.shape[:2]) < smallest:
        raise ValueError(f"SSIM's window is {smallest}x{smallest}; the image is only {_size(target)}")


def _size(image: np.ndarray) -> str:
    """Width x height, and the number of channels where it is not that of a colour image."""
    height, width, *channels = image.shape
    return f"{width}x{height}" + ("" if channels == [3] else f" with {channels[0] if channels else 1} channel(s)")


def _decibels(mean_squared_error: float, peak: float) -> float:
    return 10 * math.log10(peak**2 / mean_squared_error) if mean_squared_error else math.inf


def _local_moments(a: np.ndarray, b: np.ndarray) -> list[np.ndarray]:
    """Under the Gaussian window at every pixel: the means of a, b, a^2 + b^2 (all SSIM needs of the two) and ab."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    return [
        cv2.sepFilter2D(x, cv2.CV_64F, _WINDOW, _WINDOW, borderType=cv2.BORDER_REPLICATE)
        for x in (a, b, a * a + b * b, a * b)
    ]


def _blur_channels(moments: list[np.ndarray]) -> list[np.ndarray]:
    """Run the window along the three channels too: with the end channels replicated it is a 3 x 3 matrix."""
    mixing = np.zeros((3, 3))
    for channel in range(3):
        for offset, weight in zip(range(-_RADIUS, _RADIUS + 1), _WINDOW.flat, strict=True):
            mixing[channel, min(max(channel + offset, 0), 2)] += weight
    return [cv2.transform(moment, mixing) for moment in moments]


def _ssim_map(moments: list[np.ndarray], peak: float) -> np.ndarray:
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    mean_a, mean_b, squares, product = moments
    means, mean_squares = mean_a * mean_b, mean_a * mean_a + mean_b * mean_b
    return (2 * means + c1) * (2 * (product - means) + c2) / ((mean_squares + c1) * (squares - mean_squares + c2))


def _inside(values: np.ndarray) -> np.ndarray:
    """The part of a map where the window did not reach over the border."""
    return values[_RADIUS:-_RADIUS, _RADIUS:-_RADIUS]


def _align(z: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
    """Lay `z` over `x`: the warped z, its H x W x 1 mask, and whether they could be aligned (else z as it lies)."""
    gray_x, gray_z = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (x, z))
    everywhere = np.ones(gray_x.shape, np.uint8)
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 100, 0)
    start = np.eye(3, dtype=np.float32)
    try:
        _, homography = cv2.findTransformECC(gray_x, gray_z, start, cv2.MOTION_HOMOGRAPHY, criteria, everywhere, 5)
    except cv2.error:
        return z, everywhere[..., None], False
    warped, mask = _warp(z, homography)
    return (warped, mask, True) if _inside(mask).any() else (z, everywhere[..., None], False)


def _warp(z: np.ndarray, homography: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fetch every pixel of `z` from where `homography` points; and which of them lay inside, H x W x 1."""
    height, width = z.shape[:2]
    warped = cv2.warpPerspective(
        z, homography, (width, height), flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT
    )
    mask = cv2.warpPerspective(
        np.ones((height, width), np.float32),
        homography,
        (width, height),
        flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=0,
    )
    return warped, mask[..., None]
