"""ICC profiles: what colours the numbers in a file mean. Without one they mean sRGB."""
from __future__ import annotations

import io
import re
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

_MODES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}
# Numbers of ITU-T H.273 in place of a profile: those that mean sRGB or leave it open, and the names of others.
_PRIMARIES = {1: "", 2: "", 5: "", 6: "", 9: "BT.2020", 11: "DCI-P3", 12: "Display P3"}
_TRANSFERS = {1: "", 2: "", 6: "", 8: "linear", 13: "", 14: "", 16: "PQ", 18: "HLG"}
_NCLX = re.compile(rb"colrnclx(..)(..)", re.DOTALL)
_GAMMA = re.compile(rb"gAMA(....)", re.DOTALL)
_CICP = re.compile(rb"cICP(.)(.)", re.DOTALL)
_SRGB_GAMMA = range(45_000, 46_001)  # of 100,000
_EQUAL = 2  # levels by which the many profiles that are called sRGB differ


@lru_cache(64)
def mode_of(profile: bytes) -> str:
    """What images a profile is for: RGB, L or CMYK; "" where it is damaged or for other ones."""
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = _MODES.get(opened.profile.xcolor_space, "")
        if mode:
            _convert(Image.new(mode, (1, 1)), profile)  # has tables that can be used
    except (OSError, ValueError, ImageCms.PyCMSError):
        return ""
    return mode


@lru_cache(64)
def name_of(profile: bytes) -> str:
    """What a profile calls itself, as a terminal and a table can show it."""
    try:
        name = ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile)))
    except (OSError, ValueError, ImageCms.PyCMSError):
        name = ""
    return re.sub(r"[^\w .()+-]", "", name).strip()[:60] or "a profile without a name"


@lru_cache(64)
def is_srgb(profile: bytes) -> bool:
    """Whether the numbers mean the same colours as without the profile."""
    steps = np.arange(0, 256, 15, dtype=np.uint8)
    if mode_of(profile) == "L":
        colours = np.repeat(steps[:, None, None], 3, axis=2)
    elif mode_of(profile) == "RGB":
        colours = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(-1, 1, 3)
    else:
        return False
    return bool(np.abs(to_srgb(colours, profile).astype(int) - colours).max() <= _EQUAL)


def read_otherwise(kind: str, data: bytes, profile: bytes | None) -> list[str]:
    """What a file without a profile says of its colours where they are not sRGB, as which they are read; in words."""
    found = _NCLX.search(data) if kind in ("AVIF", "HEIC") else None
    start = data[: data.find(b"IDAT")] if kind == "PNG" else b""
    found = found or _CICP.search(start)
    if profile is not None:
        return []
    if found:
        numbers = [int.from_bytes(part, "big") for part in found.groups()]
        names = [table.get(number, "unknown") for table, number in zip((_PRIMARIES, _TRANSFERS), numbers, strict=True)]
        names = [name for name in names if name]
        return [f"{' '.join(names)} read as sRGB"] if names else []
    gamma = _GAMMA.search(start)
    if gamma and int.from_bytes(gamma[1], "big") not in _SRGB_GAMMA and b"sRGB" not in start:
        return [f"gamma {100_000 / max(int.from_bytes(gamma[1], 'big'), 1):.2g} read as sRGB"]
    return []


def to_srgb(pixels: np.ndarray, profile: bytes) -> np.ndarray:
    """H x W x 3 uint8 in the colours of a profile for RGB, or for gray (then of three equal channels) -> sRGB."""
    picture = Image.fromarray(pixels if mode_of(profile) == "RGB" else np.ascontiguousarray(pixels[..., 1]))
    converted = np.array(_convert(picture, profile))
    return converted if mode_of(profile) == "RGB" else np.repeat(converted[..., 1:2], 3, axis=2)


def cmyk_to_srgb(picture: Image.Image, profile: bytes | None) -> np.ndarray:
    """A CMYK image -> H x W x 3 uint8 sRGB; without a profile for CMYK by the simplest rule."""
    usable = profile is not None and mode_of(profile) == "CMYK"
    return np.asarray(_convert(picture, profile) if usable and profile else picture.convert("RGB"))


def _convert(picture: Image.Image, profile: bytes) -> Image.Image:
    source, srgb = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
    intent, flags = ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION
    converted = ImageCms.profileToProfile(picture, source, srgb, intent, outputMode="RGB", flags=flags)
    assert converted is not None  # it is where inPlace is not asked for
    return converted
