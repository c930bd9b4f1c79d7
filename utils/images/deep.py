"""16-bit images into bytes, with profile and metadata: Pillow writes 16 bits of gray only."""
from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
from PIL import Image

_HOLDS_NO_PIXELS = {b"iCCP", b"eXIf", b"iTXt", b"tEXt", b"zTXt", b"pHYs"}  # chunks
_START = 8  # bytes of the signature of a PNG


def encode_png(pixels: np.ndarray, alpha: np.ndarray | None, gray: bool, options: dict[str, Any]) -> bytes:
    """H x W x 3 uint16 RGB as a PNG; `options` are Pillow's for its other chunks."""
    small = io.BytesIO()
    Image.new("L" if gray else "RGB", (1, 1)).save(small, "PNG", **options)
    extra = b"".join(chunk for kind, chunk in _chunks(small.getvalue()) if kind in _HOLDS_NO_PIXELS)
    encoded = _encode(".png", _with_alpha(pixels, alpha, gray), [cv2.IMWRITE_PNG_COMPRESSION, 1])
    (_, header), *_ = _chunks(encoded)
    return encoded[: _START + len(header)] + extra + encoded[_START + len(header) :]


def encode_pnm(pixels: np.ndarray, gray: bool) -> bytes:
    """H x W x 3 uint16 RGB as a PPM, gray as a PGM."""
    return _encode(".pgm" if gray else ".ppm", _with_alpha(pixels, None, gray), [])


def encode_tiff(
    pixels: np.ndarray, alpha: np.ndarray | None, gray: bool, profile: bytes | None, options: dict[str, Any]
) -> bytes:
    """H x W x 3 uint16 RGB as a TIFF, compressed by deflate; of `options`, Pillow's, exif and dpi are taken."""
    import tifffile  # late: few images are TIFF files

    samples = [pixels[..., :1] if gray else pixels]
    if alpha is not None:
        samples.append((alpha.astype(np.uint16) * 257)[..., None])
    array = np.concatenate(samples, axis=2)
    titles = [(tag, "s", None, str(value), True) for tag, value in dict(options.get("exif", {})).items()]
    written = io.BytesIO()
    tifffile.imwrite(
        written,
        array[..., 0] if array.shape[2] == 1 else array,
        photometric="minisblack" if gray else "rgb",
        extrasamples=["unassalpha"] if alpha is not None else None,
        compression="zlib",
        predictor=True,
        iccprofile=profile,
        resolution=options.get("dpi", (1, 1)),
        resolutionunit="INCH" if "dpi" in options else "NONE",
        extratags=titles,
        software=False,
        metadata=None,
    )
    return written.getvalue()


def _with_alpha(pixels: np.ndarray, alpha: np.ndarray | None, gray: bool) -> np.ndarray:
    """In OpenCV's order. It writes no gray with alpha: that becomes RGB with alpha."""
    if alpha is None:
        return np.ascontiguousarray(pixels[..., 1] if gray else pixels[..., ::-1])
    return np.dstack([pixels[..., ::-1], alpha.astype(np.uint16) * 257])


def _encode(suffix: str, image: np.ndarray, options: list[int]) -> bytes:
    done, encoded = cv2.imencode(suffix, image, options)
    if not done:
        raise ValueError(f"OpenCV cannot encode {image.shape} {image.dtype} as {suffix}")
    return encoded.tobytes()


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(kind, whole chunk) of a PNG."""
    place = _START
    while place < len(png):
        (length,) = struct.unpack_from(">I", png, place)
        yield png[place + 4 : place + 8], png[place : place + length + 12]
        place += length + 12
