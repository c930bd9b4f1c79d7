"""What a training tells: the bar fits a terminal, tables and events are complete, what was lost is not told."""
from __future__ import annotations

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
from m3snet.utils.images import read_image
from m3snet.utils.training.curves import draw_curves, draw_rates
from m3snet.utils.training.log import METRICS, TrainingLog
from m3snet.utils.training.step import Stepping

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
    assert shown == [f"validation/{number}: degraded, restored, target" for number in range(2)]
    environment = json.loads((run / "environment.json").read_text())
    assert environment["packages"]["torch"] in torch.__version__
    assert (environment["processes"], environment["device"]) == (1, "cpu")


def test_rows_of_lost_steps_go(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Stepping.step

    def crash_in_the_fourth(self: Stepping, patch: Any) -> None:
        step(self, patch)
        if self.state.step == 4:
            self.state.whole = False  # so that only the epoch's checkpoint is there, which step 2 ended
            raise ZeroDivisionError

    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(Stepping, "step", crash_in_the_fourth)
        train(folder, tmp_path)
    run = tmp_path / "Deraining/run"
    assert [row["step"] for row in metrics(run)] == [1, 2, 3]
    train(folder, tmp_path)
    assert [row["step"] for row in metrics(run)] == list(range(1, 9))
    draw_curves(run)


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
        log = TrainingLog(tmp_path / "run", configuration(folder, tmp_path), 500_000, 100_000, ONE_PROCESS)
        for _ in range(5):
            with log.waiting():
                pass
            log.step(8999, -31.4159, 12.5, 1e-3)
        log.close()
        terminal.flush()
        frames = [frame for frame in re.split(r"[\r\n]", os.read(master, 100_000).decode()) if "dB" in frame]
    assert frames
    for frame in frames:
        text = frame.replace("\x1b[A", "").rstrip()
        assert len(text) <= 80
        assert re.match(r"8999: 50000\d/600000 31\.42 dB lr 1\.0e-03 [\d.]+/s wait \d+% [\d.]+G\|.*\| \S+ left$", text)


def test_curves_of_an_empty_run_and_of_a_long_one(tmp_path: Path) -> None:
    (tmp_path / "validation.csv").write_text("step,epoch,psnr\n")
    (tmp_path / "metrics.csv").write_text(",".join(METRICS) + "\n")
    empty = read_image(draw_curves(tmp_path))
    rows = [f"{step},1,{20 + step / 50},{1e-3 - step * 1e-6},{step % 7 + 1},1,0,1\n" for step in range(1, 500)]
    (tmp_path / "metrics.csv").write_text(",".join(METRICS) + "\n" + "".join(rows))
    (tmp_path / "validation.csv").write_text("step,epoch,psnr\n250,1,25\n499,2,30\n")
    full = read_image(draw_curves(tmp_path))
    assert (full != 255).sum() > 1.2 * (empty != 255).sum()
    rates = read_image(draw_rates([1.0, 2.0, 1.0], tmp_path / "new/rates.png"))
    assert rates.std() > 5


def test_weights_and_biases_is_asked_for_by_name(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match=r"TRAINING\.WANDB needs the package wandb: pip install wandb"):
        train(folder, tmp_path, TRAINING__WANDB="m3snet")
    calls: list[dict[str, Any]] = []
    ended = []
    fake = SimpleNamespace(
        init=lambda **keys: calls.append(keys) or SimpleNamespace(finish=lambda: ended.append(1)),
    )
    monkeypatch.setitem(sys.modules, "wandb", fake)
    step = Stepping.step

    def stop(self: Stepping, patch: Any) -> None:
        step(self, patch)
        if self.state.step == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(Stepping, "step", stop)
        train(folder, tmp_path, TRAINING__WANDB="m3snet")
    train(folder, tmp_path, TRAINING__WANDB="m3snet")
    first, second = (call["id"] for call in calls)
    assert first == second  # a resumed training goes on with its run
    assert re.fullmatch(r"[0-9a-f]{8}", first)
    assert calls[0]["project"] == "m3snet"
    assert calls[0]["sync_tensorboard"]
    assert calls[0]["config"]["OPTIM"]["BATCH_SIZE"] == 4
    assert len(ended) == 2
