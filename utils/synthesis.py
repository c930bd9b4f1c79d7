"""Rain and motion blur made from sharp photographs: what training learns from where no real pairs are.

Every function takes an H x W x 3 uint8 RGB image and a random generator, and is a pure function of the two.

Rain is drawn in layers of streaks, as the makers of benchmarks draw it: random dots are smeared into lines of one
length, thickness and direction. Layers add to the picture and saturate, as light does (Rain100L, Rain100H), or are put
on it by image editors' rules (Rain800, whose training pairs set the ranges of `_edited_rain`: docs/synthesis.md). Blur
is the average of what a moving camera sees while its shutter is open: the trajectory is a random walk with inertia
(Boracchi and Foi 2012; DeblurGAN, Kupyn et al. 2018), near things move farther than distant ones, some on their own,
light adds up linearly or as the camera has encoded it (GoPro), and the sensor adds noise and rounds to 8 bits. The
sharp image is the view at mid-exposure, as the middle frame is in GoPro and REDS.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import cv2
import numpy as np
from scipy.signal import lfilter

Generator = np.random.Generator

_REACH = 16  # pixels a point of the scene may be away from its sharp position
_INVISIBLE = 0.3  # pixels; less does not show in 8 bits
_EDITED = 130  # grey levels that opaque edited rain adds: as much as screening it adds to an average photograph


def add_rain(image: np.ndarray, rng: Generator) -> np.ndarray:
    """Rain of a random kind on a photograph; one in 25 stays dry, so that a network learns to leave those alone.

    The kinds are those of `RAINS`. Only retouched rain makes pixels darker.
    """
    kind = rng.choice(5, p=(0.04, 0.32, 0.34, 0.16, 0.14))
    if kind == 0:
        return image.copy()
    return rain_of_kind(tuple(RAINS)[kind - 1], image, rng)


def rain_of_kind(kind: str, image: np.ndarray, rng: Generator) -> np.ndarray:
    """Rain of one kind, a key of `RAINS`, on a photograph."""
    light = RAINS[kind](image.astype(np.float32), rng)
    return np.rint(np.clip(light, 0, 255, out=light)).astype(np.uint8)


def add_blur(image: np.ndarray, rng: Generator) -> np.ndarray:
    """Motion blur of a random kind: a shaken camera, one that also rolls and nears, or an object moving on its own.

    The strength goes from nothing at all to a point that draws a line of about 30 pixels; most are moderate.
    """
    reach = 0.0 if rng.random() < 0.04 else _REACH * rng.beta(1.4, 1.8)
    # GoPro's frames were averaged as they came out of the camera, without undoing its response curve.
    linear = rng.random() < 0.5
    light = _TO_LINEAR[image] if linear else image.astype(np.float32) / 255
    kind = rng.choice(3, p=(0.6, 0.25, 0.15))
    if reach >= _INVISIBLE:
        light = tuple(BLURS.values())[kind](light, reach, rng)
    if rng.random() < 0.25:
        light = _sensor_noise(light, rng)
    return _to_srgb(light) if linear else np.rint(np.clip(light, 0, 1) * 255).astype(np.uint8)


def shake(image: np.ndarray, rng: Generator) -> np.ndarray:
    """The blur of a shaken camera alone, 2 to 10 pixels to the farthest point of its path, without noise.

    One definite, moderate degradation: for test images, not for training.
    """
    return _to_srgb(_shaken(_TO_LINEAR[image], rng.uniform(2, 10), rng))


Degradation = Callable[[np.ndarray, Generator], np.ndarray]
DEGRADATIONS: dict[str, Degradation] = {"rain": add_rain, "blur": add_blur}
# Pixels around a patch that shape what is inside it: a training crop is cut this much larger, degraded, and trimmed.
MARGINS: dict[str, int] = {"rain": 0, "blur": _REACH}


# Rain


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
        tilt = angle + rng.normal(0, 1.5)
        rain += brightness * _drops(height, width, tilt, length, thickness, taper, coverage / 2, rng)
    return _veiled(light + rain[..., None] * np.float32(255), rng)


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
        tilt = angle + rng.normal(0, spread)
        layer = _drops(height, width, tilt, length, thickness, taper, coverage / layers, rng)
        rain += brightness * rng.uniform(0.5, 1.2) * layer
    return _veiled(light + rain[..., None] * np.float32(255), rng)


def _edited_rain(light: np.ndarray, rng: Generator) -> np.ndarray:
    """Noise smeared and thresholded, as image editors draw rain and as in Rain800."""
    height, width = light.shape[:2]
    rain = _smeared_noise(height, width, rng)
    rain -= rng.uniform(-1.2, 0.6)
    rain *= _log_uniform(0.07, 0.26, rng)
    opacity = np.clip(rain, 0, 1, out=rain)[..., None]
    # Editors either add, or 'screen': the brighter the pixel, the less.
    screened = rng.random() < 0.4
    return _veiled(light + opacity * (255 - light if screened else np.float32(_EDITED)), rng)


def _retouched_rain(light: np.ndarray, rng: Generator) -> np.ndarray:
    """A darker tone, shadows pressed into black, and bright and dark streaks, as in the darkened pairs of Rain800."""
    height, width = light.shape[:2]
    rain = np.float32(rng.uniform(13, 26) / 255) * _smeared_noise(height, width, rng)
    contrast = np.float32(rng.uniform(0.9, 1.2))
    darker = (light - 128) * contrast + np.float32(128 - rng.uniform(2, 26))
    return darker + rain[..., None] * np.float32(255)


RAINS: dict[str, Callable[[np.ndarray, Generator], np.ndarray]] = {  # of a picture, H x W x 3 float32 grey levels
    "light": _light_rain,
    "heavy": _heavy_rain,
    "edited": _edited_rain,
    "retouched": _retouched_rain,
}


def _smeared_noise(height: int, width: int, rng: Generator) -> np.ndarray:
    """H x W streaks of mean 0 and standard deviation 1."""
    length = _log_uniform(8, 30, rng)
    thickness = rng.uniform(0.35, 0.85)
    noise = _streaks(height, width, _fall(rng), length, thickness, 0.0, _dense_dots, rng)
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


def _streaks(
    height: int, width: int, angle: float, length: float, thickness: float, taper: float, dots: Dots, rng: Generator
) -> np.ndarray:
    """Dots smeared into lines `length` pixels long and about 3 * `thickness` wide, `angle` degrees off the vertical.

    The profile along a line is flat for `taper` 0, a cosine bell for 1; its peak is 1. Returns H x W float32.
    """
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    # Drawn upright on a canvas that covers the image when turned; the turn also takes the streaks off the pixel grid.
    tall = math.ceil(height * cos + width * abs(sin)) + 3
    wide = math.ceil(width * cos + height * abs(sin)) + 3
    size = max(2, round(length))
    along = np.hanning(size + 2)[1:-1] ** taper
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


def _drops(
    height: int, width: int, angle: float, length: float, thickness: float, taper: float | None, coverage: float,
    rng: Generator,
) -> np.ndarray:
    """Streaks of single drops, which would cover `coverage` of the picture if none overlapped; H x W float32.

    `taper` None: hard ones, as bright all over, with sharp edges; the fainter ones vanish.
    """
    dots = _sparse_dots(coverage / (length * 3 * thickness))
    layer = _streaks(height, width, angle, length, thickness, taper or 0.0, dots, rng)
    return np.clip(3 * layer - 1, 0, 1) if taper is None else layer


def _veiled(light: np.ndarray, rng: Generator) -> np.ndarray:
    """Now and then: rain too far away to be seen as streaks, a faint haze that changes slowly."""
    if rng.random() < 0.15:
        corners = rng.uniform(0, 0.15, (2, 2)).astype(np.float32)
        haze = cv2.resize(corners, light.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        light += haze[..., None] * (255 - light)
    return light


# Motion blur


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
    share = rng.uniform(0.2, 1)  # of the reach that translation takes; what is left is for roll and zoom
    steps = math.ceil(1.3 * reach) + 2
    shift = (_trajectory(rng, steps) * reach * share).astype(np.float32)
    turning = (_trajectory(rng, steps) * reach * (1 - share) / farthest).astype(np.float32)
    for (right, down), (roll, zoom) in zip(shift, turning, strict=True):
        yield x + nearness * right + zoom * dx - roll * dy, y + nearness * down + roll * dx + zoom * dy


def _nearness(height: int, width: int, rng: Generator) -> np.ndarray:
    """How far each pixel moves when the camera does, 1 for the nearest: a slope, or two planes with a wavy border."""
    corners = rng.uniform(0.3, 1, (2, 2)).astype(np.float32)
    slope = cv2.resize(corners, (width, height), interpolation=cv2.INTER_LINEAR)
    if rng.random() < 0.5:
        return slope
    waves = cv2.resize(rng.standard_normal((4, 4)).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    return np.where(waves > 0, slope, np.float32(rng.uniform(0.1, 0.6)) * slope)


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


BLURS: dict[str, Callable[[np.ndarray, float, Generator], np.ndarray]] = {  # light, H x W x 3, and reach in pixels
    "shaken": _shaken,
    "filmed": _filmed,
    "moving object": _moving_object,
}


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
