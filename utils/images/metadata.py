"""What an image file says of its picture: camera, place, time, title; and how a JPEG was encoded."""
from __future__ import annotations

import io
import mmap
import re
import struct
from collections.abc import Container
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, NamedTuple, Union

import numpy as np
from PIL import Image, JpegImagePlugin
from PIL.PngImagePlugin import PngImageFile, PngInfo

from .deep import Buffer, chunks

# What a format can hold of that.
_HOLDS: dict[str, set[str]] = {
    "JPEG": {"exif", "xmp", "photoshop", "dpi", "comment"},
    "PNG": {"exif", "xmp", "photoshop", "dpi", "texts"},
    "TIFF": {"exif", "xmp", "photoshop", "dpi"},
    "WEBP": {"exif", "xmp"},
    "AVIF": {"exif", "xmp"},
    "HEIF": {"exif", "xmp"},
    "BMP": {"dpi"},
    "PPM": set(),
}
_MISSED = {"exif": "EXIF", "xmp": "XMP", "photoshop": "IPTC"}  # whose loss is worth a word
_SEGMENT = 65_504  # bytes that a segment of a JPEG has room for, beside its name

# EXIF and TIFF: tags, and the sizes of types in bytes.
_XMP, _IPTC, _PHOTOSHOP = 700, 33723, 34377
_EXIF, _GPS, _INTEROP, _MAKER_NOTE = 34665, 34853, 40965, 37500
_ORIENTATION, _WIDTH, _HEIGHT = 274, 40962, 40963
_THUMBNAIL, _THUMBNAIL_BYTES = 513, 514
_ACROSS, _DOWN, _UNIT = 282, 283, 296
# Of a TIFF's first directory, which also says how its pixels lie: name, description, maker, model, page, software,
# time, artist, computer, rating, copyright; title, comment, author, keywords and subject of Windows.
_TITLES = {269, 270, 271, 272, 285, 305, 306, 315, 316, 18246, 18249, 33432, *range(40091, 40096)}
_BELOW: dict[int, Any] = {_EXIF: {_INTEROP: {}}, _GPS: {}}  # directories to which others lead
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_BYTE, _SHORT, _LONG, _UNDEFINED = 1, 3, 4, 7
_FRACTIONS = {5, 10}  # of two numbers
_LITTLE = b"II*\0\x08\0\0\0"  # how a TIFF begins whose first directory comes next

_DAMAGE = (struct.error, ValueError, IndexError, OverflowError)

_EXIF_NAME, _PHOTOSHOP_NAME = b"Exif\0\0", b"Photoshop 3.0\0"
_IIM = 0x0404  # IPTC, as a resource of Photoshop
_RESOURCES = {_IIM, 0x0425, 0x040A, 0x040B}  # with its checksum; whether there is a copyright, and an address
_XMP_TEXT = "XML:com.adobe.xmp"  # a key among the texts of a PNG
_RAW_TEXT = "Raw profile type "  # those under which ImageMagick writes what a PNG has no place for
_XMP_ORIENTATION = re.compile(rb"""(tiff:Orientation(?:\s*=\s*["']|>\s*))[2-8]""")

Directory = dict[int, Union[tuple[int, bytes], "Directory"]]  # tag -> type and little-endian value, or a directory


