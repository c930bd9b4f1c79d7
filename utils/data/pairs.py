"""Pairs of degraded and sharp images on disk: how they are found and checked."""
from __future__ import annotations

import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from natsort import natsorted
from tqdm import tqdm

from ..cli import UserError, warn
from ..images import ImageError, is_image, look_at, read_image, read_photograph

Log = Callable[[str], Any]

# What community archives put around the number that both names of a pair share (rain-001 / norain-001).
_AFFIX = re.compile(r"^(no)?rain[-_]?(?=\d)|(?<=\d)x2$", re.IGNORECASE)
_FOLDERS = (("input", "target"), ("blur", "sharp"))
_SHOWN = 10


class PairError(UserError):
    """Folders or files that do not form pairs; the message names the first ten and counts the rest."""


@dataclass(frozen=True)
class Pair:
    """One sample: a degraded image and its ground truth."""

    name: str
    input: Path | None  # None: a sharp photograph alone, degraded on the fly
    target: Path
    scene: str = ""  # the folder of its scene, in a tree of scenes


class PairFolders(NamedTuple):
    """The two folders that the images of pairs lie in."""

    scene: str  # the folder both are in, in a tree of scenes
    degraded: Path
    sharp: Path

    def full_name(self, name: str) -> str:
        """Of a pair: GoPro's original tree numbers every scene from 1, the scene keeps the names apart."""
        return f"{self.scene}-{name}" if self.scene else name


class Match(NamedTuple):
    """The files of two folders, matched by name."""

    pairs: list[Pair]
    lonely: list[Path]  # without a partner
    repeated: list[list[Path]]  # the files of a folder that have one name, and another suffix each


def find_pairs(root: str | Path, log: Log = warn) -> list[Pair]:
    """The pairs below `root`, in natural order: {input,target}, {blur,sharp}, or GoPro's SCENE/{blur,sharp}.

    Files are paired by name without suffix; see `match_names`. Files that are no images are left out, with a word to
    `log`.

    Raises:
        PairError: no such folders, an empty folder, two files of one name, or a file without its partner.
    """
    return [
        Pair(folders.full_name(pair.name), pair.input, pair.target, folders.scene)
        for folders in find_folders(root)
        for pair in pair_folders(folders.degraded, folders.sharp, log)
    ]


def find_folders(root: str | Path) -> list[PairFolders]:
    """Where the pairs below `root` lie.

    Raises:
        PairError: no such folders; one of the two may still be missing.
    """
    root = Path(root)
    if not root.is_dir():
        raise PairError(f"{root}: no such folder; expected one that holds input/ and target/")
    for degraded, sharp in _FOLDERS:
        if (root / degraded).is_dir() or (root / sharp).is_dir():
            return [PairFolders("", root / degraded, root / sharp)]
    scenes = [path for path in root.iterdir() if (path / "sharp").is_dir() or (path / "blur").is_dir()]
    if not scenes:
        raise PairError(f"{root}: expected the folders input/ and target/, or scenes that hold blur/ and sharp/")
    scenes = natsorted(scenes, key=lambda path: path.name)
    return [PairFolders(scene.name, scene / "blur", scene / "sharp") for scene in scenes]


def pair_folders(degraded: Path, sharp: Path, log: Log = warn) -> list[Pair]:
    """The pairs of two folders of images, in natural order; see `find_pairs`."""
    match = match_names(find_images(degraded, log), find_images(sharp, log))
    _refuse_repeated(match.repeated)
    if match.lonely:
        raise PairError(_listing("have no partner of the same name", list(map(str, match.lonely))))
    return match.pairs


def match_names(inputs: Sequence[Path], targets: Sequence[Path]) -> Match:
    """Match files by name without suffix, in the order of `inputs`.

    What Rain100 and others put around a number is no part of a name (`rain-001`, `norain-001` and `001x2` are all
    001), unless two files of a folder would then have one name. Letters with accents are the same letters, whether
    stored as one character or, as macOS does, as two.
    """
    sides = [_by_stem(inputs), _by_stem(targets)]
    partners = {stem: stem for stem in sides[0] if stem in sides[1]}
    plain = [_by_plain_name([stem for stem in side if stem not in partners]) for side in sides]
    partners |= {plain[0][name]: plain[1][name] for name in plain[0] if name in plain[1]}
    names = Counter(map(_plain, partners))
    pairs = [
        Pair(_plain(stem) if names[_plain(stem)] == 1 else stem, paths[0], sides[1][partners[stem]][0])
        for stem, paths in sides[0].items()
        if stem in partners
    ]
    matched = (set(partners), set(partners.values()))
    return Match(
        pairs,
        [
            path
            for side, known in zip(sides, matched, strict=True)
            for stem, paths in side.items()
            if stem not in known
            for path in paths
        ],
        [paths for side in sides for paths in side.values() if len(paths) > 1],
    )


def find_photographs(folders: Iterable[str | Path], log: Log = warn) -> list[Pair]:
    """The sharp photographs in `folders` (not below them), as pairs whose input is still to be made.

    Raises:
        PairError: a folder is missing or holds no image, or two of its images have one name.
    """
    found = [_by_stem(find_images(Path(folder), log)) for folder in folders]
    _refuse_repeated([paths for photographs in found for paths in photographs.values() if len(paths) > 1])
    return [Pair(stem, None, paths[0]) for photographs in found for stem, paths in photographs.items()]


