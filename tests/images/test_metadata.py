"""What a file says of its picture is in the file that is written from it; the orientation is reset."""
from __future__ import annotations

import io
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import tifffile
from PIL import ExifTags, Image, JpegImagePlugin
from PIL.PngImagePlugin import PngInfo
from skimage import data

from m3snet.utils.images import read_photograph, write_photograph
from m3snet.utils.images.deep import chunks
from m3snet.utils.images.metadata import Metadata

PHOTO = data.astronaut()[:60, 100:180]
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><r tiff:Orientation="6" dc:title="Moon"/></x:xmpmeta>'
HOLDERS = [".jpg", ".png", ".webp", ".tif", ".avif", ".heic"]


def exif(orientation: int = 6) -> Image.Exif:
    """Of a camera that was held upright, with a place and a thumbnail's worth of maker notes."""
    found = Image.Exif()
    found[ExifTags.Base.Make] = "Camera & Sons"
    found[ExifTags.Base.Orientation] = orientation
    found[ExifTags.Base.Copyright] = "nobody"
    found.get_ifd(ExifTags.IFD.Exif).update(
        {
            ExifTags.Base.ISOSpeedRatings: 400,
            ExifTags.Base.MakerNote: b"\x01notes\x00",
            ExifTags.Base.ExifImageWidth: 80,
            ExifTags.Base.ExifImageHeight: 60,
        }
    )
    place: dict[int, Any] = {ExifTags.GPS.GPSLatitudeRef: "N", ExifTags.GPS.GPSLatitude: (48.0, 8.0, 0.0)}
    found.get_ifd(ExifTags.IFD.GPSInfo).update(place)
    return found


def saved(path: Path, **options: Any) -> Path:
    Image.fromarray(PHOTO).save(path, exif=exif().tobytes(), **options)
    return path


