"""Archives made to harm: members that leave the folder, links, devices, bombs, and damage of every kind."""
from __future__ import annotations

import bz2
import gzip
import io
import lzma
import stat
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from typing import Any

import cv2
import numpy as np

from m3snet.tests.hostile.corpus import damaged

NAMES = [f"train/{side}/{number}.png" for side in ("input", "target") for number in range(4)]
# Those that hold what is asked for, or more: what is odd about them does no harm.
HARMLESS = {
    *(f"sound.{kind}" for kind in ("zip", "tar", "tar.gz", "tar.bz2", "tar.xz")),
    *("2 sound.tar", "8 sound.tar"),  # zeros among the pixels, of which nothing in a tar archive tells
    *(f"name {number}.{kind}" for number in (10, 11, 12, 13) for kind in ("zip", "tar")),
    *("name 7.zip", "name 7.tar", "name 14.tar", "name 15.zip"),  # without a suffix
    *(f"mode {mode:o}.zip" for mode in (stat.S_IFIFO, stat.S_IFCHR, stat.S_IFSOCK)),
    *("folders that leave.tar", "other permissions.tar", "dots.zip", "a comment.zip", "behind a page.zip"),
    *("one more input.zip", "one more input.tar", "twice.zip", "twice.tar"),
}


def sound() -> dict[str, bytes]:
    """The members of a whole archive: four pairs."""
    rng = np.random.default_rng(0)
    images = (rng.integers(0, 256, (12, 16, 3)).astype(np.uint8) for _ in NAMES)
    return {name: cv2.imencode(".png", image)[1].tobytes() for name, image in zip(NAMES, images, strict=True)}


def archives() -> dict[str, bytes]:
    """Such archives by name."""
    members = sound()
    first = members[NAMES[0]]
    whole = {
        "sound.zip": zipped(members),
        "sound.tar": tarred(members),
        "sound.tar.gz": gzip.compress(tarred(members), mtime=0),
        "sound.tar.bz2": bz2.compress(tarred(members)),
        "sound.tar.xz": lzma.compress(tarred(members)),
    }
    found = dict(whole)
    for kind, content in whole.items():
        for number in range(10):
            found[f"{number} {kind}"] = damaged(content, number, whole["sound.zip"])
    for number, name in enumerate(_odd_names()):
        found[f"name {number}.zip"] = zipped({**members, name: first})
        found[f"name {number}.tar"] = tarred({**members, name: first})
    for name, device in (
        ("symbolic link", tarfile.SYMTYPE),
        ("hard link", tarfile.LNKTYPE),
        ("character device", tarfile.CHRTYPE),
        ("block device", tarfile.BLKTYPE),
        ("fifo", tarfile.FIFOTYPE),
    ):
        for target in ("/etc/passwd", "../../../outside", NAMES[0]):
            link = _entry("train/input/5.png", type=device, linkname=target)
            found[f"{name} {len(target)}.tar"] = tarred(members, [link])
    for mode in (stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFSOCK):
        found[f"mode {mode:o}.zip"] = zipped(members, {"train/input/5.png": (b"/etc/passwd", mode | 0o777)})
    huge, bomb = 1 << 43, dict.fromkeys(("train/input/5.png", "train/target/5.png"), bytes(1 << 28))
    found |= {
        "folders that leave.tar": tarred(members, [_entry("../../outside", type=tarfile.DIRTYPE)]),
        "other permissions.tar": tarred(members, [_entry("readme.txt", mode=0o7777, uid=0, uname="root")]),
        "dots.zip": zipped({f"./{name}": content for name, content in members.items()}),
        "a comment.zip": zipped(members, comment=b"\x1b[2J" * 999),
        "behind a page.zip": b"<html>" * 99 + zipped(members),
        "a huge member.tar": tarred(members, [_entry("train/input/5.png", size=huge)]),
        "a huge other file.tar": tarred(members, [_entry("readme.txt", size=huge)]),
        "a huge long name.tar": tarred(members, [_entry("././@LongLink", type=b"L", size=huge)]),
        "a huge PAX header.tar": tarred(members, [_entry("pax", type=b"x", size=huge)]),
        "a size below zero.tar": tarred(members, [_entry("train/input/5.png", size=-huge)]),
        "long names without end.tar": tarred({}, [_entry("././@LongLink", type=b"L")] * 5000),
        "sparse.tar": _sparse((1 << 33) - 1),
        "a bomb.zip": zipped(members | bomb),
        "a bomb.tar.gz": gzip.compress(tarred(members | bomb)),
        "a header bomb.tar.gz": gzip.compress(
            tarred(members, [_entry("pax", type=b"x", size=1 << 31)]).rstrip(b"\0") + bytes(1 << 28)
        ),
        "sizes that lie.zip": _lie(zipped(members), 1 << 31),
        "one more input.zip": zipped({**members, "train/input/9.png": first}),
        "one more input.tar": tarred({**members, "train/input/9.png": first}),
        "no targets.zip": zipped({name: content for name, content in members.items() if "target" not in name}),
        "twice.zip": zipped(members, {NAMES[0]: (first, 0o644)}),
        "twice.tar": tarred(members, [_entry(NAMES[0])]),
        "two names of one.zip": zipped({**members, "other/train/input/1.png": first}),
        "encrypted.zip": _flagged(zipped(members), 1),
        "of another method.zip": zipped(members).replace(b"\x08\0", b"\x63\0"),
        "an archive in it.zip": zipped({"train.zip": zipped(members)}),
        "empty.zip": zipped({}),
        "empty.tar": tarred({}),
        "nothing.zip": b"",
        "zeros.tar": bytes(100_000),
        "a page.zip": b"<!doctype html><title>Quota exceeded</title>",
        "only an end.zip": b"PK\5\6" + b"\xff" * 18,
        "zip64 without it.zip": b"PK\6\6" + b"\xff" * 52 + b"PK\6\7" + bytes(16) + b"PK\5\6" + b"\xff" * 16 + bytes(2),
        "without its trailer.tar.gz": whole["sound.tar.gz"][:-8],
        "with a wrong checksum.tar.gz": whole["sound.tar.gz"][:-8] + bytes(4) + whole["sound.tar.gz"][-4:],
        "without its end.tar": whole["sound.tar"].rstrip(b"\0"),
        "a wrong header.tar": _spoilt_header(whole["sound.tar"]),
        "a wrong header.tar.gz": gzip.compress(_spoilt_header(whole["sound.tar"])),
    }
    return found


