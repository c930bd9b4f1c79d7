"""Pairs of degraded and sharp images on disk: how they are found, checked, and split by scene."""
from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from natsort import natsorted

from ..cli import UserError
from ..images import ImageError, is_image, look_at, read_converted, read_image

# What community archives put around the number that both names of a pair share (rain-001 / norain-001).
_AFFIX = re.compile(r"^(no)?rain[-_]?(?=\d)|(?<=\d)x2$", re.IGNORECASE)
_FOLDERS = (("input", "target"), ("blur", "sharp"))
_PATCH = re.compile(r"_patch\d+$")  # what utils.data.prepare puts after the name of the image it cuts
_SHOWN = 10


class PairError(UserError):
    """Folders or files that do not form pairs; the message names the first ten and counts the rest."""


@dataclass(frozen=True)
class Pair:
    """One sample: a degraded image and its ground truth."""

    name: str
    input: Path | None  # None: a sharp photograph alone, degraded on the fly
    target: Path


def find_pairs(root: str | Path) -> list[Pair]:
    """The pairs below `root`, in natural order: {input,target}, {blur,sharp}, or GoPro's SCENE/{blur,sharp}.

    Files are paired by name without suffix; `rain-001` and `norain-001` (Rain100) are the same name.

    Raises:
        PairError: no such folders, an empty folder, two files of one name, or a file without its partner.
    """
    return [
        Pair(f"{prefix}{pair.name}", pair.input, pair.target)
        for prefix, degraded, sharp in find_folders(root)
        for pair in pair_folders(degraded, sharp)
    ]


def find_folders(root: str | Path) -> list[tuple[str, Path, Path]]:
    """Where the pairs below `root` lie: (what their names begin with, folder of degraded images, folder of sharp ones).

    Raises:
        PairError: no such folders; one of the two may still be missing.
    """
    root = Path(root)
    if not root.is_dir():
        raise PairError(f"{root}: no such folder; expected one that holds input/ and target/")
    for degraded, sharp in _FOLDERS:
        if (root / degraded).is_dir() or (root / sharp).is_dir():
            return [("", root / degraded, root / sharp)]
    scenes = natsorted((path for path in root.iterdir() if (path / "sharp").is_dir()), key=lambda path: path.name)
    if not scenes:
        raise PairError(f"{root}: expected the folders input/ and target/, or scenes that hold blur/ and sharp/")
    # The original tree numbers every scene from 1: the scene keeps names apart, as the community's PNGs do.
    return [(f"{scene.name}-", scene / "blur", scene / "sharp") for scene in scenes]


def pair_name(path: Path) -> str:
    """What both files of a pair are called: the name without suffix and without Rain100's `rain-` and `norain-`."""
    return _AFFIX.sub("", path.stem)


def find_photographs(folders: Iterable[str | Path]) -> list[Pair]:
    """The sharp photographs in `folders` (not below them), as pairs whose input is still to be made.

    Raises:
        PairError: a folder is missing or holds no image.
    """
    return [Pair(path.stem, None, path) for folder in folders for path in _images_by_name(Path(folder)).values()]


def check_pairs(pairs: Sequence[Pair]) -> None:
    """Decode every image once, in threads, so that no training stops at a broken file hours later.

    Raises:
        PairError: listing unreadable files and pairs of two sizes.
    """
    with ThreadPoolExecutor() as pool:
        problems = [problem for problem in pool.map(_problem, pairs) if problem]
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
    (degraded, of_input), (target, of_target) = read_converted(pair.input), read_converted(pair.target)
    if degraded.shape != target.shape:
        raise PairError(f"{pair.input} is {_size(degraded.shape)} but {pair.target} is {_size(target.shape)}")
    return degraded, target, [f"input {what}" for what in of_input] + [f"target {what}" for what in of_target]


def split_by_scene(pairs: Sequence[Pair], count: int, seed: int) -> tuple[list[Pair], list[Pair]]:
    """Split into (rest, held out), holding out at least `count` pairs as whole scenes.

    Files whose ground truths are nearly the same image, or whose names say they are frames of one video
    (GOPR0372_07_00-000047) or patches of one image, are one scene. Which scenes are held out depends on `seed` and the
    names only.
    """
    if not 0 <= count < len(pairs):
        raise PairError(f"cannot hold out {count} of {len(pairs)} pairs for validation; lower TRAINING.VAL_COUNT")
    scenes = scenes_of(pairs)
    order = np.random.default_rng(seed).permutation(len(scenes))
    held: set[int] = set()
    for index in order:
        if len(held) >= count:
            break
        held.update(scenes[index])
    if count and len(held) == len(pairs):
        raise PairError(f"all {len(pairs)} pairs show one scene: name a validation folder in TRAINING.VAL_DIR")
    return [pair for i, pair in enumerate(pairs) if i not in held], [pairs[i] for i in sorted(held)]


