"""Photographs of 16 bits: read as they are, written as they are, rounded where a format holds 8."""
from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import ExifTags, Image, ImageCms
from skimage import data

from m3snet.restore import main
from m3snet.utils.images import Photograph, read_image, read_photograph, write_photograph
from m3snet.utils.images.metadata import Metadata

SMOOTH = cv2.GaussianBlur(data.astronaut()[:60, 100:180].astype(np.uint16) * 257, (0, 0), 2)  # all bits in use
GRAY = np.repeat(SMOOTH[..., :1], 3, axis=2)
ALPHA = np.tile(np.arange(80, dtype=np.uint16) * 813, (60, 1))
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def metadata() -> Metadata:
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Camera"
    return Metadata(exif=exif.tobytes().removeprefix(b"Exif\0\0"), dpi=(300, 300))


@pytest.mark.parametrize("suffix", [".png", ".tif", ".ppm"])
@pytest.mark.parametrize("gray", [False, True])
@pytest.mark.parametrize("alpha", [None, ALPHA], ids=["opaque", "alpha"])
def test_all_16_bits_come_back(suffix: str, gray: bool, alpha: np.ndarray | None, tmp_path: Path) -> None:
    if suffix == ".ppm" and (gray or alpha is not None):
        suffix, alpha = ".pgm" if gray else ".ppm", None  # holds no alpha
    pixels = GRAY if gray else SMOOTH
    holds = suffix in (".png", ".tif")
    write_photograph(
        tmp_path / f"a{suffix}", Photograph(pixels, alpha, gray, None if gray or not holds else PROFILE, (), metadata())
    )
    found = read_photograph(tmp_path / f"a{suffix}")
    assert found.pixels.dtype == np.uint16 and np.array_equal(found.pixels, pixels)
    assert alpha is None or np.array_equal(found.alpha, alpha)
    assert found.gray == gray
    if holds:
        assert found.profile == (None if gray else PROFILE)
    if holds:
        exif = Image.Exif()
        exif.load(found.metadata.exif)
        assert exif[ExifTags.Base.Make] == "Camera"
        assert found.metadata.dpi == pytest.approx((300, 300), abs=0.01)
    assert np.array_equal(read_image(tmp_path / f"a{suffix}"), np.round(pixels / 257).astype(np.uint8))


def test_other_programs_read_what_is_written(tmp_path: Path) -> None:
    for suffix in (".png", ".tif"):
        write_photograph(tmp_path / f"a{suffix}", Photograph(SMOOTH, profile=PROFILE, metadata=metadata()))
        assert np.array_equal(cv2.imread(str(tmp_path / f"a{suffix}"), cv2.IMREAD_UNCHANGED)[..., ::-1], SMOOTH)
    assert np.array_equal(tifffile.imread(tmp_path / "a.tif"), SMOOTH)
    with Image.open(tmp_path / "a.png") as picture:
        picture.verify()  # the sums of all chunks


def test_a_format_of_8_bits_gets_8(tmp_path: Path) -> None:
    for suffix in (".bmp", ".webp", ".jpg"):
        write_photograph(tmp_path / f"a{suffix}", Photograph(SMOOTH))
        found = read_photograph(tmp_path / f"a{suffix}").pixels
        assert found.dtype == np.uint8
        assert np.abs(found - SMOOTH / 257).mean() < (3 if suffix == ".jpg" else 0.3)


def test_a_photograph_of_16_bits_is_restored_in_16(tmp_path: Path) -> None:
    for name, pixels, gray in (("colour.png", SMOOTH, False), ("gray.tif", GRAY, True)):
        write_photograph(tmp_path / name, Photograph(pixels, gray=gray))
        main(["rain", str(tmp_path / name), "-o", str(tmp_path / "out"), "--weights", "derain_t"])
        found = read_photograph(tmp_path / "out" / name)
        assert found.pixels.dtype == np.uint16 and found.gray == gray
        assert len(np.unique(found.pixels % 257)) > 200  # not 8 bits in a 16-bit file
        assert np.abs(found.pixels / 257 - pixels / 257).mean() < 10
