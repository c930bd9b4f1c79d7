"""degrade.py: pairs that depend on name and seed alone, and that nothing is written over."""
from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from m3snet.tools import degrade
from m3snet.tools.degrade import KINDS, UNFINISHED, main
from m3snet.utils.cli import UserError
from m3snet.utils.data.blur import shake
from m3snet.utils.data.pairs import PairError, find_pairs
from m3snet.utils.data.samples import photographs as photographs_of_skimage
from m3snet.utils.images import read_image, read_photograph, write_image
from m3snet.utils.scoring.metrics import psnr

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        noise = np.random.default_rng([*name.encode()]).integers(0, 256, (12, 16, 3)).astype(np.uint8)
        write_image(tmp_path / "sharp" / f"{name}.png", noise.repeat(6, 0).repeat(6, 1))
    return tmp_path / "sharp"


@pytest.mark.parametrize("kind", KINDS)
def test_pairs_depend_on_name_and_seed(photographs: Path, tmp_path: Path, kind: str) -> None:
    main([kind, str(photographs), "-o", str(tmp_path / "all"), "--seed", "5"])
    pairs = find_pairs(tmp_path / "all")
    assert [pair.name for pair in pairs] == ["a", "b"]
    assert all(np.array_equal(read_image(pair.target), read_image(photographs / f"{pair.name}.png")) for pair in pairs)
    (photographs / "a.png").unlink()
    main([kind, str(photographs), "-o", str(tmp_path / "alone"), "--seed", "5"])
    main([kind, str(photographs), "-o", str(tmp_path / "other"), "--seed", "6"])
    again, alone, other = (read_image(tmp_path / out / "input" / "b.png") for out in ("all", "alone", "other"))
    assert np.array_equal(again, alone) and not np.array_equal(again, other)


def test_what_is_converted_is_said(photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("photo-display-p3.jpg", "gray-gamma18.png"):
        shutil.copy(ROOT / "tests/cases" / name, photographs)
    main(["blur", str(photographs), "-o", str(tmp_path / "out")])
    assert capsys.readouterr().out.splitlines()[1] == (
        "images converted as they were read: Display P3 converted to sRGB: 1 of 4, Gray Gamma 1.8 converted to sRGB: "
        "1 of 4, gray repeated to RGB: 1 of 4"
    )
    for name in ("photo-display-p3.jpg", "gray-gamma18.png"):
        written = read_photograph((tmp_path / "out/target" / name).with_suffix(".png"))
        assert written.profile is None
        assert np.array_equal(written.pixels, read_image(photographs / name))


@pytest.mark.skipif(sys.platform != "linux", reason="allows such a name")
def test_a_name_that_is_not_utf_8(photographs: Path, tmp_path: Path) -> None:
    (photographs / "a.png").rename(photographs / os.fsdecode(b"\xff.png"))
    main(["blur", str(photographs), "-o", str(tmp_path / "out")])
    assert [pair.name for pair in find_pairs(tmp_path / "out")] == ["b", "\udcff"]


def test_shake_always_shows_and_is_never_extreme() -> None:
    photograph = read_image(photographs_of_skimage("test")["astronaut"])[100:292, 120:312]
    scores = [psnr(shake(photograph, np.random.default_rng(seed)), photograph) for seed in range(50)]
    assert min(scores) > 16 and max(scores) < 30


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("place", [1, 3])
def test_an_empty_name_is_no_place(place: int, photographs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["blur", str(photographs), "-o", "out"]
    words[place] = ""
    with pytest.raises(SystemExit, match="2"):
        main(words)
    assert "expected a name, found an empty one" in capsys.readouterr().err


def test_nothing_is_written_over(photographs: Path, tmp_path: Path) -> None:
    main(["blur", str(photographs), "-o", str(tmp_path / "out")])
    before = contents(tmp_path)
    # The second would write over the photographs themselves.
    for folder, out in ((photographs, tmp_path / "out"), (tmp_path / "out/input", tmp_path / "out")):
        with pytest.raises(UserError, match=r"out.input: is there already; name another OUT"):
            main(["rain", str(folder), "-o", str(out)])
    with pytest.raises(UserError, match=r"nowhere"):
        main(["rain", str(tmp_path / "nowhere"), "-o", str(tmp_path / "new")])
    photographs.rename(tmp_path / "input")
    with pytest.raises(UserError, match=r"input: is there already"):
        main(["rain", str(tmp_path / "input"), "-o", str(tmp_path)])
    (tmp_path / "input").rename(photographs)
    assert contents(tmp_path) == before
    assert not (tmp_path / "new").exists()


def test_a_broken_photograph_does_not_stop_the_rest(photographs: Path, tmp_path: Path) -> None:
    (photographs / "aa.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"1 photograph\(s\) cannot be read:\n.*aa\.png"):
        main(["rain", str(photographs), "-o", str(tmp_path / "out")])
    assert [pair.name for pair in find_pairs(tmp_path / "out")] == ["a", "b"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["input", "target"]
    for name in ("a", "b"):
        (photographs / f"{name}.png").unlink()
    with pytest.raises(UserError, match="1 photograph"):
        main(["rain", str(photographs), "-o", str(tmp_path / "none")])
    assert not list((tmp_path / "none").iterdir())


def test_a_run_that_was_killed_does_not_look_complete(photographs: Path, tmp_path: Path) -> None:
    script = f"""
import os, signal
from m3snet.tools import degrade
make = degrade.write_pair
def kill(kind, photograph, *rest):
    make(kind, photograph, *rest)
    os.kill(os.getpid(), signal.SIGKILL)
degrade.write_pair = kill
degrade.main(["rain", {str(photographs)!r}, "-o", {str(tmp_path / "out")!r}])
"""
    assert subprocess.run([sys.executable, "-c", script]).returncode == -signal.SIGKILL
    with pytest.raises(PairError, match="expected the folders input/ and target/"):
        find_pairs(tmp_path / "out")
    (photographs / "a.png").unlink()
    main(["rain", str(photographs), "-o", str(tmp_path / "out")])
    assert [pair.name for pair in find_pairs(tmp_path / "out")] == ["b"]  # nothing of the first run
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["input", "target"]


def test_two_runs_do_not_share_a_folder(photographs: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / UNFINISHED).mkdir(parents=True)
    with (
        FileLock(tmp_path / "out" / UNFINISHED / "lock"),
        pytest.raises(UserError, match=r"\.unfinished-pairs: another run is writing it; wait for it"),
    ):
        main(["rain", str(photographs), "-o", str(tmp_path / "out")])


def test_a_run_that_is_stopped_leaves_nothing(photographs: Path, tmp_path: Path, monkeypatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(degrade, "write_pair", stop)
    with pytest.raises(KeyboardInterrupt):
        main(["rain", str(photographs), "-o", str(tmp_path / "out")])
    assert not list((tmp_path / "out").iterdir())
