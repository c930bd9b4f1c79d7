"""The images of a training: in which folders they lie, which are held out for validation, and that all can be used."""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from ..config import ConfigError
from ..tasks import Task
from .pairs import Pair, PairError, find_pairs, find_photographs, split_by_scene
from .samples import photographs

SAMPLES = "samples"  # stands for the bundled photographs among the SHARP_DIRS


@dataclass(frozen=True)
class Sources:
    """Where the images of a training come from: the TRAINING keys of these names."""

    train_dirs: tuple[str, ...] = ()  # TRAIN_DIR: folders of pairs
    sharp_dirs: tuple[str, ...] = ()  # folders of photographs, degraded on the fly
    shares: tuple[float, ...] = ()  # of each folder of train_dirs, then of sharp_dirs; (): every image alike
    val_dir: str = ""  # "": held out of the training images, by scene
    val_count: int = 64
    val_seed: int = 1234
    train_on_test_set: bool = False
    val_on_test_set: bool = False

    @classmethod
    def of(cls, training: CfgNode) -> Sources:
        """Those that a configuration's group TRAINING names.

        Raises:
            ConfigError: a folder that is no text or is named twice, or shares that do not fit the folders.
        """
        pairs = training.TRAIN_DIR
        pairs = [pairs] * bool(pairs) if isinstance(pairs, str) else pairs
        return cls(
            _folders("TRAINING.TRAIN_DIR", pairs),
            _folders("TRAINING.SHARP_DIRS", training.SHARP_DIRS),
            _shares(training.SHARES, [*pairs, *training.SHARP_DIRS]),
            training.VAL_DIR,
            training.VAL_COUNT,
            training.VAL_SEED,
            training.TRAIN_ON_TEST_SET,
            training.VAL_ON_TEST_SET,
        )


@dataclass(frozen=True)
class Images:
    """What was found: pairs to train on, folder after folder, and pairs to validate on."""

    pairs: list[Pair]
    lengths: tuple[int, ...]  # pairs of each folder
    shares: tuple[float, ...]  # of each folder; (): every pair alike
    val_pairs: list[Pair]


def find_images(task: Task, sources: Sources, say: Callable[[str], Any] = print) -> Images:
    """The pairs to train on and those to validate on.

    A `val_dir` that is a test set is left alone, with a word to `say`, unless `val_on_test_set`.

    Raises:
        PairError: a folder does not hold what it should, or is a test set to train on; nothing to train on.
    """
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
    real = [find_pairs(folder) for folder in sources.train_dirs]
    sharp = [_photographs(folder) for folder in sources.sharp_dirs]
    if sources.val_dir and (sources.val_on_test_set or not task.is_test_set(sources.val_dir)):
        held, left = find_pairs(sources.val_dir), real + sharp
    else:
        if sources.val_dir:
            say(
                f"warning: TRAINING.VAL_DIR {sources.val_dir} is a test set; a checkpoint chosen on it has no honest "
                "test score. Validation images are split from the training set instead (TRAINING.VAL_ON_TEST_SET "
                "true: use it)."
            )
        # Real pairs alone are the better judges; synthetic ones stand in where there are none.
        judges = [pair for pairs in real or sharp for pair in pairs]
        _, held = split_by_scene(judges, sources.val_count, sources.val_seed)
        out = set(held)
        left = [[pair for pair in pairs if pair not in out] for pairs in real + sharp]
    for folder, pairs in zip(folders, left, strict=True):
        if sources.shares and not pairs:
            raise PairError(
                f"{folder}: all its images are held out for validation, but TRAINING.SHARES gives it a share; lower "
                "TRAINING.VAL_COUNT or name a validation folder in TRAINING.VAL_DIR"
            )
    return Images([pair for pairs in left for pair in pairs], tuple(map(len, left)), sources.shares, held)


def _photographs(folder: str) -> list[Pair]:
    if folder == SAMPLES:
        return [Pair(name, None, path) for name, path in photographs("train").items()]
    return find_photographs([folder])


def _folders(key: str, folders: Sequence[Any]) -> tuple[str, ...]:
    """The folders that `key` names, none of them twice."""
    seen: dict[Path | str, str] = {}
    for folder in folders:
        if not isinstance(folder, str) or not folder:
            raise ConfigError(f"{key}: expected names of folders, found {folder!r}")
        place = folder if folder == SAMPLES else Path(folder).resolve()
        if place in seen:
            raise ConfigError(
                f"{key} names {folder} twice ({seen[place]}); name it once, and give it a larger share in "
                "TRAINING.SHARES to look at its images more often"
            )
        seen[place] = folder
    return tuple(folders)


def _shares(shares: Sequence[Any], folders: Sequence[str]) -> tuple[float, ...]:
    good = all(isinstance(share, int | float) and not isinstance(share, bool) for share in shares)
    if not good or not all(0 < share < math.inf for share in shares) or len(shares) not in (0, len(folders)):
        raise ConfigError(
            f"TRAINING.SHARES {list(shares)}: expected one number above 0 for each of the {len(folders)} folders "
            f"{', '.join(map(str, folders))}, or [] to look at all images alike"
        )
    return tuple(map(float, shares))