@dataclass(frozen=True)
class Metadata:
    """What is carried from one file to the next. The orientation is 1: the pixels are upright."""

    exif: bytes | None = None  # a TIFF of no pixels, without the thumbnail, which would show the picture as it was
    xmp: bytes | None = None
    photoshop: bytes | None = None  # resources: IPTC, and what belongs to it
    dpi: tuple[float, float] | None = None
    comment: bytes | None = None  # of a JPEG
    texts: tuple[tuple[str, str], ...] = ()  # of a PNG
    jpeg: tuple[tuple[str, Any], ...] = ()  # Pillow's options that encode as the file was
    lossy: bool = False  # a WebP that was
    bits: int | None = None  # of a channel in the file, where they are neither 8 nor 16

    def held_by(self, format_: str) -> Metadata:
        """What a file of one of Pillow's formats can hold."""
        kept = {name: getattr(self, name) for name in _HOLDS[format_]}
        if format_ == "JPEG":
            kept = {name: value for name, value in kept.items() if value is None or len(value) <= _SEGMENT}
        return Metadata(**kept)

    def losses(self, format_: str) -> list[str]:
        """What it cannot hold, of what a person would miss."""
        held = self.held_by(format_)
        return [name for field, name in _MISSED.items() if getattr(self, field) and not getattr(held, field)]


def orientation_of(picture: Image.Image, data: bytes) -> int:
    """How to turn an image upright, whose header Pillow has read: EXIF's 1 to 8."""
    try:
        return _orientation(_exif(_info(picture, data)) or b"")
    except _DAMAGE:  # a damaged EXIF is no reason to refuse an image
        return 1


def read_metadata(picture: Image.Image, kind: str, data: bytes) -> Metadata:
    """The metadata of a file whose header Pillow has read, but for TIFF. What is damaged is left out."""
    info = _info(picture, data)
    try:
        exif = _exif(info)
        exif = _upright(exif) if exif else None
    except _DAMAGE:
        exif = None
    metadata = Metadata(exif, _upright_xmp(info.get("xmp")), dpi=_dpi(info.get("dpi")))
    if kind == "JPEG":
        comment, found = info.get("comment"), info.get("photoshop", {})
        resources = {code: content for code, content in found.items() if isinstance(content, bytes)}
        comment = comment if isinstance(comment, bytes) else None
        return replace(metadata, photoshop=_pack(resources), comment=comment, jpeg=_encoding(picture))
    if kind == "PNG":
        texts = {str(key): str(text) for key, text in info.items() if isinstance(text, str)}
        xmp = metadata.xmp or _upright_xmp(texts.pop(_XMP_TEXT, "").encode())
        photoshop = _pack(_unpack(_from_hex(texts.get(f"{_RAW_TEXT}8bim", ""))))
        kept = tuple((key, text) for key, text in texts.items() if not key.startswith(_RAW_TEXT))
        return replace(metadata, xmp=xmp, photoshop=photoshop, texts=kept)
    return replace(metadata, lossy=kind == "WebP" and b"VP8 " in data)


def read_tiff_metadata(data: bytes, place: int) -> Metadata:
    """The metadata of a TIFF, of the image whose directory begins at byte `place`. What is damaged is left out."""
    try:
        wanted = {*_TITLES, *_BELOW, _ORIENTATION, _XMP, _IPTC, _PHOTOSHOP, _ACROSS, _DOWN, _UNIT}
        found = _load(data, place, wanted, _BELOW)
    except _DAMAGE:
        return Metadata()
    resources = _unpack(_value(found, _PHOTOSHOP))
    if (iptc := _value(found, _IPTC)).startswith(b"\x1c"):
        resources.setdefault(_IIM, iptc)
    across, down = (struct.unpack("<II", _value(found, tag)[:8].rjust(8, b"\0")) for tag in (_ACROSS, _DOWN))
    per_inch = {2: 1.0, 3: 2.54}.get(int.from_bytes(_value(found, _UNIT), "little"), 0.0)
    dpi = per_inch * across[0] / max(across[1], 1), per_inch * down[0] / max(down[1], 1)
    told = {tag: found[tag] for tag in found if tag in (*_TITLES, *_BELOW, _ORIENTATION)}
    exif = _upright(_LITTLE + _dump(told, len(_LITTLE))) if told.keys() - {_ORIENTATION} else None
    return Metadata(exif, _upright_xmp(_value(found, _XMP)), _pack(resources), _dpi(dpi))


