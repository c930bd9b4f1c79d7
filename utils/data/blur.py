"""Motion blur made on sharp photographs: what training learns from where there are no real pairs.

Every function takes an H x W x 3 uint8 RGB image and a random generator, and is a pure function of the two.

Blur is the average of what a moving camera sees while its shutter is open: the trajectory is a random walk with inertia
(Boracchi and Foi 2012; DeblurGAN, Kupyn et al. 2018), near things move farther than distant ones, some on their own,
light adds up linearly or as the camera has encoded it (GoPro), and the sensor adds noise and rounds to 8 bits. The
sharp image is the view at mid-exposure, as the middle frame is in GoPro and REDS.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import cv2
import numpy as np
from scipy.signal import lfilter

from ..tasks import Degradation

Generator = np.random.Generator

_INVISIBLE = 0.3  # pixels; less does not show in 8 bits


def add_blur(image: np.ndarray, rng: Generator) -> np.ndarray:
    """Motion blur of a random kind: a shaken camera, one that also rolls and nears, or an object moving on its own.

    The strength goes from nothing at all to a point that draws a line of 30 pixels, or 80 in a film; most are moderate.
    """
    # GoPro's frames were averaged as they came out of the camera, without undoing its response curve.
    linear = rng.random() < 0.5
    kind = tuple(BLURS)[rng.choice(len(BLURS), p=[blur.share for blur in BLURS.values()])]
    return blur_of_kind(kind, image, rng, linear, noisy=rng.random() < 0.25)


def blur_of_kind(
    kind: str, image: np.ndarray, rng: Generator, linear: bool = True, noisy: bool = False
) -> np.ndarray:
    """One kind of `BLURS`, of random strength; in linear light or as encoded, with a sensor's noise or without."""
    light = _TO_LINEAR[image] if linear else image.astype(np.float32) / 255
    reach = 0.0 if rng.random() < 0.04 else BLURS[kind].reach * rng.beta(1.4, 1.8)
    if reach >= _INVISIBLE:
        light = BLURS[kind].expose(light, reach, rng)
    if noisy:
        light = _sensor_noise(light, rng)
    return _to_srgb(light) if linear else np.rint(np.clip(light, 0, 1) * 255).astype(np.uint8)


def shake(image: np.ndarray, rng: Generator) -> np.ndarray:
    """The blur of a shaken camera alone, 2 to 10 pixels to the farthest point of its path, without noise.

    One definite, moderate degradation: for test images, not for training.
    """
    return _to_srgb(_shaken(_TO_LINEAR[image], rng.uniform(2, 10), rng))


def expose(light: np.ndarray, psf: np.ndarray) -> np.ndarray:
    """What a sensor gathers while the view moves along `psf`: H x W (x C) float32, convolved, edges reflected."""
    return cv2.filter2D(light, cv2.CV_32F, cv2.flip(psf, -1), borderType=cv2.BORDER_REFLECT_101)


def random_psf(reach: float, rng: Generator) -> np.ndarray:
    """The point spread function of a random trajectory: S x S float32, S odd, that sums to 1.

    Its centre is the position at mid-exposure, and no point is farther from there than `reach` pixels.
    """
    path = _trajectory(rng, max(8, math.ceil(6 * reach))) * reach
    radius = math.ceil(reach)
    size = 2 * radius + 1
    corner = np.floor(path).astype(int)
    part = path - corner
    psf = np.zeros(size * size + size + 2, np.float32)  # the spare end takes the weights of 0 beyond the last row
    for dx in (0, 1):
        for dy in (0, 1):
            weight = np.abs(1 - dx - part[:, 0]) * np.abs(1 - dy - part[:, 1])
            np.add.at(psf, (corner[:, 1] + radius + dy) * size + corner[:, 0] + radius + dx, weight)
    return psf[: size * size].reshape(size, size) / psf.sum()


