"""The bundled samples: photographs that are there, split by name, degraded the same way every time."""
from pathlib import Path

import numpy as np
import pytest

from m3snet.utils.data.blur import BLUR
from m3snet.utils.data.pairs import check_pairs, find_pairs
from m3snet.utils.data.rain import RAIN
from m3snet.utils.data.samples import PHOTOGRAPHS, photographs, sample_pairs
from m3snet.utils.images import read_image
from m3snet.utils.scoring.metrics import psnr

both = pytest.mark.parametrize("degradation", [RAIN, BLUR], ids=lambda degradation: degradation.name)


def test_every_photograph_is_in_the_wheel_and_has_terms():
    train, test = photographs("train"), photographs("test")
    assert len(train) >= 5 and len(test) >= 3
    assert not set(train) & set(test)
    assert len(train) + len(test) == len(PHOTOGRAPHS)
    for path in [*train.values(), *test.values()]:
        assert min(read_image(path).shape[:2]) >= 256
    assert all(photograph.source and photograph.terms for photograph in PHOTOGRAPHS)


def test_a_missing_photograph_is_named(monkeypatch):
    monkeypatch.setattr(Path, "is_file", lambda path: path.name != "coffee.png")
    with pytest.raises(FileNotFoundError, match=r"coffee\.png.*pip install scikit-image"):
        photographs("test")


@both
def test_sample_pairs_are_a_data_set_like_any_other(degradation, tmp_path):
    pairs = find_pairs(sample_pairs(degradation, tmp_path / "a"))
    check_pairs(pairs)
    assert {pair.name for pair in pairs} == set(photographs("test"))
    for pair in pairs:
        degraded, target = read_image(pair.input), read_image(pair.target)
        assert target.shape[1] <= 512
        assert 18 <= psnr(degraded, target) <= 26


def test_sample_blur_is_without_noise():
    flat = np.full((64, 64, 3), 90, np.uint8)
    for seed in range(20):
        assert np.array_equal(BLUR.sample(flat, np.random.default_rng(seed)), flat)


@both
def test_sample_pairs_are_the_same_bytes_twice(degradation, tmp_path):
    folders = [sample_pairs(degradation, tmp_path / name) for name in "ab"]
    first, second = ({p.relative_to(f): p.read_bytes() for p in f.rglob("*.png")} for f in folders)
    assert first and first == second
