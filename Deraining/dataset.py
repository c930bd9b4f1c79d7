"""The deraining sets: benchmarks, how each is scored and what the paper reports; the images that are trained on."""
from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from yacs.config import CfgNode

from ..utils.config import ConfigError
from ..utils.data import train_sets
from ..utils.data.pairs import find_photographs
from ..utils.data.rain import RAIN, SHARES, Rainfall
from ..utils.images import read_image
from ..utils.scoring.test_sets import SAMPLES, TestSet, find_test_sets
from ..utils.tasks import Benchmark, Task, TrainingSet

TASK = Task(
    name="Deraining",
    degradation=RAIN,
    protocol="y",
    weights="derain",
    test_sets={
        # Of Test100's 100 images MSPFN scored 98, and most papers after it.
        "Test100": Benchmark(
            "Rain13K/test/Test100", "y", {"M3SNet-32": (31.29, 0.903), "M3SNet-64": (31.25, 0.901)}, images=(98, 100)
        ),
        "Rain100H": Benchmark(
            "Rain13K/test/Rain100H", "y", {"M3SNet-32": (30.64, 0.892), "M3SNet-64": (30.54, 0.889)}, images=(100,)
        ),
        "Rain100L": Benchmark(
            "Rain13K/test/Rain100L", "y", {"M3SNet-32": (39.62, 0.984), "M3SNet-64": (40.04, 0.985)}, images=(100,)
        ),
        "Test1200": Benchmark(
            "Rain13K/test/Test1200", "y", {"M3SNet-32": (33.46, 0.924), "M3SNet-64": (33.52, 0.925)}, images=(1200,)
        ),
        "Test2800": Benchmark("Rain13K/test/Test2800", "y", {}, images=(2800,)),
    },
    train_sets={
        # 13,712 in the papers; the archive that is handed round lacks one image whose size was wrong.
        "Rain13K": TrainingSet("Rain13K/train", images=(13712, 13711)),
    },
)


def task_with_rain(config: CfgNode) -> Task:
    """The task, with the rain that the keys TRAINING.RAIN ask for.

    Raises:
        ConfigError: no kind of rain has a share.
        PairError, ImageError: the folder of layers holds no images, or one that cannot be read.
    """
    rain = config.TRAINING.RAIN
    shares = {kind: rain[kind.upper()] for kind in SHARES}
    total = sum(shares.values())
    if not total:
        raise ConfigError(f"TRAINING.RAIN: {', '.join(shares).upper()} are all 0: expected one above 0")
    if shares != SHARES:  # dividing those by their sum could change them in the last digit
        shares = {kind: share / total for kind, share in shares.items()}
    layers = [read_image(layer.target)[..., 0] for layer in find_photographs([rain.LAYERS])] if rain.LAYERS else []
    return replace(TASK, degradation=replace(RAIN, apply=Rainfall(shares, layers, rain.LAYERED, rain.VEILED)))


def make_train_set(config: CfgNode) -> train_sets.TrainSet:
    """The patches to train on and to validate on that the TRAINING keys name, ready for a DataLoader.

    data = make_train_set(load_config(DEFAULTS, "Deraining/configs/quickstart.yml"))
    batches = PatchBatches(data.order(batch_size=8), epochs=range(1, 101))
    loader = DataLoader(data.patches, batch_sampler=batches, num_workers=4)
    """
    return train_sets.make_train_set(task_with_rain(config), train_sets.Sources.of(config.TRAINING))


def make_test_sets(config: CfgNode) -> list[TestSet]:
    """The sets that DATA.ROOT and TEST.DATASETS name; the bundled samples, if it comes to them, go to results/samples.

    Raises:
        ConfigError, PairError: see `find_test_sets`.
    """
    return find_test_sets(TASK, Path(config.DATA.ROOT), config.TEST.DATASETS, Path("results") / SAMPLES)
