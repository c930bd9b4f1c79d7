"""benchmarks/blur.py: blur of a known length is found to be as long."""
from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from m3snet.benchmarks import blur
from m3snet.utils.cli import UserError
from m3snet.utils.data.samples import photographs
from m3snet.utils.images import read_image, write_image


@pytest.fixture(scope="module")
def sharp() -> np.ndarray:
    return read_image(photographs("test")["astronaut"])


def line(length: int, degrees: float) -> np.ndarray:
    """The point spread function of an even line."""
    psf = np.zeros((49, 49), np.float32)
    step = np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))]) * length / 2
    ends = [[int(v) for v in np.rint((24 + end) * 16)] for end in (-step, step)]  # in sixteenths: shift 4
    cv2.line(psf, ends[0], ends[1], 1.0, 1, cv2.LINE_AA, 4)
    return psf / psf.sum()


@pytest.mark.parametrize(("length", "degrees"), [(8, 0), (16, 90), (16, 30), (24, -50)])
def test_a_line_is_as_long_as_it_was_drawn(sharp: np.ndarray, length: int, degrees: float) -> None:
    found = blur.measure_blur(sharp, cv2.filter2D(sharp, -1, line(length, degrees)))
    assert len(found.lengths) >= 6
    assert np.median(found.lengths) == pytest.approx(length, abs=1.5)
    assert np.median(found.widths) < 3


def test_no_blur_is_short(sharp: np.ndarray) -> None:
    found = blur.measure_blur(sharp, sharp)
    assert np.median(found.lengths) < 2.5
    assert found.change == 0


def test_noise_is_found(sharp: np.ndarray) -> None:
    noisy = np.clip(sharp + np.random.default_rng(0).normal(0, 9, sharp.shape), 0, 255).astype(np.uint8)
    added = blur.measure_blur(sharp, noisy).noise
    assert added == pytest.approx(9 / 3**0.5, rel=0.25)  # of the mean of three channels


def test_a_table_for_a_folder(sharp: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder, image in (("input", cv2.filter2D(sharp, -1, line(12, 0))), ("target", sharp)):
        (tmp_path / folder).mkdir()
        write_image(tmp_path / folder / "a.png", image)
    blur.main([str(tmp_path)])
    found = capsys.readouterr().out
    assert "| real pairs (1) | shaken (1) | filmed (1) | moving object (1) |" in found
    median = float(found.splitlines()[2].split("|")[2].split(",")[2])
    assert median == pytest.approx(12, abs=1)


def test_small_images(sharp: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder, image in (("input", cv2.filter2D(sharp, -1, line(8, 0))), ("target", sharp)):
        (tmp_path / folder).mkdir()
        write_image(tmp_path / folder / "a.png", image[:150, 150:300])
    blur.main([str(tmp_path)])
    assert capsys.readouterr().out.splitlines()[4].endswith("| - | - | - | - |")
    for folder in ("input", "target"):
        write_image(tmp_path / folder / "a.png", sharp[:100, :100])
    with pytest.raises(UserError, match=r"a\.png: expected images of at least 128 x 128"):
        blur.main([str(tmp_path)])


def test_even_images_tell_nothing(tmp_path: Path) -> None:
    for folder in ("input", "target"):
        (tmp_path / folder).mkdir()
        write_image(tmp_path / folder / "a.png", np.full((200, 200, 3), 90, np.uint8))
    with pytest.raises(UserError, match="texture"):
        blur.main([str(tmp_path)])
