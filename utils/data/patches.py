"""Training patches: each one is a pure function of (seed, epoch, index), whatever the number of workers."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from ..config import ConfigError
from ..images import read_image
from ..tasks import Degradation
from .augment import ORIENTATIONS, crop, random_corner
from .pairs import Pair

Key = tuple[int, int]


class Process(NamedTuple):
    """One of the processes that train together: number `rank`, counted from 0, of `world`."""

    rank: int
    world: int


ONE = Process(0, 1)


class Patch(NamedTuple):
    """One training sample, or, collated, a batch of them: N x S x S x 3.

    Pixels stay uint8, and channels last, until they are on the device: no byte is moved but from the image to the
    batch, and what is four times larger or laid out otherwise is made where it is used.
    """

    degraded: torch.Tensor  # S x S x 3 uint8
    target: torch.Tensor  # S x S x 3 uint8
    orientation: int  # which of the eight flips and rotations utils.data.augment.orient applies
    pair: int  # which of the pairs it is cut from, so that an error can name the file


class PatchDataset(Dataset[Patch]):
    """Random square patches of `pairs`; a pair without input is degraded by `degradation` after the crop.

    Keys are (epoch, index); an index beyond the pairs is one more look at one of them. The degradation's margin around
    a patch is degraded too and then cut off, so that what comes from beyond its border is real. `read` gives the image
    of a path, as `read_image` and the caches of `utils.data.cache` do; patches may be views of it, which the data
    loader's own collation copies, once, into the batch.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        patch_size: int,
        seed: int,
        degradation: Degradation | None = None,
        read: Callable[[Path], np.ndarray] = read_image,
    ) -> None:
        if degradation is None and any(pair.input is None for pair in pairs):
            raise ValueError("pairs without an input image need a degradation")
        self.pairs = list(pairs)
        self.patch_size = patch_size
        self.seed = seed
        self.degradation = degradation
        self.read = read

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, key: Key) -> Patch:
        epoch, index = key
        rng = np.random.default_rng((self.seed, epoch, index))
        number = index % len(self.pairs)
        pair, size = self.pairs[number], self.patch_size
        target = self.read(pair.target)
        height, width = target.shape[:2]
        top, left = random_corner(height, width, size, rng)
        orientation = int(rng.integers(ORIENTATIONS))
        if pair.input is not None:
            degraded = self.read(pair.input)
        else:
            assert self.degradation is not None  # as __init__ has checked
            margin = self.degradation.margin
            target = crop(target, top - margin, left - margin, size + 2 * margin, size + 2 * margin)
            degraded = self.degradation.apply(target, rng)
            top = left = margin
        return Patch(
            torch.from_numpy(crop(degraded, top, left, size, size)),
            torch.from_numpy(crop(target, top, left, size, size)),
            orientation,
            number,
        )


class PatchBatches(Sampler[list[Key]]):
    """The keys of every batch from `first_epoch` to `last_epoch` (counted from 1), for one of the processes.

    All processes draw the same shuffled epoch and take their share of each global batch, so that the batches do not
    depend on the number of processes. An epoch has `steps` batches; with 0, one pass over the data. What is missing
    to whole passes or batches is filled up with the epoch's first samples. The first `skip` batches are left out: a
    resumed run has seen them. With `overfit`, the same that many samples come again and again.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        seed: int,
        first_epoch: int,
        last_epoch: int,
        steps: int = 0,
        process: Process = ONE,
        skip: int = 0,
        overfit: int = 0,
    ) -> None:
        if batch_size % process.world:
            raise ConfigError(f"OPTIM.BATCH_SIZE {batch_size} cannot be shared equally by {process.world} processes")
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.first_epoch, self.last_epoch = first_epoch, last_epoch
        self.steps_per_epoch = steps or -(-length // batch_size)
        self.process, self.skip, self.overfit = process, skip, overfit

    def __len__(self) -> int:
        return self.steps_per_epoch * (self.last_epoch - self.first_epoch + 1) - self.skip

    def __iter__(self) -> Iterator[list[Key]]:
        batches = (batch for epoch in range(self.first_epoch, self.last_epoch + 1) for batch in self._epoch(epoch))
        return islice(batches, self.skip, None)

    def _epoch(self, epoch: int) -> Iterator[list[Key]]:
        share = self.batch_size // self.process.world
        size = self.steps_per_epoch * self.batch_size
        passes = max(1, size // self.length)
        order = np.random.default_rng((self.seed, epoch)).permutation(passes * self.length)
        if self.overfit:
            epoch, order = 0, np.arange(self.overfit)
        order = np.resize(order, size)  # cut short, or filled up from its beginning
        for start in range(self.process.rank * share, len(order), self.batch_size):
            yield [(epoch, int(index)) for index in order[start : start + share]]


def centre_patch(pair: Pair, size: int, seed: int, degradation: Degradation | None) -> tuple[np.ndarray, np.ndarray]:
    """The (degraded, target) centre crop of at most `size` x `size` pixels that validation looks at.

    A pair without input is degraded whole, from `seed` and its name alone, so that every epoch sees the same image.
    """
    target = read_image(pair.target)
    if pair.input is not None:
        degraded = read_image(pair.input)
    elif degradation is not None:
        degraded = degradation.apply(target, np.random.default_rng((seed, *pair.name.encode())))
    else:
        raise ValueError(f"{pair.target}: has no degraded image, and no degradation was given")
    height, width = (min(size, length) for length in target.shape[:2])
    top, left = (target.shape[0] - height) // 2, (target.shape[1] - width) // 2
    return crop(degraded, top, left, height, width), crop(target, top, left, height, width)
