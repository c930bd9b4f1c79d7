"""Files that were cut off or closed too early, where decoders keep silent."""
from __future__ import annotations

import io
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL.JpegImagePlugin import JpegImageFile

from .headers import ImageError

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# In JPEG's compressed data FF 00 is a value, FF D0 to FF D7 are restarts, further FF are padding: all else is a marker.
_JPEG_MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])")

# What no image goes on with by chance: noise without FF, then again after each restart, in case the data ended at one.
_NOISE = np.random.default_rng(0).integers(0, 255, 256, np.uint8).tobytes()
_MORE_DATA = _NOISE + b"".join(bytes((0xFF, restart)) + _NOISE for restart in range(0xD0, 0xD8))


class DataEnd(NamedTuple):
    """Where the data of a PNG or JPEG file end, and whether a JPEG's come in several scans."""

    place: int
    in_scans: bool


def find_end(path: Path, kind: str, data: bytes) -> DataEnd:
    """Where the data of a file end; for formats that OpenCV and Pillow refuse when they are cut, its first byte.

    Before decoding: for a cut JPEG OpenCV 4.10 returns gray or parts of the image it decoded before; 4.11 and 5.0
    refuse most of them, but not all of those whose rest is zeros.

    Raises:
        ImageError: the end mark is missing, or a scan is.
    """
    end = DataEnd(0, False)
    if kind == "JPEG":
        end = DataEnd(*_jpeg_end(memoryview(data)))
    elif kind == "PNG":
        end = DataEnd(_png_end(memoryview(data)), False)
    if end.place < 0:
        raise ImageError(f"{path}: the image is cut off after {len(data):,} bytes; copy or download it again")
    return end


def check_data(path: Path, kind: str, data: bytes, end: DataEnd, image: np.ndarray) -> None:
    """Whether the data of a JPEG file reach its last pixel; libjpeg fills up with gray. `image` is what was decoded.

    That costs progressive files a second decoding; others are decoded again only where a corner is of middle gray. Not
    seen: what is lost of the last 16 x 16 pixels, and of CMYK.

    Raises:
        ImageError: they do not.
    """
    may_lack = kind == "JPEG" and (end.in_scans or _has_gray_corner(image))
    if may_lack and _lacks_data(memoryview(data), end.place, image):
        raise ImageError(f"{path}: the image is cut off, its data end before its last pixel; copy or download it again")


def _jpeg_end(data: memoryview) -> tuple[int, bool]:
    """Where the data of a JPEG file end, and whether they come in several scans.

    -1: the file was cut off, its end mark is missing or a scan is. Goes from segment to segment, so that the end mark
    of a thumbnail inside is not taken for that of the image, and no further than that mark.
    """
    place, missing, scans, progressive = 2, 0, 0, False  # missing: coefficients of a block, of all components
    while found := _JPEG_MARKER.search(data, place):
        marker, place = found[1][0], found.end()
        if marker == 0xD9:
            end = found.start()
            while data[end - 1] == 0xFF:  # padding, or half of the value at which the file was cut
                end -= 1
            return (-1 if missing > 0 else end), progressive or scans > 1
        if marker in (0x01, 0xD8):
            continue
        length = int.from_bytes(data[place : place + 2], "big")  # counts its own two bytes
        segment = bytes(data[place : place + length]).ljust(8, b"\0")
        place += length
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # frame
            missing, progressive = 64 * segment[7], marker in (0xC2, 0xCA)
        elif marker == 0xDA:
            *_, first, last, bits = segment
            if not progressive:
                first, last, bits = 0, 63, 0  # what some writers leave open
            if bits & 15 == 0:  # down to the last bit
                missing -= segment[2] * (last - first + 1)
            scans += 1
    return -1, False


def _png_end(data: memoryview) -> int:
    """Where the end chunk of a PNG file stands; -1: it has none, the file was cut off."""
    place = len(_PNG_SIGNATURE)
    while place + 12 <= len(data):  # length, name, contents, checksum
        if data[place + 4 : place + 8] == b"IEND":
            return place
        place += 12 + int.from_bytes(data[place : place + 4], "big")
    return -1


def _has_gray_corner(image: np.ndarray) -> bool:
    """Whether an 8 x 8 block in a corner of an RGB image has the luma that libjpeg fills with.

    The last block is cut to the image's size. In which corner it is depends on the orientation.
    """
    height, width = ((size - 1) % 8 + 1 for size in image.shape[:2])
    blocks = (image[y, x] for y in (slice(height), slice(-height, None)) for x in (slice(width), slice(-width, None)))
    return any((np.abs(block @ (0.299, 0.587, 0.114) - 128) < 1.5).all() for block in blocks)


def _lacks_data(data: memoryview, end: int, image: np.ndarray) -> bool:
    """Whether a JPEG file has too little data for its pixels: whether more data before its end mark change the image.

    Libjpeg only warns, on the process's stderr, and skips data beyond the last pixel. Pillow's copy of it keeps silent.
    `image` is what OpenCV decoded. False for what Pillow does not decode.
    """
    try:
        longer = _decode_quietly(b"".join((data[:end], _MORE_DATA, data[end:])))
        # Mostly the decoders agree to the bit; where not, Pillow decodes it too.
        return not (np.array_equal(longer, image) or np.array_equal(longer, _decode_quietly(data)))
    except (OSError, SyntaxError):
        return False


def _decode_quietly(data: bytes | memoryview) -> np.ndarray:
    # The class itself: Image.open has a limit of size, and takes some JPEG files for another format.
    return np.asarray(JpegImageFile(io.BytesIO(data)).convert("RGB"))
