"""TRAINING.RAIN: which rain falls on the sharp photographs of a training."""
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


def rain(**keys: object) -> Task:
    opts = [str(word) for key, value in keys.items() for word in (f"TRAINING.RAIN.{key}", value)]
    return task_with_rain(load_config(DEFAULTS, None, opts))


def task(folder: Path | str = "", share: float = 0.5) -> Task:
    return rain(LAYERS=folder, LAYERED=share)


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


def test_by_default_it_is_the_rain_of_the_task() -> None:
    photograph = np.random.default_rng(0).integers(0, 256, (40, 40, 3)).astype(np.uint8)
    for seed in range(40):
        expected = TASK.degradation.apply(photograph, np.random.default_rng(seed))
        assert np.array_equal(rain().degradation.apply(photograph, np.random.default_rng(seed)), expected)


def test_kinds_have_their_shares() -> None:
    black = np.zeros((24, 24, 3), np.uint8)
    dry = rain(DRY=3, LIGHT=0, HEAVY=1, EDITED=0, RETOUCHED=0).degradation
    wet = [dry.apply(black, np.random.default_rng(seed)).any() for seed in range(200)]
    assert 0.17 < np.mean(wet) < 0.33
    photograph = np.full((24, 24, 3), 120, np.uint8)
    darker = rain(RETOUCHED=0).degradation  # the only kind that darkens
    assert all((darker.apply(photograph, np.random.default_rng(seed)) >= photograph).all() for seed in range(60))


def test_shares_that_are_none_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"TRAINING\.RAIN\.DRY -1: expected a number from 0"):
        rain(DRY=-1)
    with pytest.raises(ConfigError, match=r"TRAINING\.RAIN: DRY, LIGHT, .* are all 0: expected one above 0"):
        rain(**dict.fromkeys(["DRY", "LIGHT", "HEAVY", "EDITED", "RETOUCHED"], 0))


def test_a_wrong_share_or_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"TRAINING\.RAIN\.LAYERED 1\.5: expected a number from 0 to 1"):
        task(tmp_path, 1.5)
    with pytest.raises(PairError, match="holds no images"):
        task(tmp_path)