def _trajectory(rng: Generator, steps: int) -> np.ndarray:
    """Where a shaken camera points during the exposure: `steps` x 2, at the origin halfway and at most 1 away from it.

    The velocity has a constant part (a sweep), one with inertia (tremor), and now and then a jerk (the shutter button).
    """
    inertia = math.exp(-1 / (steps * rng.uniform(0.05, 0.5)))
    push = rng.standard_normal((steps, 2))
    if rng.random() < 0.2:
        push[rng.integers(steps)] += rng.normal(0, 0.5 * math.sqrt(steps), 2)
    tremor = lfilter([1], [1, -inertia], push, axis=0)
    heading = rng.uniform(0, 2 * math.pi)
    sweep = rng.exponential(1.5) * np.array([math.cos(heading), math.sin(heading)])
    path = np.cumsum(tremor / np.sqrt(np.mean(tremor**2)) + sweep, axis=0)
    path -= path[steps // 2]
    return path / max(np.hypot(*path.T).max(), 1e-6)


def _shaken(light: np.ndarray, reach: float, rng: Generator) -> np.ndarray:
    return expose(light, random_psf(reach, rng))


def _filmed(light: np.ndarray, reach: float, rng: Generator) -> np.ndarray:
    """The average of a film's frames, as in GoPro."""
    height, width = light.shape[:2]
    total, frames = np.zeros_like(light), 0
    for x, y in film(height, width, reach, rng):
        total += cv2.remap(light, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
        frames += 1
    return total / frames


def film(height: int, width: int, reach: float, rng: Generator) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Frames of a moving camera: what each pixel sees, as x and y in the scene, both H x W float32.

    The camera moves, and near things more than distant ones, turns about its axis, and nears. No pixel sees farther
    than `reach` pixels from its place; in the frame at mid-exposure each sees its own.
    """
    y, x = np.indices((height, width), np.float32)
    centre = np.array([width, height]) * rng.uniform(-0.3, 1.3, 2)
    dx, dy = x - np.float32(centre[0]), y - np.float32(centre[1])
    farthest = float(np.sqrt(dx * dx + dy * dy).max()) + 1
    nearness = _nearness(height, width, rng)
    share = rng.uniform(0.5, 1)  # of the reach that translation takes; what is left is for roll and zoom
    steps = math.ceil(1.3 * reach) + 2
    shift = (_trajectory(rng, steps) * reach * share).astype(np.float32)
    turning = (_trajectory(rng, steps) * reach * (1 - share) / farthest).astype(np.float32)
    for (right, down), (roll, zoom) in zip(shift, turning, strict=True):
        yield x + nearness * right + zoom * dx - roll * dy, y + nearness * down + roll * dx + zoom * dy


def _nearness(height: int, width: int, rng: Generator) -> np.ndarray:
    """How far each pixel moves when the camera does, 1 for the nearest: a slope, or two planes with a wavy border."""
    corners = rng.uniform(0.5, 1, (2, 2)).astype(np.float32)
    slope = cv2.resize(corners, (width, height), interpolation=cv2.INTER_LINEAR)
    if rng.random() < 0.5:
        return slope
    waves = cv2.resize(rng.standard_normal((4, 4)).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    return np.where(waves > 0, slope, np.float32(rng.uniform(0.3, 0.8)) * slope)


def _moving_object(light: np.ndarray, reach: float, rng: Generator) -> np.ndarray:
    """A blob of the scene moves one way, what is behind it another."""
    height, width = light.shape[:2]
    mask = np.zeros((height, width), np.float32)
    centre = tuple(int(v) for v in rng.uniform(0, (width, height)))
    axes = tuple(max(1, int(v)) for v in rng.uniform(0.1, 0.5, 2) * (width, height))
    cv2.ellipse(mask, centre, axes, rng.uniform(0, 180), 0, 360, 1.0, -1, cv2.LINE_AA)
    front = random_psf(reach, rng)
    behind = random_psf(max(_INVISIBLE, reach * rng.uniform(0, 0.7)), rng)
    cover = expose(mask, front)[..., None]
    return expose(light * mask[..., None], front) + (1 - cover) * expose(light, behind)


class Blur(NamedTuple):
    """One kind of blur."""

    share: float  # of the photographs that `add_blur` gets
    reach: float  # pixels that a point of the scene may be away from its sharp position
    expose: Callable[[np.ndarray, float, Generator], np.ndarray]  # light, H x W x 3, and reach in pixels


BLURS = {
    "shaken": Blur(0.6, 16, _shaken),
    "filmed": Blur(0.25, 40, _filmed),  # its lengths are about those of GoPro's and REDS' pairs: benchmarks/blur.py
    "moving object": Blur(0.15, 16, _moving_object),
}
BLUR = Degradation("blur", add_blur, margin=40, sample=shake, visible=(20.0, 26.0))


def _sensor_noise(light: np.ndarray, rng: Generator) -> np.ndarray:
    """Shot noise (its variance grows with the light) and read noise, both small."""
    shot, read = rng.uniform(0, 0.012) ** 2, rng.uniform(0, 0.0015) ** 2
    noise = rng.standard_normal(light.shape, dtype=np.float32)
    return light + np.sqrt(light * np.float32(shot) + np.float32(read)) * noise


def _srgb_to_linear(value: np.ndarray) -> np.ndarray:
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def _linear_to_srgb(value: np.ndarray) -> np.ndarray:
    return np.where(value <= 0.0031308, value * 12.92, 1.055 * value ** (1 / 2.4) - 0.055)


# IEC 61966-2-1 as tables: 16 bits of linear light are enough to hit every 8-bit level.
_TO_LINEAR = _srgb_to_linear(np.arange(256) / 255).astype(np.float32)
_TO_SRGB = np.rint(_linear_to_srgb(np.arange(65536) / 65535) * 255).astype(np.uint8)


def _to_srgb(light: np.ndarray) -> np.ndarray:
    return _TO_SRGB[np.rint(np.clip(light, 0, 1) * 65535).astype(np.uint16)]
