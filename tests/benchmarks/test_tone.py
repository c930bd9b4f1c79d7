"""benchmarks/tone.py measures what a network does to tone, and what the border does to a score."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from skimage import data

from m3snet.benchmarks import tone
from m3snet.models import M3SNet, save_weights
from m3snet.tests.filled import tiny
from m3snet.utils.images import write_image
from m3snet.utils.restoring.restorer import Restorer


@pytest.fixture
def brighter() -> M3SNet:
    """A network that adds five grey levels, whatever the image."""
    model = tiny()
    with torch.no_grad():
        model.ending.weight.zero_()
        model.ending.bias.fill_(5 / 255)
    return model


def exact(model: M3SNet) -> Restorer:
    return Restorer(model, precision="float32", backend="exact", tlc=False, tile=0)


def test_a_shift_is_that_of_the_photograph(brighter: M3SNet, tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", data.astronaut()[100:180, 100:190] // 2)
    dry, light, heavy = tone.tone(exact(brighter), tmp_path / "a.png")
    assert dry == 5
    assert light > 5 and heavy > 5  # the rain, which stays, is brighter too


def test_only_a_network_that_sees_the_border_is_changed_by_it(brighter: M3SNet, tmp_path: Path) -> None:
    image = data.astronaut()[100:141, 100:151]
    write_image(tmp_path / "input.png", image)
    write_image(tmp_path / "target.png", np.minimum(image, 200))
    assert tone.border(exact(brighter), tmp_path / "input.png", tmp_path / "target.png") == (0, 0)
    zeros, cut = tone.border(exact(tiny()), tmp_path / "input.png", tmp_path / "target.png")
    assert zeros != 0 and cut != 0


def test_both_tables(brighter: M3SNet, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_weights(brighter, tmp_path / "weights.safetensors")
    for name in ("photographs/a", "pairs/input/a", "pairs/target/a"):
        write_image(tmp_path / f"{name}.png", data.astronaut()[100:141, 100:151] // 2)
    folders = ["--photographs", str(tmp_path / "photographs"), "--pairs", str(tmp_path / "pairs")]
    tone.main(["--weights", str(tmp_path / "weights.safetensors"), *folders])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[1] == ["dry", "5.00", "+5.00", "a"]
    assert lines[5] == ["zeros", "+0.00", "+0.00", "a"]
