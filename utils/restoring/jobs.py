"""Which photographs and videos are restored, and where each is written."""
from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from glob import glob
from pathlib import Path

from natsort import natsorted

from ..cli import UserError
from ..images import WRITTEN_SUFFIXES, is_image, is_raw
from .video import CONTAINERS, is_video

DEVELOP = "develop them to TIFF, PNG or JPEG first"
FALLBACK = ".png"  # of what comes in a format that is not written


@dataclass(frozen=True)
class Job:
    """A photograph or video, where it is written restored, and where a photograph side by side with what it was."""

    photo: Path
    out: Path
    comparison: Path | None = None

    @property
    def outputs(self) -> list[Path]:
        """All files that are written."""
        return [self.out, *([self.comparison] if self.comparison else [])]


@dataclass
class Found:
    """What the names on a command line mean."""

    # Each photograph or video -> its place below a folder of results.
    photos: dict[Path, Path] = field(default_factory=dict)
    walked: list[Path] = field(default_factory=list)  # folders among the names
    others: int = 0  # files in them that are neither images nor videos nor raw files
    raws: int = 0  # raw files of cameras in them
    unread: list[str] = field(default_factory=list)  # folders in them that cannot be listed, and why


def find_photographs(names: Sequence[Path], out: Path) -> Found:
    """The files that are named, and the images and videos in folders; without hidden ones and what lies in `out`.

    Patterns (*.jpg) are expanded, which shells on Windows leave to programs. In the folder of results, a file has its
    name; what lies in a folder, its place in that. Of several names each folder also keeps its own.

    Raises:
        UserError: a name means nothing, or the folders hold nothing to restore; or `out` is the only one of them.
    """
    whole = " ".join(map(str, names))
    # os.path's: Path's raises an error where so many names are too long for one.
    if len(names) > 1 and os.path.exists(whole) and not all(map(os.path.exists, names)):  # noqa: PTH110
        raise UserError(f'{whole}: a name with spaces needs quotes: "{whole}"')
    matches = [match for name in names for match in _expand(name)]
    others = [match for match in matches if not (match.is_dir() and _same(match, out))]
    if not others:
        raise UserError(f"-o {out} is the folder of the photographs: name another, such as {out / 'restored'}")
    found = Found()
    for match in others:
        if not match.is_dir():
            found.photos[match] = Path(match.name)
            continue
        found.walked.append(match)
        top = os.path.basename(os.path.abspath(match)) if len(others) > 1 else ""  # noqa: PTH100, PTH119
        for path in _walk(match, out, found.unread):
            if is_image(path) or is_video(path):
                found.photos[path] = Path(top, path.relative_to(match))
            elif is_raw(path):
                found.raws += 1
            else:
                found.others += 1
    if not found.photos:
        walked = ", ".join(map(str, found.walked))
        none = f"only raw files of cameras; {DEVELOP}" if found.raws else "no images or videos in this folder"
        raise UserError("; ".join(found.unread) or f"{walked}: {none}")
    return found


def _expand(name: Path) -> list[Path]:
    matches = [str(name)] if name.exists() else natsorted(glob(str(name)))  # noqa: PTH207, it may be absolute
    if not matches:
        raise UserError(f"{name}: no such file")
    return [Path(match) for match in matches]


def plan(found: Found, out: Path, suffix: str | None = None, compare: bool = False) -> list[Job]:
    """What is written where: for one photograph or video `out` may be a file, else it is a folder.

    There, names stay, and formats unless `suffix` asks for another for photographs; .png takes the place of one that is
    not written. Only photographs are compared.

    Raises:
        UserError: two would be written to one file, or `out` is neither a folder nor a file of a known kind.
    """
    single = len(found.photos) == 1 and not found.walked
    suffixes = {*CONTAINERS} if single and is_video(next(iter(found.photos))) else {*WRITTEN_SUFFIXES}
    known = out.suffix.lower() in {*CONTAINERS, *WRITTEN_SUFFIXES}
    is_file = not out.is_dir() and (known or (single and out.suffix != ""))
    if is_file and not single:
        raise UserError(f"-o {out} is one file; {len(found.photos)} files need a folder")
    if is_file and out.suffix.lower() not in suffixes:
        raise UserError(
            f"-o {out}: unknown suffix; a file needs one of {', '.join(sorted(suffixes))}; a folder of such a name "
            "must exist"
        )
    if is_file and suffix:
        raise UserError(f"-o {out} is a file, whose suffix is its format; --format {suffix[1:]} is for a folder")
    if not is_file and out.is_file():
        raise UserError(f"-o {out} is a file without a suffix, and would have to be a folder")
    jobs: dict[Path, Job] = {}
    for photo, place in found.photos.items():
        kept = photo.suffix if photo.suffix.lower() in WRITTEN_SUFFIXES else FALLBACK
        video = is_video(photo)
        target = out if is_file else out / (place if video else place.with_suffix(suffix or kept))
        if target in jobs:
            raise UserError(
                f"{jobs[target].photo} and {photo} would both be written to {target}: restore them one by one"
            )
        comparison = target.with_stem(f"{target.stem}-compare") if compare and not video else None
        jobs[target] = Job(photo, target, comparison)
    return list(jobs.values())


def _walk(folder: Path, out: Path, unread: list[str]) -> Iterator[Path]:
    """The visible files below a folder, but for those in `out`, in natural order; links to folders are not followed."""

    def note(error: OSError) -> None:
        unread.append(f"{error.filename}: cannot be listed ({error.strerror})")

    for parent, folders, files in os.walk(folder, onerror=note):
        here = Path(parent)
        visible = natsorted(name for name in folders if not name.startswith("."))
        folders[:] = [name for name in visible if not _same(here / name, out)]
        yield from (here / name for name in natsorted(files) if not name.startswith("."))


def _same(folder: Path, out: Path) -> bool:
    return out.exists() and out.samefile(folder)
