"""TRAINING.RAIN_LAYERS: real rain on the sharp photographs of a training."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from m3snet.Deraining.config import DEFAULTS
from m3snet.Deraining.dataset import TASK, task_with_rain
from m3snet.utils.config import ConfigError, load_config
from m3snet.utils.data.pairs import PairError
from m3snet.utils.images import write_image
from m3snet.utils.tasks import Task


def task(folder: Path | str = "", share: float = 0.5) -> Task:
    opts = ["TRAINING.RAIN_LAYERS", str(folder), "TRAINING.RAIN_LAYERS_SHARE", str(share)]
    return task_with_rain(load_config(DEFAULTS, None, opts))


def test_the_layers_rain_on_their_share(tmp_path: Path) -> None:
    for level in (50, 60):
        write_image(tmp_path / f"{level}.png", np.full((64, 64, 3), level, np.uint8))
    black = np.zeros((32, 32, 3), np.uint8)
    made = task(tmp_path, 1)
    seen = {int(made.degradation.apply(black, np.random.default_rng(seed)).max()) for seed in range(60)}
    assert {50, 60} <= seen and max(seen) == 60
    assert made.degradation.sample is TASK.degradation.sample  # the bundled samples stay the same
    none = task(tmp_path, 0)
    for seed in range(5):
        rng = np.random.default_rng(seed)
        rng.random()  # what decides about the share
        drawn = TASK.degradation.apply(black, rng)
        assert np.array_equal(none.degradation.apply(black, np.random.default_rng(seed)), drawn)


def test_no_folder_is_the_rain_that_is_drawn() -> None:
    assert task() is TASK


def test_a_wrong_share_or_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"RAIN_LAYERS_SHARE 1\.5: expected a share"):
        task(tmp_path, 1.5)
    with pytest.raises(PairError, match="holds no images"):
        task(tmp_path)
