"""Programs that are killed, stopped, or find the disk full while they write: no half-written file, and they go on.

How trainings and their checkpoints take it stands in tests/training.
"""
from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from m3snet.models import save_weights
from m3snet.tests.filled import tiny
from m3snet.tests.hostile.programs import Program
from m3snet.utils.data.pairs import find_pairs
from m3snet.utils.files import TEMPORARY
from m3snet.utils.images import is_image, read_image, write_image

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="kills and limits as POSIX does"),
]

CODES = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 143, signal.SIGINT: 130}
COUNT = 40  # photographs


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_weights(tiny(), path)
    return path


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with pairs, those of Datasets, an archive of them, and some restored before."""
    for number in range(COUNT):
        rng = np.random.default_rng(number)
        for side in ("input", "target"):
            image = rng.integers(0, 256, (64, 64, 3)).astype(np.uint8)
            write_image(tmp_path / "home/pairs" / side / f"{number}.png", image)
        if number < 5:
            write_image(tmp_path / "home/old" / f"{number}.png", image)
    with zipfile.ZipFile(tmp_path / "home/Rain100L.zip", "w") as archive:
        for path in (tmp_path / "home/pairs").rglob("*.png"):
            archive.write(path, Path("Rain100L", *path.parts[-2:]))
    return tmp_path / "home"


def commands(weights: Path) -> dict[str, tuple[str, list[str], str]]:
    """Program, arguments, and where it writes."""
    photos = [f"pairs/input/{number}.png" for number in range(COUNT)]
    return {
        "restore": ("restore", ["rain", *photos, "-o", "old", "--overwrite", "--weights", str(weights)], "old"),
        "degrade": ("tools.degrade", ["blur", "pairs/target", "-o", "made"], "made"),
        "test": (
            "Deraining.test",
            ["--weights", str(weights), "--results", "results", "--opts", "TEST.DATASETS", "pairs"],
            "results",
        ),
        "unpack": ("Deraining.prepare", ["--root", "Datasets", "--archive", "Rain100L.zip"], "Datasets"),
    }


def images_below(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*") if is_image(path)}


def files_below(folder: Path) -> list[Path]:
    return [Path(place, name) for place, _, names in os.walk(folder) for name in names]


def state_of(folder: Path) -> dict[Path, int]:
    """The files in a folder, and when each was written."""
    found = {}
    for path in files_below(folder):
        with contextlib.suppress(FileNotFoundError):  # it has got its final name
            found[path] = path.stat().st_mtime_ns
    return found


def unfinished(path: Path) -> bool:
    """Whether it lies in a folder that gets its name at the end."""
    return any(part.startswith(".un") for part in path.parts)


@pytest.mark.parametrize("name", ["restore", "degrade", "test", "unpack"])
@pytest.mark.parametrize("how", CODES)
def test_killed_while_it_writes(name: str, how: signal.Signals, weights: Path, home: Path) -> None:
    module, words, place = commands(weights)[name]
    out, given = home / place, images_below(home / "pairs")
    stopped = 0
    for longest in (0.0, 0.02, 0.1, 0.5):
        program, before = Program(module, words, home), state_of(out)
        later = random.Random(f"{name} {how}").uniform(0, longest)
        code, said = program.stop(how, lambda before=before: state_of(out) != before, later)  # type: ignore[misc]
        assert code in (0, CODES[how]), said
        stopped += code != 0
        assert said == ("stopped\n" if code == 130 else "")
        for path in images_below(home):
            if not unfinished(path):
                read_image(home / path)
        left = [path for path in files_below(home) if unfinished(path) or path.match(TEMPORARY)]
        left = [path for path in left if path.name != "lock"]  # stopped just as it began; the next run takes it
        assert not left or how == signal.SIGKILL
        if name in ("degrade", "unpack") and not all(map(unfinished, images_below(out))):  # it had ended
            assert len(images_below(out)) == 2 * COUNT
            shutil.rmtree(out)
    assert stopped > 0
    assert Program(module, words, home).wait() == (0, "")
    assert images_below(home / "pairs") == given
    match name:
        case "restore":
            assert images_below(out) == {Path(f"{number}.png") for number in range(COUNT)}
        case "degrade":
            assert len(find_pairs(out)) == COUNT
        case "test":
            assert len(images_below(out / "pairs")) == COUNT
            assert (out / "results.json").is_file()
        case "unpack":
            assert len(find_pairs(out / "Rain13K/test/Rain100L")) == COUNT


@pytest.mark.parametrize("name", ["restore", "degrade", "test", "unpack"])
@pytest.mark.parametrize("limit", [100, 3000])
def test_a_full_disk(name: str, limit: int, weights: Path, home: Path) -> None:
    module, words, place = commands(weights)[name]
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    code, said = Program(module, words, home, limit).wait()
    lines = said.splitlines()
    assert code == 1
    assert all(line.startswith("error: ") for line in lines), lines
    assert len(lines) == (COUNT + 1 if name == "restore" else 1)
    assert "File too large" in lines[0]
    assert place in lines[0] or "Rain100L.zip" in lines[0]
    assert {path: path.read_bytes() for path in home.rglob("*") if is_image(path)}.items() <= before.items()
    assert not [path for path in files_below(home) if unfinished(path) or path.match(TEMPORARY)]
    assert Program(module, words, home).wait() == (0, "")
