"""Archives of data sets: downloaded once, checked, and unpacked into the layout that train.py and test.py expect.

An archive holds folders named input/ and target/, or blur/ and sharp/, at any depth; the names of the folders above
say which set it is. GoPro's original tree (SCENE/blur) becomes one folder of SCENE-FRAME files, as in the community's
PNGs; its blur_gamma is left out, since published scores are for blur.
"""
from __future__ import annotations

import errno
import hashlib
import importlib
import os
import re
import shutil
import stat
import tarfile
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from tqdm import tqdm

from ..cli import UserError, short, warn
from ..images import IMAGE_SUFFIXES, max_pixels
from .pairs import match_names

CHECKSUMS = "SHA256SUMS"  # beside the archives; `sha256sum -c` reads it too
_ROLES = {"input": "input", "blur": "input", "target": "target", "sharp": "target"}
_SPLITS = ("train", "test")
_PART = 1 << 20
_LONGEST_NAME = 255  # bytes; no file system takes more
_HEADERS = {b"x", b"g", b"X", b"L", b"K"}  # of tar archives: PAX's, and GNU's long names


class ArchiveError(UserError):
    """An archive that cannot be had or used; the message names it and says what to do."""


@dataclass(frozen=True)
class Archive:
    """One archive on Google Drive."""

    name: str  # the file it is kept as
    drive_id: str
    folders: tuple[str, ...]  # what it fills, below DATA.ROOT

    @property
    def url(self) -> str:
        """Where a browser finds it."""
        return f"https://drive.google.com/file/d/{self.drive_id}/view"


def fetch(archive: Archive, folder: Path) -> Path:
    """Download `archive` into `folder`, unless it is there, and compare its SHA-256 with that of the first download.

    A download that was interrupted goes on where it stopped. No checksum of these files is published: the first
    download is recorded as it came.

    Raises:
        ArchiveError: gdown is missing, Drive cannot be reached or refuses, or the file is another than was recorded.
    """
    path = folder / archive.name
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _download(archive, path)
        if not (zipfile.is_zipfile(path) or tarfile.is_tarfile(path)):
            path.unlink()
            raise ArchiveError(f"{archive.url}: Drive sent a page and no archive; {_by_hand(archive)}")
    check(path)
    return path


def check(path: Path) -> None:
    """Compare an archive with the checksum recorded beside it; the first time, record it.

    Raises:
        ArchiveError: it is not the file that was recorded.
    """
    with path.open("rb") as file:
        found = hashlib.sha256()
        while part := file.read(_PART):
            found.update(part)
    checksums = path.parent / CHECKSUMS
    lines = checksums.read_text(encoding="utf-8").splitlines() if checksums.is_file() else []
    recorded = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    expected = recorded.get(path.name)
    if expected is None:
        with checksums.open("a", encoding="utf-8") as file:
            file.write(f"{found.hexdigest()}  {path.name}\n")
    elif expected != found.hexdigest():
        raise ArchiveError(
            f"{path}: its SHA-256 is {found.hexdigest()}, but {checksums} recorded {expected} when it was first "
            f"downloaded. Delete {path.name} to download it again; if the file itself was replaced on purpose, delete "
            f"its line in {CHECKSUMS}"
        )