def find_images(folder: Path, log: Log = warn) -> list[Path]:
    """The images in a folder (not below it), in natural order; what is left out is counted and said.

    Raises:
        PairError: there is no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise PairError(f"{folder}: {'is a file; name the folder it is in' if folder.is_file() else 'no such folder'}")
    images, others = list_images(folder)
    named = f"{', '.join(path.name for path in others[:3])}{', ...' * (len(others) > 3)}"
    if not images:
        raise PairError(f"{folder}: holds no images{f', but {named}' * bool(others)}")
    if others:
        log(f"{folder}: {len(others):,} file(s) left out, not images of a known kind: {named}")
    return images


def list_images(folder: Path) -> tuple[list[Path], list[Path]]:
    """The images in a folder, and the other visible files in it, in natural order."""
    paths = [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
    images = natsorted(filter(is_image, paths), key=lambda path: path.name)
    return images, natsorted(set(paths).difference(images), key=lambda path: path.name)


def converted(changes: Iterable[str], images: int) -> str:
    """What was converted as `images` were read, counted, in one line; "" where nothing was."""
    count = Counter(changes)
    told = ", ".join(f"{what}: {count[what]:,} of {images:,}" for what in sorted(count))
    return f"images converted as they were read: {told}" if told else ""


def check_pairs(pairs: Sequence[Pair], read: Callable[[Path], np.ndarray] = read_image, show: bool = True) -> None:
    """Read every image once, in threads, so that no training stops at a broken file hours later.

    With `show`, a terminal shows how far it is.

    Raises:
        PairError: listing unreadable files and pairs of two sizes.
    """

    def problem(pair: Pair) -> str | None:
        try:
            target = read(pair.target)
            if pair.input is not None:
                check_sizes(pair, read(pair.input), target)
        except (ImageError, PairError) as error:
            return str(error)
        return None

    with ThreadPoolExecutor() as pool:
        hidden = not (show and sys.stderr.isatty())
        found = tqdm(pool.map(problem, pairs), "checking", len(pairs), unit=" images", disable=hidden, leave=False)
        problems = [line for line in found if line]
    if problems:
        raise PairError(_listing("cannot be used", problems))


def check_pairs_quickly(pairs: Sequence[Pair]) -> None:
    """Look at the header and the end of every image, in threads: are they there, whole, and of their partner's size?

    No pixel is decoded; what is damaged in the middle is found when the pair is read.

    Raises:
        PairError: listing the files that cannot be used.
    """
    with ThreadPoolExecutor() as pool:
        problems = [problem for problem in pool.map(_header_problem, pairs) if problem]
    if problems:
        raise PairError(_listing("cannot be used", problems))


def read_pair(pair: Pair) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Both images of a pair, H x W x 3 uint8 RGB, and what was converted as they were read ("input alpha dropped").

    Raises:
        PairError: it has no degraded image, or the two differ in size.
        ImageError: a file cannot be read.
    """
    if pair.input is None:
        raise PairError(f"{pair.target}: a sharp photograph without its degraded partner cannot be scored")
    files = {"input": read_photograph(pair.input), "target": read_photograph(pair.target)}
    degraded, target = (photograph.rgb() for photograph in files.values())
    check_sizes(pair, degraded, target)
    return degraded, target, [f"{side} {what}" for side, photograph in files.items() for what in photograph.changes()]


def check_sizes(pair: Pair, degraded: np.ndarray, target: np.ndarray) -> None:
    """Whether the two images of a pair have one size.

    Raises:
        PairError: they have not.
    """
    if degraded.shape != target.shape:
        sizes = [f"{image.shape[1]}x{image.shape[0]}" for image in (degraded, target)]
        raise PairError(f"{pair.input} is {sizes[0]} but {pair.target} is {sizes[1]}")


def seeded_by(name: str, seed: int) -> np.random.Generator:
    """The random numbers of a pair; its name may be one that no text is, of bytes that are not UTF-8."""
    return np.random.default_rng((seed, *name.encode(errors="surrogatepass")))


def _refuse_repeated(repeated: Sequence[Sequence[Path]]) -> None:
    for first, second, *_ in repeated:
        raise PairError(f"{first.parent}: {first.name} and {second.name} are one name; keep one of them")


def _by_stem(paths: Iterable[Path]) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for path in paths:
        found.setdefault(unicodedata.normalize("NFC", path.stem), []).append(path)
    return found


def _plain(stem: str) -> str:
    return _AFFIX.sub("", stem)


def _by_plain_name(stems: Sequence[str]) -> dict[str, str]:
    """plain name -> stem, where only one stem has it."""
    count = Counter(map(_plain, stems))
    return {_plain(stem): stem for stem in stems if count[_plain(stem)] == 1}


def _header_problem(pair: Pair) -> str | None:
    try:
        if pair.input is None or look_at(pair.input) == look_at(pair.target):
            return None
        sizes = ["{}x{}".format(*look_at(path)) for path in (pair.input, pair.target)]
    except ImageError as error:
        return str(error)
    return f"{pair.input} is {sizes[0]} but {pair.target} is {sizes[1]}"


def _listing(what: str, items: Sequence[str]) -> str:
    more = f"\n  ... and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return f"{len(items)} file(s) {what}:\n  " + "\n  ".join(items[:_SHOWN]) + more
