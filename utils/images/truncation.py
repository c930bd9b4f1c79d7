"""Files that were cut off or damaged, where decoders keep silent."""
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
_TAIL = 16  # bytes at the end of a JPEG's data that must have a part in the image
_OTHER_TAILS = (_MORE_DATA, b"")  # what could stand there instead: the first changes nothing in some flat images

_whole: set[tuple[str, int, int]] = set()  # path, size and time of change of JPEG files whose data were checked


class DataEnd(NamedTuple):
    """Where the data of a PNG or JPEG file end; where those of a JPEG's last scan begin, and whether it has several."""

    place: int
    start: int = 0
    in_scans: bool = False


def find_end(path: Path, kind: str, data: bytes) -> DataEnd:
    """Where the data of a file end; for formats that OpenCV and Pillow refuse when they are cut, its first byte.

    Before decoding: for a cut JPEG OpenCV 4.10 returns gray or parts of the image it decoded before; 4.11 and 5.0
    refuse most of them, but not all of those whose rest is zeros.

    Raises:
        ImageError: the end mark is missing, or a scan is.
    """
    end = DataEnd(0)
    if kind == "JPEG":
        end = _jpeg_end(memoryview(data))
    elif kind == "PNG":
        end = DataEnd(_png_end(memoryview(data)))
    if end.place < 0:
        raise ImageError(f"{path}: the image is cut off after {len(data):,} bytes; copy or download it again")
    return end


def check_data(path: Path, data: bytes, end: DataEnd, image: np.ndarray) -> None:
    """Whether the data of a JPEG file are as many as its pixels need; `image` is what OpenCV made of them.

    Where they are too few libjpeg fills up with gray, and where damage has shifted what follows, some are left over. It
    only warns, on the process's stderr; Pillow's copy of it keeps silent. So the file is decoded once or twice more,
    with other data at its end, when this process reads it first. Not seen: what is lost of the last 16 x 16 pixels.

    Raises:
        ImageError: they are too few, or too many.
    """
    stat = path.stat()
    state = str(path), stat.st_size, stat.st_mtime_ns
    if state in _whole:
        return
    gray = _has_gray_corner(image)
    if (end.in_scans or gray) and _changes(data, end.place, _MORE_DATA, end.place, image):
        raise ImageError(f"{path}: the image is cut off, its data end before its last pixel; copy or download it again")
    tail = end.place - _TAIL
    enough = tail >= end.start + _TAIL  # of small flat images other data can make the same
    if enough and not gray and not any(_changes(data, tail, new, end.place, image) for new in _OTHER_TAILS):
        raise ImageError(f"{path}: the image is damaged, data are left over after its last pixel; copy it again")
    _whole.add(state)


def _jpeg_end(data: memoryview) -> DataEnd:
    """Where the data of a JPEG file end.

    -1: the file was cut off, its end mark is missing or a scan is. Goes from segment to segment, so that the end mark
    of a thumbnail inside is not taken for that of the image, and no further than that mark.
    """
    place, start, missing, scans, progressive = 2, 2, 0, 0, False  # missing: coefficients of a block, of all components
    while found := _JPEG_MARKER.search(data, place):
        marker, place = found[1][0], found.end()
        if marker == 0xD9:
            end = found.start()
            while data[end - 1] == 0xFF:  # padding, or half of the value at which the file was cut
                end -= 1
            return DataEnd(-1 if missing > 0 else end, start, progressive or scans > 1)
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
            scans, start = scans + 1, place
    return DataEnd(-1)


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


def _changes(data: bytes, start: int, new: bytes, end: int, image: np.ndarray) -> bool:
    """Whether a JPEG file becomes another image than `image` with `new` data from `start` to `end`.

    Also where these cannot be decoded. Mostly the decoders agree to the bit; where not, Pillow decodes both.
    """
    other = _decode_quietly(b"".join((data[:start], new, data[end:])))
    if other is None or np.array_equal(other, image):
        return other is None
    half = len(image) // 2  # what follows the upper half is not what makes it another
    if np.array_equal(other[:half], image[:half]):
        return True
    same = _decode_quietly(data)
    return same is not None and not np.array_equal(other, same)


def _decode_quietly(data: bytes) -> np.ndarray | None:
    try:  # the class itself: Image.open has a limit of size, and takes some JPEG files for another format
        return np.asarray(JpegImageFile(io.BytesIO(data)).convert("RGB"))
    except (OSError, SyntaxError):
        return None
