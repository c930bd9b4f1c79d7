"""TEST.PERCEPTUAL: what is asked of pyiqa, and what is said where it is missing. pyiqa itself is never loaded here."""
from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import m3snet.Deraining.test
from m3snet.Deraining.config import DEFAULTS
from m3snet.models import M3SNet, save_weights
from m3snet.utils.config import ConfigError, load_config
from m3snet.utils.images import write_image
from m3snet.utils.scoring.perceptual import perceptual_scores
from m3snet.utils.settings import PERCEPTUAL

CPU = torch.device("cpu")


class Pyiqa(SimpleNamespace):
    """A stand-in: lpips is the mean difference restored - target, niqe the mean of the restored image's red."""

    def __init__(self) -> None:
        super().__init__(created=[])

    def create_metric(self, name: str, device: torch.device) -> Any:
        self.created.append((name, device))

        def metric(restored: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            if min(restored.shape[2:]) < 8:
                raise AssertionError("the image is too small")
            return (restored - target).mean() if name == "lpips" else restored[0, 0].mean()[None, None]

        return metric


@pytest.fixture
def pyiqa(monkeypatch: pytest.MonkeyPatch) -> Pyiqa:
    module = Pyiqa()
    monkeypatch.setitem(sys.modules, "pyiqa", module)
    return module


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    """Restored images 51 levels, that is 0.2, above their targets."""
    for i in range(3):
        for side, level in (("restored", 51), ("target", 0)):
            image = np.full((16, 24, 3), level, np.uint8)
            image[..., 0] += 51 * i
            write_image(tmp_path / side / f"{i}.png", image)
    return ["--score", str(tmp_path / "restored"), "--target", str(tmp_path / "target")]


def test_nothing_is_imported_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyiqa", None)  # importing it is an error from here on
    assert perceptual_scores([], CPU) is None


def test_without_pyiqa_one_line_names_the_extra_and_the_terms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    with pytest.raises(ConfigError) as error:
        perceptual_scores(["lpips"], CPU)
    message = str(error.value)
    assert "\n" not in message
    for part in ("TEST.PERCEPTUAL", "pip install -e '.[perceptual]'", "non-commercial", "downloads"):
        assert part in message


def test_the_program_ends_with_that_error_before_it_scores(
    folders: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    with pytest.raises(ConfigError, match="perceptual"):
        m3snet.Deraining.test.main([*folders, "--results", str(tmp_path / "out"), "--opts", "TEST.PERCEPTUAL", "lpips"])
    assert not (tmp_path / "out").exists()


def test_scores_are_extra_keys_of_each_image_and_their_means(
    folders: list[str], pyiqa: Pyiqa, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["lpips", "niqe"]
    m3snet.Deraining.test.main([*folders, "--results", str(tmp_path / "out"), "--opts", "TEST.PERCEPTUAL", str(names)])
    (result,) = json.loads((tmp_path / "out/results.json").read_text())
    assert [row["lpips"] for row in result["per_image"]] == pytest.approx([0.2] * 3)  # restored first, in [0, 1]
    assert [row["niqe"] for row in result["per_image"]] == pytest.approx([0.2, 0.4, 0.6])  # RGB, not BGR
    assert (result["lpips"], result["niqe"]) == pytest.approx((0.2, 0.4))
    assert result["provenance"]["perceptual"] == names
    assert "niqe, naturalness without a target, lower is better: restored 0.400." in capsys.readouterr().out
    assert [name for name, _ in pyiqa.created] == names


def test_networks_images_are_scored_too(pyiqa: Pyiqa, tmp_path: Path) -> None:
    options = ["TEST.DATASETS", "samples", "TEST.PERCEPTUAL", "niqe"]
    model = M3SNet(width=8, enc_blk_nums=(1, 1, 1, 1))
    save_weights(model, tmp_path / "tiny.safetensors")
    weights = ["--weights", str(tmp_path / "tiny.safetensors")]
    m3snet.Deraining.test.main([*weights, "--results", str(tmp_path / "out"), "--opts", *options])
    (result,) = json.loads((tmp_path / "out/results.json").read_text())
    assert all(0 < row["niqe"] < 1 for row in result["per_image"])
    assert result["provenance"]["perceptual"] == ["niqe"]


def test_names_that_are_no_perceptual_metric_are_refused() -> None:
    # psnr is a metric of pyiqa too, and would take the place of the protocol's own.
    with pytest.raises(ConfigError, match=r"TEST\.PERCEPTUAL \[niqe, psnr\]: expected a list, each lpips, .*"):
        load_config(DEFAULTS, None, ["TEST.PERCEPTUAL", "[niqe, psnr]"])
    assert not {"psnr", "ssim"} & set(PERCEPTUAL)


def test_weights_that_cannot_be_downloaded(pyiqa: Pyiqa, monkeypatch: pytest.MonkeyPatch) -> None:
    def create_metric(name: str, device: torch.device) -> None:
        raise OSError("no route to host\nand a long trace")

    monkeypatch.setattr(pyiqa, "create_metric", create_metric)
    with pytest.raises(ConfigError, match=r"lpips: pyiqa could not load it \(no route to host\).*downloads"):
        perceptual_scores(["lpips"], CPU)


def test_an_image_that_a_metric_cannot_score(pyiqa: Pyiqa) -> None:
    scores = perceptual_scores(["niqe"], CPU)
    assert scores is not None
    small = np.zeros((7, 9, 3), np.uint8)
    with pytest.raises(ValueError, match="niqe: the image is too small"):
        scores(small, small)
