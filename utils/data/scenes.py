"""Which images show one scene: they stay on one side of the split between training and validation."""
from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from .pairs import Pair, PairError

_PATCH = re.compile(r"_patch\d+$")  # what utils.data.prepare puts after the name of the image it cuts
_GOPRO = re.compile(r"GOPR\d+(_\d\d_\d\d)?")  # what GoPro, HIDE and their copies call a film
_HASH_SIZE = 16
# Of 240 bits. Measured on the targets of Rain800's training set: files of one photograph differ by at most 4 bits,
# two shots of one view by 38, different views by 60 and more.
SAME_SCENE_BITS = 45
# The median over neighbours. Measured: 47 to 95 for the films of GoPro (every 7th to 40th frame) and REDS (every 3rd),
# 105 to 118 for photographs that are numbered (Rain200H, Urban100, Unsplash, BSDS500, Rain13K).
_NEIGHBOURS_BITS = 90


def perceptual_hash(image: np.ndarray) -> np.ndarray:
    """The difference hash of an H x W x 3 uint8 image, 30 bytes: is each cell of a coarse gray grid brighter than
    its left neighbour?"""
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    grid = cv2.resize(gray, (_HASH_SIZE, _HASH_SIZE), interpolation=cv2.INTER_AREA)
    return np.packbits(grid[:, 1:] > grid[:, :-1])


def split_by_scene(
    pairs: Sequence[Pair], hashes: np.ndarray, count: int, seed: int
) -> tuple[list[Pair], list[Pair]]:
    """Split into (rest, held out), holding out at least `count` pairs as whole scenes; see `scenes_of`.

    Which scenes are held out depends on `seed` and the scenes only.

    Raises:
        PairError: there are not enough pairs, or nothing but one scene.
    """
    if not 0 <= count < len(pairs):
        raise PairError(f"cannot hold out {count} of {len(pairs)} pairs for validation; lower TRAINING.VAL_COUNT")
    scenes = scenes_of(pairs, hashes)
    held: set[int] = set()
    for index in np.random.default_rng(seed).permutation(len(scenes)):
        if len(held) >= count:
            break
        held.update(scenes[index])
    if count and len(held) == len(pairs):
        raise PairError(
            f"all {len(pairs)} pairs are held out for validation, for those of a scene are not divided: lower "
            "TRAINING.VAL_COUNT, or name a validation folder in TRAINING.VAL_DIR"
        )
    return [pair for i, pair in enumerate(pairs) if i not in held], [pairs[i] for i in sorted(held)]


def scenes_of(pairs: Sequence[Pair], hashes: np.ndarray) -> list[list[int]]:
    """Group the indices of `pairs` by scene, in order of first appearance.

    Pairs are of one scene if the perceptual `hashes` (N x 30 uint8) of their ground truths are nearly the same, if they
    lie in the folder of one scene, are patches of one image or frames of one film. A film is known by its frames'
    names: all but the number at the end is the same, and either there are other films whose names differ in a number
    (000_00000009, 001_00000009), or most frames of a folder look like the one before.
    """
    edges = np.array([*_alike(hashes), *_same_name(pairs, hashes)], int).reshape(-1, 2)
    graph = coo_matrix((np.ones(len(edges)), edges.T), shape=(len(pairs), len(pairs)))
    scenes: dict[int, list[int]] = defaultdict(list)
    for i, label in enumerate(connected_components(graph, directed=False)[1]):
        scenes[label].append(i)
    return list(scenes.values())


def _alike(hashes: np.ndarray) -> Iterator[tuple[int, int]]:
    for i in range(len(hashes) - 1):
        for j in np.flatnonzero(_distance(hashes[i + 1 :], hashes[i]) <= SAME_SCENE_BITS):
            yield i, i + 1 + int(j)


def _same_name(pairs: Sequence[Pair], hashes: np.ndarray) -> Iterator[tuple[int, int]]:
    """Pairs that their names or folders put in one scene: each with the next."""
    groups: dict[tuple[str, ...], list[int]] = defaultdict(list)
    # Names that end in a number: folder, what they begin with -> image -> its first pair.
    numbered: dict[tuple[Path, str], dict[str, int]] = defaultdict(dict)
    for i, pair in enumerate(pairs):
        image = _PATCH.sub("", pair.name)
        if pair.scene:
            groups["folder", pair.scene].append(i)
        if image != pair.name:
            groups["image", image].append(i)
        if film := _GOPRO.search(image):
            groups["film", film[0]].append(i)
        elif (begin := image.rstrip("0123456789")) != image:
            numbered[pair.target.parent, begin].setdefault(image, i)
    alike = defaultdict(set)  # beginnings that differ in numbers only
    for _, begin in numbered:
        alike[_without_numbers(begin)].add(begin)
    for (folder, begin), images in numbered.items():
        frames = list(images.values())
        if len(alike[_without_numbers(begin)]) > 1:
            groups["film", begin].extend(frames)
        elif _is_film(hashes[frames]):
            groups["film", begin, str(folder)].extend(frames)
    for members in groups.values():
        yield from pairwise(members)


def _without_numbers(name: str) -> str:
    return re.sub(r"\d+", "0", name)


def _is_film(hashes: np.ndarray) -> bool:
    return len(hashes) > 1 and float(np.median(_distance(hashes[1:], hashes[:-1]))) <= _NEIGHBOURS_BITS


def _distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Bits in which hashes differ."""
    return np.bitwise_count(a ^ b).sum(axis=-1)
