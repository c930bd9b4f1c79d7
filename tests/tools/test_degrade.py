"""degrade.py: pairs that depend on name and seed alone, and that nothing is written over."""
from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest

from m3snet.utils.data.blur import shake
from m3snet.utils.data.pairs import find_pairs
from m3snet.utils.data.samples import photographs as photographs_of_skimage
from m3snet.utils.images import read_image, write_image
from m3snet.utils.scoring.metrics import psnr

DEGRADE = runpy.run_path(str(Path(__file__).parents[2] / "tools/degrade.py"))
main = DEGRADE["main"]


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        noise = np.random.default_rng([*name.encode()]).integers(0, 256, (12, 16, 3)).astype(np.uint8)
        write_image(tmp_path / "sharp" / f"{name}.png", noise.repeat(6, 0).repeat(6, 1))
    return tmp_path / "sharp"


@pytest.mark.parametrize("kind", DEGRADE["KINDS"])
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


def test_shake_always_shows_and_is_never_extreme() -> None:
    photograph = read_image(photographs_of_skimage("test")["astronaut"])[100:292, 120:312]
    scores = [psnr(shake(photograph, np.random.default_rng(seed)), photograph) for seed in range(50)]
    assert min(scores) > 16 and max(scores) < 30


def test_nothing_is_written_over(photographs: Path, tmp_path: Path) -> None:
    main(["blur", str(photographs), "-o", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match="out: holds pairs already; name another folder"):
        main(["rain", str(photographs), "-o", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match=r"nowhere"):
        main(["rain", str(tmp_path / "nowhere"), "-o", str(tmp_path / "new")])
    assert not (tmp_path / "new").exists()
