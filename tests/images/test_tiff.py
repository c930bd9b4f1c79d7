"""TIFF: every layout is read as it is meant, or refused; never a thumbnail or one page of several."""
from __future__ import annotations

import io
import itertools
import warnings
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image
from skimage import data

from m3snet.utils.images import ImageError, read_image, read_photograph

PHOTO = data.astronaut()[100:165, 150:227]
GRAY = PHOTO[..., 1]


def tiff(image: np.ndarray, **options: Any) -> bytes:
    """A TIFF file as tifffile writes it."""
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        tifffile.imwrite(stream, image, **options)
    return stream.getvalue()


def read(folder: Path, content: bytes, name: str = "image.tif") -> np.ndarray:
    (folder / name).write_bytes(content)
    return read_image(folder / name)


LAYOUTS = list(
    itertools.product(
        ("rgb", "planar", "black", "white"), (np.uint8, np.uint16), (None, "zlib"), (None, (32, 48)), "<>"
    )
)


@pytest.mark.parametrize(("kind", "dtype", "compression", "tile", "order"), LAYOUTS)
def test_every_layout_is_read_rightly(
    kind: str, dtype: type, compression: str | None, tile: tuple[int, int] | None, order: str, tmp_path: Path
) -> None:
    right = PHOTO if kind in ("rgb", "planar") else GRAY
    image = right.astype(dtype) * (257 if dtype == np.uint16 else 1)
    options: dict[str, Any] = {"photometric": "rgb" if right is PHOTO else "minisblack"}
    if kind == "planar":
        image, options["planarconfig"] = np.moveaxis(image, 2, 0), "separate"
    if kind == "white":
        image, options["photometric"] = np.iinfo(dtype).max - image, "miniswhite"
    found = read(tmp_path, tiff(image, compression=compression, tile=tile, byteorder=order, **options))
    assert np.array_equal(found, right if right is PHOTO else np.dstack([GRAY] * 3))


def test_an_array_of_channels_first_as_tifffile_writes_it(tmp_path: Path) -> None:
    assert np.array_equal(read(tmp_path, tiff(np.moveaxis(PHOTO, 2, 0))), PHOTO)


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "tiff_adobe_deflate", None])
@pytest.mark.parametrize("kind", ["RGB", "L", "P", "1", "RGBA", "LA"])
def test_what_others_write(kind: str, compression: str | None, tmp_path: Path) -> None:
    picture = Image.fromarray(PHOTO)
    picture = picture.convert({"RGBA": "RGB", "LA": "L"}.get(kind, kind))
    right = np.asarray(picture.convert("RGB"))
    if kind in ("RGBA", "LA"):
        picture.putalpha(Image.fromarray(GRAY))
    picture.save(tmp_path / "image.tif", compression=compression)
    photograph = read_photograph(tmp_path / "image.tif")
    assert np.array_equal(photograph.pixels, right)
    assert photograph.gray == (kind in ("L", "1", "LA"))
    assert (photograph.alpha is not None) == (kind in ("RGBA", "LA"))
    if photograph.alpha is not None:
        assert np.array_equal(photograph.alpha, GRAY)


@pytest.mark.parametrize("image", [PHOTO, GRAY], ids=["RGB", "gray"])
def test_16_bits_with_lzw_as_opencv_writes_them(image: np.ndarray, tmp_path: Path) -> None:
    deep = image.astype(np.uint16) * 257
    encoded = cv2.imencode(".tif", deep[..., ::-1] if image is PHOTO else deep)[1].tobytes()
    with tifffile.TiffFile(io.BytesIO(encoded)) as file:
        assert file.pages[0].compression == 5
    assert np.array_equal(read(tmp_path, encoded), PHOTO if image is PHOTO else np.dstack([GRAY] * 3))


