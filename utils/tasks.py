"""What a task is: the few facts in which deblurring and deraining differ."""
from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

DATA_ROOT = "Datasets"  # where data sets lie unless told otherwise

Degrade = Callable[[np.ndarray, np.random.Generator], np.ndarray]  # H x W x 3 uint8 RGB, and the same comes back


@dataclass(frozen=True)
class Degradation:
    """What a task undoes, made on sharp photographs by pure functions of the photograph and a random generator."""

    name: str  # as people say it on the command line: rain, blur
    apply: Degrade  # for training: any kind, any strength
    margin: int  # pixels around a patch that shape what is inside it: a crop is degraded that much larger, then trimmed
    sample: Degrade  # for the bundled samples
    visible: tuple[float, float]  # dB of a degraded sample: plainly visible, and yet not hopeless


@dataclass(frozen=True)
class Benchmark:
    """One benchmark: where it lies below DATA.ROOT, how it is scored, and what the paper reports."""

    folder: str  # holds input/ and target/
    protocol: str  # a key of utils.scoring.metrics.PROTOCOLS
    paper: Mapping[str, tuple[float, float]]  # network size -> (PSNR, SSIM)
    images: tuple[int, ...] = ()  # how many pairs the published set has, every count in use; (): none is published


@dataclass(frozen=True)
class TrainingSet:
    """One training set: where it lies below DATA.ROOT, and how many pairs the published one has."""

    folder: str  # holds input/ and target/
    images: tuple[int, ...] = ()  # as in Benchmark


@dataclass(frozen=True)
class Task:
    """A restoration task, as the training and evaluation programs need to know it."""

    name: str  # MODEL.MODE: Deblurring or Deraining
    degradation: Degradation  # for sharp photographs without a degraded partner
    protocol: str  # how validation images are scored
    weights: str  # the released weights that test.py uses unless told otherwise
    test_sets: Mapping[str, Benchmark]
    train_sets: Mapping[str, TrainingSet] = field(default_factory=dict)

    def is_test_set(self, folder: str | Path) -> bool:
        """Whether a folder holds test images of a known benchmark, as far as its path tells; it need not exist.

        It does when it lies where docs/data.md puts them (GoPro/test, Rain13K/test/NAME), or is called after a set
        (Rain100L, RealBlur-J, HIDE_test), which may be followed by test, input or target. Folders of train or val
        images below do not, nor does any other folder called test: it is somebody's own.
        """
        # Absolute, for "test" alone may be GoPro/test; links are not followed, for they bear the name.
        path = Path(os.path.abspath(folder)).as_posix().lower()  # noqa: PTH100
        path = re.sub(r"(/(input|target|blur|sharp))?/?$", "", path)
        folders = {PurePosixPath(benchmark.folder.lower()) for benchmark in self.test_sets.values()}
        for place in folders | {place.parent for place in folders if len(place.parts) > 2}:  # Rain13K/test itself too
            _, found, below = f"{path}/".partition(f"/{place}/")
            if found:
                return not re.search(r"(^|/)(train|val)", below)
        last = re.sub(r"[-_ ]", "", PurePosixPath(path.removesuffix("/test")).name)
        names = (re.sub(r"[-_ ]", "", name.lower()) for name in self.test_sets)
        return any(last in (name, f"test{name}", f"{name}test") for name in names)
