"""What is measured of streaks is what was drawn: direction, length, width, coverage, brightness."""
from __future__ import annotations

import warnings

import numpy as np
import pytest

from m3snet.benchmarks.streaks import LEVELS, Streaks, measure_streaks
from m3snet.utils.data.rain import Streak, _sparse_dots, _streaks

SIDE = 256
FWHM = 2 * np.sqrt(2 * np.log(2))  # of a Gaussian, in standard deviations


def draw(angle: float, length: float, width: float, count: int = 120) -> np.ndarray:
    """Straight streaks, SIDE x SIDE, peak 1: even along, Gaussian across, `width` at half maximum.

    `angle` is from the vertical, and positive streaks fall towards the left.
    """
    rng = np.random.default_rng(int(angle) + 90)  # so that those of two directions do not cross at their middles
    down = np.array([-np.sin(np.radians(angle)), np.cos(np.radians(angle))])  # x, y
    y, x = np.indices((SIDE, SIDE), np.float64)
    rain = np.zeros((SIDE, SIDE))
    for centre_x, centre_y in rng.uniform(-20, SIDE + 20, (count, 2)):
        along = (x - centre_x) * down[0] + (y - centre_y) * down[1]
        across = (x - centre_x) * down[1] - (y - centre_y) * down[0]
        end = np.clip(length / 2 + 0.5 - np.abs(along), 0, 1)  # the share of the last pixel that is covered
        rain = np.maximum(rain, end * np.exp(-0.5 * (across * FWHM / width) ** 2))
    return rain


def measure(added: np.ndarray) -> Streaks:
    """Of `added` grey levels, H x W, on an even scene."""
    clean = np.full((*added.shape, 3), 40, np.uint8)
    return measure_streaks(np.rint(clean + added[..., None]).astype(np.uint8), clean)


@pytest.mark.parametrize("angle", [-75, -38, -17, 0, 4, 25, 60, 89])
def test_the_angle_is_that_of_the_streaks(angle: int) -> None:
    measured = measure(120 * draw(angle, 30, 2))
    assert abs((measured.angle - angle + 90) % 180 - 90) <= 1
    assert measured.spread < 0.25


@pytest.mark.parametrize("angle", [-33, 12])
def test_streaks_that_the_synthesis_draws_have_its_angle_and_size(angle: int) -> None:
    dots = _sparse_dots(0.002)
    layer = _streaks(SIDE, SIDE, Streak(angle, 24, 1.0, 0.0), dots, np.random.default_rng(1))
    measured = measure(100 * layer.clip(0, 1))
    assert abs(measured.angle - angle) <= 2
    assert measured.length == pytest.approx(24, rel=0.1)
    assert measured.width == pytest.approx(FWHM, rel=0.15)  # a standard deviation of 1, and what turning them blurs


@pytest.mark.parametrize("length", [12, 25, 50])
def test_the_length_is_within_10_percent(length: int) -> None:
    assert measure(120 * draw(15, length, 2)).length == pytest.approx(length, rel=0.1)


@pytest.mark.parametrize("width", [1.5, 2.5, 5])
def test_the_width_is_within_10_percent(width: float) -> None:
    assert measure(120 * draw(15, 40, width, 60)).width == pytest.approx(width, rel=0.1)


def test_streaks_of_all_directions_are_spread() -> None:
    every = np.max([draw(angle, 30, 2, 20) for angle in range(0, 180, 15)], axis=0)
    assert measure(120 * every).spread > 0.45


def test_coverage_and_brightness_count_what_is_visible() -> None:
    added = np.zeros((100, 80))
    added[10:50, 20] = 40
    added[10:50, 30] = 10
    added[10:50, 40:60] = 9  # hardly visible
    added[60:90, 5] = -20  # darker is no rain
    measured = measure(added)
    assert measured.coverage == pytest.approx(80 / 8000, abs=1e-12)
    assert measured.brightness == pytest.approx(25, abs=1e-4)


def test_nothing_visible_has_no_brightness() -> None:
    measured = measure(5 * draw(0, 30, 2))
    assert measured.coverage == 0 and measured.brightness == 0


def test_every_pixel_is_in_one_bin_of_light() -> None:
    clean = np.zeros((100, 80, 3), np.uint8)
    clean[60:90, 5] = 50
    rainy = np.zeros_like(clean)  # darker there
    rainy[10:50, 20] = 255
    rainy[10:50, 30] = 17
    light = measure_streaks(rainy, clean).light
    assert len(light) == len(LEVELS) - 1
    assert light.sum() == pytest.approx(1)
    assert light[-1] == light[2] == pytest.approx(40 / 8000)
    assert light[0] == pytest.approx(1 - 80 / 8000)


def scene() -> np.ndarray:
    """Brighter from the top to the bottom, 0 to 191: SIDE x SIDE x 3, levels of fine steps."""
    ramp = np.floor(np.linspace(0, 192, SIDE, endpoint=False)).astype(np.uint8)
    return np.repeat(np.tile(ramp[:, None], (1, SIDE))[..., None], 3, axis=2)


def level_rain() -> np.ndarray:
    """Vertical streaks from edge to edge: every brightness of the scene gets the same of them."""
    return np.tile((np.arange(SIDE) % 8 == 0).astype(np.float64), (SIDE, 1))


def test_added_rain_is_as_bright_on_bright_parts() -> None:
    clean = scene()
    measured = measure_streaks((clean + 60 * level_rain()[..., None]).astype(np.uint8), clean).dark_to_bright
    np.testing.assert_allclose(measured[:6], 60 / 8, rtol=1e-5)
    assert np.isnan(measured[6:]).all()  # the scene has nothing as bright


def test_screened_rain_fades_on_bright_parts() -> None:
    clean = scene().astype(np.float64)
    screened = np.rint(clean + 0.3 * level_rain()[..., None] * (255 - clean)).astype(np.uint8)
    measured = measure_streaks(screened, scene()).dark_to_bright
    middles = 15.5 + 32 * np.arange(6)
    np.testing.assert_allclose(measured[:6], 0.3 * (255 - middles) / 8, rtol=0.02)


def test_colour_is_averaged() -> None:
    clean = np.full((100, 80, 3), 40, np.uint8)
    rainy = clean.copy()
    rainy[10:50, 20] += np.array([90, 30, 0], np.uint8)
    assert measure_streaks(rainy, clean).brightness == pytest.approx(40, abs=1e-4)


@pytest.mark.parametrize("shape", [(64, 65, 3), (63, 200, 3), (200, 63, 3)])
def test_other_or_small_sizes_are_errors(shape: tuple[int, int, int]) -> None:
    image = np.zeros(shape, np.uint8)
    other = np.zeros((65, 64, 3), np.uint8) if min(shape[:2]) == 64 else image
    with pytest.raises(ValueError, match=r"one size from 64 pixels; found \(\d+, \d+, 3\) and"):
        measure_streaks(image, other)


@pytest.mark.parametrize("difference", [0, 12])
def test_equal_images_and_a_mere_change_of_tone_are_errors(difference: int) -> None:
    clean = scene()
    with pytest.raises(ValueError, match=f"differ by {difference} everywhere"):
        measure_streaks(clean + np.uint8(difference), clean)


def test_the_smallest_image_is_measured_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        measured = measure(120 * draw(20, 12, 2)[:64, :64])
    assert abs(measured.angle - 20) <= 8  # few streaks, and cut at the border
