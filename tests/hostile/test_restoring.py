"""Damaged photographs and odd names through restore.py: one line each, and nothing is left half done."""
from __future__ import annotations

import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from skimage import data

from m3snet.models import save_weights
from m3snet.restore import main
from m3snet.tests.filled import tiny
from m3snet.tests.hostile.corpus import bombs, damaged, images
from m3snet.utils.cli import UserError
from m3snet.utils.images import read_image, read_photograph, write_image

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).parents[2] / "restore.py"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_weights(tiny(), path)
    return path


def restore(words: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the program as a person would."""
    command = [sys.executable, str(PROGRAM), "rain", *words]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )


def errors_of(said: str) -> list[str]:
    """The lines of the program itself; those that decoders print past Python are not ours to word."""
    assert "Traceback" not in said
    return [line for line in said.splitlines() if line.startswith("error: ")]


def test_damaged_photographs(weights: Path, tmp_path: Path) -> None:
    """Every second is called .jpg whatever it is."""
    files = images()
    names = list(files)
    for name, sound in files.items():
        for number in range(14):
            suffix = ".jpg" if number % 2 else Path(name).suffix
            path = tmp_path / f"{number} {name.replace('.', '_')}{suffix}"
            path.write_bytes(damaged(sound, number, files[names[number]]))
    (tmp_path / "last.jpg").write_bytes(files["baseline.jpg"])
    photos = [*sorted(path.name for path in tmp_path.iterdir() if path.name != "last.jpg"), "last.jpg"]
    assert len(photos) > 500
    done = restore([*photos, "-o", "out", "--weights", str(weights)], tmp_path)
    *errors, last = errors_of(done.stderr)
    written = {path.stem for path in (tmp_path / "out").iterdir()}
    assert done.returncode == 1
    assert last == f"error: {len(written)} restored, {len(errors)} failed"
    assert "last" in written
    refused = [photo for photo in photos if Path(photo).stem not in written]
    assert len(refused) == len(errors) > 200
    for photo, line in zip(refused, errors, strict=True):
        assert line.startswith("error: ") and photo in line and len(line) < 400, line
    assert len(done.stdout.splitlines()) == 1 + len(written)
    for path in (tmp_path / "out").iterdir():
        read_image(path)  # whole


def test_small_files_that_claim_much(weights: Path, tmp_path: Path) -> None:
    """Within 2 GiB in all, which a process that has loaded torch and read nothing has half of."""
    for name, content in bombs().items():
        (tmp_path / name.replace(".", " ")).write_bytes(content)
    photos = sorted(path.name for path in tmp_path.iterdir())
    code = (
        "import resource, sys; from m3snet import restore\n"
        "try: restore.run()\n"
        "finally: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    command = [sys.executable, "-c", code, "rain", *photos, "-o", "out", "--weights", str(weights)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    lines = errors_of(done.stderr)
    assert lines[-1] == f"error: {len(photos)} failed"
    assert len(lines) == len(photos) + 1
    assert not (tmp_path / "out").exists()
    assert int(done.stdout.splitlines()[-1]) < 2 << (20 if sys.platform == "linux" else 30)


def test_odd_photographs(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is read, of whatever shape and kind, is restored; what is not is one line each."""
    photo = data.astronaut()[:40, :60]
    write_image(tmp_path / "one pixel.png", photo[:1, :1])
    write_image(tmp_path / "a row.png", np.tile(photo[:1, :50], (1, 400, 1)))
    write_image(tmp_path / "a column.png", np.tile(photo[:50, :1], (400, 1, 1)))
    for name, content in images().items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "baseline.jpg").rename(tmp_path / "named otherwise.png")
    (tmp_path / "rgb.png").rename(tmp_path / "no suffix")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("no photograph")
    refused = {"empty.jpg", "text.jpg", "float.tif", "letters.ppm", "raw.dng"}
    refused |= {f"animation.{suffix}" for suffix in ("gif", "png", "webp")}
    for path in sorted(tmp_path.iterdir()):
        out = tmp_path / "out" / f"{path.name}.png"
        words = ["rain", str(path), "-o", str(out), "--weights", str(weights)]
        if path.name in refused:
            with pytest.raises(UserError) as error:
                main(words)
            assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)
            assert not out.exists()
        else:
            main(words)
            note = "CMYK converted to RGB" if "cmyk" in path.name else ""
            assert capsys.readouterr().err == (f"warning: {path}: {note}\n" if note else "")
            assert read_photograph(out).pixels.shape == read_photograph(path).pixels.shape


