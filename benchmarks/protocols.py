"""By how much scores differ that go by the same name: `python benchmarks/protocols.py`.

Scores the degraded images against their targets by this project's protocols and by the ways that other code takes,
and prints the tables of docs/evaluation.md. First row: the score; the others: what is added to it.
"""
from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from statistics import fmean

import cv2
import numpy as np
from skimage.metrics import structural_similarity

from m3snet.utils.cli import run_program
from m3snet.utils.data.pairs import find_pairs
from m3snet.utils.images import read_image
from m3snet.utils.scoring.metrics import psnr, rgb_to_y, score_aligned, ssim, ssim_3d

RAIN = {name: f"Rain13K/test/{name}" for name in ("Rain100L", "Rain100H", "Test100")}
BLUR = {"GoPro": "GoPro/test", "REDS320": "REDS320/test"}


class Images:
    """A restored image and its target, H x W x 3 in [0, 255], and what several rows make of them."""

    def __init__(self, restored: np.ndarray, target: np.ndarray) -> None:
        self.rgb = restored, target

    @cached_property
    def luma(self) -> tuple[np.ndarray, np.ndarray]:
        """8-bit studio-swing luma."""
        return rgb_to_y(self.rgb[0]), rgb_to_y(self.rgb[1])

    @cached_property
    def exact_luma(self) -> tuple[np.ndarray, np.ndarray]:
        """The same before rounding."""
        restored, target = (16 + image.astype(np.float64) @ [65.481, 128.553, 24.966] / 255 for image in self.rgb)
        return restored, target

    @cached_property
    def gray(self) -> tuple[np.ndarray, np.ndarray]:
        """Full-swing 8-bit luma, OpenCV's gray."""
        return cv2.cvtColor(self.rgb[0], cv2.COLOR_RGB2GRAY), cv2.cvtColor(self.rgb[1], cv2.COLOR_RGB2GRAY)

    @cached_property
    def aligned(self) -> dict[str, float]:
        """The scores of protocol `aligned`."""
        return score_aligned(*self.rgb)

    @property
    def exchanged(self) -> tuple[np.ndarray, np.ndarray]:
        """Luma of images whose red and blue were taken for each other."""
        return rgb_to_y(self.rgb[0][..., ::-1]), rgb_to_y(self.rgb[1][..., ::-1])


Row = Callable[[Images], float]


def psnr_float(a: np.ndarray, b: np.ndarray) -> float:
    """PSNR of images in [0, 255] of any type."""
    error = np.mean(np.square(a.astype(np.float64) - b))
    return 10 * math.log10(255**2 / error) if error else math.inf


def ssim_float(a: np.ndarray, b: np.ndarray, peak: float = 255, whole: bool = False) -> float:
    """SSIM of each channel, 11x11 Gaussian window; `whole`: up to the border, whose pixels are repeated."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    blur = partial(cv2.GaussianBlur, ksize=(11, 11), sigmaX=1.5, borderType=cv2.BORDER_REPLICATE)
    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b, cov = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2, blur(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    index = (2 * mean_a * mean_b + c1) * (2 * cov + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    return float((index if whole else index[5:-5, 5:-5]).mean())


def ssim_shrunk(a: np.ndarray, b: np.ndarray) -> float:
    """SSIM after a box filter and every f-th pixel, f = round(shorter side / 256): what eyes see from afar."""
    factor = max(1, round(min(a.shape[:2]) / 256))
    small = [cv2.blur(x.astype(np.float64), (factor, factor))[::factor, ::factor] for x in (a, b)]
    return ssim_float(small[0], small[1])


def stretched(image: np.ndarray) -> np.ndarray:
    """The image with its own darkest value at 0 and its own brightest at 1."""
    low, high = float(image.min()), float(image.max())
    return (image - low) / max(high - low, 1e-12)


def cropped(images: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Both without a border of 4 pixels, as in super-resolution."""
    return images[0][4:-4, 4:-4], images[1][4:-4, 4:-4]


# What the row does -> its score. The first row of each is the protocol's own.
PSNR_RAIN: dict[str, Row] = {
    "`y`: luma, 8 bits": lambda images: psnr(*images.luma),
    "luma not rounded": lambda images: psnr_float(*images.exact_luma),
    "4 pixels of border cut off": lambda images: psnr(*cropped(images.luma)),
    "red and blue exchanged before luma": lambda images: psnr(*images.exchanged),
    "full-swing gray (OpenCV)": lambda images: psnr(*images.gray),
    "RGB": lambda images: psnr(*images.rgb),
    "RGB, aligned as for RealBlur": lambda images: images.aligned["psnr"],
}
PSNR_BLUR: dict[str, Row] = {
    "`rgb`: all channels": lambda images: psnr(*images.rgb),
    "mean of the three channels' PSNR": lambda images: fmean(
        psnr(a, b) for a, b in zip(cv2.split(images.rgb[0]), cv2.split(images.rgb[1]), strict=True)
    ),
    "full-swing gray (OpenCV)": lambda images: psnr(*images.gray),
    "luma": lambda images: psnr(*images.luma),
    "aligned as for RealBlur": lambda images: images.aligned["psnr"],
}
POOLED = "PSNR of the set's mean squared error"

