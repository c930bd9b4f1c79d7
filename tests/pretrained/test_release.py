"""Released weights: what models.yml and the pages say of them is what there is."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from m3snet.models import load_model, save_weights
from m3snet.models.weights import PRETRAINED, released
from m3snet.pretrained import release

ROOT = PRETRAINED.parent


@pytest.mark.parametrize("name", released())
def test_every_entry_is_true(name: str) -> None:
    entry = released()[name]
    model = load_model(name)  # compares the hash
    assert sum(parameter.numel() for parameter in model.parameters()) == entry["parameters"]
    assert model.patch_size == entry["patch_size"]
    assert entry["task"] in ("Deblurring", "Deraining")
    assert (ROOT / entry["recipe"]).is_file()
    assert (PRETRAINED / entry["file"]).stat().st_size <= 10e6
    assert "samples" in entry["scores"]


def test_the_pages_show_the_scores_that_were_measured() -> None:
    for page, table in release.PAGES.items():
        text = page.read_text(encoding="utf-8")
        assert table(released()) in text
        assert release.with_table(text, table(released())) == text


def test_a_release_from_checkpoint_to_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(release, "PRETRAINED", tmp_path)
    monkeypatch.setattr("m3snet.models.weights.PRETRAINED", tmp_path)
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- scores -->\nold\n<!-- /scores -->\nafter\n")
    monkeypatch.setattr(release, "PAGES", {page: release.full_table})
    save_weights(load_model(PRETRAINED / "derain.safetensors"), tmp_path / "checkpoint.safetensors")
    recipe = ["--task", "Deraining", "--recipe", "pretrained/history/derain/1.yml"]
    release.main(["mine", str(tmp_path / "checkpoint.safetensors"), *recipe])
    entry = released()["mine"]
    assert (entry["task"], entry["recipe"]) == ("Deraining", "pretrained/history/derain/1.yml")
    assert (entry["size"], entry["patch_size"], entry["scores"]) == ("M3SNet-S", 128, {})
    assert (entry["steps"], entry["trained_on"][:2]) == (4000, ["Datasets/Rain13K/train", "Datasets/clean/bsds500"])
    assert len(entry["trained_on"]) == 4 and "research only" in entry["terms"]
    assert load_model("mine").config["width"] == 16
    scores: dict[str, Any] = {
        "dataset": "Rain100L",
        "protocol": "y",
        "images": 2,
        "psnr": 30.125,
        "ssim": 0.9,
        "input_psnr": 25.0,
        "input_ssim": 0.8,
        "worse": ["001"],
        "provenance": {"weights_sha256": entry["sha256"]},
    }
    results = tmp_path / "results.json"
    results.write_text(json.dumps([scores]))
    release.main(["mine", "--scores", str(results)])
    row = "| `mine` | Rain100L | 2 | y | 25.00 | 30.12 | +5.12 | 1 | 0.8000 | 0.9000 |"
    assert row in page.read_text().splitlines()
    assert page.read_text().startswith("before\n<!-- scores -->\n| weights |")
    assert page.read_text().endswith("|\n<!-- /scores -->\nafter\n")
    scores["provenance"]["weights_sha256"] = "other"
    results.write_text(json.dumps([scores]))
    with pytest.raises(release.ReleaseError, match="scores other weights than the released ones; run test"):
        release.main(["mine", "--scores", str(results)])
    with pytest.raises(release.ReleaseError, match=r"yours: no released weights of this name; there are mine"):
        release.main(["yours", "--scores", str(results)])
    recipe[-1] = "nothing.yml"
    with pytest.raises(release.ReleaseError, match=r"--recipe nothing\.yml: no such file"):
        release.main(["mine", str(tmp_path / "checkpoint.safetensors"), *recipe])


def test_the_short_table_holds_the_default_weights_only() -> None:
    rows = release.short_table(released()).splitlines()[2:]
    assert {row.split(" | ")[0] for row in rows} == {"| `derain`", "| `deblur`"}
    entry = released()["derain"]["scores"]["Rain100L"]
    assert f"| `derain` | Rain100L | 16 | {entry['input_psnr']:.2f} | {entry['psnr']:.2f} |" in rows