def _odd_names() -> Iterable[str]:
    yield from (
        "../../train/input/5.png",
        "/train/input/5.png",
        "train/input/../../../5.png",
        "..\\train\\input\\5.png",
        "C:\\train\\input\\5.png",
        "\\\\server\\share\\train\\input\\5.png",
        "train/input/..",
        "train/input/nul\0byte.png",
        "train/input/\x1b[2J\n\r\x07.png",
        "train/input/" + "a" * 300 + ".png",
        "a/" * 3000 + "train/input/5.png",
        "train/input/\udcff.png",
        "train/input/<!--<script>alert(1)</script>.png",
        "train/input/5.png\u202egnp",
        "",
        "/",
    )


def zipped(
    members: Mapping[str, bytes], others: Mapping[str, tuple[bytes, int]] | None = None, comment: bytes = b""
) -> bytes:
    """A zip archive; `others` have a mode."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that are there twice
        archive.comment = comment
        for name, content in members.items():
            archive.writestr(_info(name, 0o644), content)
        for name, (content, mode) in (others or {}).items():
            archive.writestr(_info(name, mode), content)
    return stream.getvalue()


def _info(name: str, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo()
    info.filename = name.encode(errors="replace").decode()  # ZipInfo itself would make it a harmless one
    info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, mode << 16
    return info


def tarred(members: Mapping[str, bytes], others: Iterable[tarfile.TarInfo] = ()) -> bytes:
    """A tar archive; of `others` it has the headers alone."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in members.items():
            archive.addfile(_entry(name, size=len(content)), io.BytesIO(content))
        for entry in others:
            stream.write(entry.tobuf(tarfile.GNU_FORMAT))
            archive.offset = stream.tell()
    return stream.getvalue()


def _entry(name: str, **facts: Any) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    for fact, value in facts.items():
        setattr(entry, fact, value)
    return entry


def _sparse(size: int) -> bytes:
    """A tar archive of two sparse members that hold no byte, and become `size` zeros each."""
    headers = b""
    for name in ("train/input/5.png", "train/target/5.png"):
        header = bytearray(_entry(name, type=tarfile.GNUTYPE_SPARSE).tobuf(tarfile.GNU_FORMAT))
        header[386:410] = b"00000000000\0" * 2  # where it has bytes, and how many
        header[483:495] = b"%011o\0" % size
        headers += _with_checksum(header)
    return headers + bytes(1024)


def _with_checksum(header: bytearray) -> bytes:
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def _spoilt_header(content: bytes) -> bytes:
    """A tar archive that is damaged where its third member begins."""
    place = content.index(NAMES[2].encode())
    return content[:place] + b"\xff" + content[place + 1 :]


def _flagged(content: bytes, flags: int) -> bytes:
    """A zip archive whose members claim these flags."""
    for mark, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        content = _each(content, mark, place, struct.pack("<H", flags))
    return content


def _lie(content: bytes, size: int) -> bytes:
    """A zip archive whose directory says that each member becomes `size` bytes."""
    return _each(content, b"PK\1\2", 24, struct.pack("<I", size))


def _each(content: bytes, mark: bytes, place: int, value: bytes) -> bytes:
    found = -1
    while (found := content.find(mark, found + 1)) >= 0:
        content = content[: found + place] + value + content[found + place + len(value) :]
    return content
