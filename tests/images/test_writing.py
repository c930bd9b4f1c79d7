"""What is written holds what the photograph held, or is refused."""
from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

from m3snet.utils.images import (
    WRITTEN_SUFFIXES,
    ImageError,
    Photograph,
    check_can_hold,
    read_image,
    read_photograph,
    write_image,
    write_photograph,
)

PHOTO = data.astronaut()[100:160, 150:230]
GRAY = np.repeat(PHOTO[..., 1:2], 3, axis=2)


@pytest.mark.parametrize("suffix", sorted(WRITTEN_SUFFIXES - {".pgm"}))
def test_every_format_that_is_written_is_read(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / "made" / f"größe{suffix.upper()}"
    write_image(path, PHOTO)
    lossy = suffix in (".jpg", ".jpeg", ".jpe", ".jfif", ".avif", ".heic", ".heif")
    assert np.abs(read_image(path).astype(int) - PHOTO).mean() < (4 if lossy else 1e-9)
    with Image.open(path) as written:
        assert written.mode == "RGB"


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".bmp", ".pgm"])
def test_gray_is_written_as_one_channel(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"gray{suffix}"
    write_photograph(path, Photograph(GRAY, gray=True))
    with Image.open(path) as written:
        assert written.mode == "L"
    assert np.abs(read_image(path).astype(int) - GRAY).mean() < 2


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
@pytest.mark.parametrize("gray", [False, True])
def test_alpha_is_written(suffix: str, gray: bool, tmp_path: Path) -> None:
    path = tmp_path / f"alpha{suffix}"
    photograph = Photograph(GRAY if gray else PHOTO, alpha=np.maximum(PHOTO[..., 0], 1), gray=gray)
    write_photograph(path, photograph)
    found = read_photograph(path)
    assert np.array_equal(found.pixels, photograph.pixels)
    assert found.alpha is not None and np.array_equal(found.alpha, photograph.alpha)
    assert found.gray == (gray and suffix != ".webp")


def test_what_a_format_cannot_hold_is_refused(tmp_path: Path) -> None:
    plain = Photograph(PHOTO)
    wide = replace(plain, pixels=np.zeros((1, 20_000, 3), np.uint8))
    for name, photograph, reason in (
        ("a.jpg", replace(plain, alpha=PHOTO[..., 0]), "transparent in part, which JPEG cannot hold"),
        ("a.bmp", replace(plain, alpha=PHOTO[..., 0]), "transparent in part, which BMP cannot hold"),
        ("a.pgm", plain, "holds gray images only"),
        ("a.webp", wide, "WEBP holds 16,383 pixels a side"),
        ("a.jpg", replace(plain, pixels=np.zeros((70_000, 1, 3), np.uint8)), "JPEG holds 65,500 pixels a side"),
        ("a.gif", plain, r"images cannot be written as '\.gif'"),
        ("a", plain, "images cannot be written as ''"),
    ):
        with pytest.raises(ImageError, match=f"{name}.*{reason}"):
            check_can_hold(tmp_path / name, photograph)
        with pytest.raises(ImageError, match=f"{name}.*{reason}"):
            write_photograph(tmp_path / name, photograph)
    assert list(tmp_path.iterdir()) == []


def test_only_images_are_written(tmp_path: Path) -> None:
    for image in (PHOTO.astype(np.float32), PHOTO[..., 0], np.zeros((3, 20, 20), np.uint8)):
        with pytest.raises(ImageError, match=r"a\.png: expected an H x W x 3 uint8 or uint16 image, found \("):
            write_image(tmp_path / "a.png", image)
