"""What an image file is, found out from its first bytes and its header, before a pixel is decoded."""
from __future__ import annotations

import io
import os
import re
import warnings
from pathlib import Path

from PIL import Image, ImageFile
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from ..cli import UserError

IMAGE_SUFFIXES = frozenset({
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".tif", ".tiff", ".webp", ".avif", ".heic", ".heif", ".gif",
    ".ppm", ".pgm", ".pbm", ".pnm",
})  # fmt: skip
_RAW_SUFFIX = re.compile(
    r"\.(3fr|arw|cr[23w]|dcr|dng|erf|iiq|kdc|mos|mrw|nef|nrw|orf|pef|raf|raw|rw[2l]|sr[2fw]|x3f)", re.IGNORECASE
)
# Pillow warns of damage in EXIF, which costs no picture, and in several lines.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.TiffImagePlugin")

_LIMIT = "M3SNET_MAX_PIXELS"  # in the environment
_MAX_PIXELS = 250_000_000  # a telephone's 200 megapixels, and what a computer can hold

# The classes themselves: Image.open has a limit of its own, and takes some JPEG files for another format.
_PLUGINS: dict[str, type[ImageFile.ImageFile]] = {
    "AVIF": AvifImageFile,
    "BMP": BmpImageFile,
    "GIF": GifImageFile,
    "JPEG": JpegImageFile,
    "PNG": PngImageFile,
    "PNM": PpmImageFile,
    "TIFF": TiffImageFile,
    "WebP": WebPImageFile,
}
_SUFFIXES = {"JPEG": ".jpg", "PNM": ".ppm", "TIFF": ".tif"}  # .png for PNG, and so on
_SIGNATURES = (  # place, bytes, format
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (0, b"\xff\xd8", "JPEG"),
    (0, b"BM", "BMP"),
    (0, b"GIF8", "GIF"),
    (8, b"WEBP", "WebP"),
    (8, b"CR\2\0", "raw file of a camera"),  # Canon's, otherwise a TIFF
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (0, b"II+\0", "TIFF"),
    (0, b"MM\0+", "TIFF"),
    *((0, b"P%d" % number + space, "PNM") for number in range(1, 7) for space in (b"\n", b" ", b"\r", b"\t", b"#")),
    (0, b"FUJIFILMCCD-RAW", "raw file of a camera"),
    (0, b"IIRO", "raw file of a camera"),
    (0, b"IIRS", "raw file of a camera"),
    (0, b"MMOR", "raw file of a camera"),
    (0, b"IIU\0", "raw file of a camera"),
    (0, b"FOVb", "raw file of a camera"),
    (0, b"\0MRM", "raw file of a camera"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL file"),
    (0, b"\xff\x0a", "JPEG XL file"),
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000 file"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000 file"),
    (0, b"\x76\x2f\x31\x01", "OpenEXR file"),
    (0, b"#?RADIANCE", "Radiance HDR file"),
    (0, b"8BPS", "Photoshop file"),
    (0, b"%PDF", "PDF"),
    (0, b"\x1aE\xdf\xa3", "video"),
    (8, b"AVI ", "video"),
)
_BRANDS = (  # of files that begin with ftyp
    ((b"avif", b"avis"), "AVIF"),
    ((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "HEIC"),
    ((b"crx ",), "raw file of a camera"),
)
RARE = "a TIFF of a rare layout, which is not read; save it as RGB without compression, or as PNG"
_ALPHA = {"RGBA", "RGBa", "LA", "La", "PA"}
_GRAY = {"1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N"}


class ImageError(UserError):
    """A file that cannot be read or written as an image; the message names it."""


def damaged(path: Path, error: Exception) -> ImageError:
    """What to raise where a decoder has raised `error`."""
    if str(error) == "unknown pixel mode":  # Pillow's, of a whole TIFF
        return ImageError(f"{path}: {RARE}")
    return ImageError(f"{path}: damaged or cut off ({str(error).strip()})")


def is_image(path: Path) -> bool:
    """Whether `path` is a visible file with the suffix of an image."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()


def is_raw(path: Path) -> bool:
    """Whether `path` has the suffix of a raw file of a camera, which is not read."""
    return _RAW_SUFFIX.fullmatch(path.suffix) is not None


def suffix_of(path: Path) -> str:
    """The usual suffix of an image file's format, by its contents: .jpg, .png, .tif, ...

    Raises:
        ImageError: as `load_file`.
    """
    kind, _ = load_file(path)
    return _SUFFIXES.get(kind, f".{kind.lower()}")


def load_file(path: Path) -> tuple[str, bytes]:
    """The format of an image file, by its contents, and all its bytes.

    Raises:
        ImageError: it is missing, empty, too large, or of a format that is not read; that is named.
    """
    try:
        with path.open("rb", buffering=0) as file:  # a buffer would be put before the rest: a copy of it all
            start = file.read(64)
            kind = _identify(start)
            if not start:
                raise ImageError(f"{path}: the file is empty (0 bytes)")
            if kind == "TIFF" and is_raw(path):
                kind = "raw file of a camera"
            if kind is None:
                raise ImageError(f"{path}: not an image, or one of an unknown format")
            if kind not in (*_PLUGINS, "HEIC"):
                way = "" if kind == "video" else "; convert it to PNG, TIFF or JPEG first"
                raise ImageError(f"{path}: a {kind}, which is not read{way}")
            size = os.fstat(file.fileno()).st_size
            if size > 8 * max_pixels():  # bytes of a pixel with four channels of 16 bits
                raise ImageError(f"{path}: {size:,} bytes are more than an image of {max_pixels():,} pixels can have")
            file.seek(0)
            return kind, file.read()
    except OSError as error:
        raise ImageError(f"{path}: cannot be opened ({error.strerror})") from error


def open_header(path: Path, kind: str, data: bytes) -> ImageFile.ImageFile:
    """An image whose header has been read, and whose pixels Pillow would decode when asked for.

    Raises:
        ImageError: the header is damaged, the image too large, or there are several (of TIFF: utils.images.tiff).
    """
    try:
        picture = (load_heif() if kind == "HEIC" else _PLUGINS[kind])(io.BytesIO(data))
        frames = 1 if kind == "TIFF" else getattr(picture, "n_frames", 1)
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error
    except Exception as error:  # what damaged bytes make Pillow raise has no end
        raise damaged(path, error) from error
    if frames > 1:
        what = "a file" if kind == "HEIC" else "an animation"
        raise ImageError(f"{path}: {what} of {frames} pictures; save one of them as a file of its own")
    check_size(path, *picture.size)
    return picture


def load_heif() -> type[ImageFile.ImageFile]:
    """What reads HEIC files, and turns them upright; Pillow can write them afterwards.

    Raises:
        ImageError: the extra `heic` is not installed.
    """
    try:
        from pillow_heif import HeifImageFile, register_heif_opener
    except ImportError as error:
        raise ImageError("HEIC needs pillow-heif; pip install 'm3snet[heic]'") from error
    register_heif_opener(thumbnails=False)
    return HeifImageFile


def max_pixels() -> int:
    """How many pixels an image may have: 250 million, or what M3SNET_MAX_PIXELS in the environment says.

    Raises:
        ImageError: that is no number.
    """
    text = os.environ.get(_LIMIT, "")
    if text and not text.isdecimal():
        raise ImageError(f"{_LIMIT}={text}: expected a number of pixels, such as {_MAX_PIXELS}")
    return int(text) if text else _MAX_PIXELS


def check_size(path: Path, width: int, height: int) -> None:
    """Refuse an image of more pixels than `max_pixels`: a small file can claim any number of them.

    Raises:
        ImageError: there are too many, or none.
    """
    if width * height > max_pixels():
        raise ImageError(
            f"{path}: {width} x {height} pixels are more than the limit of {max_pixels():,}; to raise it, set {_LIMIT} "
            "in the environment"
        )
    if width < 1 or height < 1:
        raise ImageError(f"{path}: {width} x {height} pixels")


def has_alpha(picture: Image.Image) -> bool:
    """Whether some pixels may be transparent."""
    return picture.mode in _ALPHA or "transparency" in picture.info


def is_gray(picture: Image.Image, data: bytes = b"") -> bool:
    """Whether a file of these `data` has one channel, besides alpha."""
    if isinstance(picture, PngImageFile):  # to Pillow, gray and alpha of 16 bits are RGBA
        return data[25:26] in (b"\0", b"\4")
    return picture.mode in _GRAY


def _identify(start: bytes) -> str | None:
    """The name of a format, by the first 64 bytes of a file; None for those unknown."""
    if start[4:8] == b"ftyp":
        brands = {start[8:12], *(start[place : place + 4] for place in range(16, len(start) - 3, 4))}
        return next((name for known, name in _BRANDS if brands & set(known)), "video")
    return next((name for place, mark, name in _SIGNATURES if start[place:].startswith(mark)), None)
