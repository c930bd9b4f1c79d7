"""Tests run in as many processes as there are cores (pytest-xdist), each with one thread."""
import errno
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from accelerate.state import AcceleratorState
from skimage import data

from m3snet.models import SIZES
from m3snet.utils.images import write_image

ROOT = Path(__file__).resolve().parents[1]


class Root:
    """Makes pytest take the repository's root, which is the package m3snet, for a plain folder.

    As a package, pytest would import it a second time by the folder's name, or fail where that name is no identifier.
    """

    @staticmethod
    @pytest.hookimpl
    def pytest_collect_directory(path: Path, parent: pytest.Collector) -> pytest.Dir | None:
        return pytest.Dir.from_parent(parent, path=path) if path == ROOT else None


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Root())
    # Under nohup, or in the background of a shell, these are ignored; in programs that tests stop they would be too.
    for name, handler in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
        if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) == signal.SIG_IGN:
            signal.signal(getattr(signal, name), handler)


@pytest.fixture
def fresh_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if no training had run in this process; and there is a network small enough to train in a test."""
    monkeypatch.setitem(SIZES, "tiny", {"width": 8, "enc_blk_nums": (1, 1, 1, 1)})
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Nine pairs of different scenes; one is smaller than a patch."""
    photograph = data.astronaut()
    for i in range(9):
        top, left = divmod(i, 3)
        size = 20 if i == 8 else 48
        target = photograph[150 * top : 150 * top + size, 160 * left : 160 * left + 56]
        noise = np.random.default_rng(i).normal(0, 20, target.shape)
        write_image(tmp_path / "pairs/target" / f"{i}.png", target)
        write_image(tmp_path / "pairs/input" / f"{i}.png", np.clip(target + noise, 0, 255).astype(np.uint8))
    return tmp_path / "pairs"


@pytest.fixture
def lock_file(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Makes a file one that may not be opened. (Tests may run as root, whom permissions do not stop.)"""
    real = Path.open

    def lock(path: Path) -> None:
        def refuse(self: Path, *args: Any, **options: Any) -> Any:
            if self == path:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))
            return real(self, *args, **options)

        monkeypatch.setattr(Path, "open", refuse)

    return lock
