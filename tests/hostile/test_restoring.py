"""Damaged photographs and odd names through restore.py: one line each, and nothing is left half done."""
from __future__ import annotations

import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from skimage import data

from m3snet.models import save_weights
from m3snet.restore import main
from m3snet.tests.filled import tiny
from m3snet.tests.hostile.corpus import damaged, images
from m3snet.utils.cli import UserError
from m3snet.utils.images import read_image, write_image

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).parents[2] / "restore.py"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_weights(tiny(), path)
    return path


def test_damaged_photographs(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = images()
    photos = []
    for number in range(2):
        for name, sound in files.items():
            photos.append(tmp_path / f"{number} {name}")
            photos[-1].write_bytes(damaged(sound, 1 + 2 * number, sound))
    (tmp_path / "last.jpg").write_bytes(files["baseline.jpg"])
    photos = [photo.rename(photo.with_name(f"{photo.name.replace('.', '_')}.jpg")) for photo in photos]
    photos.append(tmp_path / "last.jpg")
    with pytest.raises(UserError, match=r"^\d+ restored, \d+ failed$"):
        main(["rain", *map(str, photos), "-o", str(tmp_path / "out"), "--weights", str(weights), "--format", "png"])
    shown = capsys.readouterr()
    errors = shown.err.splitlines()
    assert all(line.startswith("error: ") for line in errors if "JPEG data" not in line and "libpng" not in line)
    written = {path.stem for path in (tmp_path / "out").iterdir()}
    assert "last" in written
    refused = [photo for photo in photos if photo.stem not in written]
    assert len(refused) == sum(line.startswith("error: ") for line in errors)
    assert all(any(str(photo) in line for line in errors) for photo in refused)
    for name in written:
        read_image(tmp_path / "out" / f"{name}.png")  # whole


NAMES = [
    "plain",
    "two words",
    "naïve größe",
    unicodedata.normalize("NFD", "é decomposed"),
    "雨",
    "☔ rain",
    "-o",
    "'quoted' \"twice\"",
    "[1-9] * ?",
    "$(touch harm) `touch harm` ; touch harm",
    "<!--<script>alert(1)",
    "%s {0} \\n",
    "\x1b[2J\ttab",
    "new\nline",
    "a" * 240,
    os.fsdecode(b"no \xff\xfe utf-8"),
]


@pytest.mark.skipif(sys.platform != "linux", reason="allows every name")
@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
def test_names(encoding: str, weights: Path, tmp_path: Path) -> None:
    assert len(NAMES) > 15
    for name in NAMES:
        write_image(tmp_path / f"{name}.png", data.astronaut()[:20, 100:130])
    photos = [f"./{name}.png" for name in NAMES]
    command = [sys.executable, str(PROGRAM), "rain", *photos, "-o", "out", "--weights", str(weights)]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, check=False, env={**os.environ, "PYTHONIOENCODING": encoding}
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert {path.name for path in tmp_path.iterdir()} == {"out", *(f"{name}.png" for name in NAMES)}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {f"{name}.png" for name in NAMES}
