"""One training in a folder at a time; a lock ends with its process."""
from __future__ import annotations

import os
import platform
import signal
from pathlib import Path

import pytest

from m3snet.tests.runs import start, train
from m3snet.utils.training import session
from m3snet.utils.training.session import SessionError

pytestmark = pytest.mark.usefixtures("fresh_process")


def test_two_trainings_of_one_session(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "WAIT", 0.1)
    program = start(folder, tmp_path, OPTIM__NUM_EPOCHS=2, TRAINING__EPOCH_STEPS=500)
    assert program.stdout is not None
    for line in program.stdout:
        if line.startswith("step 2"):
            break
    run = tmp_path / "Deraining/run"
    whose = rf"another training runs there, process {program.pid} on {platform.node()}, since \d{{4}}-.*MODEL\.SESSION"
    with pytest.raises(SessionError, match=whose):
        train(folder, tmp_path)
    (run / "environment.json").write_text("mine")
    with pytest.raises(SessionError, match="another training runs there; two would"):
        train(folder, tmp_path)
    assert not list(run.glob("*.pth"))  # it has not saved yet, and nobody else has
    program.send_signal(signal.SIGTERM)
    rest, _ = program.communicate(timeout=60)
    assert program.returncode == 143, rest
    train(folder, tmp_path / "other")  # another folder is another's
    train(folder, tmp_path, MODEL__NAME="M3SNet-T", TRAINING__EPOCH_STEPS=0, OPTIM__NUM_EPOCHS=2)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="kills as POSIX does")
def test_a_killed_training_locks_nobody_out(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = start(folder, tmp_path, OPTIM__NUM_EPOCHS=2, TRAINING__EPOCH_STEPS=500, TRAINING__NUM_WORKERS=1)
    assert program.stdout is not None
    for line in program.stdout:
        if line.startswith("step 2"):
            break
    os.kill(program.pid, signal.SIGKILL)
    program.communicate()
    train(folder, tmp_path, OPTIM__NUM_EPOCHS=2)


def test_a_file_system_without_locks(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(self: object, timeout: float) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(session.FileLock, "acquire", refuse)
    train(folder, tmp_path, OPTIM__NUM_EPOCHS=2)
    assert "cannot be locked (No locks available): make sure" in capsys.readouterr().err
