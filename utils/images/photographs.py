"""Image files read into arrays and written from them: OpenCV decodes, Pillow what OpenCV does not read rightly."""
from __future__ import annotations

import io
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageFile

from ..files import write_atomically
from .deep import (
    AVIF_BITS,
    HEIF_BITS,
    bits_of,
    decode_avif,
    decode_heif,
    spread,
    write_avif,
    write_heif,
    write_png,
    write_pnm,
    write_tiff,
)
from .headers import RARE, ImageError, damaged, has_alpha, is_gray, load_file, load_heif, open_header
from .metadata import Metadata, add_to_tiff, options_for, orientation_of, read_metadata, read_tiff_metadata
from .profiles import cmyk_to_srgb, is_srgb, mode_of, name_of, read_otherwise, to_srgb
from .tiff import read_tiff, straight
from .truncation import check_data, find_end

cv2.utils.logging.setLogLevel(0)  # it prints what it also raises

_ROWS = 256  # converted at a time
READING = 4  # counts the changes of what `read_image` makes of a file: what was read before one is out of date


@dataclass(frozen=True)
class Photograph:
    """What an image file holds."""

    pixels: np.ndarray  # H x W x 3 uint8 or uint16 RGB, upright, in the colours of `profile`
    alpha: np.ndarray | None = None  # H x W, of the type of `pixels`; None where all is opaque
    gray: bool = False  # one channel in the file; the three of `pixels` are equal
    profile: bytes | None = None  # ICC; None: sRGB
    notes: tuple[str, ...] = ()  # what was changed while it was read
    metadata: Metadata = field(default_factory=Metadata)

    @property
    def bits(self) -> int:
        """Of a channel in the file."""
        return self.metadata.bits or 8 * self.pixels.itemsize

    def rgb(self) -> np.ndarray:
        """The pixels in sRGB and 8 bits, without alpha: what images of different files have in common."""
        pixels = _to_8_bits(self.pixels)
        converted = self.profile is not None and not is_srgb(self.profile)
        return to_srgb(pixels, self.profile) if converted and self.profile else pixels

    def changes(self) -> list[str]:
        """What `rgb` is without, in words."""
        found = [f"{self.bits}-bit rounded to 8"] * (self.bits > 8)
        found += self.notes
        found += ["gray repeated to RGB"] * self.gray
        found += ["alpha dropped"] * (self.alpha is not None)
        if self.profile is not None and not is_srgb(self.profile):
            found.append(f"{name_of(self.profile)} converted to sRGB")
        return found


class _Writer(NamedTuple):
    """What Pillow needs to know to write a format, and what that format can hold."""

    format: str
    options: dict[str, Any] = {}  # noqa: RUF012, it is not changed
    alpha: bool = False
    profile: bool = False
    gray: bool = True
    colour: bool = True
    side: int = 1 << 20  # pixels
    bits: int = 8


_JPEG = _Writer("JPEG", {"quality": 95}, profile=True, side=65_500)
_TIFF = _Writer("TIFF", {"compression": "tiff_adobe_deflate"}, alpha=True, profile=True, bits=16)
_HEIF = _Writer("HEIF", {"quality": 90, "chroma": 444}, alpha=True, profile=True, gray=False, bits=HEIF_BITS)
_WRITERS = {
    ".png": _Writer("PNG", {"compress_level": 1}, alpha=True, profile=True, bits=16),
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), _JPEG),
    **dict.fromkeys((".tif", ".tiff"), _TIFF),
    ".webp": _Writer("WEBP", {"lossless": True}, alpha=True, profile=True, gray=False, side=16_383),
    ".avif": _Writer(
        "AVIF", {"quality": 90, "subsampling": "4:4:4"}, alpha=True, profile=True, gray=False, bits=AVIF_BITS
    ),
    **dict.fromkeys((".heic", ".heif"), _HEIF),
    ".bmp": _Writer("BMP"),
    ".ppm": _Writer("PPM", gray=False, bits=16),
    ".pgm": _Writer("PPM", colour=False, bits=16),
}
WRITTEN_SUFFIXES = frozenset(_WRITERS)