def options_for(metadata: Metadata, format_: str, gray: bool) -> dict[str, Any]:
    """Pillow's options that write the metadata into a file of one of its formats, as far as that holds them.

    For TIFF `add_to_tiff` does the rest.
    """
    held = metadata.held_by(format_)
    options: dict[str, Any] = {"dpi": held.dpi} if held.dpi else {}
    if format_ == "TIFF":
        return options
    if held.exif:
        options["exif"] = _EXIF_NAME + held.exif
    if held.xmp and format_ != "PNG":
        options["xmp"] = held.xmp
    if format_ == "JPEG":
        options |= {"comment": held.comment} if held.comment else {}
        if held.photoshop:
            content = _PHOTOSHOP_NAME + held.photoshop
            options["extra"] = b"\xff\xed" + struct.pack(">H", len(content) + 2) + content
        tables = dict(metadata.jpeg)
        if tables and (len(tables["qtables"]) == 1) == gray:
            options |= tables
    if format_ == "PNG" and (held.texts or held.xmp or held.photoshop):
        texts = PngInfo()
        for key, text in held.texts:
            texts.add_itxt(key, text)
        if held.xmp:
            texts.add_itxt(_XMP_TEXT, held.xmp.decode("utf-8", errors="replace"))
        if held.photoshop:
            texts.add_text(f"{_RAW_TEXT}8bim", _to_hex("8bim", held.photoshop), zip=True)
        options["pnginfo"] = texts
    if format_ == "WEBP" and metadata.lossy:
        options |= {"lossless": False, "quality": 90}
    return options


def add_to_tiff(file: BinaryIO, metadata: Metadata) -> None:
    """Write the metadata into a little-endian TIFF of one page: its directory again, at the end, with more in it.

    Pillow cannot compress a TIFF in which directories lead to others, and tifffile writes no such ones.
    """
    added: Directory = {}
    if metadata.exif:
        with suppress(*_DAMAGE):
            added = _load(metadata.exif, _first(metadata.exif), {*_TITLES, *_BELOW}, _BELOW)
    if metadata.xmp:
        added[_XMP] = _BYTE, metadata.xmp
    if metadata.photoshop:
        resources = _unpack(metadata.photoshop)
        added[_IPTC] = _UNDEFINED, resources.pop(_IIM, b"")
        added[_PHOTOSHOP] = _UNDEFINED, _pack(resources) or b""
    added = {tag: value for tag, value in added.items() if isinstance(value, dict) or value[1]}
    if not added:
        return
    file.flush()
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as written:
        whole = _load(written, _first(written))
    place = file.seek(0, io.SEEK_END)
    padding = bytes(place % 2)
    file.write(padding + _dump({**whole, **added}, place + len(padding)))
    file.seek(4)
    file.write(struct.pack("<I", place + len(padding)))


def _info(picture: Image.Image, data: bytes) -> dict[Any, Any]:
    """What Pillow finds in a file, without its pixels: in a PNG, some of it may stand behind them."""
    if not isinstance(picture, PngImageFile):
        return dict(picture.info)
    told = [chunk for name, chunk in chunks(memoryview(data)) if name not in (b"IDAT", b"fdAT")]
    try:
        return dict(PngImageFile(io.BytesIO(b"".join((data[:8], *told)))).info)
    except Exception:  # what damaged bytes make Pillow raise has no end; the picture is still good
        return dict(picture.info)


def _exif(info: dict[Any, Any]) -> bytes | None:
    exif = info.get("exif") or _from_hex(info.get(f"{_RAW_TEXT}exif") or info.get(f"{_RAW_TEXT}APP1") or "")
    return exif.removeprefix(_EXIF_NAME) if isinstance(exif, bytes) and exif else None


def _upright_xmp(xmp: Any) -> bytes | None:
    return _XMP_ORIENTATION.sub(rb"\g<1>1", xmp) if isinstance(xmp, bytes) and xmp else None