def scenes_of(pairs: Sequence[Pair]) -> list[list[int]]:
    """Group the indices of `pairs` by scene, in order of first appearance; see `split_by_scene`."""
    with ThreadPoolExecutor() as pool:
        hashes = np.stack(list(pool.map(lambda pair: perceptual_hash(read_image(pair.target)), pairs)))
    root = list(range(len(pairs)))

    def find(i: int) -> int:
        while root[i] != i:
            root[i] = root[root[i]]
            i = root[i]
        return i

    for i in range(len(pairs) - 1):
        near = np.bitwise_count(hashes[i + 1 :] ^ hashes[i]).sum(axis=1) <= SAME_SCENE_BITS
        for j in np.flatnonzero(near) + i + 1:
            root[find(int(j))] = find(i)
    origins: dict[str, int] = {}
    for i, pair in enumerate(pairs):
        name = _PATCH.sub("", pair.name)
        video = re.match(r"(GOPR\w+?)-\d+$", name)
        if video or name != pair.name:
            root[find(i)] = find(origins.setdefault(video[1] if video else name, i))
    scenes: dict[int, list[int]] = {}
    for i in range(len(pairs)):
        scenes.setdefault(find(i), []).append(i)
    return list(scenes.values())


_HASH_SIZE = 16
# Of 240 bits. Measured on the targets of Rain800's training set: files of one photograph differ by at most 4 bits,
# two shots of one view by 38, different views by 60 and more.
SAME_SCENE_BITS = 45


def perceptual_hash(image: np.ndarray) -> np.ndarray:
    """The difference hash of an H x W x 3 uint8 image, 30 bytes: is each cell of a coarse gray grid brighter than
    its left neighbour?"""
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    grid = cv2.resize(gray, (_HASH_SIZE, _HASH_SIZE), interpolation=cv2.INTER_AREA)
    return np.packbits(grid[:, 1:] > grid[:, :-1])


def _images_by_name(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise PairError(f"{folder}: {'is a file; name the folder it is in' if folder.is_file() else 'no such folder'}")
    found: dict[str, Path] = {}
    for path in natsorted(folder.iterdir(), key=lambda path: path.name):
        if is_image(path):
            name = pair_name(path)
            if name in found:
                raise PairError(f"{folder}: {found[name].name} and {path.name} are one name; keep one of them")
            found[name] = path
    if not found:
        raise PairError(f"{folder}: holds no images")
    return found


def pair_folders(degraded: Path, sharp: Path) -> list[Pair]:
    """The pairs of two folders of images, by file name without suffix, in natural order; see `find_pairs`."""
    inputs, targets = _images_by_name(degraded), _images_by_name(sharp)
    lonely = [str(inputs[name]) for name in inputs if name not in targets]
    lonely += [str(targets[name]) for name in targets if name not in inputs]
    if lonely:
        raise PairError(_listing("have no partner of the same name", lonely))
    return [Pair(name, path, targets[name]) for name, path in inputs.items()]


def _problem(pair: Pair) -> str | None:
    try:
        target = read_image(pair.target).shape
        if pair.input is None:
            return None
        degraded = read_image(pair.input).shape
    except ImageError as error:
        return str(error)
    if degraded != target:
        return f"{pair.input} is {_size(degraded)} but {pair.target} is {_size(target)}"
    return None


def _header_problem(pair: Pair) -> str | None:
    try:
        if pair.input is None or look_at(pair.input) == look_at(pair.target):
            return None
        sizes = ["{}x{}".format(*look_at(path)) for path in (pair.input, pair.target)]
    except ImageError as error:
        return str(error)
    return f"{pair.input} is {sizes[0]} but {pair.target} is {sizes[1]}"


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]}"


def _listing(what: str, items: Sequence[str]) -> str:
    more = f"\n  ... and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return f"{len(items)} file(s) {what}:\n  " + "\n  ".join(items[:_SHOWN]) + more
