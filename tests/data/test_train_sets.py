"""The images of a training: several folders with a share each, no folder twice, no test set unasked."""
from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms
from torch.utils.data import DataLoader

import m3snet.Deblurring.config
import m3snet.Deblurring.dataset
import m3snet.Deraining.dataset
from m3snet.Deraining.config import DEFAULTS
from m3snet.Deraining.dataset import TASK
from m3snet.utils.config import ConfigError, load_config
from m3snet.utils.data.pairs import PairError
from m3snet.utils.data.patches import PatchBatches, Process
from m3snet.utils.data.train_sets import Sources, TrainSet, make_train_set
from m3snet.utils.images import read_image

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def two(folder: Path) -> list[Path]:
    """Two folders of pairs: nine, and three that are copies of some of the nine under other names."""
    for number in range(3):
        for side in ("input", "target"):
            place = folder.with_name("more") / side / f"more-{number}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / side / f"{2 * number}.png", place)
    return [folder, folder.with_name("more")]


def sources(**keys: Any) -> Sources:
    words = [str(word) for key, value in keys.items() for word in (f"TRAINING.{key}", value)]
    return Sources.of(load_config(DEFAULTS, None, words).TRAINING)


def find(**keys: Any) -> TrainSet:
    return make_train_set(TASK, sources(**keys))


def test_one_folder_or_several(two: list[Path]) -> None:
    one = find(TRAIN_DIR=two[0], VAL_COUNT=2)
    assert (len(one.patches.pairs), one.lengths, one.shares, len(one.validation)) == (7, (7,), (), 2)
    again = find(TRAIN_DIR=[str(two[0])], VAL_COUNT=2)
    assert (again.patches.pairs, again.validation.pairs) == (one.patches.pairs, one.validation.pairs)
    both = find(TRAIN_DIR=[str(folder) for folder in two], VAL_COUNT=0, SHARES=[3, 1])
    assert (both.lengths, both.shares) == ((9, 3), (3.0, 1.0))
    assert [pair.name for pair in both.patches.pairs] == [*map(str, range(9)), "more-0", "more-1", "more-2"]


def test_a_scene_is_held_out_of_all_folders(two: list[Path]) -> None:
    for seed in range(4):
        found = find(TRAIN_DIR=[str(folder) for folder in two], VAL_COUNT=4, VAL_SEED=seed)
        held = {pair.name for pair in found.validation.pairs}
        assert {name.removeprefix("more-") for name in held} <= {str(i) for i in range(9)}
        assert all((f"more-{i}" in held) == (str(2 * i) in held) for i in range(3))
        assert sum(found.lengths) == len(found.patches.pairs) == 12 - len(held)
        assert found.lengths[1] == 3 - sum(name.startswith("more") for name in held)


def test_photographs_follow_the_pairs_and_are_not_held_out(two: list[Path]) -> None:
    found = find(TRAIN_DIR=two[0], SHARP_DIRS=[f"{two[1]}/target", "samples"], VAL_COUNT=3, SHARES=[2, 1, 1])
    assert found.lengths == (6, 3, 7)
    assert [pair.input is None for pair in found.patches.pairs] == 6 * [False] + 10 * [True]
    assert all(pair.input for pair in found.validation.pairs)


@pytest.mark.parametrize("cache", ["none", "ram", "disk"])
def test_what_is_converted_is_said(cache: str, folder: Path, tmp_path: Path) -> None:
    """Also by a second training, which finds the images in the cache."""
    path = folder / "input/3.png"
    right = read_image(path)
    with Image.open(ROOT / "tests/cases/photo-display-p3.jpg") as picture:
        p3 = picture.info["icc_profile"]
    srgb = ImageCms.createProfile("sRGB")
    in_p3 = ImageCms.profileToProfile(Image.fromarray(right), srgb, ImageCms.ImageCmsProfile(io.BytesIO(p3)))
    assert in_p3 is not None
    in_p3.save(path, icc_profile=p3)
    for _ in range(2):
        lines: list[str] = []
        keys = sources(TRAIN_DIR=folder, VAL_COUNT=2, CACHE=cache, CACHE_DIR=tmp_path / "cache")
        found = make_train_set(TASK, keys, log=lines.append)
        assert lines[1] == "images converted as they were read: Display P3 converted to sRGB: 1 of 18"
        assert np.abs(found.patches.read(path).astype(int) - right).max() <= 3  # as the target, whose colours are sRGB


def test_a_folder_named_twice_is_refused(two: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"TRAINING\.TRAIN_DIR names .*pairs/ twice.*TRAINING\.SHARES"):
        sources(TRAIN_DIR=[str(two[0]), f"{two[0]}/"])
    monkeypatch.chdir(two[0])
    with pytest.raises(ConfigError, match=r"TRAINING\.SHARP_DIRS names \./target twice"):
        sources(SHARP_DIRS=[str(two[0] / "target"), "./target"])
    with pytest.raises(ConfigError, match=r"TRAINING\.SHARP_DIRS names samples twice"):
        sources(SHARP_DIRS=["samples", "samples"])
    assert sources(TRAIN_DIR=two[0], SHARP_DIRS=[str(two[0])]).sharp_dirs  # pairs and photographs may lie together