def _dpi(dpi: Any) -> tuple[float, float] | None:
    try:
        across, down = (float(number) for number in dpi)
    except (TypeError, ValueError):
        return None
    return (across, down) if 0 < across < 1e5 and 0 < down < 1e5 else None


def _encoding(picture: Image.Image) -> tuple[tuple[str, Any], ...]:
    """Quality and subsampling of a gray or YCbCr JPEG."""
    if picture.mode not in ("L", "RGB"):
        return ()
    tables = getattr(picture, "quantization", {})
    sampling = JpegImagePlugin.get_sampling(picture) if picture.mode == "RGB" else -1
    if not tables or (picture.mode == "RGB" and sampling < 0):
        return ()
    options: dict[str, Any] = {"qtables": [list(tables[number]) for number in sorted(tables)][:2]}
    if picture.mode == "RGB":
        options["subsampling"] = sampling
    if picture.info.get("progressive"):
        options["progressive"] = True
    return tuple(options.items())


# Resources of Photoshop, and bytes as texts of a PNG


def _unpack(resources: bytes) -> dict[int, bytes]:
    """Their contents by their codes; what stands behind damage is left out."""
    found, place = {}, 0
    while resources[place : place + 4] == b"8BIM" and place + 7 < len(resources):
        code = int.from_bytes(resources[place + 4 : place + 6], "big")
        place += 6 + (resources[place + 6] + 2) // 2 * 2  # a name, and its length before it, to an even number of bytes
        length = int.from_bytes(resources[place : place + 4], "big")
        found[code] = resources[place + 4 : place + 4 + length]
        place += 4 + (length + 1) // 2 * 2
    return found


def _pack(resources: dict[int, bytes]) -> bytes | None:
    """Those that say something of the picture, but not how it looked: previews, layers, paths."""
    packed = [
        b"8BIM" + struct.pack(">HHI", code, 0, len(content)) + content + bytes(len(content) % 2)
        for code, content in resources.items()
        if code in _RESOURCES
    ]
    return b"".join(packed) or None


def _to_hex(name: str, content: bytes) -> str:
    digits = content.hex()
    lines = [digits[place : place + 72] for place in range(0, len(digits), 72)]
    return "\n".join(("", name, f"{len(content):8}", *lines, ""))


def _from_hex(text: str) -> bytes:
    try:
        return bytes.fromhex("".join(text.split("\n")[3:]))
    except ValueError:
        return b""


# EXIF and TIFF directories. What reads them raises one of _DAMAGE where they are damaged.


class _Entry(NamedTuple):
    place: int
    kind: int
    value: int  # its place
    length: int  # its bytes


def _order(data: Buffer) -> tuple[str, bool]:
    """The byte order of a TIFF, for struct, and whether it is a BigTIFF."""
    order = {b"II": "<", b"MM": ">"}.get(bytes(data[:2]))
    if order is None:
        raise ValueError("no TIFF")
    return order, struct.unpack_from(order + "H", data, 2) == (43,)