@pytest.mark.parametrize("how", ["plain", "lzw", "deep lzw"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_is_turned_upright(orientation: int, how: str, turned: dict[int, np.ndarray], tmp_path: Path) -> None:
    image = turned[orientation]
    tag = (274, "H", 1, orientation, True)
    stream = io.BytesIO()
    if how == "plain":
        stream.write(tiff(image, photometric="rgb", extratags=[tag]))
    else:
        deep = how == "deep lzw"
        picture = Image.fromarray(image[..., 1].astype(np.uint16) * 257 if deep else image)
        picture.save(stream, "TIFF", compression="tiff_lzw", tiffinfo={274: orientation})
    found = read(tmp_path, stream.getvalue())
    assert np.array_equal(found[..., 1], turned[1][..., 1])
    assert how == "deep lzw" or np.array_equal(found, turned[1])


# Several pages


def pages(*images: tuple[np.ndarray, dict[str, Any]]) -> bytes:
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as writer:
        for image, options in images:
            writer.write(image, photometric="rgb", metadata=None, **options)
    return stream.getvalue()


SMALL = np.ascontiguousarray(PHOTO[::4, ::4])


@pytest.mark.parametrize(
    "levels",
    [
        [(PHOTO, {}), (SMALL, {"subfiletype": 1})],
        [(SMALL, {"subfiletype": 1}), (PHOTO, {})],
        [(PHOTO, {"subifds": 1}), (SMALL, {"subfiletype": 1})],
        [(SMALL, {"subfiletype": 1, "subifds": 1}), (PHOTO, {})],
        [(PHOTO, {"tile": (32, 32)}), (SMALL, {"subfiletype": 1}), (SMALL[::2, ::2], {"subfiletype": 1})],
    ],
    ids=["thumbnail after", "thumbnail before", "thumbnail below", "image below", "pyramid"],
)
def test_thumbnails_and_the_levels_of_a_pyramid_are_passed_over(
    levels: list[tuple[np.ndarray, dict[str, Any]]], tmp_path: Path
) -> None:
    assert np.array_equal(read(tmp_path, pages(*levels)), PHOTO)


def test_a_thumbnail_before_an_image_with_lzw_is_passed_over(tmp_path: Path) -> None:
    first, second = (Image.fromarray(image) for image in (SMALL, PHOTO))
    first.encoderinfo = {"tiffinfo": {254: 1}}
    first.save(tmp_path / "image.tif", save_all=True, append_images=[second], compression="tiff_lzw", tiffinfo={254: 1})
    content = (tmp_path / "image.tif").read_bytes()
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        tags = [cast(tifffile.TiffPage, page).tags.get(254) for page in file.pages]
    for index, tag in enumerate(tags):
        if tag is not None:
            content = content[: tag.valueoffset] + (index == 0).to_bytes(4, "little") + content[tag.valueoffset + 4 :]
    assert np.array_equal(read(tmp_path, content), PHOTO)


def test_several_pages_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"image\.tif: 2 pages; save one of them as a file of its own"):
        read(tmp_path, pages((PHOTO, {}), (PHOTO, {})))
    with pytest.raises(ImageError, match=r"image\.tif: 5 pages"):
        read(tmp_path, tiff(np.stack([GRAY] * 5)))


@pytest.mark.parametrize("name", ["camera.dng", "camera.tif", "camera.NEF"])
def test_raw_files_are_refused_by_name(name: str, tmp_path: Path) -> None:
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as writer:
        version = [(50706, "B", 4, b"\1\4\0\0", True)] if name != "camera.NEF" else []
        writer.write(SMALL, photometric="rgb", subfiletype=1, subifds=1, metadata=None, extratags=version)
        writer.write(GRAY.astype(np.uint16), photometric="cfa", metadata=None)
    with pytest.raises(ImageError, match=rf"{name}: a raw file of a camera, which is not read"):
        read(tmp_path, stream.getvalue(), name)


# What is refused, and damage


def test_rare_layouts_are_refused(tmp_path: Path) -> None:
    for options in ({"planarconfig": 2}, {"photometric": 0}):
        content = cv2.imencode(".tif", PHOTO.astype(np.uint16))[1].tobytes()
        if "photometric" in options:
            content = cv2.imencode(".tif", GRAY.astype(np.uint16))[1].tobytes()
        with tifffile.TiffFile(io.BytesIO(content)) as file:
            tags = cast(tifffile.TiffPage, file.pages[0]).tags
            place = tags[284 if "planarconfig" in options else 262].valueoffset
        (value,) = options.values()
        content = content[:place] + value.to_bytes(2, "little") + content[place + 2 :]
        with pytest.raises(ImageError, match=r"image\.tif: (a TIFF of a rare layout|damaged)"):
            read(tmp_path, content)
    with pytest.raises(ImageError, match=r"image\.tif: float32 pixels"):
        read(tmp_path, tiff(PHOTO.astype(np.float32), photometric="rgb", compression="zlib"))


def test_damage_that_a_checksum_shows_is_an_error(tmp_path: Path) -> None:
    whole = tiff(PHOTO, photometric="rgb", compression="zlib")
    with tifffile.TiffFile(io.BytesIO(whole)) as file:
        (start,), (count,) = file.pages[0].dataoffsets, file.pages[0].databytecounts
    for place in range(start, start + count, 97):
        damaged = bytearray(whole)
        damaged[place] ^= 16
        with pytest.raises(ImageError, match=r"image\.tif: damaged"):
            read(tmp_path, bytes(damaged))


def test_nothing_is_said_beside_the_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    whole = tiff(PHOTO, photometric="rgb")
    for length in range(10, len(whole), len(whole) // 20):
        with pytest.raises(ImageError), warnings.catch_warnings():
            warnings.simplefilter("error")
            read(tmp_path, whole[:length])
    assert capfd.readouterr() == ("", "")