def read_image(path: str | Path, changes: list[str] | None = None) -> np.ndarray:
    """Read an image as H x W x 3 uint8 RGB in sRGB, turned upright by its EXIF orientation.

    Gray images become three equal channels, an alpha channel is dropped, 16-bit values are rounded to 8, the colours of
    another profile are converted: each is told to `changes`, in words.

    Raises:
        ImageError: as `read_photograph`.
    """
    photograph = read_photograph(path)
    if changes is not None:
        changes += photograph.changes()
    return photograph.rgb()


def read_photograph(path: str | Path) -> Photograph:
    """Read an image with what it holds besides RGB, in 8 or 16 bits; CMYK becomes RGB.

    A JPEG is also refused when its data are too few or too many for its pixels (`utils.images.truncation`). Other
    damage inside a JPEG, WebP, AVIF or LZW-compressed TIFF may pass: they have no checksums.

    Raises:
        ImageError: the file is missing, empty, cut off, damaged, larger than `headers.max_pixels`, an
            animation, of several pages, a raw file, or of a format that is not read.
    """
    path = Path(path)
    try:
        kind, data = load_file(path)
        if kind == "TIFF":
            return _read_tiff(path, data)
        end = find_end(path, kind, data)
        picture = open_header(path, kind, data)
        cmyk = picture.mode == "CMYK" and mode_of(picture.info.get("icc_profile", b"")) == "CMYK"
        bits = bits_of(picture, kind, data)
        if bits > 8:
            photograph = _decode_deep(path, picture, kind, data, bits)
        elif kind in ("AVIF", "HEIC", "GIF") or cmyk:
            photograph = _decode_with_pillow(path, picture)
        else:
            pixels, alpha = _decode_with_opencv(path, data, alpha=kind == "PNG" and picture.mode in ("RGBA", "LA"))
            arguments = picture.tile[0].args if kind == "PNM" else None
            if isinstance(arguments, tuple) and picture.tile[0].codec_name == "ppm":  # white is not 255
                pixels = spread(pixels, int(arguments[-1]), pixels.dtype)  # which OpenCV overlooks
            if alpha is None:
                alpha = _alpha(path, picture, pixels)
            photograph = _photograph(pixels, is_gray(picture, data), alpha, picture.info.get("icc_profile"))
            if picture.mode == "CMYK":
                photograph = replace(photograph, profile=None, notes=("CMYK converted to RGB",))
        if kind == "JPEG":
            check_data(path, data, end, photograph.pixels)
        metadata = replace(read_metadata(picture, kind, data), bits=photograph.metadata.bits)
        notes = (*photograph.notes, *read_otherwise(kind, data, photograph.profile))
        photograph = replace(photograph, metadata=metadata, notes=notes)
        return _upright(photograph, orientation_of(picture, data))
    except MemoryError as error:
        raise ImageError(f"{path}: not enough memory to read it") from error


def look_at(path: str | Path) -> tuple[int, int]:
    """Width and height of an image, turned upright, from its header; its pixels are not decoded.

    Raises:
        ImageError: as `read_photograph`, but for damage in the pixels.
    """
    path = Path(path)
    kind, data = load_file(path)
    if kind == "TIFF":
        tiff = read_tiff(path, data, decode=False)
        width, height, orientation = tiff.width, tiff.height, tiff.orientation
    else:
        find_end(path, kind, data)
        picture = open_header(path, kind, data)
        (width, height), orientation = picture.size, orientation_of(picture, data)
    return (height, width) if orientation > 4 else (width, height)