@pytest.mark.parametrize("shares", ["[1]", "[1,2,3]", "[1,0]", "[1,-1]", "[1,'a']", "[1,True]", "[1,1e999]"])
def test_shares_are_one_number_for_each_folder(shares: str) -> None:
    with pytest.raises(ConfigError, match=r"TRAINING\.SHARES .*: expected (one number|a list, each a number) above 0"):
        sources(TRAIN_DIR="a", SHARP_DIRS="b", SHARES=shares)


def test_there_must_be_a_folder() -> None:
    with pytest.raises(PairError, match=r"no training data: set TRAINING\.TRAIN_DIR"):
        find()


def test_a_folder_with_a_share_keeps_an_image(two: list[Path]) -> None:
    with pytest.raises(PairError, match=r"more: all its images are held out.*VAL_COUNT"):
        find(TRAIN_DIR=[str(folder) for folder in two], VAL_COUNT=11, SHARES=[1, 1])


@pytest.mark.parametrize("key", ["TRAIN_DIR", "SHARP_DIRS"])
def test_a_test_set_is_not_trained_on_unless_asked(key: str, folder: Path, tmp_path: Path) -> None:
    test_set = tmp_path / "Rain13K/test/Rain100L"
    test_set.parent.mkdir(parents=True)
    folder.rename(test_set)
    named = test_set if key == "TRAIN_DIR" else test_set / "target"
    with pytest.raises(PairError, match=r"Rain100L.* is a test set: .*TRAINING\.TRAIN_ON_TEST_SET true"):
        find(**{key: named})
    assert find(**{key: named, "VAL_COUNT": 2, "TRAIN_ON_TEST_SET": "true"}).lengths == (7,)


@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_each_image_is_decoded_once(
    kind: str, two: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode, count = cv2.imdecode, []
    monkeypatch.setattr(cv2, "imdecode", lambda *args: count.append(1) or decode(*args))
    keys = {"TRAIN_DIR": [str(folder) for folder in two], "CACHE": kind, "CACHE_DIR": tmp_path / "cache"}
    found = find(**keys, VAL_COUNT=3, TRAIN_PS=16)
    assert len(count) == 24
    for index in range(2 * len(found.patches)):
        assert found.patches[1, index].target.shape == (16, 16, 3)
    for degraded, target in found.validation:
        assert degraded.shape == target.shape
    assert len(count) == 24
    again = find(**keys, VAL_COUNT=3)
    assert len(count) == (24 if kind == "disk" else 48)
    assert (again.patches.pairs, again.validation.pairs) == (found.patches.pairs, found.validation.pairs)


def test_broken_images_are_listed_together_whatever_reads_them(two: list[Path], tmp_path: Path) -> None:
    (two[0] / "input/3.png").write_bytes(b"")
    (two[1] / "target/more-1.png").write_bytes(b"no image")
    for kind in ("none", "ram", "disk"):
        with pytest.raises(PairError, match=r"2 file\(s\) cannot be used:\n.*3\.png.*\n.*more-1\.png"):
            find(TRAIN_DIR=[str(folder) for folder in two], CACHE=kind, CACHE_DIR=tmp_path / "cache")


def test_every_process_finds_the_same(two: list[Path], tmp_path: Path) -> None:
    keys = {"TRAIN_DIR": [str(folder) for folder in two], "VAL_COUNT": 3, "CACHE": "disk", "CACHE_DIR": tmp_path / "c"}
    first, second = (make_train_set(TASK, sources(**keys), Process(rank, 2)) for rank in range(2))
    assert (first.patches.pairs, first.validation.pairs) == (second.patches.pairs, second.validation.pairs)


def test_what_is_held_out_follows_val_seed_alone(two: list[Path]) -> None:
    def held_out(**seeds: int) -> list[str]:
        found = find(SHARP_DIRS=f"{two[0]}/target", VAL_COUNT=2, VAL_PS=32, **seeds)
        assert found.validation.seed == seeds.get("VAL_SEED", 1234) and found.patches.seed == seeds.get("SEED", 1234)
        names = [pair.name for pair in found.validation.pairs]
        return [f"{name} {degraded.sum()}" for name, (degraded, _) in zip(names, found.validation, strict=True)]

    held = held_out(SEED=7)
    assert held == held_out(SEED=8)
    others = [held_out(VAL_SEED=seed) for seed in range(5)]
    assert len({name.split()[0] for names in others for name in names}) > 2
    assert all(names != held for names in others)


def test_a_validation_folder(two: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    found = find(TRAIN_DIR=two[0], VAL_DIR=two[1], VAL_PS=16)
    assert (found.lengths, len(found.validation)) == ((9,), 3)
    assert "checking 12 images\n9 training images, 3 for validation" in capsys.readouterr().out


@pytest.mark.parametrize("module", [m3snet.Deraining.dataset, m3snet.Deblurring.dataset])
def test_a_task_gives_its_train_set_ready_for_a_loader(module: Any) -> None:
    name = module.TASK.name
    defaults = m3snet.Deblurring.config.DEFAULTS if name == "Deblurring" else DEFAULTS
    found = module.make_train_set(load_config(defaults, ROOT / name / "configs/quickstart.yml"))
    batches = PatchBatches(found.order(batch_size=8), epochs=range(1, 3))
    shapes = [patch.degraded.shape for patch in DataLoader(found.patches, batch_sampler=batches)]
    assert shapes == [(8, 64, 64, 3)] * 2
