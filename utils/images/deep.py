"""16-bit images written with profile and metadata: of 16 bits Pillow writes gray only, OpenCV no metadata."""
from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

_HOLDS_NO_PIXELS = {b"iCCP", b"eXIf", b"iTXt", b"tEXt", b"zTXt", b"pHYs"}  # chunks
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # of a PNG, by its channels: gray, gray and alpha, RGB, RGBA
_UP = 2  # the filter of a row: less the one above
_ROWS = 64  # encoded at a time

Buffer = bytes | memoryview


def encode_png(pixels: np.ndarray, alpha: np.ndarray | None, gray: bool, options: dict[str, Any]) -> io.BytesIO:
    """H x W x 3 uint16 RGB, alpha H x W uint16, as a PNG; `options` are Pillow's for its other chunks."""
    small = io.BytesIO()
    Image.new("L" if gray else "RGB", (1, 1)).save(small, "PNG", **options)
    height, width = pixels.shape[:2]
    channels = (1 if gray else 3) + (alpha is not None)
    header = struct.pack(">IIBBBBB", width, height, 16, _COLOUR_TYPES[channels], 0, 0, 0)
    written = io.BytesIO()
    written.write(_SIGNATURE + _chunk(b"IHDR", header))
    written.writelines(chunk for name, chunk in chunks(small.getvalue()) if name in _HOLDS_NO_PIXELS)
    compressor = zlib.compressobj(1)
    above = np.zeros((1, width * channels * 2), np.uint8)
    for first in range(0, height, _ROWS):
        part = slice(first, first + _ROWS)
        values = _samples(pixels[part], None if alpha is None else alpha[part], gray).astype(">u2")
        rows = values.reshape(len(values), -1).view(np.uint8)
        filtered = np.full((len(rows), rows.shape[1] + 1), _UP, np.uint8)
        np.subtract(rows, np.concatenate([above, rows[:-1]]), out=filtered[:, 1:])
        above = rows[-1:]
        written.write(_chunk(b"IDAT", compressor.compress(filtered.tobytes())))
    written.write(_chunk(b"IDAT", compressor.flush()) + _chunk(b"IEND", b""))
    return written


def encode_pnm(pixels: np.ndarray, gray: bool) -> io.BytesIO:
    """H x W x 3 uint16 RGB as a PPM, gray as a PGM."""
    height, width = pixels.shape[:2]
    written = io.BytesIO()
    written.write(b"P%d\n%d %d\n65535\n" % (5 if gray else 6, width, height))
    for first in range(0, height, _ROWS):
        written.write(_samples(pixels[first : first + _ROWS], None, gray).astype(">u2").tobytes())
    return written


def encode_tiff(
    pixels: np.ndarray, alpha: np.ndarray | None, gray: bool, profile: bytes | None, dpi: tuple[float, float] | None
) -> io.BytesIO:
    """H x W x 3 uint16 RGB, alpha H x W uint16, as a little-endian TIFF, compressed by deflate."""
    import tifffile  # late: few images are TIFF files

    written, samples = io.BytesIO(), _samples(pixels, alpha, gray)
    several = samples.shape[2] > 1
    tifffile.imwrite(
        written,
        samples if several else samples[..., 0],
        photometric="minisblack" if gray else "rgb",
        planarconfig="contig" if several else None,
        extrasamples=["unassalpha"] if alpha is not None else None,
        compression="zlib",
        predictor=True,
        iccprofile=profile,
        resolution=dpi or (1, 1),
        resolutionunit="INCH" if dpi else "NONE",
        software=False,
        metadata=None,
        byteorder="<",
        bigtiff=False,
    )
    return written


def _samples(pixels: np.ndarray, alpha: np.ndarray | None, gray: bool) -> np.ndarray:
    """H x W x channels in the order of files; without a copy where there is nothing to add or to leave out."""
    colours = pixels[..., :1] if gray else pixels
    return colours if alpha is None else np.concatenate([colours, alpha[..., None]], axis=2)


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def chunks(png: Buffer) -> Iterator[tuple[bytes, Buffer]]:
    """(name, whole chunk) of a PNG."""
    place = len(_SIGNATURE)
    while place < len(png):
        (length,) = struct.unpack_from(">I", png, place)
        yield bytes(png[place + 4 : place + 8]), png[place : place + length + 12]
        place += length + 12