def unpack(
    paths: Sequence[Path], root: Path, folders: Sequence[str], into: Sequence[str] | None = None
) -> dict[str, int]:
    """Unpack the images of an archive, or of the parts of one, below `root`; returns how many pairs each folder got.

    `folders` are all that the task knows (GoPro/train, Rain13K/test/Rain100L, ...), `into` those among them that this
    archive fills, if that is known. A folder that is there already is left as it is. A folder gets its name when all
    its images are written, not before.

    Raises:
        ArchiveError: no archive, damaged, holds unsafe paths or no pairs, or does not say which set it is.
    """
    plans: dict[Path, dict[str, PurePosixPath]] = {}  # archive -> member -> place below root
    needed = 0
    for path in paths:
        with _reading(path), _opened(path) as members:
            places = {member: _place(path, member, folders, into) for member in members}
            if not any(places.values()):
                raise ArchiveError(
                    f"{path}: holds no images in folders named input and target, or blur and sharp, but "
                    f"{', '.join(map(short, list(places)[:3])) or 'nothing'}{', ...' if len(places) > 3 else ''}"
                )
            plans[path] = {
                member: place for member, place in places.items() if place and not (root / place.parents[1]).exists()
            }
            needed += sum(_size(path, member, members[member].size) for member in plans[path])
    _check_space(paths[0], needed, root)
    counts = _check_plan(plans)
    work = root / f".unpacking-{paths[0].stem}"
    shutil.rmtree(work, ignore_errors=True)  # of a run that was killed
    try:
        for path, plan in plans.items():
            with _reading(path), _opened(path) as members:
                for member, place in tqdm(plan.items(), desc=path.name, unit="image", dynamic_ncols=True, disable=None):
                    out = work / place
                    out.parent.mkdir(parents=True, exist_ok=True)
                    with members[member].open() as source, out.open("wb") as sink:
                        shutil.copyfileobj(source, sink, _PART)
        for folder in counts:
            (root / folder).parent.mkdir(parents=True, exist_ok=True)
            (work / folder).rename(root / folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return counts


def _download(archive: Archive, path: Path) -> None:
    try:
        gdown = importlib.import_module("gdown")  # late: an extra that nothing else needs
    except ImportError as error:
        raise ArchiveError(
            f"downloading needs gdown: pip install -e '.[download]', then run this again; {_by_hand(archive)}"
        ) from error
    try:
        gdown.download(id=archive.drive_id, output=str(path), resume=True)
    except Exception as error:  # gdown's versions raise different classes, those of requests among them
        if isinstance(error, OSError) and error.errno and not isinstance(error, ConnectionError | TimeoutError):
            raise  # of the disk, not of the network
        refused = type(error).__name__ == "FileURLRetrievalError"
        reason = "Google Drive refuses, often after too many downloads" if refused else "Google Drive was not reached"
        raise ArchiveError(
            f"{archive.name}: {reason} ({str(error).strip() or type(error).__name__}). What has arrived is kept: with "
            f"a network, run this again and it goes on from there; {_by_hand(archive)}"
        ) from error
    if not path.exists():  # older versions of gdown return None instead of raising
        raise ArchiveError(f"{archive.name}: Google Drive sent nothing; {_by_hand(archive)}")


def _by_hand(archive: Archive) -> str:
    return f"or download {archive.url} with a browser and name the file with --archive FILE"


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """What a damaged archive raises, and what a disk does, as one error that names the archive."""
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        if error.errno and error.errno != errno.EINVAL:  # of the disk; of what is damaged it is that, or none
            raise ArchiveError(f"{path}: not unpacked: {error}") from error
        raise ArchiveError(f"{path}: damaged or incomplete ({error}); delete it and download it again") from error
    except Exception as error:  # what damaged bytes make the readers raise has no end
        reason = short(str(error) or type(error).__name__, 200)
        raise ArchiveError(f"{path}: damaged or incomplete ({reason}); delete it and download it again") from error


class _Member(NamedTuple):
    size: int  # bytes, unpacked
    open: Callable[[], IO[bytes]]


class _Entry(tarfile.TarInfo):
    """A header in a tar archive; tarfile reads what it announces into memory, or goes back before it."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Entry:
        entry = super().frombuf(buf, encoding, errors)
        if entry.size < 0 or (entry.type in _HEADERS and entry.size > _PART):
            raise tarfile.ReadError(f"a header that announces {entry.size:,} bytes")
        return entry


@contextmanager
def _opened(path: Path) -> Iterator[dict[str, _Member]]:
    """The regular files of an archive, in its order, by name."""
    if not path.is_file():
        raise ArchiveError(f"{path}: no such file")
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            infos = [info for info in archive.infolist() if not info.is_dir()]
            for info in infos:  # a name that is damaged in the directory is another one in front of the member
                archive.open(info).close()
            if link := next((info for info in infos if stat.S_ISLNK(info.external_attr >> 16)), None):
                raise ArchiveError(f"{path}: holds the link {short(link.filename)}; expected plain files")
            yield {info.filename: _Member(info.file_size, partial(archive.open, info)) for info in infos}
        return
    with _open_tar(path) as tar:
        entries = [entry for entry in tar.getmembers() if not entry.isdir()]
        _check_end(tar)
        if other := next((entry for entry in entries if not entry.isfile() or entry.issparse()), None):
            raise ArchiveError(
                f"{path}: holds {short(other.name)}, which is a link, a device or sparse; expected plain files"
            )
        yield {entry.name: _Member(entry.size, partial(_extract, tar, entry)) for entry in entries}


def _open_tar(path: Path) -> tarfile.TarFile:
    try:
        return tarfile.open(path, tarinfo=_Entry)
    except tarfile.ReadError as error:
        raise ArchiveError(f"{path}: neither a zip nor a tar archive, or incomplete; download it again") from error


def _check_end(tar: tarfile.TarFile) -> None:
    """Whether the list of members ends where the archive does; tarfile stops at a damaged header without a word.

    Reads to the end of the file, where gzip keeps its checksum.

    Raises:
        TarError: there is something after the last member, or the zeros that end an archive are missing.
        OSError, EOFError: the compressed file is damaged or cut off.
    """
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    ended = False
    while part := tar.fileobj.read(_PART):
        if part.strip(b"\0"):
            raise tarfile.ReadError(f"not readable from byte {tar.offset:,} on")
        ended = True
    if not ended:
        raise tarfile.ReadError("its end is missing")


def _extract(tar: tarfile.TarFile, entry: tarfile.TarInfo) -> IO[bytes]:
    file = tar.extractfile(entry)
    assert file is not None  # entry.isfile()
    return file


def _size(path: Path, member: str, size: int) -> int:
    """How many bytes an image has."""
    if size > 8 * max_pixels():  # as utils.images refuses it
        raise ArchiveError(f"{path}: {short(member)} would have {size:,} bytes, more than an image can have")
    return size


def _check_space(path: Path, needed: int, root: Path) -> None:
    free = shutil.disk_usage(next(place for place in (root, *root.absolute().parents) if place.exists())).free
    if needed > free:
        raise ArchiveError(f"{path}: needs {needed / 2**30:,.1f} GiB unpacked; {root} has {free / 2**30:,.1f} GiB free")


def _place(path: Path, member: str, folders: Sequence[str], into: Sequence[str] | None) -> PurePosixPath | None:
    """Where a member goes below the root: FOLDER/{input,target}/NAME; None when it is no image of a pair."""
    inside = PurePosixPath(member.replace("\\", "/"))
    if inside.is_absolute() or ".." in inside.parts or ":" in "".join(inside.parts[:1]):
        raise ArchiveError(f"{path}: holds the unsafe path {short(member)}; nothing was unpacked")
    if len(inside.parts) < 2:
        return None
    *above, role, name = inside.parts
    is_image = PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES and not name.startswith(".")
    if not is_image or role.lower() not in _ROLES or "__MACOSX" in above:
        return None
    if len(os.fsencode(name)) > _LONGEST_NAME or min(name) < " ":  # control characters
        raise ArchiveError(f"{path}: holds the unsafe name {short(member)}; nothing was unpacked")
    folder = _folder(path, (*above, name), folders, into)
    top = _plain(above[-1]) if above else ""
    if role.lower() in ("blur", "sharp") and top and top not in _SPLITS and not top.startswith(_set_of(folder)):
        name = f"{above[-1]}-{name}"  # GoPro's original tree numbers every scene from 1
    return PurePosixPath(folder, _ROLES[role.lower()], name)


def _folder(path: Path, parts: Sequence[str], folders: Sequence[str], into: Sequence[str] | None) -> str:
    """Which of the task's folders is meant by the names in the path of a member."""
    if into and len(into) == 1:
        return into[0]
    # GoPro's camera calls its videos, and so the scenes and often the images, GOPR0372_07_00.
    words = [re.sub(r"^gopr(?=\d)", "gopro", _plain(part)) for part in parts]
    splits = [split for split in _SPLITS if split in words]
    fitting = [folder for folder in into or folders if not splits or splits[-1] in folder.split("/")]
    for candidates in (words, [_plain(path.stem)]):
        named = [folder for folder in fitting if any(word.startswith(_set_of(folder)) for word in candidates)]
        fitting = named or fitting
    if len(fitting) != 1:
        raise ArchiveError(
            f"{path}: its folders do not say which set {short('/'.join(parts))} belongs to; add --folder and one of "
            f"{', '.join(fitting or folders)}"
        )
    return fitting[0]


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _set_of(folder: str) -> str:
    """GoPro/train -> gopro, Rain13K/test/Rain100L -> rain100l"""
    return next(_plain(part) for part in reversed(folder.split("/")) if part not in _SPLITS)


def _check_plan(plans: Mapping[Path, Mapping[str, PurePosixPath]]) -> dict[str, int]:
    """How many pairs each folder will get; files without a partner are counted and said."""
    folders: dict[str, dict[str, list[Path]]] = defaultdict(lambda: {"input": [], "target": []})
    origins: dict[PurePosixPath, str] = {}
    for path, plan in plans.items():
        for member, place in plan.items():
            if place in origins:
                raise ArchiveError(f"{path}: {short(origins[place])} and {short(member)} would both become {place}")
            origins[place] = member
            folders[str(place.parents[1])][place.parent.name].append(Path(place))
    counts = {}
    for folder, sides in folders.items():
        match = match_names(sides["input"], sides["target"])
        if not all(sides.values()):
            side = "input" if sides["input"] else "target"
            names = ", ".join(str(path) for path in plans)
            raise ArchiveError(
                f"{names}: {folder} would get {len(sides[side])} files in {side}/ and none of their partners; name all "
                "parts of the archive with one --archive"
            )
        if match.lonely:
            few = ", ".join(f"{path.parent.name}/{path.name}" for path in match.lonely[:3])
            warn(
                f"{folder}: {len(sides['input']):,} degraded and {len(sides['target']):,} sharp images; without a "
                f"partner: {few}{', ...' * (len(match.lonely) > 3)}. The archive holds them so: delete them, or look "
                "for another archive"
            )
        counts[folder] = len(match.pairs)
    return counts
