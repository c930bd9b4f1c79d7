"""Images of more than 8 bits: of those Pillow writes gray only, and OpenCV writes neither profile nor metadata."""
from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

import cv2
import numpy as np
from numpy.typing import DTypeLike
from PIL import Image

_HOLDS_NO_PIXELS = {b"iCCP", b"eXIf", b"iTXt", b"tEXt", b"zTXt", b"pHYs"}  # chunks
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # of a PNG, by its channels: gray, gray and alpha, RGB, RGBA
_UP = 2  # the filter of a row: less the one above
_ROWS = 64  # encoded at a time
HEIF_BITS = 10  # those of HEVC's profile for still images
AVIF_BITS = 10 if hasattr(cv2, "imencodeWithMetadata") else 8
_AVIF_CONFIGURATION = re.compile(rb"av1C..(.)", re.DOTALL)

Buffer = bytes | memoryview


def bits_of(picture: Image.Image, kind: str, data: bytes) -> int:
    """The bits of a channel in a HEIC or AVIF file."""
    if kind == "HEIC":
        return int(picture.info["bit_depth"])
    found = _AVIF_CONFIGURATION.search(data)
    flags = found[1][0] if kind == "AVIF" and found else 0
    return 8 + 2 * bool(flags & 0x40) + 2 * (flags & 0x60 == 0x60)


def decode_heif(data: bytes, bits: int) -> np.ndarray:
    """H x W or H x W x channels uint16 of a HEIC with one picture, turned upright; as many bits, spread over 16."""
    from pillow_heif import open_heif

    return spread(np.asarray(open_heif(io.BytesIO(data), convert_hdr_to_8bit=False, hdr_to_16bit=False)), 2**bits - 1)


def decode_avif(data: bytes, bits: int) -> np.ndarray | None:
    """The same of an AVIF, not turned upright; None where OpenCV cannot read AVIF."""
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None or image.dtype != np.uint16:
        return None
    orders = {3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGBA}
    return spread(image if image.ndim == 2 else cv2.cvtColor(image, orders[image.shape[2]]), 2**bits - 1)


def write_heif(file: BinaryIO, pixels: np.ndarray, alpha: np.ndarray | None, options: dict[str, Any]) -> None:
    """H x W x 3 uint16 RGB, alpha H x W uint16, as a HEIC of 10 bits; `options` are pillow-heif's."""
    from pillow_heif import from_bytes

    samples = _gathered(_samples(pixels, alpha, False), HEIF_BITS) << (16 - HEIF_BITS)
    height, width, channels = samples.shape
    from_bytes("RGB;16" if channels == 3 else "RGBA;16", (width, height), samples.tobytes()).save(file, **options)


def write_avif(file: BinaryIO, pixels: np.ndarray, alpha: np.ndarray | None, options: dict[str, Any]) -> None:
    """The same as an AVIF of 10 bits; `options` are Pillow's."""
    samples = _gathered(_samples(pixels, alpha, False), AVIF_BITS)
    image = cv2.cvtColor(samples, cv2.COLOR_RGB2BGR if alpha is None else cv2.COLOR_RGBA2BGRA)
    kinds = {"exif": cv2.IMAGE_METADATA_EXIF, "xmp": cv2.IMAGE_METADATA_XMP, "icc_profile": cv2.IMAGE_METADATA_ICCP}
    held = {kinds[name]: np.frombuffer(options[name], np.uint8) for name in kinds if name in options}
    settings = [cv2.IMWRITE_AVIF_DEPTH, AVIF_BITS, cv2.IMWRITE_AVIF_QUALITY, options["quality"]]
    done, encoded = cv2.imencodeWithMetadata(".avif", image, [*held], [*held.values()], settings)
    if not done:
        raise ValueError("OpenCV refuses it")
    file.write(encoded.data)


def write_png(
    file: BinaryIO, pixels: np.ndarray, alpha: np.ndarray | None, gray: bool, options: dict[str, Any]
) -> None:
    """H x W x 3 uint16 RGB, alpha H x W uint16, as a PNG; `options` are Pillow's for its other chunks."""
    small = io.BytesIO()
    Image.new("L" if gray else "RGB", (1, 1)).save(small, "PNG", **options)
    height, width = pixels.shape[:2]
    channels = (1 if gray else 3) + (alpha is not None)
    header = struct.pack(">IIBBBBB", width, height, 16, _COLOUR_TYPES[channels], 0, 0, 0)
    file.write(_SIGNATURE + _chunk(b"IHDR", header))
    file.writelines(chunk for name, chunk in chunks(small.getvalue()) if name in _HOLDS_NO_PIXELS)
    compressor = zlib.compressobj(1)
    above = np.zeros((1, width * channels * 2), np.uint8)
    for first in range(0, height, _ROWS):
        part = slice(first, first + _ROWS)
        values = _samples(pixels[part], None if alpha is None else alpha[part], gray).astype(">u2")
        rows = values.reshape(len(values), -1).view(np.uint8)
        filtered = np.full((len(rows), rows.shape[1] + 1), _UP, np.uint8)
        np.subtract(rows, np.concatenate([above, rows[:-1]]), out=filtered[:, 1:])
        above = rows[-1:]
        file.write(_chunk(b"IDAT", compressor.compress(filtered.tobytes())))
    file.write(_chunk(b"IDAT", compressor.flush()) + _chunk(b"IEND", b""))


def write_pnm(file: BinaryIO, pixels: np.ndarray, gray: bool) -> None:
    """H x W x 3 uint16 RGB as a PPM, gray as a PGM."""
    height, width = pixels.shape[:2]
    file.write(b"P%d\n%d %d\n65535\n" % (5 if gray else 6, width, height))
    for first in range(0, height, _ROWS):
        file.write(_samples(pixels[first : first + _ROWS], None, gray).astype(">u2").tobytes())


def write_tiff(
    file: BinaryIO,
    pixels: np.ndarray,
    alpha: np.ndarray | None,
    gray: bool,
    profile: bytes | None,
    dpi: tuple[float, float] | None,
) -> None:
    """H x W x 3 uint16 RGB, alpha H x W uint16, as a little-endian TIFF, compressed by deflate."""
    import tifffile  # late: few images are TIFF files

    samples = _samples(pixels, alpha, gray)
    several = samples.shape[2] > 1
    tifffile.imwrite(
        file,
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


def spread(samples: np.ndarray, white: int, dtype: DTypeLike = np.uint16) -> np.ndarray:
    """Integers from 0 to `white` over all levels of a type."""
    table = (np.arange(white + 1) * np.iinfo(dtype).max + white // 2) // white
    return np.take(table.astype(dtype), samples, mode="clip")


def _gathered(samples: np.ndarray, bits: int) -> np.ndarray:
    table = (np.arange(65536) * ((1 << bits) - 1) + 32767) // 65535
    return np.take(table.astype(np.uint16), samples)


def _samples(pixels: np.ndarray, alpha: np.ndarray | None, gray: bool) -> np.ndarray:
    """H x W x channels in the order of files; without a copy where there is nothing to add or to leave out."""
    colours = pixels[..., :1] if gray else pixels
    return colours if alpha is None else np.concatenate([colours, alpha[..., None]], axis=2)


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def chunks(png: Buffer) -> Iterator[tuple[bytes, Buffer]]:
    """(name, whole chunk) of a PNG; what lies behind its end is none of it."""
    place, name = len(_SIGNATURE), b""
    while name != b"IEND" and place + 12 <= len(png):
        (length,) = struct.unpack_from(">I", png, place)
        name = bytes(png[place + 4 : place + 8])
        yield name, png[place : place + length + 12]
        place += length + 12