def places(folder: Path) -> dict[str, tuple[list[str], str]]:
    """Photographs and outputs that are no use, and what is said of them."""
    write_image(folder / "photo.png", data.astronaut()[:20, :30])
    (folder / "loop.png").symlink_to("loop2.png")
    (folder / "loop2.png").symlink_to("loop.png")
    (folder / "nowhere.png").symlink_to("missing/deep/nothing.png")
    (folder / "null.png").symlink_to("/dev/null")
    (folder / "a file").write_text("a file")
    os.mkfifo(folder / "pipe.png")
    return {
        "an input that is a loop": (["loop.png", "-o", "out"], "loop.png: "),
        "an input that is nowhere": (["nowhere.png", "-o", "out"], "nowhere.png: "),
        "an input that is a device": (["/dev/zero", "-o", "out"], "/dev/zero: not an image"),
        "an output in a file": (["photo.png", "-o", "a file/a.png"], "a file/a.png cannot be written"),
        "an output in a folder of the system": (["photo.png", "-o", "/proc/a.png"], "/proc/a.png cannot be written"),
        "an output that is a device": (["photo.png", "-o", "/dev/full"], "/dev/full/photo.png cannot be written"),
        "an output that is a pipe": (["photo.png", "-o", "pipe.png"], "pipe.png is no plain file"),
        "a pipe to write over": (["photo.png", "-o", "pipe.png", "--overwrite"], "pipe.png is no plain file"),
        "a link to a device": (["photo.png", "-o", "null.png", "--overwrite"], "null.png is no plain file"),
        "a name too long": (["photo.png", "-o", "a" * 300 + ".png"], "File name too long"),
        "a folder whose name is too long": (["photo.png", "-o", "b" * 5000 + "/out.png"], "File name too long"),
    }


@pytest.mark.skipif(sys.platform != "linux", reason="has other places that cannot be written")
def test_places_of_no_use(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cases = places(tmp_path)
    before = {path.name for path in tmp_path.iterdir()}
    for case, (words, said) in cases.items():
        with pytest.raises((UserError, OSError)) as refused:
            main(["rain", *words, "--weights", str(weights)])
        assert said in str(refused.value), case
        assert {path.name for path in tmp_path.iterdir()} == before, case
    main(["rain", "photo.png", "-o", "nowhere.png", "--weights", str(weights)])  # a link stays one, and leads there
    assert (tmp_path / "missing/deep/nothing.png").is_file()


def test_two_processes_with_one_output(weights: Path, tmp_path: Path) -> None:
    for number in range(3):
        write_image(tmp_path / f"{number}.png", data.astronaut()[: 200 + number, :300])
    words = [sys.executable, str(PROGRAM), "rain", "--weights", str(weights), "-o", "out.png"]
    processes = [
        subprocess.Popen([*words, f"{number}.png"], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        for number in range(3)
    ]
    said = [process.communicate()[1] for process in processes]
    codes = [process.returncode for process in processes]
    assert sorted(codes) == [0, 1, 1]  # one has written it, and the others say so
    for code, text in zip(codes, said, strict=True):
        assert text.startswith("error: out.png exists") if code else text == ""
    assert read_image(tmp_path / "out.png").shape[0] in (200, 201, 202)
    assert {path.name for path in tmp_path.iterdir()} == {"0.png", "1.png", "2.png", "out.png"}


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