def _first(data: Buffer) -> int:
    """Where the first directory of a TIFF begins."""
    order, big = _order(data)
    (place,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
    return int(place)


def _entries(data: Buffer, place: int) -> tuple[dict[int, _Entry], int]:
    """The entries of a directory by their tags, and where they end; without those whose value is not in the file."""
    order, big = _order(data)
    number, entry, inline = ("Q", "HHQQ", 8) if big else ("H", "HHII", 4)
    (count,) = struct.unpack_from(order + number, data, place)
    place, size = place + struct.calcsize(order + number), struct.calcsize(order + entry)
    found = {}
    for at in range(place, min(place + count * size, len(data) - size + 1), size):
        tag, kind, values, value = struct.unpack_from(order + entry, data, at)
        length = values * _SIZES.get(kind, 0)
        value = at + size - inline if length <= inline else value
        if kind in _SIZES and value + length <= len(data):
            found[tag] = _Entry(at, kind, value, length)
    return found, place + count * size


def _orientation(exif: bytes) -> int:
    if not exif:
        return 1
    entry = _entries(exif, _first(exif))[0].get(_ORIENTATION)
    if entry is None or entry.kind != _SHORT:
        return 1
    (value,) = struct.unpack_from(_order(exif)[0] + "H", exif, entry.value)
    return value if value in range(1, 9) else 1


def _upright(exif: bytes) -> bytes:
    """EXIF without thumbnail, of the picture turned upright. Nothing moves: maker notes may count on their place."""
    order, _ = _order(exif)

    def number(entry: _Entry) -> int:
        return int.from_bytes(exif[entry.value : entry.value + entry.length], "little" if order == "<" else "big")

    entries, end = _entries(exif, _first(exif))
    new = bytearray(exif)
    if _ORIENTATION in entries:
        struct.pack_into(order + "HIHH", new, entries[_ORIENTATION].place + 2, _SHORT, 1, 1, 0)
    if _orientation(exif) > 4 and _EXIF in entries:
        details, _ = _entries(exif, number(entries[_EXIF]))
        if _WIDTH in details and _HEIGHT in details:
            width, height = (slice(details[tag].place + 2, details[tag].place + 12) for tag in (_WIDTH, _HEIGHT))
            new[width], new[height] = exif[height], exif[width]
    (second,) = struct.unpack_from(order + "I", exif, end) if end + 4 <= len(exif) else (0,)
    if second:
        struct.pack_into(order + "I", new, end, 0)
        small, _ = _entries(exif, second)
        if _THUMBNAIL in small and _THUMBNAIL_BYTES in small:
            start = number(small[_THUMBNAIL])
            stop = min(start + number(small[_THUMBNAIL_BYTES]), len(exif))
            new[start:stop] = bytes(stop - start) if stop < len(exif) else b""
    return bytes(new)


def _load(data: Buffer, place: int, wanted: Container[int] | None = None, below: dict[int, Any] = {}) -> Directory:  # noqa: B006
    """A directory, and those of `below` to which it leads; without maker notes, which count on their place."""
    order, _ = _order(data)
    entries, _ = _entries(data, place)
    entries = {tag: entries[tag] for tag in entries if tag != _MAKER_NOTE and (wanted is None or tag in wanted)}
    if sum(entry.length for entry in entries.values()) > len(data):
        raise ValueError("values that lie over each other")
    found: Directory = {}
    for tag, (_, kind, value, length) in entries.items():
        content = bytes(data[value : value + length])
        if order == ">" and tag != _IPTC:  # bytes, whatever their type
            width = _SIZES[kind] // (2 if kind in _FRACTIONS else 1)
            content = np.frombuffer(content, f"u{width}").byteswap().tobytes()
        found[tag] = kind, content
        if tag in below:
            try:
                found[tag] = _load(data, int.from_bytes(content, "little"), None, below[tag])
            except _DAMAGE:
                del found[tag]
    return found


def _dump(directory: Directory, place: int) -> bytes:
    """A little-endian directory that begins at byte `place`, an even one, and what it leads to behind it."""
    behind = place + 2 + 12 * len(directory) + 4
    entries, values = [], []
    for tag, found in sorted(directory.items()):
        kind, content = (_LONG, _dump(found, behind)) if isinstance(found, dict) else found
        count = 1 if isinstance(found, dict) else len(content) // _SIZES[kind]
        entry = struct.pack("<HHI", tag, kind, count)
        if isinstance(found, dict) or len(content) > 4:
            content += bytes(len(content) % 2)
            values.append(content)
            entry += struct.pack("<I", behind)
            behind += len(content)
        else:
            entry += content.ljust(4, b"\0")
        entries.append(entry)
    return struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4) + b"".join(values)


def _value(directory: Directory, tag: int) -> bytes:
    found = directory.get(tag, (0, b""))
    return b"" if isinstance(found, dict) else found[1]
