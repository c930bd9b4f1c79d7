"""How long real blur is, beside made-up blur: `python benchmarks/blur.py Datasets/GoPro/train Datasets/REDS/train`.

In windows with enough texture, the point spread function is what turns the sharp window into the blurred one: the ratio
of their Fourier transforms, damped where the sharp one has little (Wiener). Its length and width are those of an even
line and stripe of the same variance. Lines of 4 to 30 pixels are found to within a pixel; nothing counts as 2.
"""
from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from m3snet.utils.cli import UserError, run_program
from m3snet.utils.data.blur import BLURS, blur_of_kind
from m3snet.utils.data.pairs import find_pairs
from m3snet.utils.images import read_image

SIDE = 128  # pixels of a window
STEP = 160  # pixels from one window to the next
REACH = 24  # pixels from the middle of a point spread function to the border of what is looked at
DAMPING = 0.01  # of the window's mean power
TEXTURE = 8.0  # grey levels: standard deviation of the Laplacian; a window with less tells nothing
FAINT = 0.15  # of the peak: less in a point spread function is noise
PIXEL = 0.15  # pixels squared: the variance that a point has by itself, on average over its positions
PERCENT = (5, 25, 50, 75, 95)


class Blurred(NamedTuple):
    """The blur of one image."""

    lengths: list[float]  # pixels, of each window: the line that a point draws
    widths: list[float]  # pixels, across it
    change: float  # of the mean, grey levels
    noise: float  # standard deviation in the quietest quarter of the image, grey levels


def measure_blur(sharp: np.ndarray, blurred: np.ndarray) -> Blurred:
    """Measure the blur of a pair of H x W x 3 uint8 images.

    Raises:
        ValueError: the two differ in size, or are smaller than a window.
    """
    if sharp.shape != blurred.shape:
        raise ValueError(f"expected two images of one size; found {sharp.shape} and {blurred.shape}")
    if min(sharp.shape[:2]) < SIDE:
        raise ValueError(f"expected images of at least {SIDE} x {SIDE} pixels; found {sharp.shape}")
    ground, seen = (image.astype(np.float32).mean(axis=2) for image in (sharp, blurred))
    sizes = []
    for top in range(0, ground.shape[0] - SIDE + 1, STEP):
        for left in range(0, ground.shape[1] - SIDE + 1, STEP):
            window = slice(top, top + SIDE), slice(left, left + SIDE)
            if cv2.Laplacian(ground[window], cv2.CV_32F).std() >= TEXTURE and np.ptp(seen[window]) > 0:
                sizes.append(_extent(_psf(ground[window], seen[window])))
    return Blurred([a for a, _ in sizes], [b for _, b in sizes], float(seen.mean() - ground.mean()), _noise(seen))


def _psf(sharp: np.ndarray, blurred: np.ndarray) -> np.ndarray:
    """What convolves one window to the other: (2 REACH + 1) squared, no shift in the middle."""
    taper = np.outer(np.hanning(SIDE), np.hanning(SIDE))
    ground, seen = (np.fft.rfft2((window - window.mean()) * taper) for window in (sharp, blurred))
    power = np.abs(ground) ** 2
    psf = np.fft.irfft2(ground.conj() * seen / (power + DAMPING * power.mean()), (SIDE, SIDE))
    return np.roll(psf, (REACH, REACH), axis=(0, 1))[: 2 * REACH + 1, : 2 * REACH + 1]


def _extent(psf: np.ndarray) -> tuple[float, float]:
    """Length and width in pixels of its heaviest connected part."""
    weight = np.where(psf > FAINT * psf.max(), psf, 0)
    count, label = cv2.connectedComponents((weight > 0).astype(np.uint8))
    heaviest = max(range(1, count), key=lambda part: weight[label == part].sum())
    weight = np.where(label == heaviest, weight, 0)
    variances = np.linalg.eigvalsh(np.cov(np.indices(psf.shape).reshape(2, -1), aweights=weight.ravel(), ddof=0))
    width, length = np.sqrt(12 * (variances - PIXEL).clip(0))
    return float(length), float(width)


def _noise(image: np.ndarray) -> float:
    """From differences of differences of neighbours in blocks of 32 x 32, which a smooth scene does not have."""
    even = image[: len(image) // 2 * 2, : image.shape[1] // 2 * 2]
    fine = (even[::2, ::2] - even[1::2, ::2] - even[::2, 1::2] + even[1::2, 1::2]) / 2
    height, width = (side // 16 for side in fine.shape)
    blocks = fine[: height * 16, : width * 16].reshape(height, 16, width, 16).swapaxes(1, 2).reshape(-1, 256)
    return float(np.percentile(np.median(np.abs(blocks), axis=1), 12.5) / 0.6745)


def main(argv: Sequence[str] | None = None) -> None:
    """Print a table for each folder of pairs that the command line names.

    Raises:
        UserError, ImageError: no textured pairs there, or one that cannot be read.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="with input/ and target/")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only every N-th pair (default: 1)")
    args = parser.parse_args(argv)
    for folder in args.folders:
        print(table(measure(folder, args.every), str(folder)), flush=True)
        print()


def measure(folder: Path, every: int) -> dict[str, list[Blurred]]:
    """The blur of every `every`-th pair, and of each kind that is put on the same sharp images in linear light."""
    found: dict[str, list[Blurred]] = {"real pairs": [], **{kind: [] for kind in BLURS}}
    for pair in find_pairs(folder)[::every]:
        sharp = read_image(pair.target)
        images = {"real pairs": read_image(pair.input or pair.target)}
        for kind in BLURS:
            images[kind] = blur_of_kind(kind, sharp, np.random.default_rng([*f"{kind} {pair.name}".encode()]))
        for kind, image in images.items():
            try:
                found[kind].append(measure_blur(sharp, image))
            except ValueError as error:
                raise UserError(f"{pair.input}: {error}") from error
    if not any(blurred.lengths for blurred in found["real pairs"]):
        raise UserError(f"{folder}: no image has enough texture to measure blur")
    return found


def table(found: dict[str, list[Blurred]], title: str) -> str:
    """Percentiles of all quantities, in Markdown."""
    rows = {
        "line drawn by a point, pixels": lambda images: [size for image in images for size in image.lengths],
        "across it, pixels": lambda images: [size for image in images for size in image.widths],
        "its longest quarter within an image over its shortest": lambda images: [
            float(np.divide(*np.percentile(image.lengths, (75, 25)))) for image in images if len(image.lengths) > 3
        ],
        "change of the mean, grey levels": lambda images: [image.change for image in images],
        "noise, grey levels": lambda images: [image.noise for image in images],
    }
    heads = [f"{title}: {', '.join(map(str, PERCENT))} %", *(f"{kind} ({len(found[kind])})" for kind in found)]
    lines = [heads, ["---", *("--:" for _ in found)]]
    for name, values in rows.items():
        lines.append([name, *(_percentiles(values(images)) for images in found.values())])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _percentiles(values: list[float]) -> str:
    if not values:  # of a ratio within an image, where all images are small
        return "-"
    return ", ".join(f"{value:.1f}" for value in np.round(np.percentile(values, PERCENT), 1) + 0)  # which makes -0 a 0


if __name__ == "__main__":
    run_program(main)
