"""Every protocol against slow definitions written apart from it, and against the field's own scripts (golden/)."""
from __future__ import annotations

import csv
import math
import os
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from skimage import data
from skimage.metrics import structural_similarity

from m3snet.utils.images import read_image
from m3snet.utils.scoring.metrics import PROTOCOLS, psnr, rgb_to_y, score_aligned, score_rgb, score_y, ssim, ssim_3d

GOLDEN = Path(__file__).parents[1] / "golden"
DATASETS = os.environ.get("M3SNET_DATASETS")


@pytest.fixture
def target() -> np.ndarray:
    return data.astronaut()[40:164, 150:310].copy()  # 124 x 160: not square, so that swapped axes show


def noisy(image: np.ndarray, sigma: float = 20, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, sigma, image.shape)
    return np.clip(np.round(image + noise), 0, 255).astype(np.uint8)


def window() -> np.ndarray:
    weights = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    return weights / weights.sum()


def ssim_at(a: np.ndarray, b: np.ndarray, weights: np.ndarray) -> float:
    """The SSIM index of one window, by the definition: weighted mean, variances and covariance."""
    a, b = a.astype(float), b.astype(float)
    mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
    var_a, var_b = (weights * (a - mean_a) ** 2).sum(), (weights * (b - mean_b) ** 2).sum()
    cov = (weights * (a - mean_a) * (b - mean_b)).sum()
    c1, c2 = 2.55**2, 7.65**2
    return (2 * mean_a * mean_b + c1) * (2 * cov + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))


def test_luma_of_the_colours_of_bt_601() -> None:
    colours = {(0, 0, 0): 16, (255, 255, 255): 235, (255, 0, 0): 81, (0, 255, 0): 145, (0, 0, 255): 41}
    image = np.array([list(colours)], np.uint8)
    assert rgb_to_y(image).tolist() == [list(colours.values())]
    assert rgb_to_y(image).dtype == np.uint8


def test_luma_is_rounded_not_cut(target: np.ndarray) -> None:
    exact = 16 + target.astype(float) @ [65.481, 128.553, 24.966] / 255
    error = rgb_to_y(target) - exact
    assert np.abs(error).max() <= 0.5 + 1e-9
    assert abs(error.mean()) < 0.01


def test_psnr_in_closed_form(target: np.ndarray) -> None:
    target = target.clip(10, 245)
    assert psnr(target + np.uint8(5), target) == pytest.approx(20 * math.log10(255 / 5), abs=1e-12)
    one_channel = target.copy()
    one_channel[..., 2] -= 6
    assert psnr(one_channel, target) == pytest.approx(20 * math.log10(255 / math.sqrt(36 / 3)), abs=1e-12)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_equal_images(protocol: str, target: np.ndarray) -> None:
    scores = PROTOCOLS[protocol](target, target.copy())
    assert scores["ssim"] == pytest.approx(1, abs=1e-6)
    assert scores["psnr"] == math.inf or (protocol == "aligned" and scores["psnr"] > 80)


def test_ssim_against_loops(target: np.ndarray) -> None:
    a, b = noisy(target)[:24, :31, 0], target[:24, :31, 0]
    weights = np.outer(window(), window())
    places = [np.s_[i : i + 11, j : j + 11] for i, j in np.ndindex(14, 21)]
    assert ssim(a, b) == pytest.approx(np.mean([ssim_at(a[place], b[place], weights) for place in places]), abs=1e-9)


def test_ssim_against_scikit_image(target: np.ndarray) -> None:
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    expected = structural_similarity(noisy(target), target, channel_axis=2, **settings)
    assert ssim(noisy(target), target) == pytest.approx(expected, abs=1e-9)
    luma = rgb_to_y(noisy(target)), rgb_to_y(target)
    assert score_y(noisy(target), target)["ssim"] == pytest.approx(structural_similarity(*luma, **settings), abs=1e-9)


def test_ssim_3d_against_loops(target: np.ndarray) -> None:
    a, b = noisy(target)[:9, :8], target[:9, :8]
    padded_a, padded_b = (np.pad(image, 5, mode="edge") for image in (a, b))
    weights = np.einsum("i,j,k->ijk", window(), window(), window())
    places = [np.s_[i : i + 11, j : j + 11, k : k + 11] for i, j, k in np.ndindex(a.shape)]
    values = [ssim_at(padded_a[place], padded_b[place], weights) for place in places]
    assert ssim_3d(a, b) == pytest.approx(np.mean(values), abs=1e-9)


