"""Rain drawn on sharp photographs: what training learns from where there are no real pairs.

Every function takes an H x W x 3 uint8 RGB image and a random generator, and is a pure function of the two.

Rain is drawn in layers of streaks, as the makers of benchmarks draw it: random dots are smeared into lines of one
length, thickness and direction. Layers add to the picture and saturate, as light does (Rain100L, Rain100H), or are put
on it by image editors' rules (Rain800, whose training pairs set the ranges of `_edited_rain`: docs/synthesis.md).
"""
from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import cv2
import numpy as np

from ..tasks import Degradation

Generator = np.random.Generator

_EDITED = 130  # grey levels that opaque edited rain adds: as much as screening it adds to an average photograph


def add_rain(image: np.ndarray, rng: Generator) -> np.ndarray:
    """Rain of a random kind on a photograph, or none, in the `SHARES`. Only retouched rain makes pixels darker."""
    return Rainfall()(image, rng)


def rain_of_kind(kind: str, image: np.ndarray, rng: Generator, veiled: float = 0.0) -> np.ndarray:
    """Rain of one kind on a photograph: light, heavy, edited or retouched (docs/synthesis.md).

    A share of `veiled`, but not of retouched rain, gets a haze as well: rain too far away to be seen as streaks.

    Raises:
        KeyError: no such kind.
    """
    light = RAINS[kind](image.astype(np.float32), rng)
    if kind != "retouched" and rng.random() < veiled:
        light = _veiled(light, rng)
    return np.rint(np.clip(light, 0, 255, out=light)).astype(np.uint8)


