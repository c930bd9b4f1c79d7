"""What is a test set, by its path: a checkpoint chosen on one has no honest score, a user's own folder is none."""
from __future__ import annotations

from pathlib import Path

import pytest

import m3snet.Deblurring.dataset
import m3snet.Deraining.dataset
from m3snet.utils.tasks import Task

BLUR, RAIN = m3snet.Deblurring.dataset.TASK, m3snet.Deraining.dataset.TASK


@pytest.mark.parametrize(
    ("task", "folder"),
    [
        *((task, benchmark.folder) for task in (BLUR, RAIN) for benchmark in task.test_sets.values()),
        (BLUR, "/data/GoPro/test"),
        (BLUR, "Datasets/GoPro/test/"),
        (BLUR, "Datasets/GoPro/test/input"),
        (BLUR, "/home/me/val/gopro/TEST"),
        (BLUR, "Datasets/GoPro/test/GOPR0384_11_00"),
        (BLUR, "Datasets/GoPro/test/GOPR0384_11_00/blur"),
        (BLUR, "/data/HIDE"),
        (BLUR, "/data/HIDE_test"),
        (BLUR, "/data/test-hide/target"),
        (BLUR, "/data/RealBlur_J"),
        (BLUR, "/data/RealBlur-J/test"),
        (BLUR, "/data/realblurr_test"),
        (BLUR, "/data/GoPro/train/../test"),
        (RAIN, "./Datasets/test/Rain100L"),
        (RAIN, "/train/Rain100H/input"),
        (RAIN, "Datasets/Rain13K/test"),
        (RAIN, "Datasets/Rain13K/test/Rain12"),
        (RAIN, "/data/test100"),
    ],
)
def test_the_benchmarks_folders_are_test_sets(task: Task, folder: str) -> None:
    assert task.is_test_set(folder)
    assert task.is_test_set(Path(folder))


@pytest.mark.parametrize(
    ("task", "folder"),
    [
        *((task, train.folder) for task in (BLUR, RAIN) for train in task.train_sets.values()),
        (BLUR, "/home/test/mydata/val"),
        (BLUR, "/home/me/mydata/test"),
        (BLUR, "/test"),
        (BLUR, "/"),
        (BLUR, "Datasets/GoPro/val"),
        (BLUR, "Datasets/GoPro/train/input"),
        (BLUR, "Datasets/GoPro/train_512"),
        (BLUR, "/data/GoPro_val"),
        (BLUR, "/data/HIDE_test/val"),
        (BLUR, "/home/me/GoPro/test/mine/val"),
        (BLUR, "/data/GoPro/mine"),
        (BLUR, "/data/hideout"),
        (RAIN, "Datasets/Rain100L/train"),
        (RAIN, "Datasets/Rain13K/validate"),
        (RAIN, "Datasets/Rain100/test"),
        (RAIN, "my_pairs"),
    ],
)
def test_other_folders_are_not(task: Task, folder: str) -> None:
    assert not task.is_test_set(folder)


def test_a_relative_folder_is_known_by_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for parent, expected in (("GoPro", True), ("mydata", False)):
        (tmp_path / parent).mkdir()
        monkeypatch.chdir(tmp_path / parent)
        assert BLUR.is_test_set("test") is expected
