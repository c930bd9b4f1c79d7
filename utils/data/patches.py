"""Training patches: each one is a pure function of (seed, epoch, index), whatever the number of workers."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from ..config import ConfigError
from ..images import read_image
from ..tasks import Degradation
from .augment import ORIENTATIONS, crop, random_corner
from .pairs import Pair, check_sizes, seeded_by

_MOST_PADDED = 15  # rows or columns that the network adds

Key = tuple[int, int]
T = TypeVar("T")


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


class _PairDataset(Dataset[T]):
    """Views of at most `size` x `size` pixels of `pairs`; a pair without input is degraded by `degradation`.

    `read` gives the image of a path, as `read_image` and the caches of `utils.data.cache` do.

    Raises:
        ValueError: a pair lacks an input, and there is no degradation.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        size: int,
        seed: int,
        degradation: Degradation | None = None,
        read: Callable[[Path], np.ndarray] = read_image,
    ) -> None:
        if degradation is None and any(pair.input is None for pair in pairs):
            raise ValueError("pairs without an input image need a degradation")
        self.pairs = list(pairs)
        self.size = size
        self.seed = seed
        self.degradation = degradation
        self.read = read

    def __len__(self) -> int:
        return len(self.pairs)


class PatchDataset(_PairDataset[Patch]):
    """Random patches of `pairs`, `size` x `size` pixels; one without input is degraded by `degradation` after the crop.

    Keys are (epoch, index); an index beyond the pairs is one more look at one of them. The degradation's margin around
    a patch is degraded too and then cut off, so that what comes from beyond its border is real. Patches may be views of
    what `read` gives, which the data loader's own collation copies, once, into the batch.

    A share of `zero_borders` ends in up to 15 rows and columns of zeros on both sides, as images do that the network
    pads: it learns that these say nothing about the image.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        size: int,
        seed: int,
        degradation: Degradation | None = None,
        read: Callable[[Path], np.ndarray] = read_image,
        zero_borders: float = 0.0,
    ) -> None:
        super().__init__(pairs, size, seed, degradation, read)
        self.zero_borders = zero_borders

    def __getitem__(self, key: Key) -> Patch:
        epoch, index = key
        rng = np.random.default_rng((self.seed, epoch, index))
        number = index % len(self.pairs)
        pair, size = self.pairs[number], self.size
        target = self.read(pair.target)
        height, width = target.shape[:2]
        top, left = random_corner(height, width, size, rng)
        orientation = int(rng.integers(ORIENTATIONS))
        if pair.input is not None:
            degraded = self.read(pair.input)
            check_sizes(pair, degraded, target)  # it may have been changed since all were checked
        else:
            assert self.degradation is not None  # as __init__ has checked
            margin = self.degradation.margin
            target = crop(target, top - margin, left - margin, size + 2 * margin, size + 2 * margin)
            degraded = self.degradation.apply(target, rng)
            top = left = margin
        degraded, target = (crop(image, top, left, size, size) for image in (degraded, target))
        if self.zero_borders and rng.random() < self.zero_borders:
            bottom, right = rng.integers(0, _MOST_PADDED + 1, 2)
            degraded, target = (_end_in_zeros(image, bottom, right) for image in (degraded, target))
        return Patch(torch.from_numpy(degraded), torch.from_numpy(target), orientation, number)


def _end_in_zeros(image: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """A copy of an image whose last rows and columns are zeros."""
    result = np.zeros_like(image)
    inside = np.s_[: max(image.shape[0] - rows, 0), : max(image.shape[1] - columns, 0)]
    result[inside] = image[inside]
    return result


@dataclass(frozen=True)
class Order:
    """Which patches every epoch looks at, and in which order: a function of (seed, epoch) alone.

    An epoch has `steps` batches; with 0, one pass over the pairs, filled up to whole batches. No key comes twice in
    a training. With `shares`, each folder gets its part of every epoch, to the nearest patch; without, all pairs are
    looked at alike. Within a folder they always are: none comes once more before each of the others has come as often.
    With `overfit`, the same that many samples come again and again.

    Raises:
        ConfigError: a share is so small that its folder would get no patch.
    """

    lengths: tuple[int, ...]  # pairs of each folder; in the data set, the folders follow each other
    batch_size: int  # over all processes
    seed: int
    steps: int = 0
    shares: tuple[float, ...] = ()  # of each folder, in any unit
    overfit: int = 0

    def __post_init__(self) -> None:
        if self.shares and not all(self._counts()):
            raise ConfigError(
                f"TRAINING.SHARES {list(self.shares)}: an epoch of {self._size} patches leaves none for one of the "
                "folders; give it a larger share, or the epoch more steps (TRAINING.EPOCH_STEPS)"
            )

    @property
    def steps_per_epoch(self) -> int:
        return self.steps or -(-sum(self.lengths) // self.batch_size)

    @property
    def facts(self) -> list[Any]:
        """All that the order depends on, for a checkpoint: with others, an epoch cannot be continued."""
        mixed = [list(self.lengths), list(self.shares)] if self.shares else []
        return [sum(self.lengths), self.batch_size, self.seed, self.steps, self.overfit, *mixed]

    def epoch(self, epoch: int) -> list[Key]:
        """The keys of one epoch, batch after batch."""
        if self.overfit:
            return [(0, index % self.overfit) for index in range(self._size)]
        rng, total = np.random.default_rng((self.seed, epoch)), sum(self.lengths)
        if self.shares:
            parts = []
            for count, length, first in zip(self._counts(), self.lengths, accumulate((0, *self.lengths)), strict=False):
                passes, numbers = np.divmod(_looks(count, length, rng), length)
                parts.append(passes * total + first + numbers)
            order = rng.permutation(np.concatenate(parts))
        else:
            order = _looks(self._size, total, rng)
        return [(epoch, int(index)) for index in order]

    @property
    def _size(self) -> int:
        return self.steps_per_epoch * self.batch_size

    def _counts(self) -> list[int]:
        """How many patches of an epoch each folder gives: its share, by the largest remainder."""
        exact = self._size * np.array(self.shares) / sum(self.shares)
        counts = exact.astype(int)
        for folder in np.argsort(counts - exact, kind="stable")[: self._size - counts.sum()]:
            counts[folder] += 1
        return counts.tolist()


def _looks(count: int, length: int, rng: np.random.Generator) -> np.ndarray:
    """`count` different looks at `length` images, each image alike: number of the image + `length` * pass.

    The whole passes are shuffled together, what is missing to `count` comes from one pass more.
    """
    passes, rest = divmod(count, length)
    return np.concatenate([rng.permutation(passes * length), passes * length + rng.permutation(length)[:rest]])


class PatchBatches(Sampler[list[Key]]):
    """The keys of every batch of `epochs` (counted from 1), as one of the processes gets them.

    All processes draw the same epoch and take their part of each global batch, so that the batches do not depend on
    the number of processes. The first `skip` batches are left out: a resumed run has seen them.
    """

    def __init__(self, order: Order, epochs: range, process: Process = ONE, skip: int = 0) -> None:
        if order.batch_size % process.world:
            raise ConfigError(
                f"OPTIM.BATCH_SIZE {order.batch_size} cannot be shared equally by {process.world} processes"
            )
        self.order, self.epochs, self.process, self.skip = order, epochs, process, skip

    def __len__(self) -> int:
        return max(0, self.order.steps_per_epoch * len(self.epochs) - self.skip)

    def __iter__(self) -> Iterator[list[Key]]:
        batches = (batch for epoch in self.epochs for batch in self._epoch(epoch))
        return islice(batches, self.skip, None)

    def _epoch(self, epoch: int) -> Iterator[list[Key]]:
        keys, share = self.order.epoch(epoch), self.order.batch_size // self.process.world
        for start in range(self.process.rank * share, len(keys), self.order.batch_size):
            yield keys[start : start + share]


class CentrePatches(_PairDataset[tuple[np.ndarray, np.ndarray]]):
    """The (degraded, target) centre crops of `pairs`, of at most `size` x `size` pixels: what validation looks at.

    A pair without input is degraded whole by `degradation`, from `seed` and its name alone, so that every epoch sees
    the same image.
    """

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        pair = self.pairs[number]
        target = self.read(pair.target)
        if pair.input is not None:
            degraded = self.read(pair.input)
            check_sizes(pair, degraded, target)  # it may have been changed since all were checked
        else:
            assert self.degradation is not None  # as __init__ has checked
            degraded = self.degradation.apply(target, seeded_by(pair.name, self.seed))
        height, width = (min(self.size, length) for length in target.shape[:2])
        top, left = (target.shape[0] - height) // 2, (target.shape[1] - width) // 2
        return crop(degraded, top, left, height, width), crop(target, top, left, height, width)