def write_image(path: str | Path, image: np.ndarray) -> None:
    """Write an H x W x 3 uint8 or uint16 sRGB image, whole or not at all (utils.files); missing folders are made.

    The suffix of `path` chooses the format.

    Raises:
        ImageError: the array is of another shape or type, or the format is not written, or not of such images.
        OSError: the folder cannot be written, or the disk is full.
    """
    write_photograph(path, Photograph(image))


def write_photograph(path: str | Path, photograph: Photograph, overwrite: bool = True) -> None:
    """Write an image with its alpha, profile and metadata, a JPEG at the quality it came with; else as `write_image`.

    What the format cannot hold of them is converted, rounded or left out: `check_can_hold` says what.

    Raises:
        ImageError, OSError: as `write_image`; or the format cannot hold what the photograph has.
        OutputError: without `overwrite`, another program has written such a file.
    """
    path, image = Path(path), photograph.pixels
    if image.dtype not in (np.uint8, np.uint16) or image.ndim != 3 or image.shape[2] != 3:
        raise ImageError(f"{path}: expected an H x W x 3 uint8 or uint16 image, found {image.shape} {image.dtype}")
    check_can_hold(path, photograph)
    writer = _WRITERS[path.suffix.lower()]
    gray = photograph.gray and writer.gray
    profile = photograph.profile if _holds_profile(writer, photograph) else None
    pixels = photograph.rgb() if _is_converted(writer, photograph) else image
    if writer.bits == 8:
        pixels = _to_8_bits(pixels)
    alpha = photograph.alpha if pixels.dtype == np.uint16 or photograph.alpha is None else _to_8_bits(photograph.alpha)
    held = replace(photograph, pixels=pixels, alpha=alpha, gray=gray, profile=profile)
    with write_atomically(path, overwrite) as file:
        try:
            _encode(file, writer, held)
        except (ValueError, OSError) as error:
            if isinstance(error, OSError) and error.errno:  # that of the disk
                raise
            raise ImageError(f"{path}: could not be encoded as {writer.format} ({error})") from error


def _encode(file: BinaryIO, writer: _Writer, photograph: Photograph) -> None:
    pixels, alpha, gray, profile = photograph.pixels, photograph.alpha, photograph.gray, photograph.profile
    options = {**writer.options, **options_for(photograph.metadata, writer.format, gray)}
    options |= {"icc_profile": profile} if profile else {}
    if pixels.dtype == np.uint8:
        picture = Image.fromarray(np.ascontiguousarray(pixels[..., 1] if gray else pixels))
        if alpha is not None:
            picture.putalpha(Image.fromarray(alpha))
        if "qtables" in options:
            del options["quality"]
        written = io.BytesIO()  # the file itself would do, but for Pillow's words where the disk is full
        picture.save(written, writer.format, **options)
        file.write(written.getbuffer())
    elif writer.format == "PNG":
        write_png(file, pixels, alpha, gray, options)
    elif writer.format == "PPM":
        write_pnm(file, pixels, gray)
    elif writer.format == "TIFF":
        write_tiff(file, pixels, alpha, gray, profile, options.get("dpi"))
    elif writer.format == "HEIF":
        write_heif(file, pixels, alpha, options)
    else:
        write_avif(file, pixels, alpha, options)
    if writer.format == "TIFF":
        add_to_tiff(file, photograph.metadata)


