"""Folders as the Hugging Face Hub has them; nothing is sent or fetched."""
from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from m3snet.models import load_model
from m3snet.models.hub import PretrainedM3SNet
from m3snet.tests.filled import tiny
from m3snet.utils.restoring.restorer import Restorer


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@torch.inference_mode()
def test_a_network_comes_back_from_a_folder(tmp_path: Path) -> None:
    model = tiny(7, enc_blk_nums=(1, 2, 1, 1), mhamb=False)
    model.patch_size = 96
    PretrainedM3SNet.of(model).save_pretrained(tmp_path / "network")
    config = json.loads((tmp_path / "network/config.json").read_text())
    assert config["enc_blk_nums"] == [1, 2, 1, 1] and config["mhamb"] is False and config["patch_size"] == 96
    back = PretrainedM3SNet.from_pretrained(tmp_path / "network")
    assert back.patch_size == 96 and not back.training
    image = torch.rand(1, 3, 33, 50)
    assert torch.equal(back(image), model(image))
    assert "m3snet" in (tmp_path / "network/README.md").read_text()
    assert torch.equal(load_model(tmp_path / "network/model.safetensors")(image), model(image))


def test_a_released_network_restores_from_a_folder(tmp_path: Path) -> None:
    PretrainedM3SNet.of(load_model("derain")).save_pretrained(tmp_path)
    restorer = Restorer(PretrainedM3SNet.from_pretrained(tmp_path))
    assert restorer.smallest_tile == Restorer("derain").smallest_tile == 384


def test_a_folder_without_a_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"model\.safetensors"):
        PretrainedM3SNet.from_pretrained(tmp_path)