SSIM_COMMON: dict[str, Row] = {
    "full-swing gray": lambda images: ssim(*images.gray),
    "full-swing gray, each image stretched to [0, 1]": lambda images: ssim_float(
        stretched(images.gray[0]), stretched(images.gray[1]), peak=1
    ),
    "full-swing gray in [0, 1], range taken for 2": lambda images: ssim_float(*images.gray, peak=2 * 255),
}
SSIM_RAIN: dict[str, Row] = {
    "`y`: luma, 8 bits, valid region": lambda images: ssim(*images.luma),
    "luma not rounded": lambda images: ssim_float(*images.exact_luma),
    "luma, whole area": lambda images: ssim_float(*images.luma, whole=True),
    "luma, scikit-image's defaults": lambda images: float(structural_similarity(*images.luma, data_range=255)),
    **SSIM_COMMON,
    "RGB, mean of channels": lambda images: ssim(*images.rgb),
    "RGB, one volume": lambda images: ssim_3d(*images.rgb),
    "RGB, mean of channels, aligned": lambda images: images.aligned["ssim"],
}
SSIM_BLUR: dict[str, Row] = {
    "`rgb`: one volume": lambda images: ssim_3d(*images.rgb),
    "`ssim_2d`: mean of channels, valid region": lambda images: ssim(*images.rgb),
    "mean of channels, whole area": lambda images: ssim_float(*images.rgb, whole=True),
    "mean of channels, scikit-image's defaults": lambda images: float(
        structural_similarity(*images.rgb, channel_axis=2, data_range=255)
    ),
    "luma": lambda images: ssim(*images.luma),
    **SSIM_COMMON,
    "full-swing gray, shrunk to about 256 pixels": lambda images: ssim_shrunk(*images.gray),
    "mean of channels, aligned": lambda images: images.aligned["ssim"],
}

# What a network's output becomes before it is scored. Outputs are stood for by 0.7 target + 0.3 input.
ROUNDINGS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "rounded to 8 bits": np.round,
    "kept in floating point": lambda image: image,
    "cut to 8 bits": np.floor,
}


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("Datasets"), help="where the sets lie (default: %(default)s)")
    root = parser.parse_args(argv).root
    rain = {name: read_set(root / folder) for name, folder in RAIN.items()}
    blur = {name: read_set(root / folder) for name, folder in BLUR.items()}
    print("\n\n".join(tables(rain, blur)))


def read_set(folder: Path) -> list[Images]:
    """The pairs of a set: what is scored is the degraded image."""
    return [Images(read_image(pair.input), read_image(pair.target)) for pair in find_pairs(folder) if pair.input]


def tables(rain: Mapping[str, Sequence[Images]], blur: Mapping[str, Sequence[Images]]) -> list[str]:
    """The six tables of the page, in Markdown."""
    return [
        table("Rain: PSNR, dB", rain, PSNR_RAIN, digits=3, pooled=True),
        table("Rain: SSIM", rain, SSIM_RAIN, digits=4),
        table("Blur: PSNR, dB", blur, PSNR_BLUR, digits=3, pooled=True),
        table("Blur: SSIM", blur, SSIM_BLUR, digits=4),
        table("Rounding: luma PSNR, dB", rain, {name: partial(blend, how) for name, how in ROUNDINGS.items()}, 4),
        table("Rounding: RGB PSNR, dB", blur, {name: partial(blend_rgb, how) for name, how in ROUNDINGS.items()}, 4),
    ]


def blend(rounding: Callable[[np.ndarray], np.ndarray], images: Images) -> float:
    """PSNR of luma, not rounded itself, of a stand-in for a network's output."""
    return psnr_float(*Images(rounding(_output(images)), images.rgb[1]).exact_luma)


def blend_rgb(rounding: Callable[[np.ndarray], np.ndarray], images: Images) -> float:
    """PSNR over RGB of a stand-in for a network's output."""
    return psnr_float(rounding(_output(images)), images.rgb[1])


def table(
    title: str, sets: Mapping[str, Sequence[Images]], rows: Mapping[str, Row], digits: int, pooled: bool = False
) -> str:
    """One table: means over the images of each set, the first row absolute, the others as differences to it."""
    with ThreadPoolExecutor() as pool:
        scores = {
            row: {name: list(pool.map(score, images)) for name, images in sets.items()} for row, score in rows.items()
        }
    first = {name: fmean(values) for name, values in next(iter(scores.values())).items()}
    lines = [[title, *(f"{name} ({len(images)})" for name, images in sets.items())], ["---", *["---:"] * len(sets)]]
    for i, (row, by_set) in enumerate(scores.items()):
        if i == 0:
            lines.append([row, *(f"{first[name]:.{digits}f}" for name in by_set)])
        else:
            lines.append([row, *(f"{fmean(values) - first[name]:+.{digits}f}" for name, values in by_set.items())])
    if pooled:
        own = next(iter(scores.values()))
        lines.append([POOLED, *(f"{pool_psnr(values) - first[name]:+.{digits}f}" for name, values in own.items())])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def pool_psnr(values: Sequence[float]) -> float:
    """The PSNR of the mean of the squared errors that `values` stand for."""
    return -10 * math.log10(fmean(10 ** (-value / 10) for value in values))


def _output(images: Images) -> np.ndarray:
    degraded, target = (image.astype(np.float64) for image in images.rgb)
    return 0.7 * target + 0.3 * degraded


if __name__ == "__main__":
    run_program(main)
