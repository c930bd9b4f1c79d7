"""The images of a training, ready to be read: found, split from those for validation, checked, and cached."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from yacs.config import CfgNode

from ..config import ConfigError
from ..settings import folders_of
from ..tasks import Task
from .cache import Reader, open_cache
from .pairs import Log, Pair, PairError, check_pairs, converted, find_pairs, find_photographs
from .patches import ONE, CentrePatches, Order, PatchDataset, Process
from .samples import photographs
from .scenes import perceptual_hash, split_by_scene

SAMPLES = "samples"  # stands for the bundled photographs among the SHARP_DIRS


@dataclass(frozen=True)
class Sources:
    """Where the images of a training come from and how they are read: the TRAINING keys of docs/settings.md."""

    train_dirs: tuple[str, ...] = ()  # TRAIN_DIR: folders of pairs
    sharp_dirs: tuple[str, ...] = ()  # folders of photographs, degraded on the fly
    shares: tuple[float, ...] = ()  # of each folder of train_dirs, then of sharp_dirs; (): every image alike
    train_ps: int = 256
    zero_borders: float = 0.0  # share of the patches
    seed: int = 1234
    val_dir: str = ""  # "": held out of the training images, by scene
    val_count: int = 64
    val_ps: int = 256
    val_seed: int = 1234
    train_on_test_set: bool = False
    val_on_test_set: bool = False
    cache: str = "none"
    cache_dir: str = ""

    @classmethod
    def of(cls, training: CfgNode) -> Sources:
        """Those that a configuration's group TRAINING names.

        Raises:
            ConfigError: a folder is named twice.
        """
        return cls(
            train_dirs=_folders("TRAINING.TRAIN_DIR", folders_of(training.TRAIN_DIR)),
            sharp_dirs=_folders("TRAINING.SHARP_DIRS", training.SHARP_DIRS),
            shares=tuple(training.SHARES),
            train_ps=training.TRAIN_PS,
            zero_borders=training.ZERO_BORDERS,
            seed=training.SEED,
            val_dir=training.VAL_DIR,
            val_count=training.VAL_COUNT,
            val_ps=training.VAL_PS,
            val_seed=training.VAL_SEED,
            train_on_test_set=training.TRAIN_ON_TEST_SET,
            val_on_test_set=training.VAL_ON_TEST_SET,
            cache=training.CACHE,
            cache_dir=training.CACHE_DIR or f"{training.SAVE_DIR}/cache",
        )


@dataclass(frozen=True)
class TrainSet:
    """What is trained on, folder after folder, and what is validated on."""

    patches: PatchDataset
    validation: CentrePatches
    lengths: tuple[int, ...]  # pairs of each folder
    shares: tuple[float, ...]  # of each folder; (): every pair alike

    def order(self, batch_size: int, steps: int = 0, overfit: int = 0) -> Order:
        """The order in which a training looks at the patches; see `Order`."""
        return Order(self.lengths, batch_size, self.patches.seed, steps, self.shares, overfit)


def make_train_set(task: Task, sources: Sources, process: Process = ONE, log: Log = print) -> TrainSet:
    """Find, check and split the images; each is read once, into the cache where there is one.

    Validation images are held out of the real pairs of all folders together, by scene, or of the photographs where
    there are no pairs. A `val_dir` that is a test set is left alone, with a word to `log`, unless `val_on_test_set`.
    Every process of a training calls this, as the `process` it is, and gets the same.

    Raises:
        PairError: a folder does not hold what it should, or is a test set to train on; an image cannot be used.
        ConfigError: the cache cannot be written.
    """
    folders = sources.train_dirs + sources.sharp_dirs
    _refuse_test_sets(task, sources)
    real = [find_pairs(folder, log) for folder in sources.train_dirs]
    sharp = [_photographs(folder, log) for folder in sources.sharp_dirs]
    named = find_pairs(sources.val_dir, log) if _validates_on(sources, task, log) else []
    every = [*(pair for found in (*real, *sharp) for pair in found), *named]
    log(f"checking {len(every):,} images")
    read, hashes, changes = _read_all(every, sources, process)
    if told := converted(changes, sum(1 + (pair.input is not None) for pair in every)):
        log(told)
    if named:
        held, left = named, real + sharp
    else:
        judges = [pair for found in real or sharp for pair in found]
        looks = np.stack([hashes[pair.target] for pair in judges])
        out = set(held := split_by_scene(judges, looks, sources.val_count, sources.val_seed)[1])
        left = [[pair for pair in found if pair not in out] for found in real + sharp]
    for folder, found in zip(folders, left, strict=True):
        if sources.shares and not found:
            raise PairError(
                f"{folder}: all its images are held out for validation, but TRAINING.SHARES gives it a share; lower "
                "TRAINING.VAL_COUNT or name a validation folder in TRAINING.VAL_DIR"
            )
    rest = [pair for found in left for pair in found]
    log(f"{len(rest):,} training images, {len(held):,} for validation")
    return TrainSet(
        PatchDataset(rest, sources.train_ps, sources.seed, task.degradation, read, sources.zero_borders),
        CentrePatches(held, sources.val_ps, sources.val_seed, task.degradation, read),
        tuple(map(len, left)),
        sources.shares,
    )


def _read_all(
    pairs: Sequence[Pair], sources: Sources, process: Process
) -> tuple[Reader, dict[Path, np.ndarray], list[str]]:
    """Read every image once, into the cache.

    Returns what reads it from there, the hashes of the targets, and what was converted as they were read.
    """
    paths = [path for pair in pairs for path in (pair.input, pair.target) if path]
    read, targets = open_cache(sources.cache, Path(sources.cache_dir), paths), {pair.target for pair in pairs}
    hashes: dict[Path, np.ndarray] = {}
    changes: list[str] = []

    def read_and_hash(path: Path) -> np.ndarray:
        image = read(path, changes)
        if path in targets:
            hashes[path] = perceptual_hash(image)
        return image

    first = len(pairs) * process.rank // process.world  # each process fills the cache from another place
    check_pairs([*pairs[first:], *pairs[:first]], read_and_hash, show=process.rank == 0)
    return read, hashes, changes


def _refuse_test_sets(task: Task, sources: Sources) -> None:
    folders = sources.train_dirs + sources.sharp_dirs
    if not folders:
        raise PairError("no training data: set TRAINING.TRAIN_DIR (pairs) or TRAINING.SHARP_DIRS (photographs)")
    for folder in folders:
        if task.is_test_set(folder) and not sources.train_on_test_set:
            raise PairError(
                f"{folder} is a test set: weights that are trained on it have no honest score there. Name other "
                "folders in TRAINING.TRAIN_DIR and SHARP_DIRS (TRAINING.TRAIN_ON_TEST_SET true: train on it all the "
                "same)"
            )


def _validates_on(sources: Sources, task: Task, log: Log) -> bool:
    """Whether VAL_DIR is what is validated on."""
    if not sources.val_dir:
        return False
    if sources.val_on_test_set or not task.is_test_set(sources.val_dir):
        return True
    log(
        f"warning: TRAINING.VAL_DIR {sources.val_dir} is a test set; a checkpoint chosen on it has no honest test "
        "score. Validation images are split from the training set instead (TRAINING.VAL_ON_TEST_SET true: use it)."
    )
    return False


def _photographs(folder: str, log: Log) -> list[Pair]:
    if folder == SAMPLES:
        return [Pair(name, None, path) for name, path in photographs("train").items()]
    return find_photographs([folder], log)


def _folders(key: str, folders: Sequence[str]) -> tuple[str, ...]:
    """The folders that `key` names, none of them twice."""
    seen: dict[Path | str, str] = {}
    for folder in folders:
        place = folder if folder == SAMPLES else Path(folder).resolve()
        if place in seen:
            raise ConfigError(
                f"{key} names {folder} twice ({seen[place]}); name it once, and give it a larger share in "
                "TRAINING.SHARES to look at its images more often"
            )
        seen[place] = folder
    return tuple(folders)
