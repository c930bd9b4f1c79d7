"""Synthetic rain and blur: reproducible, physically sensible, and as strong as the benchmarks' own."""
import numpy as np
import pytest

from utils.images import read_image
from utils.metrics import psnr
from utils.samples import photographs
from utils.synthesis import DEGRADATIONS, MARGINS, add_blur, add_rain, expose, random_psf

both = pytest.mark.parametrize("degrade", DEGRADATIONS.values(), ids=DEGRADATIONS.keys())


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def linear(image: np.ndarray) -> np.ndarray:
    value = image / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return read_image(photographs("test")["astronaut"])[100:292, 120:312]


@both
def test_a_pure_function_of_image_and_seed(degrade, photo):
    before = photo.copy()
    for seed in range(12):
        first = degrade(photo, rng(seed))
        np.testing.assert_array_equal(first, degrade(photo, rng(seed)))
        assert not np.shares_memory(first, photo)
    np.testing.assert_array_equal(photo, before)
    assert len({degrade(photo, rng(seed)).tobytes() for seed in range(12)}) > 10


@both
@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (300, 5), (5, 300), (37, 64)])
def test_any_size(degrade, shape):
    for seed in range(40):
        image = rng(seed).integers(0, 256, (*shape, 3)).astype(np.uint8)
        degraded = degrade(image, rng(seed))
        assert degraded.shape == image.shape and degraded.dtype == np.uint8


@both
def test_strength_covers_the_benchmarks(degrade, photo):
    inputs = [psnr(degrade(photo, rng(seed)), photo) for seed in range(300)]
    weak, median, strong = np.percentile(inputs, (95, 50, 5))
    # Rain: Rain100H lies at 10 to 16 dB, Rain800 at 20 to 25, Rain100L at 20 to 32. Blur: GoPro 22 to 24, REDS to 29.
    assert (8 < strong < 14 and 17 < median < 24) if degrade is add_rain else (15 < strong < 20 and 21 < median < 28)
    assert weak > 30
    assert 0.01 < np.mean(np.array(inputs) > 45) < 0.12  # a network must learn to leave what is good alone


def test_rain_only_adds_light(photo):
    for seed in range(60):
        assert np.all(add_rain(photo, rng(seed)) >= photo)


def test_rain_falls_everywhere_and_downwards():
    black = np.zeros((128, 128, 3), np.uint8)
    layers = np.stack([add_rain(black, rng(seed))[..., 0].astype(float) for seed in range(400)])
    rows = layers.mean((0, 2))
    middle = rows[32:-32].mean()
    assert abs(rows[:4].mean() / middle - 1) < 0.06 and abs(rows[-4:].mean() / middle - 1) < 0.06
    across, along = np.abs(np.diff(layers, axis=2)).mean((1, 2)), np.abs(np.diff(layers, axis=1)).mean((1, 2))
    assert np.mean(across >= 1.3 * along) > 0.9


def test_psf_is_a_curved_path_within_reach():
    straightness = []
    for seed in range(100):
        reach = rng(seed).uniform(3, MARGINS["blur"])
        psf = random_psf(reach, rng(seed))
        assert psf.sum() == pytest.approx(1, abs=1e-5) and psf.min() >= 0
        y, x = np.indices(psf.shape) - psf.shape[0] // 2
        assert np.hypot(x, y)[psf > 0].max() <= reach + np.sqrt(2)  # bilinear weights reach the next pixel
        spread = np.linalg.eigvalsh(np.cov(np.stack([x.ravel(), y.ravel()]), aweights=psf.ravel()))
        straightness.append(np.sqrt(spread[0] / spread[1]))
    assert np.mean(np.array(straightness) > 0.15) > 0.5
    assert min(straightness) < 0.1


def test_psf_is_finer_than_a_pixel():
    def centroid(psf: np.ndarray) -> np.ndarray:
        y, x = np.indices(psf.shape) - psf.shape[0] // 2
        return np.array([np.sum(y * psf), np.sum(x * psf)])

    for seed in range(20):  # below 1.3 pixels, the same random numbers are the same path, only larger
        np.testing.assert_allclose(
            centroid(random_psf(1.2, rng(seed))), 3 * centroid(random_psf(0.4, rng(seed))), atol=1e-5
        )


def test_exposure_convolves_and_conserves_light():
    light = np.zeros((41, 41, 3), np.float32)
    light[20, 20] = 1
    psf = random_psf(9, rng(5))
    seen = expose(light, psf)
    radius = psf.shape[0] // 2
    np.testing.assert_allclose(seen[20 - radius : 21 + radius, 20 - radius : 21 + radius, 1], psf, atol=1e-6)
    assert seen.sum() == pytest.approx(3, abs=1e-4)


def test_blur_keeps_the_mean_of_linear_or_of_encoded_light(photo):
    errors = []
    for seed in range(60):
        blurred = add_blur(photo, rng(seed))
        errors.append([abs(f(blurred).mean() / f(photo).mean() - 1) for f in (linear, np.asarray)])
    kept = np.array(errors)
    assert np.all(kept.min(1) < 0.03)
    assert np.mean(kept[:, 0] < kept[:, 1]) > 0.5


def test_no_light_travels_farther_than_the_margin():
    image = np.zeros((96, 96, 3), np.uint8)
    image[46:51, 46:51] = 255
    for seed in range(150):
        y, x = np.nonzero(add_blur(image, rng(seed)).max(2) > 60)
        assert np.abs([y - 48, x - 48]).max(initial=0) <= 2 + MARGINS["blur"] + 1


def test_a_patch_with_its_margin_is_blurred_as_the_whole_image_is(photo):
    margin = MARGINS["blur"]
    light = photo.astype(np.float32)
    psf = random_psf(margin, rng(0))
    inside = slice(margin, -margin)
    part, whole = light[20:92, 30:102], expose(light, psf)
    np.testing.assert_allclose(expose(part, psf)[inside, inside], whole[20:92, 30:102][inside, inside], atol=1e-2)
