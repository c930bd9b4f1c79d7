"""TIFF files: which of a file's pages is the image, and arrays of those layouts that OpenCV takes for others.

OpenCV reads planar 16-bit files as gray and 16-bit files whose zero is white as negatives, and it ignores the checksums
of deflate; tifffile does all three right, but has no decoder for LZW, PackBits or JPEG.
"""
from __future__ import annotations

import io
import logging
import struct
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .headers import ImageError, check_size

if TYPE_CHECKING:
    from tifffile import TiffFormat, TiffPage

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB = range(3)  # photometric interpretations
_RAW = {32803, 34892}  # those of what a sensor saw
_DNG = 50706
_BUFFER = 1 << 24  # bytes decoded in one pass
_PLAIN, _DEFLATE = 1, {8, 32946}  # compressions


class TiffImage(NamedTuple):
    """The one image of a file, and what it takes to decode it."""

    width: int
    height: int
    array: np.ndarray | None  # H x W or H x W x samples, 0 is black; None: another decoder is needed
    page: int  # its number; -1: it is below a page
    place: int  # of its directory in the file
    deep: bool  # more than 8 bits
    odd: bool  # planar, or zero is white
    orientation: int  # EXIF's
    profile: bytes | None


def read_tiff(path: Path, data: bytes, decode: bool = True) -> TiffImage:
    """Find the image in a TIFF file; `decode` it where its layout and compression are tifffile's.

    Reduced pages (thumbnails, the levels of a pyramid) and masks are passed over.

    Raises:
        ImageError: a raw file, one of several pages, damaged, cut off, too large, or of floating point or long numbers.
    """
    import tifffile  # late: few images are TIFF files

    logging.getLogger("tifffile").addHandler(logging.NullHandler())  # it logs what it also raises
    try:
        # tifffile's objects refer to each other in circles, and would hold `data` until these are collected.
        with io.BytesIO(data) as stream, tifffile.TiffFile(stream) as file:
            page, index = _image_page(path, [page for page in file.pages if isinstance(page, tifffile.TiffPage)])
            _check_tags(file.tiff, page, data)
            return _read_page(path, page, index, len(data), decode)
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # what damaged bytes make tifffile raise has no end
        raise ImageError(f"{path}: damaged or cut off ({error})") from error


def _image_page(path: Path, pages: list[TiffPage]) -> tuple[TiffPage, int]:
    """The page that is the image, and its place in the file."""
    below = [page for parent in pages for page in parent.pages or () if isinstance(page, type(parent))]
    if any(page.photometric in _RAW or _DNG in page.tags for page in (*pages, *below)):
        raise ImageError(f"{path}: a raw file of a camera, which is not read; develop it to TIFF, PNG or JPEG first")
    whole = [page for page in pages if not (page.is_reduced or page.is_mask)]
    whole = whole or [page for page in below if not (page.is_reduced or page.is_mask)]
    if len(whole) != 1:
        raise ImageError(f"{path}: {len(whole)} pages; save one of them as a file of its own")
    return whole[0], pages.index(whole[0]) if whole[0] in pages else -1


def _check_tags(layout: TiffFormat, page: TiffPage, data: bytes) -> None:
    """Whether every entry in a page's directory became a tag: tifffile leaves out those that a cut has damaged."""
    (count,) = struct.unpack_from(layout.tagnoformat, data, page.offset)
    places = range(page.offset + layout.tagnosize, len(data), layout.tagsize)[:count]
    codes = {struct.unpack_from(layout.tagformat1, data, place)[0] for place in places}
    if missing := codes - {tag.code for tag in page.tags}:
        raise ValueError(f"tag {min(missing)} cannot be read")


def _read_page(path: Path, page: TiffPage, index: int, size: int, decode: bool) -> TiffImage:
    check_size(path, page.imagewidth, page.imagelength)
    places = zip(page.dataoffsets, page.databytecounts, strict=True)
    if any(count == 0 or place + count > size for place, count in places):
        raise ImageError(f"{path}: the image is cut off after {size:,} bytes; copy or download it again")
    if page.dtype is not None and page.dtype not in (bool, np.uint8, np.uint16):
        raise ImageError(f"{path}: {page.dtype} pixels; expected an 8- or 16-bit image")
    orientation, profile = page.tags.get(274), page.tags.get(34675)
    simple = page.photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB) and page.dtype in (np.uint8, np.uint16)
    mine = simple and page.compression in (_PLAIN, *_DEFLATE) and page.samplesperpixel <= 4 and page.imagedepth == 1
    return TiffImage(
        page.imagewidth,
        page.imagelength,
        _decode(page) if mine and decode else None,
        index,
        page.offset,
        page.bitspersample > 8,
        page.planarconfig == 2 or page.photometric == _WHITE_IS_ZERO,
        orientation.value if orientation and orientation.value in range(1, 9) else 1,
        bytes(profile.value) if profile else None,
    )


def _decode(page: TiffPage) -> np.ndarray:
    array = page.asarray(maxworkers=1, buffersize=_BUFFER)
    if page.samplesperpixel > 1 and page.planarconfig == 2:
        array = np.moveaxis(array, 0, -1)
    if page.photometric == _WHITE_IS_ZERO:
        array = np.iinfo(array.dtype).max - array
    return array
