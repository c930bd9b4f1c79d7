"""Where the processes of a training run, and that what fails in one fails in all."""
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from m3snet.tests.runs import configuration, torchrun
from m3snet.utils.config import ConfigError
from m3snet.utils.training import processes
from m3snet.utils.training.processes import choose_devices, in_all_processes, start_accelerator

pytestmark = pytest.mark.usefixtures("fresh_process")


def devices(monkeypatch: pytest.MonkeyPatch, present: int) -> None:
    """As many CUDA devices as CUDA would see of those that are present."""

    def count() -> int:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        return present if visible is None else min(present, len([name for name in visible.split(",") if name]))

    monkeypatch.setattr(torch.cuda, "device_count", count)


@pytest.mark.parametrize(
    ("outer", "numbers", "expected"),
    [
        (None, [0], "0"),
        (None, [3, 5], "3,5"),
        (None, [0, 1, 9], "0,1"),  # the published recipe's two, on a machine with one, say
        (None, [], None),
        ("2,3", [0], "2"),
        ("2,3", [1], "3"),
        ("2,3", [0, 1], "2,3"),
        ("2,3", [1, 3], "3"),
        ("2,3", [], "2,3"),
        ("GPU-8f6a,GPU-91bc", [1], "GPU-91bc"),
        ("MIG-4", [0, 1], "MIG-4"),
        ("", [0], ""),
    ],
)
def test_gpu_narrows_what_may_be_seen(
    outer: str | None, numbers: list[int], expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices(monkeypatch, 8)
    if outer is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", outer)
    choose_devices(numbers)
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == expected


@pytest.mark.parametrize(("outer", "numbers"), [("2,3", [3]), ("2,3", [2, 5]), (None, [8]), (None, [-1])])
def test_gpu_names_none_that_is_there(
    outer: str | None, numbers: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    devices(monkeypatch, 8)
    if outer is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", outer)
    with pytest.raises(ConfigError, match=r"^GPU \[.*\]: there are [28] CUDA devices.*numbered from 0; .* GPU '\[\]'"):
        choose_devices(numbers)
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == outer


def test_without_cuda_gpu_has_no_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    devices(monkeypatch, 0)
    choose_devices([0, 1])
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_several_gpus_under_plain_python_print_the_torchrun_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Two:
        device, num_processes, scaler, print = torch.device("cuda"), 1, None, staticmethod(print)

    monkeypatch.setattr(processes, "Accelerator", lambda **_: Two())
    devices(monkeypatch, 6)
    start_accelerator(configuration(folder, tmp_path, GPU="[3, 5]"))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3,5"
    assert "torchrun --nproc_per_node 2 " in capsys.readouterr().out


def test_more_processes_than_visible_gpus_are_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices(monkeypatch, 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    with pytest.raises(ConfigError, match=r"started 8 processes .* only 1 CUDA devices .* --opts GPU '\[\]'"):
        start_accelerator(configuration(folder, tmp_path, GPU="[0]"))


def test_alone_it_is_what_the_work_gives() -> None:
    assert in_all_processes(lambda: 7) == [7]
    with pytest.raises(ZeroDivisionError):
        in_all_processes(lambda: 1 // 0)


PROGRAM = """
import accelerate
from pathlib import Path
from m3snet.utils.training.build import TrainingError
from m3snet.utils.training.processes import in_all_processes

state = accelerate.PartialState(cpu=True)
said = ""
def work(failure):
    if state.process_index == 1:
        raise failure
    return state.process_index
for failure in (MemoryError("no room"), TrainingError("not finite")):
    try:
        in_all_processes(lambda: work(failure))
    except Exception as error:
        said += f"{type(error).__name__}: {error}, "
said += str(in_all_processes(lambda: state.process_index))
Path(__file__).with_name(f"{state.process_index}.txt").write_text(said)
state.destroy_process_group()
"""


def test_an_error_in_one_process_is_an_error_in_all(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, *torchrun(), str(tmp_path / "program.py")]
    subprocess.run(command, check=True, timeout=100)
    there = "UserError: process 1 failed: no room, TrainingError: process 1 failed: not finite, [0, 1]"
    assert (tmp_path / "0.txt").read_text() == there  # what a training does about an error depends on its kind
    assert (tmp_path / "1.txt").read_text() == "MemoryError: no room, TrainingError: not finite, [0, 1]"