def check_can_hold(path: Path, photograph: Photograph) -> list[str]:
    """What a photograph loses when it is written to `path`, in words; to be asked before the work is done.

    Raises:
        ImageError: the format is not written, or cannot hold transparency, colour, gray, or an image so large.
    """
    writer = _WRITERS.get(path.suffix.lower())
    if writer is None:
        raise ImageError(f"{path}: images cannot be written as '{path.suffix}'; use .png")
    if writer.format == "HEIF":
        try:
            load_heif()
        except ImageError as error:
            raise ImageError(f"{path}: {error}") from error
    if photograph.alpha is not None and not writer.alpha:
        raise ImageError(f"{path}: the photograph is transparent in part, which {writer.format} cannot hold; use .png")
    if not photograph.gray and not writer.colour:
        raise ImageError(f"{path}: '{path.suffix}' holds gray images only; use .png")
    if max(photograph.pixels.shape[:2]) > writer.side:
        raise ImageError(f"{path}: {writer.format} holds {writer.side:,} pixels a side; use .png")
    lost = [f"{name} is left out" for name in photograph.metadata.losses(writer.format)]
    bits = writer.bits
    if _is_converted(writer, photograph) and photograph.profile:
        lost.insert(0, f"{name_of(photograph.profile)} becomes sRGB")
        bits = 8
    if photograph.bits > bits:
        lost.insert(0, f"{photograph.bits} bits become {bits}")
    return lost


def _holds_profile(writer: _Writer, photograph: Photograph) -> bool:
    return writer.profile and (writer.gray or not photograph.gray)


def _is_converted(writer: _Writer, photograph: Photograph) -> bool:
    """Whether the colours become sRGB, since the format holds no profile, or none for gray."""
    profile = photograph.profile
    return profile is not None and not _holds_profile(writer, photograph) and not is_srgb(profile)


def _read_tiff(path: Path, data: bytes) -> Photograph:
    """OpenCV and Pillow turn TIFF files upright themselves."""
    tiff = read_tiff(path, data)
    if tiff.array is not None:
        photograph = _upright(_from_channels(tiff.array, tiff.profile), tiff.orientation)
    elif tiff.rare:
        raise ImageError(f"{path}: {RARE}")
    elif tiff.opencv:
        pixels, alpha = _decode_with_opencv(path, data, alpha=tiff.alpha is not None)
        if 8 < tiff.bits < 16:  # which OpenCV shifts: white is not 65535
            pixels = spread(pixels >> (16 - tiff.bits), (1 << tiff.bits) - 1)
        if alpha is not None and tiff.premultiplied:
            pixels = straight(pixels, alpha)
        photograph = _photograph(pixels, tiff.gray, alpha, tiff.profile)
    else:
        photograph = _decode_with_pillow(path, open_header(path, "TIFF", data), tiff.page)
    bits = tiff.bits if 8 < tiff.bits < 16 else None
    metadata = replace(read_tiff_metadata(data, tiff.place), bits=bits)
    return replace(photograph, notes=(*photograph.notes, *tiff.notes), metadata=metadata)


def _from_channels(array: np.ndarray, profile: bytes | None) -> Photograph:
    """H x W, or H x W x 1 to 4: gray or RGB, and alpha."""
    channels = np.atleast_3d(array)
    gray = channels.shape[2] < 3
    colours = np.repeat(channels[..., :1], 3, axis=2) if gray else channels[..., :3]
    alpha = channels[..., -1] if channels.shape[2] in (2, 4) else None
    return _photograph(np.ascontiguousarray(colours), gray, alpha, profile)


def _decode_deep(path: Path, picture: ImageFile.ImageFile, kind: str, data: bytes, bits: int) -> Photograph:
    """HEIC and AVIF of 10 and 12 bits, which Pillow reads as 8."""
    try:
        array = (decode_heif if kind == "HEIC" else decode_avif)(data, bits)
    except MemoryError:
        raise
    except Exception as error:  # what damaged bytes make a decoder raise has no end
        raise damaged(path, error) from error
    if array is None:  # an OpenCV without AVIF
        return replace(_decode_with_pillow(path, picture), notes=(f"{bits} bits read as 8",))
    photograph = _from_channels(array, picture.info.get("icc_profile"))
    return replace(photograph, metadata=Metadata(bits=bits))


