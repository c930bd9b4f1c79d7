"""How programs start: what they load, and what Ctrl-C says while they do."""
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from skimage import data

from m3snet.models import save_weights
from m3snet.tests.filled import tiny
from m3snet.utils.images import write_image

ROOT = Path(__file__).resolve().parents[1]


def run(*words: object, cwd: Path, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Python with these arguments; modules in `path` hide installed ones."""
    places = [str(path)] if path else []
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([*places, os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True, check=False)


def test_restoring_loads_no_compiler(tmp_path: Path) -> None:
    """torch._dynamo and sympy take more than a second; whatever traces a network loads them."""
    save_weights(tiny(), tmp_path / "tiny.safetensors")
    write_image(tmp_path / "photo.png", data.astronaut()[:40, :60])
    code = (
        "import sys, torch; before = set(sys.modules)\n"
        "from m3snet.restore import main\n"
        "main(['rain', 'photo.png', '-o', 'dry.png', '--weights', 'tiny.safetensors'])\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    done = run("-c", code, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    loaded = {name for name in ("sympy", "torch._dynamo", "torch._inductor") if name in done.stdout.split()}
    assert "m3snet.models.tlc" in done.stdout.split() and not loaded


@pytest.fixture
def interrupted(tmp_path: Path) -> Path:
    """A folder with a torch during whose import Ctrl-C comes."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/__init__.py").write_text("raise KeyboardInterrupt\n")
    return tmp_path


@pytest.mark.parametrize("program", ["restore.py", "Deraining/test.py", "Deblurring/train.py"])
def test_ctrl_c_while_torch_is_imported_is_one_word(program: str, interrupted: Path) -> None:
    done = run(ROOT / program, "--help", cwd=interrupted, path=interrupted)
    assert done.returncode
    assert (done.stdout, done.stderr) == ("", "stopped\n")


def test_ctrl_c_in_a_command_is_one_word(interrupted: Path) -> None:
    (interrupted / "m3snet-restore").write_text("from m3snet.restore import run\nrun()\n")
    assert run("m3snet-restore", "--help", cwd=interrupted, path=interrupted).stderr == "stopped\n"


def test_programs_of_others_keep_their_traceback(interrupted: Path) -> None:
    (interrupted / "mine.py").write_text("import m3snet\n")
    for words in (["mine.py"], ["-c", "import m3snet"]):
        said = run(*words, cwd=interrupted, path=interrupted).stderr
        assert said.startswith("Traceback") and said.endswith("KeyboardInterrupt\n")


def test_bars_make_no_lock_of_processes(tmp_path: Path) -> None:
    """SIGTERM while Python makes one prints a traceback."""
    code = (
        "from tqdm import tqdm, std\n"
        "from m3snet.utils.cli import run_program\n"
        "run_program(lambda: list(tqdm([1])))\n"
        "assert not hasattr(std.TqdmDefaultWriteLock, 'mp_lock')"
    )
    done = run("-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
