"""Image files and arrays: OpenCV reads and writes, colour order is converted here and nowhere else.

On disk and in numpy an image is H x W x 3 uint8 RGB; as a tensor it is N x 3 x H x W float32 in [0, 1].
"""
from __future__ import annotations

import io
import re
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from .cli import UserError
from .files import write_atomically

_ORIENTATION = 274  # EXIF
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm"})


class ImageError(UserError):
    """A file that cannot be read or written as an image; the message names it."""


def is_image(path: Path) -> bool:
    """Whether `path` is a visible file with the suffix of an image."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()


def read_image(path: str | Path) -> np.ndarray:
    """Read an image as H x W x 3 uint8 RGB; see `read_converted`."""
    return read_converted(path)[0]


def read_converted(path: str | Path) -> tuple[np.ndarray, list[str]]:
    """Read an image as H x W x 3 uint8 RGB, turned upright by its EXIF orientation; and say what was converted.

    Gray images become three equal channels, an alpha channel is dropped, 16-bit values are rounded to 8.

    A JPEG is also refused as cut off when its end mark is there and the data before it do not reach the last pixel,
    which libjpeg fills with gray. That costs progressive files a second decoding; others are decoded again only where
    a corner is of middle gray. Not seen: what is lost of the last 16 x 16 pixels, and of CMYK.

    Raises:
        ImageError: the file is missing, empty, cut off, or not an image that OpenCV reads.
    """
    path = Path(path)
    data = _bytes_of(path)
    # Before decoding: for a cut JPEG OpenCV 4.10 returns gray or parts of the image it decoded before; 4.11 and 5.0
    # refuse most of them, but not all of those whose rest is zeros.
    end, in_scans = _end_of(path, data)
    is_jpeg = data.data[:2] == _JPEG_SIGNATURE
    try:
        image = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    except cv2.error as error:
        raise ImageError(f"{path}: cannot be decoded ({error.err})") from error
    if image is None:
        raise ImageError(f"{path}: not an image OpenCV can read, or damaged or cut off")
    converted = _conversions(data.data, image.dtype)
    if image.dtype == np.uint16:
        image = np.round(image / 257.0).astype(np.uint8)
    if image.dtype != np.uint8:
        raise ImageError(f"{path}: {image.dtype} pixels; expected an 8- or 16-bit image")
    image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    if is_jpeg and (in_scans or _has_gray_corner(image)) and _lacks_data(data.data, end, image):
        raise ImageError(f"{path}: the image is cut off, its data end before its last pixel; copy or download it again")
    return image, converted


def look_at(path: str | Path) -> tuple[int, int]:
    """Width and height of an image, turned upright, from its header; its pixels are not decoded.

    Raises:
        ImageError: the file is missing, empty, cut off, or not an image.
    """
    path = Path(path)
    data = _bytes_of(path)
    _end_of(path, data)
    try:
        with Image.open(io.BytesIO(data.data)) as image:
            width, height = image.size
            turned = image.getexif().get(_ORIENTATION, 1) > 4
    except Exception:  # Pillow does not know the format, or is offended by the header: decoding decides
        height, width = read_image(path).shape[:2]
        turned = False
    return (height, width) if turned else (width, height)


def write_image(path: str | Path, image: np.ndarray) -> None:
    """Write an H x W x 3 uint8 RGB image, whole or not at all (utils.files); missing folders are made.

    The suffix of `path` chooses the format.

    Raises:
        ImageError: the array is of another shape or type, or the suffix is unknown to OpenCV.
        OSError: the folder cannot be written, or the disk is full.
    """
    path = Path(path)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ImageError(f"{path}: expected an H x W x 3 uint8 image, found {image.shape} {image.dtype}")
    try:
        ok, data = cv2.imencode(path.suffix.lower(), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    except cv2.error as error:
        raise ImageError(f"{path}: images cannot be written as '{path.suffix}'; use .png") from error
    if not ok:
        raise ImageError(f"{path}: could not be encoded as '{path.suffix}'")
    with write_atomically(path) as file:
        file.write(data.tobytes())


def _bytes_of(path: Path) -> np.ndarray:
    try:
        # Not cv2.imread: it returns None for every reason, and cannot open non-ASCII paths on Windows.
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise ImageError(f"{path}: cannot be opened ({error.strerror})") from error
    if data.size == 0:
        raise ImageError(f"{path}: the file is empty (0 bytes)")
    return data


def _end_of(path: Path, data: np.ndarray) -> tuple[int, bool]:
    """Where the image data of a JPEG or PNG file end, and whether they are a JPEG's in several scans."""
    is_jpeg = data.data[:2] == _JPEG_SIGNATURE
    end, in_scans = _jpeg_end(data.data) if is_jpeg else (_png_end(data.data), False)
    if end < 0:
        raise ImageError(f"{path}: the image is cut off after {data.size:,} bytes; copy or download it again")
    return end, in_scans


def _conversions(data: memoryview, dtype: np.dtype) -> list[str]:
    """What `read_converted` changes in the pixels of a file, as its header tells."""
    found = ["16-bit rounded to 8"] * (dtype == np.uint16)
    try:
        with Image.open(io.BytesIO(data)) as image:
            mode, transparent = image.mode, "transparency" in image.info
    except Exception:  # what Pillow does not open was decoded all the same
        return found
    found += ["gray repeated to RGB"] * (mode in ("1", "L", "LA", "I", "F") or mode.startswith("I;"))
    found += ["alpha dropped"] * (mode in ("LA", "PA", "RGBA") or transparent)
    return found


# In JPEG's compressed data FF 00 is a value, FF D0 to FF D7 are restarts, further FF are padding: all else is a marker.
_JPEG_MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])")
_JPEG_SIGNATURE = b"\xff\xd8"
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


# What no image goes on with by chance: noise without FF, then again after each restart, in case the data ended at one.
_NOISE = np.random.default_rng(0).integers(0, 255, 256, np.uint8).tobytes()
_MORE_DATA = _NOISE + b"".join(bytes((0xFF, restart)) + _NOISE for restart in range(0xD0, 0xD8))


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
    """Where the end chunk of a PNG file stands; -1: it has none, the file was cut off.

    0 for every other format: OpenCV refuses those when they are cut (tests/test_images.py).
    """
    if data[:8] != _PNG_SIGNATURE:
        return 0
    place = 8
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
        # Mostly the decoders agree to the bit; where not, or when OpenCV has turned the image, Pillow decodes it too.
        return not (np.array_equal(longer, image) or np.array_equal(longer, _decode_quietly(data)))
    except (OSError, SyntaxError):
        return False


def _decode_quietly(data: bytes | memoryview) -> np.ndarray:
    # The class itself: Image.open has a limit of size, and takes some JPEG files for another format.
    return np.asarray(JpegImageFile(io.BytesIO(data)).convert("RGB"))


def to_tensor(image: np.ndarray) -> torch.Tensor:
    """H x W x 3 uint8 -> 1 x 3 x H x W float32 in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float() / 255


def to_image(tensor: torch.Tensor) -> np.ndarray:
    """1 x 3 x H x W or 3 x H x W float -> H x W x 3 uint8, clamped to [0, 1] and rounded to the nearest level."""
    if tensor.ndim == 4:
        if tensor.shape[0] != 1:
            raise ValueError(f"expected one image, found a batch of {tensor.shape[0]}")
        tensor = tensor[0]
    levels = tensor.detach().float().clamp(0, 1).mul(255).round().to(torch.uint8)
    return levels.permute(1, 2, 0).cpu().numpy()
