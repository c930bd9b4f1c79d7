"""The deblurring sets: benchmarks, how each is scored and what the paper reports; the images that are trained on."""
from __future__ import annotations

from pathlib import Path

from yacs.config import CfgNode

from ..utils.data import train_sets
from ..utils.data.blur import BLUR
from ..utils.scoring.test_sets import SAMPLES, TestSet, find_test_sets
from ..utils.tasks import Benchmark, Task, TrainingSet

TASK = Task(
    name="Deblurring",
    degradation=BLUR,
    protocol="rgb",
    weights="deblur",
    test_sets={
        "GoPro": Benchmark(
            "GoPro/test", "rgb", {"M3SNet-32": (32.91, 0.965), "M3SNet-64": (33.74, 0.967)}, images=(1111,)
        ),
        "HIDE": Benchmark(
            "HIDE/test", "rgb", {"M3SNet-32": (30.92, 0.948), "M3SNet-64": (31.49, 0.951)}, images=(2025,)
        ),
        "RealBlur-J": Benchmark("RealBlur_J/test", "aligned", {}, images=(980,)),
        "RealBlur-R": Benchmark("RealBlur_R/test", "aligned", {}, images=(980,)),
        "REDS320": Benchmark("REDS320/test", "rgb", {}),
    },
    train_sets={
        "GoPro": TrainingSet("GoPro/train", images=(2103,)),
        "RealBlur-J": TrainingSet("RealBlur_J/train", images=(3758,)),
        "RealBlur-R": TrainingSet("RealBlur_R/train", images=(3758,)),
    },
)


def make_train_set(config: CfgNode) -> train_sets.TrainSet:
    """The patches to train on and to validate on that the TRAINING keys name, ready for a DataLoader.

    data = make_train_set(load_config(DEFAULTS, "Deblurring/configs/quickstart.yml"))
    batches = PatchBatches(data.order(batch_size=8), epochs=range(1, 101))
    loader = DataLoader(data.patches, batch_sampler=batches, num_workers=4)
    """
    return train_sets.make_train_set(TASK, train_sets.Sources.of(config.TRAINING))


def make_test_sets(config: CfgNode) -> list[TestSet]:
    """The sets that DATA.ROOT and TEST.DATASETS name; the bundled samples, if it comes to them, go to results/samples.

    Raises:
        ConfigError, PairError: see `find_test_sets`.
    """
    return find_test_sets(TASK, Path(config.DATA.ROOT), config.TEST.DATASETS, Path("results") / SAMPLES)
