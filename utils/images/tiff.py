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

from .headers import ImageError, check_size, damaged

if TYPE_CHECKING:
    from tifffile import TiffFormat, TiffPage

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB = range(3)  # photometric interpretations
_YCBCR = 6
_PREMULTIPLIED, _ALPHA = 1, 2  # what a channel besides the colours holds; 0: anything
_EXTRA = 338
_RAW = {32803, 34892}  # those of what a sensor saw
_DNG = 50706
_BUFFER = 1 << 24  # bytes decoded in one pass
_ROWS = 256  # converted at a time
_PLAIN, _DEFLATE = 1, {8, 32946}  # compressions


class TiffImage(NamedTuple):
    """The one image of a file, and what it takes to decode it."""

    width: int
    height: int
    array: np.ndarray | None  # H x W x 1 to 4: gray or RGB, 0 is black, and alpha; None: another decoder is needed
    page: int  # its number; -1: it is below a page
    place: int  # of its directory in the file
    bits: int  # of a channel
    opencv: bool  # the other decoder is OpenCV: Pillow rounds 16 bits to 8, and takes plain YCbCr for RGB
    rare: bool  # neither decoder reads it rightly
    gray: bool
    alpha: int | None  # the channel of alpha
    premultiplied: bool  # colours are stored times alpha
    orientation: int  # EXIF's
    profile: bytes | None
    notes: tuple[str, ...]  # what is left out, in words


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
        raise damaged(path, error) from error


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
    bits, samples = page.bitspersample, page.samplesperpixel
    if bits not in (1, 2, 4, 8, 10, 12, 14, 16):
        raise ImageError(f"{path}: {bits}-bit pixels; expected an 8- or 16-bit image")
    orientation, profile = page.tags.get(274), page.tags.get(34675)
    simple = page.photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB) and bits in (8, 16)
    mine = simple and page.compression in (_PLAIN, *_DEFLATE) and samples <= 8 and page.imagedepth == 1
    opencv = bits > 8 or (page.photometric == _YCBCR and page.compression == _PLAIN)
    known = (_BLACK_IS_ZERO, _RGB) if bits > 8 else (_YCBCR,)
    odd = page.planarconfig == 2 or page.photometric not in known or index > 0
    odd = odd or samples not in (1, 3, 4)[: 2 + (bits == 16)]
    alpha, extra = _alpha(page), samples - _colours(page)
    unknown = 0 if page.photometric not in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB) else extra - (alpha is not None)
    return TiffImage(
        page.imagewidth,
        page.imagelength,
        _decode(page) if mine and decode else None,
        index,
        page.offset,
        bits,
        opencv,
        index < 0 or (opencv and odd),
        _colours(page) == 1,
        alpha,
        _is_premultiplied(page),
        orientation.value if orientation and orientation.value in range(1, 9) else 1,
        bytes(profile.value) if profile else None,
        (f"{unknown} channel(s) of no known meaning left out",) * (unknown > 0),
    )


def straight(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """H x W x channels that are stored times alpha, H x W, as the colours they are."""
    white, result = np.iinfo(colours.dtype).max, np.empty_like(colours)
    for first in range(0, len(colours), _ROWS):
        part = slice(first, first + _ROWS)
        opaque = np.maximum(alpha[part, :, None], 1).astype(np.uint32)
        result[part] = np.minimum((colours[part] * np.uint32(white) + opaque // 2) // opaque, white)
    return result


def _colours(page: TiffPage) -> int:
    """The number of channels that colours take."""
    return 1 if page.photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO) else 3


def _alpha(page: TiffPage) -> int | None:
    """The channel that says how opaque a pixel is; some writers do not say that their fourth channel is one."""
    kinds = page.extrasamples if _EXTRA in page.tags else (_ALPHA,) * (page.samplesperpixel - _colours(page) == 1)
    return next((_colours(page) + i for i, kind in enumerate(kinds) if kind in (_PREMULTIPLIED, _ALPHA)), None)


def _is_premultiplied(page: TiffPage) -> bool:
    alpha = _alpha(page)
    return alpha is not None and page.extrasamples[alpha - _colours(page) :][:1] == (_PREMULTIPLIED,)


def _decode(page: TiffPage) -> np.ndarray:
    array = np.atleast_3d(page.asarray(maxworkers=1, buffersize=_BUFFER))
    if page.samplesperpixel > 1 and page.planarconfig == 2:
        array = np.moveaxis(array, 0, -1)
    colours, alpha = array[..., : _colours(page)], _alpha(page)
    if page.photometric == _WHITE_IS_ZERO:
        colours = np.iinfo(array.dtype).max - colours
    if alpha is None:
        return colours
    if _is_premultiplied(page):
        colours = straight(colours, array[..., alpha])
    elif page.photometric != _WHITE_IS_ZERO and array.shape[2] == _colours(page) + 1:
        return array  # as it is: a copy of a large one takes memory
    return np.concatenate([colours, array[..., alpha, None]], axis=2)
