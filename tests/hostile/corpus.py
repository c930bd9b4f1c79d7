"""Files made to harm: what a bad disk, a broken download or a hostile hand makes of sound ones, by fixed rules."""
from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile
from PIL import Image
from skimage import data

CASES = Path(__file__).parents[1] / "cases"
PHOTO = data.astronaut()[100:180, 150:250]


def images() -> dict[str, bytes]:
    """A sound image of every format and layout, and two that are refused."""
    with_alpha = np.dstack([PHOTO, PHOTO[..., 0]])
    deep = PHOTO.astype(np.uint16) * 257
    with Image.open(CASES / "photo-display-p3.jpg") as picture:
        profile = picture.info["icc_profile"]
    exif = Image.Exif()
    exif[0x0112] = 6
    return {
        "baseline.jpg": _pillow("JPEG", icc_profile=profile, exif=exif),
        "progressive.jpg": _pillow("JPEG", progressive=True),
        "gray.jpg": _pillow("JPEG", PHOTO[..., 0]),
        "cmyk.jpg": _pillow("JPEG", mode="CMYK"),
        "rgb.png": _pillow("PNG", icc_profile=profile, exif=exif),
        "alpha.png": _pillow("PNG", with_alpha),
        "palette.png": _pillow("PNG", mode="P"),
        "deep.png": cv2.imencode(".png", deep)[1].tobytes(),
        "deflate.tif": _tifffile(PHOTO, photometric="rgb", compression="zlib"),
        "deep.tif": _tifffile(deep, photometric="rgb"),
        "planar.tif": _tifffile(np.moveaxis(PHOTO, 2, 0), photometric="rgb", planarconfig="separate"),
        "lzw.tif": _pillow("TIFF", compression="tiff_lzw"),
        "deep lzw.tif": cv2.imencode(".tif", deep)[1].tobytes(),
        "packbits.tif": _pillow("TIFF", compression="packbits"),
        "jpeg.tif": _pillow("TIFF", compression="jpeg"),
        "lossy.webp": _pillow("WEBP", icc_profile=profile),
        "lossless.webp": _pillow("WEBP", with_alpha, lossless=True),
        "turned.avif": _pillow("AVIF", exif=exif),
        "still.gif": _pillow("GIF"),
        "plain.bmp": _pillow("BMP"),
        "plain.ppm": _pillow("PPM"),
        "raw.dng": _tifffile(PHOTO[..., 0].astype(np.uint16), photometric="cfa"),
        "photo.heic": (CASES / "photo.heic").read_bytes(),
    }


def damaged(sound: bytes, number: int, other: bytes = b"") -> bytes:
    """The `number`-th damage to a file: cut, bytes changed (anywhere, or at the head), zeroed, spliced, huge sizes."""
    rng = np.random.default_rng((number, *sound[:64]))
    content = bytearray(sound)
    place = int(rng.integers(len(content)))
    match number % 6:
        case 0:
            return sound[:place]
        case 1:
            for index in rng.integers(len(content), size=rng.integers(1, 5)):
                content[index] ^= int(rng.integers(1, 256))
        case 2:
            length = int(rng.integers(1, 400))
            content[place : place + length] = bytes(length)
        case 3:
            return sound[:place] + other[int(rng.integers(len(other) + 1)) :]
        case 4:
            for index in rng.integers(min(len(content), 300), size=rng.integers(1, 4)):
                content[index] = int(rng.integers(256))
        case 5:
            huge = (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\1\0")
            content[place : place + 4] = huge[int(rng.integers(len(huge)))]
    return bytes(content)


def _pillow(kind: str, image: np.ndarray = PHOTO, mode: str | None = None, **options: Any) -> bytes:
    stream = io.BytesIO()
    picture = Image.fromarray(image)
    (picture.convert(mode) if mode else picture).save(stream, kind, **options)
    return stream.getvalue()


def _tifffile(image: np.ndarray, **options: Any) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, image, **options)
    return stream.getvalue()