def rewritten(source: Path, target: Path) -> Image.Image:
    photograph = read_photograph(source)
    write_photograph(target, replace(photograph, pixels=photograph.pixels // 2))
    with Image.open(target) as picture:
        picture.load()
    return picture


@pytest.mark.parametrize("target", HOLDERS)
@pytest.mark.parametrize("source", HOLDERS[:-1])
def test_camera_and_place_go_from_every_format_to_every_other(source: str, target: str, tmp_path: Path) -> None:
    found = rewritten(saved(tmp_path / f"a{source}"), tmp_path / f"b{target}")
    assert found.size == (60, 80)  # turned upright
    read = found.getexif()
    assert read[ExifTags.Base.Make] == "Camera & Sons" and read[ExifTags.Base.Copyright] == "nobody"
    assert read.get(ExifTags.Base.Orientation, 1) == 1
    again = read_photograph(tmp_path / f"b{target}")
    assert again.pixels.shape == (80, 60, 3)  # not turned once more
    details = read.get_ifd(ExifTags.IFD.Exif)
    assert details[ExifTags.Base.ISOSpeedRatings] == 400
    assert (ExifTags.Base.MakerNote in details) == (".tif" not in (source, target))  # they may count on their place
    assert (details[ExifTags.Base.ExifImageWidth], details[ExifTags.Base.ExifImageHeight]) == (60, 80)
    assert read.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitude] == (48.0, 8.0, 0.0)


@pytest.mark.parametrize("kind", HOLDERS)
def test_xmp_says_that_the_picture_is_upright(kind: str, tmp_path: Path) -> None:
    photograph = replace(read_photograph(saved(tmp_path / "a.jpg", xmp=XMP)))
    assert photograph.metadata.xmp == XMP.replace(b'"6"', b'"1"')
    write_photograph(tmp_path / f"b{kind}", photograph)
    assert read_photograph(tmp_path / f"b{kind}").metadata.xmp == photograph.metadata.xmp


IPTC = b"\x1c\x02\x19\x00\x04rain\x1c\x02\x69\x00\x03Dry"  # a keyword and a headline


def resource(code: int, content: bytes) -> bytes:
    return b"8BIM" + struct.pack(">HHI", code, 0, len(content)) + content + bytes(len(content) % 2)


@pytest.fixture
def captioned(tmp_path: Path) -> Path:
    """A JPEG as Photoshop saves it: with IPTC, its checksum, and a preview of the picture."""
    content = b"Photoshop 3.0\0" + resource(0x0404, IPTC) + resource(0x0425, b"d" * 16) + resource(0x040C, b"preview")
    segment = b"\xff\xed" + struct.pack(">H", len(content) + 2) + content
    return saved(tmp_path / "captioned.jpg", extra=segment)


@pytest.mark.parametrize("target", HOLDERS)
def test_iptc_goes_where_there_is_a_place_for_it(target: str, captioned: Path, tmp_path: Path) -> None:
    rewritten(captioned, tmp_path / f"b{target}")
    if target in (".webp", ".avif", ".heic"):
        assert read_photograph(captioned).metadata.losses("WEBP") == ["IPTC"]
        return
    rewritten(tmp_path / f"b{target}", tmp_path / "c.jpg")
    with Image.open(tmp_path / "c.jpg") as found:
        assert found.info["photoshop"] == {0x0404: IPTC, 0x0425: b"d" * 16}
    if target == ".tif":
        with tifffile.TiffFile(tmp_path / "b.tif") as tiff:
            assert tiff.pages[0].tags[33723].value == IPTC  # type: ignore[union-attr]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_tiff_of_either_order_keeps_all(order: Literal["<", ">"], big: bool, dtype: type, tmp_path: Path) -> None:
    """From a TIFF to a TIFF; tags that say how the pixels lay do not come along."""
    tags = [(271, "s", 0, "Camera", True), (700, "B", len(XMP), XMP, True), (33723, "B", len(IPTC), IPTC, True)]
    tags += [(32781, "s", 0, "an id of the old file", True)]
    tifffile.imwrite(
        tmp_path / "a.tif",
        PHOTO.astype(dtype),
        photometric="rgb",
        byteorder=order,
        bigtiff=big,
        resolution=(118, 118),
        resolutionunit="CENTIMETER",
        tile=(16, 16),
        extratags=tags,
    )
    rewritten(tmp_path / "a.tif", tmp_path / "b.tif")
    found = read_photograph(tmp_path / "b.tif")
    assert found.pixels.dtype == dtype and np.array_equal(found.pixels, PHOTO.astype(dtype) // 2)
    with tifffile.TiffFile(tmp_path / "b.tif") as tiff:
        tags_found = tiff.pages[0].tags  # type: ignore[union-attr]
        assert tags_found[271].value == "Camera"
        assert tags_found[700].value == XMP.replace(b'"6"', b'"1"') and tags_found[33723].value == IPTC
        assert 322 not in tags_found and 32781 not in tags_found
    assert found.metadata.dpi == pytest.approx((299.72, 299.72), abs=0.01)


def test_exif_keeps_its_types_and_places(tmp_path: Path) -> None:
    """Byte for byte, but for what says how the picture lies."""
    saved(tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as before:
        expected = bytearray(before.info["exif"])
    found = rewritten(tmp_path / "a.jpg", tmp_path / "b.jpg").info["exif"]
    assert len(found) == len(expected)
    changed = [place for place, (a, b) in enumerate(zip(expected, found, strict=True)) if a != b]
    assert 1 <= len(changed) <= 3  # the orientation; width and height of one byte each


def test_what_is_too_long_for_a_jpeg_is_left_out_and_said(tmp_path: Path) -> None:
    photograph = replace(read_photograph(saved(tmp_path / "a.png")))
    metadata = replace(photograph.metadata, xmp=b"x" * 70_000)
    write_photograph(tmp_path / "b.jpg", replace(photograph, metadata=metadata))
    found = read_photograph(tmp_path / "b.jpg").metadata
    assert found.xmp is None and found.exif == photograph.metadata.exif
    assert metadata.losses("JPEG") == ["XMP"] and metadata.losses("PNG") == []


def test_what_stands_behind_the_pixels_of_a_png_counts(tmp_path: Path) -> None:
    """As ImageMagick writes it."""
    content = saved(tmp_path / "a.png").read_bytes()
    block = dict(chunks(content))[b"eXIf"]
    (tmp_path / "a.png").write_bytes(content.replace(block, b"")[:-12] + block + content[-12:])
    found = rewritten(tmp_path / "a.png", tmp_path / "b.png")
    assert found.size == (60, 80) and found.getexif()[ExifTags.Base.Make] == "Camera & Sons"


def test_raw_profiles_of_imagemagick_are_read(tmp_path: Path) -> None:
    block, texts = exif().tobytes(), PngInfo()
    texts.add_text("Raw profile type exif", f"\nexif\n{len(block):8}\n{block.hex()}\n", zip=True)
    texts.add_text("Title", "Moon")
    Image.fromarray(PHOTO).save(tmp_path / "a.png", pnginfo=texts)
    found = rewritten(tmp_path / "a.png", tmp_path / "b.png")
    assert found.size == (60, 80) and found.getexif()[ExifTags.Base.Make] == "Camera & Sons"
    assert found.info["Title"] == "Moon" and "Raw profile type exif" not in found.info


def test_the_thumbnail_of_the_old_picture_goes(tmp_path: Path) -> None:
    small = io.BytesIO()
    Image.fromarray(PHOTO[:20, :30]).save(small, "JPEG")
    picture = small.getvalue()
    first = struct.pack("<HHHI4sI", 1, 271, 2, 4, b"Cam\0", 26)  # one entry, and where the next directory lies
    second = struct.pack("<HHHIIHHIII", 2, 513, 4, 1, 56, 514, 4, 1, len(picture), 0)
    block = b"Exif\0\0II*\0" + struct.pack("<I", 8) + first + second + picture
    Image.fromarray(PHOTO).save(tmp_path / "a.jpg", exif=block)
    found = rewritten(tmp_path / "a.jpg", tmp_path / "b.jpg")
    assert not found.getexif().get_ifd(ExifTags.IFD.IFD1)
    assert b"\xff\xd8" not in found.info["exif"]


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize(("quality", "progressive"), [(60, False), (88, True)])
def test_a_jpeg_is_written_as_it_was_encoded(subsampling: str, quality: int, progressive: bool, tmp_path: Path) -> None:
    encoding = {"quality": quality, "subsampling": subsampling, "progressive": progressive}
    saved(tmp_path / "a.jpg", **encoding, comment=b"by hand", dpi=(72, 96))
    with Image.open(tmp_path / "a.jpg") as before:
        assert isinstance(before, JpegImagePlugin.JpegImageFile)
        found = rewritten(tmp_path / "a.jpg", tmp_path / "b.jpg")
        assert isinstance(found, JpegImagePlugin.JpegImageFile)
        assert found.quantization == before.quantization
        assert JpegImagePlugin.get_sampling(found) == JpegImagePlugin.get_sampling(before)
    assert bool(found.info.get("progressive")) == progressive
    assert found.info["comment"] == b"by hand" and found.info["dpi"] == (72, 96)
    with Image.open(tmp_path / "b.jpg") as gray:
        gray.convert("L").save(tmp_path / "gray.jpg", quality=quality)
    with Image.open(tmp_path / "gray.jpg") as before:
        assert rewritten(tmp_path / "gray.jpg", tmp_path / "c.jpg").quantization == before.quantization  # type: ignore[attr-defined]


def test_from_elsewhere_a_jpeg_has_quality_95(tmp_path: Path) -> None:
    found = rewritten(saved(tmp_path / "a.png"), tmp_path / "b.jpg")
    Image.fromarray(PHOTO).save(tmp_path / "c.jpg", quality=95)
    with Image.open(tmp_path / "c.jpg") as expected:
        assert found.quantization == expected.quantization  # type: ignore[attr-defined]


def test_texts_of_a_png_stay(tmp_path: Path) -> None:
    texts = PngInfo()
    texts.add_text("Title", "Größe")
    texts.add_itxt("XML:com.adobe.xmp", XMP.decode())
    saved(tmp_path / "a.png", pnginfo=texts, dpi=(300, 300))
    found = rewritten(tmp_path / "a.png", tmp_path / "b.png")
    assert found.info["Title"] == "Größe"
    assert found.info["XML:com.adobe.xmp"] == XMP.decode().replace('"6"', '"1"')
    assert found.info["dpi"] == pytest.approx((300, 300), abs=0.01)


@pytest.mark.parametrize("lossless", [True, False])
def test_a_webp_stays_lossless_or_lossy(lossless: bool, tmp_path: Path) -> None:
    saved(tmp_path / "a.webp", lossless=lossless)
    rewritten(tmp_path / "a.webp", tmp_path / "b.webp")
    assert (b"VP8L" in (tmp_path / "b.webp").read_bytes()) == lossless


def test_damaged_metadata_do_not_cost_the_picture(tmp_path: Path) -> None:
    loop = struct.pack("<HHHIII", 1, 34665, 4, 1, 8, 0)  # EXIF that leads to itself
    blocks = [b"II*\0\xff\xff\xff\xff", exif().tobytes()[6:40], b"nonsense", b"II*\0\x08\0\0\0" + loop]
    for block in blocks:
        Image.fromarray(PHOTO).save(tmp_path / "a.jpg", exif=b"Exif\0\0" + block)
        photograph = read_photograph(tmp_path / "a.jpg")
        for suffix in HOLDERS:
            write_photograph(tmp_path / f"b{suffix}", photograph)
            assert read_photograph(tmp_path / f"b{suffix}").pixels.shape[:2] in (PHOTO.shape[:2], PHOTO.shape[1::-1])


def test_one_damaged_value_does_not_cost_the_others(tmp_path: Path) -> None:
    entries = struct.pack("<HHII", 271, 2, 99, 1 << 20) + struct.pack("<HHIHH", 274, 3, 1, 6, 0)
    block = b"II*\0\x08\0\0\0" + struct.pack("<H", 2) + entries + bytes(4)
    Image.fromarray(PHOTO).save(tmp_path / "a.jpg", exif=b"Exif\0\0" + block)
    assert read_photograph(tmp_path / "a.jpg").pixels.shape == (80, 60, 3)


def test_a_photograph_without_metadata_is_written_without(tmp_path: Path) -> None:
    Image.fromarray(PHOTO).save(tmp_path / "a.png")
    photograph = read_photograph(tmp_path / "a.png")
    assert photograph.metadata == Metadata() and np.array_equal(photograph.pixels, PHOTO)
    write_photograph(tmp_path / "b.png", photograph)
    assert b"eXIf" not in (tmp_path / "b.png").read_bytes()
