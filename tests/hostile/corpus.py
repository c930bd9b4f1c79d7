"""Files made to harm: what a bad disk, a broken download or a hostile hand makes of sound ones, by fixed rules."""
from __future__ import annotations

import io
import re
import struct
import zlib
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
    """A sound image of every format and layout, and some that are refused."""
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
        "alpha.avif": _pillow("AVIF", with_alpha),
        "restarts.jpg": _pillow("JPEG", restart_marker_blocks=3, subsampling=0),
        "gray alpha.png": _pillow("PNG", with_alpha[..., 2:]),
        "bits.png": _pillow("PNG", mode="1"),
        "palette.bmp": _pillow("BMP", mode="P"),
        "gray.pgm": _pillow("PPM", PHOTO[..., 0]),
        "bits.pbm": _pillow("PPM", mode="1"),
        "letters.ppm": b"P3 2 2 255\n" + b" ".join(b"%d" % value for value in range(12)),
        "tiled.tif": _tifffile(deep, photometric="rgb", tile=(64, 64), compression="zlib"),
        "negative.tif": _tifffile(PHOTO[..., 0], photometric="miniswhite"),
        "big.tif": _tifffile(PHOTO, photometric="rgb", bigtiff=True),
        "float.tif": _tifffile(PHOTO.astype(np.float32), photometric="rgb"),
        "animation.gif": _pillow("GIF", save_all=True, append_images=[Image.fromarray(PHOTO[::-1])]),
        "animation.webp": _pillow("WEBP", save_all=True, append_images=[Image.fromarray(PHOTO[::-1])]),
        "animation.png": _pillow("PNG", save_all=True, append_images=[Image.fromarray(PHOTO[::-1])]),
        "raw.dng": _tifffile(PHOTO[..., 0].astype(np.uint16), photometric="cfa"),
        "photo.heic": (CASES / "photo.heic").read_bytes(),
    }


def bombs() -> dict[str, bytes]:
    """Small files that claim, or become, more pixels than a computer holds."""
    side = 30_000
    gif, bmp, ppm = _pillow("GIF"), _pillow("BMP"), _pillow("PPM")
    jpeg = {kind: _pillow("JPEG", progressive=kind == "progressive") for kind in ("baseline", "progressive")}
    frames = {kind: re.search(rb"\xff[\xc0\xc2]..\x08", content, re.DOTALL).end() for kind, content in jpeg.items()}
    size = struct.pack(">HH", side, side)
    rows = zlib.compress(bytes((side // 8 + 1) * side))
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    tiff = _tifffile(PHOTO, photometric="rgb", compression="zlib", metadata=None)
    webp = _pillow("WEBP", lossless=True)
    return {
        **{f"{kind}.jpg": _with(content, frames[kind], size) for kind, content in jpeg.items()},
        "zeros.png": b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", rows) + _chunk(b"IEND", b""),
        "text.png": _with_text(_pillow("PNG")),
        "huge.gif": _with(gif, 6, struct.pack("<HH", 65_535, 65_535)),
        "huge.bmp": _with(bmp, 18, struct.pack("<ii", side, side)),
        "below zero.bmp": _with(bmp, 18, struct.pack("<ii", -side, -(1 << 31))),
        "huge.ppm": ppm.replace(b"100 80", b"99999999999999999999 9999999"),
        "letters.ppm": b"P3 30000 30000 255\n" + b"1 " * 100,
        "huge.tif": tiff.replace(struct.pack("<HHII", 256, 4, 1, 100), struct.pack("<HHII", 256, 4, 1, 1 << 30)),
        "huge.webp": _with(webp, webp.index(b"VP8L") + 9, b"\xff\xff\xff\x0f"),
    }


def _with(content: bytes, place: int, value: bytes) -> bytes:
    return content[:place] + value + content[place + len(value) :]


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _with_text(png: bytes) -> bytes:
    """A PNG with a text, a profile and EXIF of 64 MiB each, compressed."""
    much = zlib.compress(bytes(1 << 26))
    texts = {b"zTXt": b"a\0\0", b"iCCP": b"a\0\0", b"iTXt": b"a\0\1\0\0\0"}
    chunks = [_chunk(name, start + much) for name, start in texts.items()]
    return png[:33] + b"".join(chunks) + png[33:]


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
