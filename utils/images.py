"""Image files and arrays: OpenCV reads and writes, colour order is converted here and nowhere else.

On disk and in numpy an image is H x W x 3 uint8 RGB; as a tensor it is N x 3 x H x W float32 in [0, 1].
"""
from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import torch

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm"})


class ImageError(ValueError):
    """A file that cannot be read or written as an image; the message names it."""


def is_image(path: Path) -> bool:
    """Whether `path` is a visible file with the suffix of an image."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()


def read_image(path: str | Path) -> np.ndarray:
    """Read an image as H x W x 3 uint8 RGB, turned upright by its EXIF orientation.

    Gray images become three equal channels, an alpha channel is dropped, 16-bit values are rounded to 8.

    Raises:
        ImageError: the file is missing, empty, cut off, or not an image that OpenCV reads.
    """
    path = Path(path)
    try:
        # Not cv2.imread: it returns None for every reason, and cannot open non-ASCII paths on Windows.
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise ImageError(f"{path}: cannot be opened ({error.strerror})") from error
    if data.size == 0:
        raise ImageError(f"{path}: the file is empty (0 bytes)")
    # Before decoding: for a cut JPEG OpenCV 4.10 returns gray or parts of the image it decoded before; 4.11 and 5.0
    # refuse most of them, but not all of those whose rest is zeros.
    if _is_cut_off(data.data):
        raise ImageError(f"{path}: the image is cut off after {data.size:,} bytes; copy or download it again")
    try:
        image = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    except cv2.error as error:
        raise ImageError(f"{path}: cannot be decoded ({error.err})") from error
    if image is None:
        raise ImageError(f"{path}: not an image OpenCV can read, or damaged or cut off")
    if image.dtype == np.uint16:
        image = np.round(image / 257.0).astype(np.uint8)
    if image.dtype != np.uint8:
        raise ImageError(f"{path}: {image.dtype} pixels; expected an 8- or 16-bit image")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def write_image(path: str | Path, image: np.ndarray) -> None:
    """Write an H x W x 3 uint8 RGB image; the suffix of `path` chooses the format, missing folders are made.

    Raises:
        ImageError: the array is of another shape or type, or the suffix is unknown to OpenCV.
        OSError: the folder cannot be written.
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
    path.parent.mkdir(parents=True, exist_ok=True)
    data.tofile(path)


# In JPEG's compressed data FF 00 is a value, FF D0 to FF D7 are restarts, further FF are padding: all else is a marker.
_JPEG_MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])")
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def _is_cut_off(data: memoryview) -> bool:
    """Whether a JPEG or PNG file stops before its own end mark; bytes after that mark are not looked at.

    Walks from segment to segment, so that the end mark of a thumbnail inside is not taken for that of the image.
    False for every other format: OpenCV refuses those when they are cut (tests/test_images.py).
    """
    if data[:2] == b"\xff\xd8":
        place = 2
        while found := _JPEG_MARKER.search(data, place):
            marker, place = found[1][0], found.end()
            if marker == 0xD9:
                return False
            if marker not in (0x01, 0xD8):  # all others are followed by their length, which counts its own two bytes
                place += int.from_bytes(data[place : place + 2], "big")
        return True
    if data[:8] == _PNG_SIGNATURE:
        place = 8
        while place + 12 <= len(data):  # length, name, contents, checksum
            if data[place + 4 : place + 8] == b"IEND":
                return False
            place += 12 + int.from_bytes(data[place : place + 4], "big")
        return True
    return False


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
