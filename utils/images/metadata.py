"""What an image file says of its picture: camera, place, time, title; and how a JPEG was encoded."""
from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

from PIL import ExifTags, Image, JpegImagePlugin
from PIL.PngImagePlugin import PngInfo

_ORIENTATION = ExifTags.Base.Orientation
# Of a TIFF's first directory, which also says how its pixels lie.
_TITLES = {
    ExifTags.Base.ImageDescription,
    ExifTags.Base.Make,
    ExifTags.Base.Model,
    ExifTags.Base.Software,
    ExifTags.Base.DateTime,
    ExifTags.Base.Artist,
    ExifTags.Base.Copyright,
}
_DIRECTORIES = (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)
_POINTERS = {700, 33723, 34377, 34675, 330}  # XMP, IPTC, Photoshop, profile, more pictures: not EXIF's own
_XMP = "XML:com.adobe.xmp"  # the key of a PNG text
_XMP_ORIENTATION = re.compile(rb"""(tiff:Orientation(?:\s*=\s*["']|>\s*))[2-8]""")


@dataclass(frozen=True)
class Metadata:
    """What is carried from one file to the next. The orientation is 1: the pixels are upright."""

    exif: bytes | None = None  # without the thumbnail, which would show the picture as it was
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    comment: bytes | None = None  # of a JPEG
    texts: tuple[tuple[str, str], ...] = ()  # of a PNG
    jpeg: tuple[tuple[str, Any], ...] = ()  # Pillow's options that encode as the file was
    lossy: bool = False  # a WebP that was


def read_metadata(picture: Image.Image, kind: str, data: bytes) -> Metadata:
    """The metadata of a file whose header Pillow has read; empty where they are damaged."""
    info = picture.info
    try:
        metadata = Metadata(_exif(picture, kind, data), _xmp(info.get("xmp")), _dpi(info.get("dpi")))
    except MemoryError:
        raise
    except Exception:  # what damaged bytes make Pillow raise has no end; the picture is still good
        metadata = Metadata()
    if kind == "JPEG":
        comment = info.get("comment")
        metadata = replace(metadata, comment=comment if isinstance(comment, bytes) else None, jpeg=_encoding(picture))
    elif kind == "PNG":
        texts = [(str(key), text) for key, text in info.items() if isinstance(text, str) and key != _XMP]
        xmp = info.get(_XMP)
        metadata = replace(
            metadata, texts=tuple(texts), xmp=metadata.xmp or (_xmp(xmp.encode()) if isinstance(xmp, str) else None)
        )
    elif kind == "WebP":
        metadata = replace(metadata, lossy=b"VP8 " in data)
    return metadata


def options_for(metadata: Metadata, format_: str, gray: bool) -> dict[str, Any]:
    """Pillow's options that write the metadata into a file of one format, as far as it holds them."""
    options: dict[str, Any] = {}
    if format_ in ("JPEG", "PNG", "WEBP", "AVIF", "HEIF") and metadata.exif:
        options["exif"] = metadata.exif
    elif format_ == "TIFF" and metadata.exif:  # Pillow cannot compress a TIFF with directories in it
        whole, titles = Image.Exif(), Image.Exif()
        whole.load(metadata.exif)
        titles.update({tag: whole[tag] for tag in _TITLES if tag in whole})
        options["exif"] = titles
    if format_ in ("JPEG", "WEBP", "AVIF", "HEIF") and metadata.xmp:
        options["xmp"] = metadata.xmp
    if format_ in ("JPEG", "PNG", "TIFF") and metadata.dpi:
        options["dpi"] = metadata.dpi
    if format_ == "JPEG":
        options |= {"comment": metadata.comment} if metadata.comment else {}
        tables = dict(metadata.jpeg)
        if tables and (len(tables["qtables"]) == 1) == gray:
            options |= tables
    if format_ == "PNG" and (metadata.texts or metadata.xmp):
        texts = PngInfo()
        for key, text in metadata.texts:
            texts.add_itxt(key, text)
        if metadata.xmp:
            texts.add_itxt(_XMP, metadata.xmp.decode("utf-8", errors="replace"))
        options["pnginfo"] = texts
    if format_ == "WEBP" and metadata.lossy:
        options |= {"lossless": False, "quality": 90}
    return options


def _exif(picture: Image.Image, kind: str, data: bytes) -> bytes | None:
    if kind == "PNG" and "exif" not in picture.info and b"eXIf" not in data:
        return None  # otherwise Pillow would decode the pixels to look for it
    found = picture.getexif()
    kept = Image.Exif()
    for tag in found:
        if tag not in (_ORIENTATION, *_DIRECTORIES, *_POINTERS) and (kind != "TIFF" or tag in _TITLES):
            kept[tag] = found[tag]
    directories = [(directory, values) for directory in _DIRECTORIES if (values := found.get_ifd(directory))]
    for directory, values in directories:
        kept.get_ifd(directory).update(values)
    if found.get(_ORIENTATION, 1) in (5, 6, 7, 8):
        details = kept.get_ifd(ExifTags.IFD.Exif)
        width, height = ExifTags.Base.ExifImageWidth, ExifTags.Base.ExifImageHeight
        if width in details and height in details:
            details[width], details[height] = details[height], details[width]
    return kept.tobytes() if len(kept) or directories else None


def _xmp(xmp: Any) -> bytes | None:
    return _XMP_ORIENTATION.sub(rb"\g<1>1", xmp) if isinstance(xmp, bytes) and xmp else None


def _dpi(dpi: Any) -> tuple[float, float] | None:
    across, down = (float(number) for number in dpi) if dpi else (0.0, 0.0)
    return (across, down) if 0 < across < 1e5 and 0 < down < 1e5 else None


def _encoding(picture: Image.Image) -> tuple[tuple[str, Any], ...]:
    """Quality and subsampling of a gray or YCbCr JPEG."""
    if picture.mode not in ("L", "RGB"):
        return ()
    tables = getattr(picture, "quantization", {})
    sampling = JpegImagePlugin.get_sampling(picture) if picture.mode == "RGB" else -1
    if not tables or (picture.mode == "RGB" and sampling < 0):
        return ()
    options: dict[str, Any] = {"qtables": [list(tables[number]) for number in sorted(tables)][:2]}
    if picture.mode == "RGB":
        options["subsampling"] = sampling
    if picture.info.get("progressive"):
        options["progressive"] = True
    return tuple(options.items())