def _decode_with_opencv(path: Path, data: bytes, alpha: bool = False) -> tuple[np.ndarray, np.ndarray | None]:
    """H x W x 3 RGB, uint8 or uint16, not turned upright but for TIFF; and `alpha`, where that is asked for."""
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        # Not cv2.imread: it returns None for every reason, and cannot open non-ASCII paths on Windows.
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED if alpha else flags)
    except cv2.error as error:
        raise ImageError(f"{path}: cannot be decoded ({error.err})") from error
    if image is None:
        raise ImageError(f"{path}: damaged or cut off")
    if image.dtype not in (np.uint8, np.uint16):
        raise ImageError(f"{path}: {image.dtype} pixels; expected an 8- or 16-bit image")
    if alpha:
        return cv2.cvtColor(image, cv2.COLOR_BGRA2RGB), image[..., 3].copy()
    for first in range(0, len(image), _ROWS):  # in place: with a second array, a large one would need much memory
        image[first : first + _ROWS] = cv2.cvtColor(image[first : first + _ROWS], cv2.COLOR_BGR2RGB)
    return image, None


def _decode_with_pillow(path: Path, picture: ImageFile.ImageFile, page: int = 0) -> Photograph:
    try:
        if page:
            picture.seek(page)
        profile = picture.info.get("icc_profile")
        if picture.mode == "CMYK":
            return _photograph(cmyk_to_srgb(picture, profile), False, None, None, ("CMYK converted to RGB",))
        pixels = np.asarray(picture.convert("RGB"))
    except MemoryError:
        raise
    except Exception as error:  # what damaged bytes make Pillow raise has no end
        raise damaged(path, error) from error
    return _photograph(pixels, is_gray(picture), _alpha(path, picture, pixels), profile)


def _alpha(path: Path, picture: ImageFile.ImageFile, pixels: np.ndarray) -> np.ndarray | None:
    if not has_alpha(picture):
        return None
    if pixels.dtype == np.uint16:  # of a PNG in which one colour is transparent
        opaque = (pixels != np.uint16(picture.info["transparency"])).any(axis=2)
        return opaque * np.uint16(65535)
    try:
        return np.asarray(picture.convert("RGBA").getchannel("A"))
    except MemoryError:
        raise
    except Exception as error:
        raise ImageError(f"{path}: its transparency cannot be read ({error})") from error


def _photograph(
    pixels: np.ndarray, gray: bool, alpha: np.ndarray | None, profile: bytes | None, notes: tuple[str, ...] = ()
) -> Photograph:
    """Decoded pixels as a photograph: alpha where something is transparent, a profile where it serves."""
    mode = mode_of(profile) if profile else ""
    return Photograph(
        np.require(pixels, requirements=["C", "W"]),  # Pillow's and tifffile's may not be written to
        alpha if alpha is not None and alpha.min() < np.iinfo(alpha.dtype).max else None,
        gray and mode != "RGB",  # gray in the colours of an RGB profile is written as it is meant, as RGB
        profile if mode == "RGB" or (mode == "L" and gray) else None,
        notes,
    )


def _to_8_bits(pixels: np.ndarray) -> np.ndarray:
    """The nearest of 256 levels; a few rows at a time, or a large photograph would need much memory."""
    if pixels.dtype != np.uint16:
        return pixels
    rounded = np.empty(pixels.shape, np.uint8)
    for first in range(0, len(pixels), _ROWS):
        rounded[first : first + _ROWS] = (pixels[first : first + _ROWS].astype(np.uint32) + 128) // 257
    return rounded


def _upright(photograph: Photograph, orientation: int) -> Photograph:
    """Turned as EXIF's orientation says: 1 as it is, 2 to 8 by mirroring and quarter turns."""
    if orientation == 1:
        return photograph
    pixels, alpha = (None if a is None else _turned(a, orientation) for a in (photograph.pixels, photograph.alpha))
    assert pixels is not None
    return replace(photograph, pixels=pixels, alpha=alpha)


def _turned(image: np.ndarray, orientation: int) -> np.ndarray:
    if orientation in (5, 6, 7, 8):
        image = image.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return np.ascontiguousarray(image)
