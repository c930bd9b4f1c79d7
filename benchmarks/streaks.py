"""What the rain of a pair looks like, as numbers: direction, length, width, coverage and brightness of its streaks.

Streaks overlap, so none is cut out and measured by itself. Their shape is that of the autocorrelation of the added
light: a ridge along the streaks, as long and as wide as they are.
"""
from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

VISIBLE = 10  # grey levels of 255: from here on a pixel counts as covered
LEVELS = np.arange(0, 257, 8)  # edges of the histogram bins of `Streaks.light`
_REACH = 64  # pixels; longer streaks are measured as this long
_ANGLES = np.arange(-90, 90)  # degrees


class Streaks(NamedTuple):
    """The rain of one image."""

    angle: float  # degrees from the vertical, -90 to 89, positive where streaks fall towards the left
    spread: float  # how unlike each other their directions are: 0 all alike, 1 none preferred
    length: float  # pixels
    width: float  # pixels, full width at half maximum
    coverage: float  # share of the pixels that are brighter by VISIBLE or more
    brightness: float  # mean of what is added to those pixels, in grey levels
    light: np.ndarray  # histogram over LEVELS of what is added to a pixel, in shares that add up to 1
    dark_to_bright: np.ndarray  # mean of what is added where the clean image has 0-31, ... 224-255; NaN: too few pixels


def measure_streaks(rainy: np.ndarray, clean: np.ndarray) -> Streaks:
    """Measure the rain of a pair: two H x W x 3 uint8 images of at least 64 x 64 pixels.

    Raises:
        ValueError: the two differ in size, are too small, or differ by the same everywhere, as equal ones do.
    """
    if rainy.shape != clean.shape or min(rainy.shape[:2]) < _REACH:
        raise ValueError(f"expected two images of one size from {_REACH} pixels; found {rainy.shape} and {clean.shape}")
    ground = clean.astype(np.float32).mean(axis=2)
    rain = rainy.astype(np.float32).mean(axis=2) - ground
    if np.ptp(rain) == 0:
        raise ValueError(f"the images differ by {rain[0, 0]:g} everywhere: there is no rain to measure")
    covered = rain >= VISIBLE
    light = np.histogram(np.clip(rain, 0, 255), LEVELS)[0] / rain.size
    band = (ground // 32).astype(int)
    total, count = np.bincount(band.ravel(), rain.ravel(), 8), np.bincount(band.ravel(), minlength=8)
    means = np.divide(total, count, out=np.full(8, np.nan), where=count > rain.size / 1000)
    profiles = _profiles(_autocorrelation(rain))  # angle x distance
    along = profiles[:, 1 : _REACH // 2].mean(axis=1)
    ridge = int(np.argmax(along))
    floor = np.percentile(along, 20)  # what is correlated in every direction is no streak
    # A streak of even brightness correlates with itself along a triangle, a Gaussian one across along a wider Gaussian.
    return Streaks(
        angle=float(_ANGLES[ridge]),
        spread=_spread(along - floor),
        length=2 * _half(profiles[ridge]),
        width=2**0.5 * _half(profiles[(ridge + 90) % 180]),
        coverage=float(covered.mean()),
        brightness=float(rain[covered].mean()) if covered.any() else 0.0,
        light=light,
        dark_to_bright=means,
    )


def _autocorrelation(rain: np.ndarray) -> np.ndarray:
    """Of an image's fine structure, by lag, 1 at lag 0: (2 _REACH + 1) squared, lag 0 in the middle."""
    fine = rain - cv2.GaussianBlur(rain, (0, 0), _REACH / 2)  # haze and what is left of the scene are no streaks
    shape = tuple(cv2.getOptimalDFTSize(side + _REACH) for side in rain.shape)  # room for lags without wrapping round
    product = np.fft.irfft2(np.abs(np.fft.rfft2(fine, shape)) ** 2, shape)
    lags = np.arange(-_REACH, _REACH + 1)
    overlap = np.outer(*((side - abs(lags)).clip(1) for side in rain.shape))  # pixels that have a partner at that lag
    correlation: np.ndarray = product[np.ix_(lags, lags)] / overlap
    return correlation / correlation[_REACH, _REACH]


def _profiles(correlation: np.ndarray) -> np.ndarray:
    """Along straight lines from the middle: angle (as _ANGLES, from the vertical) x distance 0 .. _REACH - 1."""
    radians = np.radians(_ANGLES)[:, None]
    distance = np.arange(_REACH)[None]
    x = (_REACH - distance * np.sin(radians)).astype(np.float32)
    y = (_REACH + distance * np.cos(radians)).astype(np.float32)
    return cv2.remap(correlation.astype(np.float32), x, y, cv2.INTER_LINEAR)


def _half(profile: np.ndarray) -> float:
    """The distance at which a profile has fallen to 1/2; its last one if it never does."""
    below = np.flatnonzero(profile < 0.5)
    if not below.size:
        return float(len(profile) - 1)
    end = int(below[0])
    return float(end - (0.5 - profile[end]) / (profile[end - 1] - profile[end]))


def _spread(weight: np.ndarray) -> float:
    """Circular variance of directions (angles that differ by 180 degrees are one)."""
    weight = weight.clip(0)
    return float(1 - abs(np.sum(weight * np.exp(2j * np.radians(_ANGLES)))) / weight.sum())
