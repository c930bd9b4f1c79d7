"""Training patches: each one is a pure function of (seed, epoch, index), whatever the number of workers."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from utils.augment import ORIENTATIONS, crop, random_corner
from utils.images import read_image
from utils.pairs import Pair

Degradation = Callable[[np.ndarray, np.random.Generator], np.ndarray]
Key = tuple[int, int]


class Patch(NamedTuple):
    """One training sample (or, collated, a batch of them); pixels stay uint8 until they are on the device."""

    degraded: torch.Tensor  # 3 x S x S uint8
    target: torch.Tensor  # 3 x S x S uint8
    orientation: int  # which of the eight flips and rotations utils.augment.orient applies
    pair: int  # which of the pairs it is cut from, so that an error can name the file


class PatchDataset(Dataset[Patch]):
    """Random square patches of `pairs`; a pair without input is degraded by `degradation` after the crop.

    Keys are (epoch, index); an index beyond the pairs is one more look at one of them. `margin` pixels around the
    patch are degraded too and then cut off, so that what comes from beyond its border is real. `cache` keeps decoded
    images in memory (fill it with `preload` before workers fork).
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        patch_size: int,
        seed: int,
        degradation: Degradation | None = None,
        margin: int = 0,
        cache: bool = False,
    ) -> None:
        if degradation is None and any(pair.input is None for pair in pairs):
            raise ValueError("pairs without an input image need a degradation")
        self.pairs = list(pairs)
        self.patch_size = patch_size
        self.seed = seed
        self.degradation = degradation
        self.margin = margin
        self._cache: dict[int, tuple[np.ndarray | None, np.ndarray]] | None = {} if cache else None

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, key: Key) -> Patch:
        epoch, index = key
        rng = np.random.default_rng((self.seed, epoch, index))
        number = index % len(self.pairs)
        degraded, target = self._load(number)
        size = self.patch_size
        height, width = target.shape[:2]
        top, left = random_corner(height, width, size, rng)
        orientation = int(rng.integers(ORIENTATIONS))
        if degraded is None:
            around, margin = size + 2 * self.margin, self.margin
            target = crop(target, top - margin, left - margin, around, around)
            degraded = self.degradation(target, rng)  # type: ignore[misc]
            top = left = margin
        return Patch(
            _channels_first(crop(degraded, top, left, size, size)),
            _channels_first(crop(target, top, left, size, size)),
            orientation,
            number,
        )

    def preload(self) -> None:
        """Decode every image into memory, if this data set was made with `cache`."""
        if self._cache is not None:
            with ThreadPoolExecutor() as pool:
                list(pool.map(self._load, range(len(self))))

    def _load(self, index: int) -> tuple[np.ndarray | None, np.ndarray]:
        if self._cache is not None and index in self._cache:
            return self._cache[index]
        pair = self.pairs[index]
        images = None if pair.input is None else read_image(pair.input), read_image(pair.target)
        if self._cache is not None:
            self._cache[index] = images
        return images


class PatchBatches(Sampler[list[Key]]):
    """The keys of every batch from `first_epoch` to `last_epoch` (counted from 1), for process `rank` of `world`.

    All processes draw the same shuffled epoch and take their share of each global batch, so that the batches do not
    depend on the number of processes. An epoch has `steps` batches; with 0, one pass over the data. What is missing
    to whole passes or batches is filled up with the epoch's first samples.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        seed: int,
        first_epoch: int,
        last_epoch: int,
        steps: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if batch_size % world:
            raise ValueError(f"OPTIM.BATCH_SIZE {batch_size} cannot be shared equally by {world} processes")
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.first_epoch, self.last_epoch = first_epoch, last_epoch
        self.steps_per_epoch = steps or -(-length // batch_size)
        self.rank, self.world = rank, world

    def __len__(self) -> int:
        return self.steps_per_epoch * (self.last_epoch - self.first_epoch + 1)

    def __iter__(self) -> Iterator[list[Key]]:
        share = self.batch_size // self.world
        size = self.steps_per_epoch * self.batch_size
        passes = max(1, size // self.length)
        for epoch in range(self.first_epoch, self.last_epoch + 1):
            order = np.random.default_rng((self.seed, epoch)).permutation(passes * self.length)
            order = np.resize(order, size)  # cut short, or filled up from its beginning
            for start in range(self.rank * share, len(order), self.batch_size):
                yield [(epoch, int(index)) for index in order[start : start + share]]


def centre_patch(pair: Pair, size: int, seed: int, degradation: Degradation | None) -> tuple[np.ndarray, np.ndarray]:
    """The (degraded, target) centre crop of at most `size` x `size` pixels that validation looks at.

    A pair without input is degraded whole, from `seed` and its name alone, so that every epoch sees the same image.
    """
    target = read_image(pair.target)
    if pair.input is not None:
        degraded = read_image(pair.input)
    elif degradation is not None:
        degraded = degradation(target, np.random.default_rng((seed, *pair.name.encode())))
    else:
        raise ValueError(f"{pair.target}: has no degraded image, and no degradation was given")
    height, width = (min(size, length) for length in target.shape[:2])
    top, left = (target.shape[0] - height) // 2, (target.shape[1] - width) // 2
    return crop(degraded, top, left, height, width), crop(target, top, left, height, width)


def _channels_first(patch: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(patch.transpose(2, 0, 1)))
