"""What a training tells: the bar fits a terminal, tables and events are complete, what was lost is not told."""
from __future__ import annotations

import contextlib
import csv
import json
import os
import re
import signal
import struct
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from m3snet.tests.runs import configuration, metrics, train
from m3snet.utils.config import ConfigError
from m3snet.utils.training.log import METRICS, TrainingLog, open_table
from m3snet.utils.training.step import TrainStep

pytestmark = pytest.mark.usefixtures("fresh_process")

ONE_PROCESS: Any = SimpleNamespace(is_main_process=True, num_processes=1, device=torch.device("cpu"))


def test_tensorboard_holds_what_the_tables_hold(folder: Path, tmp_path: Path) -> None:
    run = train(folder, tmp_path, OPTIM__NUM_EPOCHS=2)
    board = EventAccumulator(str(run / "tensorboard"))
    board.Reload()
    rows = metrics(run)
    for name in METRICS[2:]:
        events = board.Scalars(f"train/{name}")
        assert [event.step for event in events] == [row["step"] for row in rows] == [1, 2, 3, 4]
        assert [event.value for event in events] == pytest.approx([row[name] for row in rows], rel=1e-6)
    (validation,) = board.Scalars("validation/psnr")
    with (run / "validation.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (validation.step, validation.value) == (4, pytest.approx(float(row["psnr"])))
    shown = board.Tags()["images"]
    assert shown == [f"validation/{number} (degraded, restored, target)" for number in range(2)]
    environment = json.loads((run / "environment.json").read_text())
    assert environment["packages"]["torch"] in torch.__version__
    assert (environment["processes"], environment["device"]) == (1, "cpu")


def test_rows_of_lost_steps_go(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    take = TrainStep.__call__

    def crash_in_the_fourth(self: TrainStep, patch: Any) -> None:
        take(self, patch)
        if self.state.step == 4:
            self.state.whole = False  # so that only the epoch's checkpoint is there, which step 2 ended
            raise ZeroDivisionError

    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(TrainStep, "__call__", crash_in_the_fourth)
        train(folder, tmp_path)
    run = tmp_path / "Deraining/run"
    assert [row["step"] for row in metrics(run)] == [1, 2, 3]
    train(folder, tmp_path)
    assert [row["step"] for row in metrics(run)] == list(range(1, 9))


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_the_bar_fits_80_columns(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl
    import pty
    import termios

    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with os.fdopen(slave, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        clock = iter(range(0, 1_000_000, 2))
        monkeypatch.setattr("time.perf_counter", lambda: float(next(clock)))
        log = TrainingLog(tmp_path / "run", configuration(folder, tmp_path), ONE_PROCESS)
        log.start(500_000, 100_000)
        for _ in range(5):
            with log.waiting():
                pass
            log.step(8999, -31.4159, 12.5, 1e-3)
        log.close()
    shown = b""
    with contextlib.suppress(OSError):  # what Linux says at the end
        while piece := os.read(master, 100_000):
            shown += piece
    frames = [frame for frame in re.split(r"[\r\n]", shown.decode()) if "dB" in frame]
    assert frames
    for frame in frames:
        text = frame.replace("\x1b[A", "").rstrip()
        assert len(text) <= 80
        assert re.match(r"8999: 50000\d/600000 31\.42 dB lr 1\.0e-03 [\d.]+/s wait \d+% [\d.]+G\|.*\| \S+ left$", text)


def test_rows_of_others_do_not_end_a_run_and_stay(folder: Path, tmp_path: Path) -> None:
    run = train(folder, tmp_path, OPTIM__NUM_EPOCHS=2)
    for name in ("metrics.csv", "validation.csv"):
        rows = (run / name).read_bytes().splitlines(keepends=True)
        del rows[1]
        rows.insert(1, b"# new lens from here, \xff\n")
        rows.append(b"9" * 5000 + b",2\n")
        rows.append(b"4,2,1")  # the process was killed while it wrote
        (run / name).write_bytes(b"".join(rows))
    train(folder, tmp_path, OPTIM__NUM_EPOCHS=3)
    rows = (run / "metrics.csv").read_bytes().splitlines()
    assert [row.partition(b",")[0] for row in rows] == [
        b"step",
        b"# new lens from here",
        *(b"%d" % step for step in (2, 3, 4)),
        b"9" * 5000,
        b"5",
        b"6",
    ]
    assert b"# new lens from here, \xff" in rows


def test_a_table_is_whole_at_every_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,psnr\n1,20\n2,21\n3,22\n")
    with monkeypatch.context() as patch:  # killed as the new table gets its name
        patch.setattr(Path, "replace", lambda self, target: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            open_table(path, ("step", "psnr"), 2)
    assert path.read_text() == "step,psnr\n1,20\n2,21\n3,22\n"
    with open_table(path, ("step", "psnr"), 2) as table:
        table.write("3,23\n")
    assert path.read_text() == "step,psnr\n1,20\n2,21\n3,23\n"


def test_the_log_has_all_that_is_printed(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(folder, tmp_path, OPTIM__NUM_EPOCHS=2)
    lines = [line.split(" ", 2)[2] for line in (run / "train.log").read_text().splitlines()]
    assert lines == capsys.readouterr().out.splitlines()
    assert "7 training images, 2 for validation" in lines


def test_a_name_that_is_not_utf_8_does_not_end_a_run(folder: Path, tmp_path: Path) -> None:
    log = TrainingLog(tmp_path / "run", configuration(folder, tmp_path), ONE_PROCESS)
    log._file.write("pairs/input: 1 file(s) left out: \udcff.txt\n")
    log._file.flush()
    assert (tmp_path / "run/train.log").read_text().endswith("left out: \\udcff.txt\n")


def test_weights_and_biases_is_asked_for_by_name(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match=r"TRAINING\.WANDB needs the package wandb: pip install wandb"):
        train(folder, tmp_path, TRAINING__WANDB="m3snet")
    calls: list[dict[str, Any]] = []
    logged: list[tuple[int, dict[str, Any]]] = []
    ended = []
    run = SimpleNamespace(log=lambda values, step: logged.append((step, values)), finish=lambda: ended.append(1))
    fake = SimpleNamespace(init=lambda **keys: calls.append(keys) or run, Image=lambda image: image.shape)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    take = TrainStep.__call__

    def stop(self: TrainStep, patch: Any) -> None:
        take(self, patch)
        if self.state.step == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(TrainStep, "__call__", stop)
        train(folder, tmp_path, TRAINING__WANDB="m3snet")
    train(folder, tmp_path, TRAINING__WANDB="m3snet", OPTIM__NUM_EPOCHS=2)
    first, second = (call["id"] for call in calls)
    assert first == second  # a resumed training goes on with its run
    assert re.fullmatch(r"[0-9a-f]{8}", first)
    assert calls[0]["project"] == "m3snet"
    assert calls[0]["config"]["OPTIM"]["BATCH_SIZE"] == 4
    assert [step for step, values in logged if "train/psnr" in values] == [1, 2, 3, 4]
    assert [values["validation/psnr"] for _, values in logged if "validation/psnr" in values]
    assert logged[-1] == (4, {"validation/1 (degraded, restored, target)": [(24, 104, 3)]})  # 2 pixels around each
    assert len(ended) == 2