def test_rgb_names_both_indices_and_the_volume_scores_higher(target: np.ndarray) -> None:
    scores = score_rgb(noisy(target), target)
    assert scores["psnr"] == psnr(noisy(target), target)
    assert scores["ssim"] == pytest.approx(ssim_3d(noisy(target), target), abs=1e-12)
    assert scores["ssim_2d"] == pytest.approx(ssim(noisy(target), target), abs=1e-12)
    assert scores["ssim"] > scores["ssim_2d"] + 0.05


def test_aligned_forgives_brightness(target: np.ndarray) -> None:
    even = target // 2 * 2
    assert psnr(even // 2, even) < 15
    scores = score_aligned(even // 2, even)
    assert scores["psnr"] > 60
    assert scores["ssim"] > 0.9999
    assert scores["aligned"] == 1


def test_aligned_scores_only_the_overlap_of_a_shifted_image() -> None:
    photograph = gaussian_filter(data.astronaut()[:240, 100:400].astype(float), (1, 1, 0)).round().astype(np.uint8)
    target, restored = photograph[:-12, :-16], noisy(photograph[12:, 16:], sigma=8)
    x, z = target / 255, restored / 255
    z *= (x * z).sum() / (z * z).sum()
    # By hand what the protocol has to find out: the shift, and that a tenth of the image lies outside.
    mask = np.zeros_like(x)
    mask[12:, 16:] = 1
    x, z = x * mask, np.roll(z, (12, 16), axis=(0, 1)) * mask
    _, similarity = structural_similarity(
        x, z, channel_axis=2, gaussian_weights=True, use_sample_covariance=False, data_range=1, full=True
    )
    similarity, kept = (similarity * mask)[5:-5, 5:-5], mask[5:-5, 5:-5]
    scores = score_aligned(restored, target)
    assert psnr(restored, target) < 20
    assert scores["psnr"] == pytest.approx(-10 * math.log10(((x - z) ** 2).sum() / mask.sum()), abs=0.01)
    assert scores["ssim"] == pytest.approx(similarity.sum() / kept.sum(), abs=1e-3)


@pytest.mark.parametrize("level", [0, 128])
def test_aligned_scores_what_it_cannot_align_as_it_lies(level: int, target: np.ndarray) -> None:
    scores = score_aligned(np.full_like(target, level), target)
    assert scores["aligned"] == 0
    x = target.astype(float)
    best = 0 if level == 0 else x.mean()  # the flat image after the brightness is matched
    assert scores["psnr"] == pytest.approx(-10 * math.log10(np.mean((x - best) ** 2) / 255**2), abs=1e-4)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_two_sizes_are_refused_with_both(protocol: str, target: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"160x128 .* 160x124"):
        PROTOCOLS[protocol](np.pad(target, ((0, 4), (0, 0), (0, 0))), target)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_unfit_images_are_refused(protocol: str, target: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected uint8, found float64"):
        PROTOCOLS[protocol](target / 255, target)
    with pytest.raises(ValueError, match="window is 11x11; the image is only 160x10"):
        PROTOCOLS[protocol](target[:10], target[:10])


@pytest.mark.skipif(not DATASETS, reason="M3SNET_DATASETS does not name the folder that holds Rain13K, GoPro, REDS320")
@pytest.mark.parametrize(
    ("table", "protocol", "columns", "tolerances"),
    [
        ("metrics_y.csv", "y", {"psnr": "psnr_y", "ssim": "ssim_y"}, (1e-6, 1e-6)),
        (
            "metrics_rgb.csv",
            "rgb",
            {"psnr": "psnr_rgb", "ssim": "ssim_rgb_3d", "ssim_2d": "ssim_rgb_2d"},
            (1e-6, 1e-6, 1e-6),
        ),
        ("metrics_rgb.csv", "aligned", {"psnr": "psnr_aligned", "ssim": "ssim_aligned"}, (0.05, 2e-3)),
    ],
)
def test_golden(table: str, protocol: str, columns: dict[str, str], tolerances: tuple[float, ...]) -> None:
    assert DATASETS
    differences = []
    with (GOLDEN / table).open(newline="") as file:
        for row in csv.DictReader(file):
            dataset, name = row["name"].split("/")
            folder = Path(DATASETS) / ("Rain13K/test" if protocol == "y" else "") / dataset
            folder = folder if protocol == "y" else folder / "test"
            scores = PROTOCOLS[protocol](read_image(folder / "input" / name), read_image(folder / "target" / name))
            differences.append([abs(scores[ours] - float(row[theirs])) for ours, theirs in columns.items()])
    largest = np.max(differences, axis=0)
    print(f"{table} {protocol}: largest differences", dict(zip(columns, largest.tolist(), strict=True)))
    assert (largest <= tolerances).all(), largest
