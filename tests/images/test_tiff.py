"""TIFF: every layout is read as it is meant, or refused; never a thumbnail or one page of several."""
from __future__ import annotations

import io
import itertools
import struct
import warnings
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image
from skimage import data

from m3snet.utils.images import ImageError, Photograph, read_image, read_photograph

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


def tags_of(content: bytes) -> tifffile.TiffTags:
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        return cast(tifffile.TiffPage, file.pages[0]).tags


def changed(content: bytes, values: dict[int, int]) -> bytes:
    """A little-endian file with other values of its tags of one or more 16-bit numbers: the same for each."""
    for code, value in values.items():
        tag = tags_of(content)[code]
        width = 4 if tag.dtype == 4 else 2
        number = value.to_bytes(width, "little") * tag.count
        content = content[: tag.valueoffset] + number + content[tag.valueoffset + len(number) :]
    return content


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


@pytest.mark.parametrize("how", ["plain", "lzw", "deep lzw", "deep lzw with alpha", "ycbcr"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_is_turned_upright(orientation: int, how: str, turned: dict[int, np.ndarray], tmp_path: Path) -> None:
    image = turned[orientation]
    tag = (274, "H", 1, orientation, True)
    stream = io.BytesIO()
    if how == "plain":
        stream.write(tiff(image, photometric="rgb", extratags=[tag]))
    elif how == "ycbcr":
        stored = np.asarray(Image.fromarray(np.ascontiguousarray(image)).convert("YCbCr"))
        stream.write(tiff(stored, photometric="ycbcr", subsampling=(1, 1), extratags=[tag]))
        assert np.abs(read(tmp_path, stream.getvalue()).astype(int) - turned[1]).max() <= 3
        return
    elif how == "deep lzw with alpha":
        content = cv2.imencode(".tif", np.dstack([image[..., ::-1], image[..., 0]]).astype(np.uint16) * 257)[1]
        place = tags_of(content.tobytes())[284].offset  # that the channels are together is the default
        entry = struct.pack("<HHII", 274, 3, 1, orientation)
        stream.write(content[:place].tobytes() + entry + content[place + len(entry) :].tobytes())
    else:
        deep = how == "deep lzw"
        picture = Image.fromarray(image[..., 1].astype(np.uint16) * 257 if deep else image)
        picture.save(stream, "TIFF", compression="tiff_lzw", tiffinfo={274: orientation})
    found = read(tmp_path, stream.getvalue())
    assert np.array_equal(found[..., 1], turned[1][..., 1])
    assert how == "deep lzw" or np.array_equal(found, turned[1])


# Channels besides the colours

OPACITY = np.where(GRAY < 60, 0, GRAY).astype(np.uint8)
HAS_SHADE = OPACITY > 128  # where what was multiplied by alpha can be found again, to two levels


def read_whole(folder: Path, content: bytes) -> Photograph:
    (folder / "image.tif").write_bytes(content)
    return read_photograph(folder / "image.tif")


def as_lzw(image: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "TIFF", compression="tiff_lzw")
    return stream.getvalue()


@pytest.mark.parametrize("how", ["plain", "deflate", "planar", "deep", "lzw", "deep lzw"])
def test_colours_that_are_stored_times_alpha_are_divided_by_it(how: str, tmp_path: Path) -> None:
    deep = how.startswith("deep")
    colours, alpha = (image.astype(np.uint16) * 257 if deep else image for image in (PHOTO, OPACITY))
    white = np.iinfo(colours.dtype).max
    stored = np.dstack([(colours * (alpha[..., None] / white)).round().astype(colours.dtype), alpha])
    if how == "lzw":
        content = changed(as_lzw(stored), {338: 1})
    elif how == "deep lzw":
        content = cv2.imencode(".tif", cv2.cvtColor(stored, cv2.COLOR_RGBA2BGRA))[1].tobytes()
        place = tags_of(content)[284].offset
        entry = struct.pack("<HHII", 338, 3, 1, 1)
        content = content[:place] + entry + content[place + len(entry) :]
    else:
        layout = {"deflate": {"compression": "zlib"}, "planar": {"planarconfig": "separate"}}.get(how, {})
        stored = np.moveaxis(stored, 2, 0) if how == "planar" else stored
        content = tiff(stored, photometric="rgb", extrasamples=["assocalpha"], **layout)
    found = read_whole(tmp_path, content)
    assert found.alpha is not None and np.array_equal(found.alpha, alpha)
    assert np.abs(found.rgb().astype(int) - PHOTO)[HAS_SHADE].max() <= 2
    assert found.pixels[OPACITY == 0].max() == 0


def test_alpha_in_16_bits_with_lzw(tmp_path: Path) -> None:
    stored = np.dstack([PHOTO[..., ::-1], OPACITY]).astype(np.uint16) * 257
    found = read_whole(tmp_path, cv2.imencode(".tif", stored)[1].tobytes())
    assert np.array_equal(found.pixels, PHOTO.astype(np.uint16) * 257)
    assert found.alpha is not None and np.array_equal(found.alpha, OPACITY.astype(np.uint16) * 257)


def test_alpha_beside_gray_whose_zero_is_white(tmp_path: Path) -> None:
    stored = np.dstack([255 - GRAY, OPACITY])
    options: dict[str, Any] = {"planarconfig": "contig", "extrasamples": ["unassalpha"]}
    found = read_whole(tmp_path, tiff(stored, photometric="miniswhite", **options))
    assert np.array_equal(found.pixels[..., 0], GRAY)
    assert found.alpha is not None and np.array_equal(found.alpha, OPACITY)


@pytest.mark.parametrize(
    ("image", "kinds", "count", "has_alpha"),
    [
        (np.dstack([PHOTO, OPACITY]), ["unspecified"], 1, False),
        (np.dstack([PHOTO, OPACITY, GRAY]), ["unassalpha", "unspecified"], 1, True),
        (np.dstack([GRAY, OPACITY]), ["unspecified"], 1, False),
        (np.dstack([GRAY, OPACITY, GRAY]), ["unassalpha", "unspecified"], 1, True),
        (np.dstack([GRAY, GRAY, OPACITY]), ["unspecified", "unassalpha"], 1, True),
        (np.dstack([GRAY, GRAY, GRAY, GRAY]), ["unspecified"] * 3, 3, False),
    ],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_channel_of_no_known_meaning_is_left_out_and_said(
    image: np.ndarray, kinds: list[str], count: int, has_alpha: bool, dtype: type, tmp_path: Path
) -> None:
    gray = np.array_equal(image[..., 0], GRAY)
    options: dict[str, Any] = {"planarconfig": "contig", "extrasamples": kinds}
    found = read_whole(tmp_path, tiff(image.astype(dtype), photometric="minisblack" if gray else "rgb", **options))
    assert np.array_equal(found.pixels, np.dstack([GRAY] * 3) if gray else PHOTO)
    assert (found.gray, found.notes) == (gray, (f"{count} channel(s) of no known meaning left out",))
    assert (found.alpha is not None) == has_alpha
    assert found.alpha is None or np.array_equal(found.alpha, OPACITY)


def test_such_a_channel_with_lzw(tmp_path: Path) -> None:
    found = read_whole(tmp_path, changed(as_lzw(np.dstack([PHOTO, OPACITY])), {338: 0}))
    assert np.array_equal(found.pixels, PHOTO)
    assert (found.alpha, found.notes) == (None, ("1 channel(s) of no known meaning left out",))


# Other colours, and fewer bits


@pytest.mark.parametrize("layout", [{}, {"rowsperstrip": 7}, {"tile": (32, 32)}, {"compression": "zlib"}])
def test_luma_and_chroma(layout: dict[str, Any], tmp_path: Path) -> None:
    stored = np.asarray(Image.fromarray(PHOTO).convert("YCbCr"))
    found = read(tmp_path, tiff(stored, photometric="ycbcr", subsampling=(1, 1), **layout))
    assert np.abs(found.astype(int) - PHOTO).max() <= 3


def test_luma_and_chroma_in_planes_are_refused(tmp_path: Path) -> None:
    stored = np.moveaxis(np.asarray(Image.fromarray(PHOTO).convert("YCbCr")), 2, 0)
    with pytest.raises(ImageError, match=r"image\.tif: a TIFF of a rare layout, which is not read; save it as RGB"):
        read(tmp_path, tiff(stored, photometric="ycbcr", subsampling=(1, 1), planarconfig="separate"))


def test_what_pillow_does_not_know_is_not_called_damaged(tmp_path: Path) -> None:
    picture = Image.fromarray(GRAY)
    picture.putalpha(Image.fromarray(OPACITY))
    picture.save(tmp_path / "image.tif", compression="tiff_lzw")
    alone = changed((tmp_path / "image.tif").read_bytes(), {338: 1})
    with pytest.raises(ImageError, match=r"image\.tif: a TIFF of a rare layout, which is not read"):
        read(tmp_path, alone)


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("bits", [4, 10, 12, 14])
def test_bits_other_than_8_and_16(bits: int, compression: str | None, tmp_path: Path) -> None:
    values = GRAY[:, :76].astype(int) * ((1 << bits) - 1) // 255
    digits = np.unpackbits(values.astype(">u2").view(np.uint8), axis=1).reshape(65, 76, 16)[..., -bits:]
    packed = np.packbits(digits.reshape(65, -1), axis=1)
    content = tiff(packed, photometric="minisblack", compression=compression)
    found = read_whole(tmp_path, changed(content, {256: 76, 258: bits}))
    assert (found.gray, found.bits) == (True, max(bits, 8))
    shown = found.pixels[..., 0].astype(float) / np.iinfo(found.pixels.dtype).max
    assert np.abs(shown - values / ((1 << bits) - 1)).max() < 1e-5


def test_bits_that_nothing_reads(tmp_path: Path) -> None:
    content = changed(tiff(GRAY.astype(np.uint16), photometric="minisblack"), {258: 13})
    with pytest.raises(ImageError, match=r"image\.tif: 13-bit pixels; expected an 8- or 16-bit image"):
        read(tmp_path, content)


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
