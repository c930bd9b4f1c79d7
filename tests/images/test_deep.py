"""Photographs of 16 bits: read as they are, written as they are, rounded where a format holds 8."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pillow_heif
import pytest
import tifffile
from PIL import ExifTags, Image, ImageCms
from skimage import data

from m3snet.restore import main
from m3snet.utils.images import Photograph, check_can_hold, read_image, read_photograph, write_photograph
from m3snet.utils.images.metadata import Metadata

CASES = Path(__file__).parents[1] / "cases"
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


TURNED = Image.Exif()
TURNED[ExifTags.Base.Orientation] = 6


def heic(path: Path, samples: np.ndarray, bits: int) -> None:
    mode = {1: "L;16", 3: "RGB;16", 4: "RGBA;16"}[samples.shape[2]]
    file = pillow_heif.from_bytes(mode, samples.shape[1::-1], samples.tobytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pillow_heif.options.SAVE_HDR_TO_12_BIT", bits == 12)
        file.save(path, quality=95, chroma=444, exif=TURNED.tobytes())


def avif(path: Path, samples: np.ndarray, bits: int) -> None:
    orders = {3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}
    image = cv2.cvtColor(samples, orders[samples.shape[2]]) if samples.shape[2] > 1 else samples[..., 0]
    block = np.frombuffer(TURNED.tobytes(), np.uint8)
    settings = [cv2.IMWRITE_AVIF_DEPTH, bits, cv2.IMWRITE_AVIF_QUALITY, 95]
    _, encoded = cv2.imencodeWithMetadata(
        ".avif", np.right_shift(image, 16 - bits), [cv2.IMAGE_METADATA_EXIF], [block], settings
    )
    path.write_bytes(encoded.tobytes())


with_avif = pytest.mark.skipif(not hasattr(cv2, "imencodeWithMetadata"), reason="this OpenCV writes no 10-bit AVIF")


@pytest.mark.parametrize("write", [heic, pytest.param(avif, marks=with_avif)])
@pytest.mark.parametrize("bits", [10, 12])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_10_and_12_bits_are_read_as_16_and_written_as_10(
    write: Any, bits: int, channels: int, tmp_path: Path
) -> None:
    source = tmp_path / f"a.{write.__name__}"
    samples = np.dstack([SMOOTH, ALPHA])[..., :channels]
    samples[:8, :8] = 65535
    write(source, np.ascontiguousarray(samples), bits)
    photograph = read_photograph(source)
    right = np.rot90(samples, -1)
    assert photograph.pixels.dtype == np.uint16 and photograph.bits == bits and photograph.gray == (channels == 1)
    assert np.abs(photograph.pixels / 257 - right[..., : min(channels, 3)] / 257).mean() < 0.5
    assert photograph.pixels[2, -2].min() > 65000  # white is white
    assert len(np.unique(photograph.pixels)) > 300
    if channels == 4:
        assert photograph.alpha is not None and photograph.alpha.dtype == np.uint16
        assert np.abs(photograph.alpha / 257 - right[..., 3] / 257).mean() < 0.5
    again = tmp_path / f"b.{write.__name__}"
    write_photograph(again, photograph)
    found = read_photograph(again)
    assert found.bits == 10 and np.abs(found.pixels / 257 - photograph.pixels / 257).mean() < 1
    assert check_can_hold(again, photograph) == (["12 bits become 10"] if bits == 12 else [])
    assert check_can_hold(tmp_path / "c.tif", photograph) == []
    assert check_can_hold(tmp_path / "c.webp", photograph) == [f"{bits} bits become 8"]


@with_avif
def test_an_opencv_without_avif_reads_8_bits_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    avif(tmp_path / "a.avif", SMOOTH, 10)
    monkeypatch.setattr("cv2.imdecode", lambda *_: None)
    photograph = read_photograph(tmp_path / "a.avif")
    assert photograph.pixels.dtype == np.uint8 and photograph.notes == ("10 bits read as 8",)
    assert np.abs(photograph.pixels - np.rot90(SMOOTH, -1) / 257).mean() < 2


def test_what_a_photograph_loses_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def restored(name: str) -> str:
        main(["rain", str(tmp_path / "a.png"), "-o", str(tmp_path / name), "--weights", "derain", "--strength", "0"])
        return capsys.readouterr().err

    p3 = read_photograph(CASES / "photo-display-p3.jpg").profile
    write_photograph(tmp_path / "a.png", Photograph(SMOOTH, profile=p3, metadata=metadata()))
    assert restored("b.png") == restored("b.tif") == ""
    assert restored("b.jpg") == f"warning: {tmp_path / 'a.png'}: 16 bits become 8\n"
    words = "16 bits become 8, Display P3 becomes sRGB, EXIF is left out"
    assert restored("b.ppm") == f"warning: {tmp_path / 'a.png'}: {words}\n"
    write_photograph(tmp_path / "a.png", Photograph(SMOOTH, profile=PROFILE))
    assert restored("c.ppm") == ""  # sRGB needs no profile, and 16 bits stay
    assert np.array_equal(read_photograph(tmp_path / "c.ppm").pixels, SMOOTH)


def test_a_photograph_of_16_bits_is_restored_in_16(tmp_path: Path) -> None:
    for name, pixels, gray in (("colour.png", SMOOTH, False), ("gray.tif", GRAY, True)):
        write_photograph(tmp_path / name, Photograph(pixels, gray=gray))
        main(["rain", str(tmp_path / name), "-o", str(tmp_path / "out"), "--weights", "derain"])
        found = read_photograph(tmp_path / "out" / name)
        assert found.pixels.dtype == np.uint16 and found.gray == gray
        assert len(np.unique(found.pixels % 257)) > 200  # not 8 bits in a 16-bit file
        assert np.abs(found.pixels / 257 - pixels / 257).mean() < 10