def add_layer(image: np.ndarray, layer: np.ndarray, rng: Generator) -> np.ndarray:
    """The rain of another picture on a photograph: its `layer`, H x W uint8 gray, is what rain added to each pixel.

    The layer is mirrored, turned by up to 5 degrees, enlarged by up to a fifth and shifted at random, reflected where
    the photograph is larger, and now and then fainter than it was.
    """
    height, width = image.shape[:2]
    turn, zoom = math.radians(rng.uniform(-5, 5)), rng.uniform(1, 1.2)
    cos, sin = math.cos(turn) / zoom, math.sin(turn) / zoom
    mirror = 1 if rng.random() < 0.5 else -1
    # Inverse map, photograph -> layer: its middle falls on a random place that leaves it inside, if it is small enough.
    turned = np.array([[mirror * cos, -sin], [mirror * sin, cos]])
    size = np.array(layer.shape[1::-1])
    edge = np.minimum(np.array([width, height]) / zoom, size) / 2
    place = rng.uniform(edge, size - edge)
    matrix = np.column_stack([turned, place - turned @ [(width - 1) / 2, (height - 1) / 2]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    rain = cv2.warpAffine(layer, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REFLECT_101)
    strength = min(1.0, rng.uniform(0.5, 1.5))
    return cv2.add(image, cv2.merge([cv2.convertScaleAbs(rain, alpha=strength)] * 3))  # saturates at 255, as light does


# Of photographs. Some stay dry, so that a network learns to leave those alone; the others get the `RAINS` of that name.
SHARES = {"dry": 0.04, "light": 0.32, "heavy": 0.34, "edited": 0.16, "retouched": 0.14}
VEILED = 0.15  # of the rain that is drawn


@dataclass(frozen=True)
class Rainfall:
    """Rain of random kinds, in given shares. With `layers`, a share of `layered` gets real rain, by `add_layer`.

    A share of `veiled` gets a haze as well, as in `rain_of_kind`.
    """

    shares: Mapping[str, float] = field(default_factory=lambda: SHARES)  # of the others; they add up to 1
    layers: Sequence[np.ndarray] = ()
    layered: float = 0.0
    veiled: float = VEILED

    def __call__(self, image: np.ndarray, rng: Generator) -> np.ndarray:
        if self.layers and rng.random() < self.layered:
            return add_layer(image, self.layers[int(rng.integers(len(self.layers)))], rng)
        kind = tuple(self.shares)[rng.choice(len(self.shares), p=tuple(self.shares.values()))]
        return image.copy() if kind == "dry" else rain_of_kind(kind, image, rng, self.veiled)


class Streak(NamedTuple):
    """The geometry of one streak."""

    angle: float  # degrees off the vertical
    length: float  # pixels
    thickness: float  # pixels, standard deviation of its profile across: it looks three times as wide
    taper: float | None  # profile along: flat for 0, a cosine bell for 1; None: hard, evenly bright with sharp edges


def _light_rain(light: np.ndarray, rng: Generator) -> np.ndarray:
    """Thin separate streaks of one direction, as in Rain100L."""
    height, width = light.shape[:2]
    angle = _fall(rng)
    brightness = rng.uniform(0.3, 0.9)
    coverage = rng.uniform(0.05, 0.3)
    taper = None if rng.random() < 0.3 else 1.0
    rain = np.zeros((height, width), np.float32)
    for _ in range(2):
        length = rng.uniform(15, 70)
        thickness = rng.uniform(0.4, 1.1)
        streak = Streak(angle + rng.normal(0, 1.5), length, thickness, taper)
        rain += brightness * _drops(height, width, streak, coverage / 2, rng)
    return light + rain[..., None] * np.float32(255)


def _heavy_rain(light: np.ndarray, rng: Generator) -> np.ndarray:
    """Several dense layers whose directions differ, as in Rain100H."""
    height, width = light.shape[:2]
    angle = _fall(rng)
    layers = int(rng.integers(2, 6))
    spread = rng.uniform(0, 10)
    brightness = rng.uniform(0.3, 1)
    coverage = _log_uniform(0.8, 3.5, rng)
    taper = None if rng.random() < 0.4 else rng.uniform(0.3, 1)
    rain = np.zeros((height, width), np.float32)
    for _ in range(layers):
        length = _log_uniform(20, 120, rng)
        thickness = rng.uniform(0.4, 1.3)
        streak = Streak(angle + rng.normal(0, spread), length, thickness, taper)
        layer = _drops(height, width, streak, coverage / layers, rng)
        rain += brightness * rng.uniform(0.5, 1.2) * layer
    return light + rain[..., None] * np.float32(255)


def _edited_rain(light: np.ndarray, rng: Generator) -> np.ndarray:
    """Noise smeared and thresholded, as image editors draw rain and as in Rain800."""
    height, width = light.shape[:2]
    rain = _smeared_noise(height, width, rng)
    rain -= rng.uniform(-1.2, 0.6)
    rain *= _log_uniform(0.07, 0.26, rng)
    opacity = np.clip(rain, 0, 1, out=rain)[..., None]
    # Editors either add, or 'screen': the brighter the pixel, the less.
    screened = rng.random() < 0.4
    return light + opacity * (255 - light if screened else np.float32(_EDITED))


def _retouched_rain(light: np.ndarray, rng: Generator) -> np.ndarray:
    """A darker tone, shadows pressed into black, and bright and dark streaks, as in the darkened pairs of Rain800."""
    height, width = light.shape[:2]
    rain = np.float32(rng.uniform(13, 26) / 255) * _smeared_noise(height, width, rng)
    contrast = np.float32(rng.uniform(0.9, 1.2))
    darker = (light - 128) * contrast + np.float32(128 - rng.uniform(2, 26))
    return darker + rain[..., None] * np.float32(255)


RAINS: dict[str, Callable[[np.ndarray, Generator], np.ndarray]] = {  # on a picture, H x W x 3 float32 grey levels
    "light": _light_rain,
    "heavy": _heavy_rain,
    "edited": _edited_rain,
    "retouched": _retouched_rain,
}
RAIN = Degradation("rain", add_rain, margin=0, sample=add_rain, visible=(18.0, 24.0))


def _smeared_noise(height: int, width: int, rng: Generator) -> np.ndarray:
    """H x W streaks of mean 0 and standard deviation 1."""
    length = _log_uniform(8, 30, rng)
    thickness = rng.uniform(0.35, 0.85)
    noise = _streaks(height, width, Streak(_fall(rng), length, thickness, 0.0), _dense_dots, rng)
    noise /= math.sqrt(length * thickness * math.sqrt(math.pi))  # what smearing leaves of unit noise
    return noise


def _log_uniform(low: float, high: float, rng: Generator) -> float:
    return math.exp(rng.uniform(math.log(low), math.log(high)))


def _fall(rng: Generator) -> float:
    """The direction of rain, in degrees from the vertical."""
    return float(np.clip(rng.normal(0, 16), -45, 45))


Dots = Callable[[tuple[int, int], Generator], np.ndarray]


def _sparse_dots(density: float) -> Dots:
    def draw(shape: tuple[int, int], rng: Generator) -> np.ndarray:
        chance = rng.random(shape, dtype=np.float32) / np.float32(density)
        chance[chance > 1] = 0  # what is left is uniform between 0 and 1: the brightness of each drop
        return chance

    return draw


def _dense_dots(shape: tuple[int, int], rng: Generator) -> np.ndarray:
    return rng.standard_normal(shape, dtype=np.float32)


def _streaks(height: int, width: int, streak: Streak, dots: Dots, rng: Generator) -> np.ndarray:
    """Dots smeared into streaks of that geometry, the peak of each as high as its dot; H x W float32."""
    angle, length, thickness, taper = streak
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    # Drawn upright on a canvas that covers the image when turned; the turn also takes the streaks off the pixel grid.
    tall = math.ceil(height * cos + width * abs(sin)) + 3
    wide = math.ceil(width * cos + height * abs(sin)) + 3
    size = max(2, round(length))
    along = np.hanning(size + 2)[1:-1] ** (taper or 0.0)
    radius = math.ceil(2.5 * thickness)
    across = np.exp(-0.5 * (np.arange(-radius, radius + 1) / thickness) ** 2)
    # Dots beyond the edges smear into the picture: without them streaks would thin out towards its border.
    canvas = dots((tall + size, wide + 2 * radius), rng)
    canvas = cv2.sepFilter2D(canvas, cv2.CV_32F, across, along, borderType=cv2.BORDER_CONSTANT)
    centre = np.array([(canvas.shape[1] - 1) / 2, (canvas.shape[0] - 1) / 2])
    turn = np.array([[cos, sin], [-sin, cos]])
    shift = centre - turn @ [(width - 1) / 2, (height - 1) / 2]
    matrix = np.column_stack([turn, shift])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(canvas, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REFLECT_101)


def _drops(height: int, width: int, streak: Streak, coverage: float, rng: Generator) -> np.ndarray:
    """Streaks of single drops, which would cover `coverage` of the picture if none overlapped; H x W float32.

    Of hard ones the fainter vanish.
    """
    dots = _sparse_dots(coverage / (streak.length * 3 * streak.thickness))
    layer = _streaks(height, width, streak, dots, rng)
    return np.clip(3 * layer - 1, 0, 1) if streak.taper is None else layer


def _veiled(light: np.ndarray, rng: Generator) -> np.ndarray:
    """In a faint haze that changes slowly."""
    corners = rng.uniform(0, 0.15, (2, 2)).astype(np.float32)
    haze = cv2.resize(corners, light.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    return light + haze[..., None] * (255 - light)
