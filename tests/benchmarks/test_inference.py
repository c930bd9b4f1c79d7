"""benchmarks/inference.py: every variant restores the same image, and the table is what the times say."""
from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from m3snet.benchmarks import inference


@pytest.fixture(autouse=True)
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if every measurement had a process of its own; and a small network."""
    monkeypatch.setattr(inference, "in_new_process", lambda function, *arguments: function(*arguments))
    monkeypatch.setitem(inference.SIZES, "tiny", {"width": 8, "enc_blk_nums": (1, 1, 1, 1)})
    monkeypatch.setattr(inference, "keep_freed_memory", lambda: None)


@pytest.mark.parametrize("tlc", [True, False])
@torch.inference_mode()
def test_the_variants_restore_the_same_image(tlc: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "PATCH", 32)  # so that TLC matters
    case = inference.Case("tiny", (80, 64), tlc, 1, False, tuple(inference.VARIANTS))
    networks, image = inference._prepare(case)
    expected = networks["exact"](image)
    assert (expected - image).abs().max() > 0.01
    for name, network in networks.items():
        tolerance = 0.02 if "bfloat16" in name else 1e-4
        assert (network(image) - expected).abs().max() < tolerance, name
    if tlc:
        whole, _ = inference._prepare(case._replace(tlc=False))
        assert (whole["published"](image) - expected).abs().max() > 1e-3


@pytest.mark.slow
@torch.inference_mode()
def test_openvino_restores_the_same_image() -> None:
    pytest.importorskip("openvino")
    case = inference.Case("tiny", (80, 64), False, 1, False, ("exact", *inference.OPENVINO))
    networks, image = inference._prepare(case)
    expected = networks["exact"](image)
    for name, network in networks.items():
        assert (network(image) - expected).abs().max() < (0.02 if "bfloat16" in name else 1e-4), name


def test_the_table_and_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "inference.json"
    inference.main(["--size", "tiny", "--image", "48x32", "--rounds", "2", "--json", str(file)])
    rows = json.loads(file.read_text())["rows"]
    assert [row["keep"] for row in rows] == [False, True]
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert sum(line[:1] == ["published"] and line[2] == "1.00" for line in lines) == 2
    for row in rows:
        assert list(row["seconds"]) == list(inference.VARIANTS)
        assert all(len(times) == 2 and min(times) > 0 for times in row["seconds"].values())
