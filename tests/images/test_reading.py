"""Reading and writing images: every depth and channel count, and files that were cut off."""
from __future__ import annotations

import io
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from skimage import data

from m3snet.utils.images import ImageError, read_image, to_image, to_tensor, truncation

PHOTO = data.astronaut()[100:260, 150:350]  # H x W x 3
GRAY = cv2.cvtColor(PHOTO, cv2.COLOR_RGB2GRAY)

# What is lossless must come back exactly; the name says the suffix.
ENCODERS = {
    "baseline.jpg": (cv2.IMWRITE_JPEG_QUALITY, 95),
    "progressive.jpg": (cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    "restarts.jpg": (cv2.IMWRITE_JPEG_RST_INTERVAL, 4),
    "plain.png": (cv2.IMWRITE_PNG_COMPRESSION, 3),
    "lossy.webp": (cv2.IMWRITE_WEBP_QUALITY, 80),
    "lossless.webp": (cv2.IMWRITE_WEBP_QUALITY, 101),
    "raw.tif": (cv2.IMWRITE_TIFF_COMPRESSION, 1),
    "lzw.tif": (cv2.IMWRITE_TIFF_COMPRESSION, 5),
    "plain.bmp": (),
    "plain.ppm": (),
}


def encode(name: str, image: np.ndarray) -> bytes:
    """An RGB, RGBA or gray image as the bytes of a file."""
    if image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGBA2BGRA if image.shape[2] == 4 else cv2.COLOR_RGB2BGR)
    suffix = ".pgm" if name.endswith(".ppm") and image.ndim == 2 else Path(name).suffix
    return cv2.imencode(suffix, image, ENCODERS.get(name, ()))[1].tobytes()


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("image", [PHOTO, GRAY], ids=["color", "gray"])
def test_a_cut_file_is_an_error_that_names_it_wherever_it_was_cut(tmp_path, name, image):
    whole = encode(name, image)
    path = tmp_path / name
    path.write_bytes(whole)
    read_image(path)
    for length in (3, 20, len(whole) // 5, len(whole) // 2, len(whole) * 9 // 10, len(whole) - 20, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ImageError, match=name):
            read_image(path)


@pytest.mark.parametrize("name", ["baseline.jpg", "progressive.jpg", "restarts.jpg", "plain.png"])
def test_a_file_that_a_broken_download_filled_with_zeros_is_an_error(tmp_path, name):
    whole = encode(name, PHOTO)
    path = tmp_path / name
    path.write_bytes(whole[: len(whole) // 2] + bytes(len(whole) // 2))
    with pytest.raises(ImageError, match=rf"{name}.*cut off"):
        read_image(path)


def jpeg(image: np.ndarray = PHOTO, **options: object) -> bytes:
    """A JPEG file as Pillow writes it."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", **options)
    return buffer.getvalue()


TURNED = Image.Exif()
TURNED[0x0112] = 6  # to be shown turned clockwise by 90 degrees
# Width and height of the last block, and of what the colour is taken from, differ.
ODD = PHOTO[:145, :177]
JPEGS = {
    "opencv": encode("baseline.jpg", PHOTO),
    "opencv progressive": encode("progressive.jpg", PHOTO),
    "opencv restarts": encode("restarts.jpg", PHOTO),
    "opencv gray": encode("baseline.jpg", GRAY),
    "pillow": jpeg(),
    "pillow progressive": jpeg(progressive=True, quality=92),
    "pillow gray progressive": jpeg(GRAY, progressive=True),
    "pillow restarts": jpeg(restart_marker_rows=1),
    "pillow without subsampling": jpeg(subsampling=0, optimize=True),
    "pillow odd": jpeg(ODD),
    "pillow odd progressive": jpeg(ODD, progressive=True),
    "turned": jpeg(exif=TURNED),
    "turned progressive": jpeg(exif=TURNED, progressive=True),
}


@pytest.mark.parametrize("kind", JPEGS)
def test_a_cut_jpeg_that_somebody_closed_is_an_error(tmp_path, kind):
    whole = JPEGS[kind]
    path = tmp_path / "closed.jpg"
    start = whole.index(b"\xff\xda") + 20
    for length in np.linspace(start, len(whole) * 0.98, 25).astype(int):
        path.write_bytes(whole[:length] + b"\xff\xd9")
        with pytest.raises(ImageError, match=r"closed\.jpg: the image is cut off"):
            read_image(path)


def test_a_jpeg_that_was_cut_at_a_restart_or_in_a_value_and_closed_is_an_error(tmp_path):
    path = tmp_path / "closed.jpg"
    for kind, mark in (("opencv restarts", b"\xff\xd3"), ("opencv", b"\xff\0"), ("opencv progressive", b"\xff\0")):
        whole = JPEGS[kind]
        place = whole.index(mark, len(whole) // 2)
        for length in (place, place + 1, place + 2):
            path.write_bytes(whole[:length] + b"\xff\xd9")
            with pytest.raises(ImageError, match=r"closed\.jpg: the image is cut off"):
                read_image(path)


def test_a_progressive_jpeg_without_its_last_scans_is_an_error(tmp_path):
    whole = JPEGS["pillow progressive"]
    path = tmp_path / "closed.jpg"
    scans = [found.start() for found in re.finditer(b"\xff\xda", whole)]
    assert len(scans) > 5
    for start in scans[1:]:
        path.write_bytes(whole[:start] + b"\xff\xd9")
        with pytest.raises(ImageError, match=r"closed\.jpg: the image is cut off"):
            read_image(path)


@pytest.mark.parametrize("kind", JPEGS)
def test_whole_jpegs_are_read_without_a_word(tmp_path, kind, capfd):
    path = tmp_path / "whole.jpg"
    for after in (b"", b"\0" * 40, JPEGS["pillow"]):  # cameras write padding and previews behind the image
        path.write_bytes(JPEGS[kind] + after)
        expected = ODD if "odd" in kind else np.rot90(PHOTO, -1) if "turned" in kind else PHOTO
        assert read_image(path).shape == expected.shape
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("kind", "most"), [("opencv", 8), ("pillow progressive", 5)])
def test_damage_that_shifts_what_follows_is_an_error(tmp_path, kind, most):
    """Of 40 files with one wrong bit 18 and 10 were read with wrong colours from there on."""
    whole = JPEGS[kind]
    (tmp_path / "whole.jpg").write_bytes(whole)
    right = read_image(tmp_path / "whole.jpg").astype(int)
    rng, passed = np.random.default_rng(0), 0
    for number, place in enumerate(rng.integers(len(whole) // 5, len(whole) - 40, 40)):
        path = tmp_path / f"{number}.jpg"
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            passed += (np.abs(read_image(path) - right).max(axis=2) > 8).mean() > 0.01
        except ImageError as error:
            assert re.search(rf"{number}\.jpg: .*(damaged|cut off)", str(error))
    assert passed <= most


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (17, 3), (33, 64), (160, 200)])
@pytest.mark.parametrize("options", [{}, {"optimize": True}, {"progressive": True}, {"quality": 5}], ids=str)
def test_flat_and_small_jpegs_are_whole(tmp_path, size, options):
    images = [PHOTO[: size[0], : size[1]], *(np.full((*size, 3), level, np.uint8) for level in (0, 128, 200, 255))]
    for number, image in enumerate(images):
        for channels in (slice(None), 1):
            path = tmp_path / f"{number} {channels}.jpg".replace(":", "")
            path.write_bytes(jpeg(np.ascontiguousarray(image[..., channels]), **options))
            assert read_image(path).shape == (*size, 3)


def test_a_file_is_checked_once_while_it_stays_the_same(tmp_path, monkeypatch):
    decoded = []
    decode = truncation._decode_quietly
    monkeypatch.setattr(truncation, "_decode_quietly", lambda data: decoded.append(1) or decode(data))
    path = tmp_path / "photo.jpg"
    for content in (JPEGS["opencv"], JPEGS["pillow progressive"]):
        path.write_bytes(content)
        read_image(path)
        assert decoded
        decoded.clear()
        read_image(path)
        assert not decoded


def test_gray_corners_are_no_reason_to_refuse_a_jpeg(tmp_path):
    image = PHOTO.copy()
    image[-40:, -40:] = 128
    path = tmp_path / "corner.jpg"
    for options in ({}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_rows": 1}):
        path.write_bytes(jpeg(image, **options))
        assert np.abs(read_image(path)[-16:, -16:].astype(int) - 128).max() <= 1
        path.write_bytes(jpeg(np.full_like(PHOTO, 128), **options))
        assert np.array_equal(read_image(path), np.full_like(PHOTO, 128))


def test_the_end_mark_of_a_thumbnail_is_not_the_end_of_the_photograph(tmp_path):
    buffer, thumbnail = io.BytesIO(), io.BytesIO()
    Image.fromarray(PHOTO).resize((40, 32)).save(thumbnail, "JPEG")
    assert b"\xff\xd9" in thumbnail.getvalue()
    Image.fromarray(PHOTO).save(buffer, "JPEG", exif=b"Exif\0\0" + thumbnail.getvalue(), quality=90)
    whole = buffer.getvalue()
    path = tmp_path / "camera.jpg"
    path.write_bytes(whole)
    assert read_image(path).shape == PHOTO.shape
    path.write_bytes(whole[:-200])
    with pytest.raises(ImageError, match="cut off"):
        read_image(path)


@pytest.mark.parametrize("name", ENCODERS)
def test_bytes_after_the_end_do_no_harm(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(encode(name, PHOTO))
    expected = read_image(path)
    path.write_bytes(path.read_bytes() + b"\0\xff\xd8 trailing \xff" * 9)
    assert np.array_equal(read_image(path), expected)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bits_are_rounded_to_8(tmp_path, suffix):
    levels = np.linspace(0, 65535, 150 * 60).round().astype(np.uint16).reshape(50, 60, 3)
    path = tmp_path / f"deep{suffix}"
    path.write_bytes(encode(path.name, levels))
    read = read_image(path)
    assert read.dtype == np.uint8
    assert np.abs(read - levels / 257).max() <= 0.5
    assert np.array_equal(read_of(tmp_path, ".png", levels[..., 0])[..., 1], read[..., 0])  # gray, 16 bits


def test_gray_becomes_three_equal_channels_and_alpha_is_dropped(tmp_path):
    assert np.array_equal(read_of(tmp_path, ".png", GRAY), np.dstack([GRAY] * 3))
    alpha = np.dstack([PHOTO, np.full_like(GRAY, 7)])
    assert np.array_equal(read_of(tmp_path, ".png", alpha), PHOTO)
    assert np.array_equal(read_of(tmp_path, ".png", alpha.astype(np.uint16) * 257), PHOTO)


def test_a_palette_is_looked_up(tmp_path):
    path = tmp_path / "palette.png"
    picture = Image.fromarray(PHOTO).quantize(32)
    picture.save(path)
    assert np.array_equal(read_image(path), np.asarray(picture.convert("RGB")))


def test_a_photograph_is_turned_upright(tmp_path):
    path = tmp_path / "turned.jpg"
    path.write_bytes(jpeg(exif=TURNED, quality=95))
    assert np.abs(read_image(path).astype(int) - np.rot90(PHOTO, -1)).mean() < 6


def test_float_pixels_are_refused(tmp_path):
    path = tmp_path / "float.tif"
    path.write_bytes(cv2.imencode(".tif", PHOTO.astype(np.float32))[1].tobytes())
    with pytest.raises(ImageError, match=r"float\.tif: float32"):
        read_image(path)


def test_what_is_no_image_is_named(tmp_path):
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("not found")
    for name, reason in (("empty.png", "empty"), ("text.jpg", "not an image"), ("missing.png", "cannot be opened")):
        with pytest.raises(ImageError, match=f"{name}.*{reason}"):
            read_image(tmp_path / name)


def test_tensors_and_images_are_each_others_inverse():
    assert np.array_equal(to_image(to_tensor(PHOTO)), PHOTO)
    assert np.array_equal(to_image(to_tensor(PHOTO) * 3 - 1), np.clip(PHOTO.astype(int) * 3 - 255, 0, 255))


def read_of(folder: Path, suffix: str, image: np.ndarray) -> np.ndarray:
    path = folder / f"image{suffix}"
    path.write_bytes(encode(path.name, image))
    return read_image(path)
