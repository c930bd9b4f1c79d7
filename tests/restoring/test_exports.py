"""export.py and the backends that run its files: the same image as PyTorch, at sizes that no one exported for."""
from __future__ import annotations

import builtins
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from skimage import data

import m3snet.export
from m3snet.models import M3SNet, WeightsError, apply_tlc, save_weights
from m3snet.models.exported import exportable
from m3snet.restore import main as restore
from m3snet.tests.filled import tiny
from m3snet.utils.cli import UserError
from m3snet.utils.images import read_image, write_image
from m3snet.utils.restoring.exports import ExportError, open_export
from m3snet.utils.restoring.restorer import Restorer

SIZES = [(37, 50), (61, 101), (130, 75)]  # no multiples of 16, with windows of 48 within and without


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network in which no block is the identity, trained on patches of 32: its TLC window is 48."""
    model = tiny(5)
    model.ending.requires_grad_(False).weight *= 0.05
    model.patch_size = 32
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save_weights(model, path)
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.getbasetemp() / "m3snet-cache"  # one for all tests here: files are made once
    monkeypatch.setenv("M3SNET_CACHE", str(folder))
    return folder


def image(height: int, width: int) -> np.ndarray:
    return data.astronaut()[100 : 100 + height, 150 : 150 + width]


@pytest.mark.parametrize("tlc", [True, False])
@pytest.mark.parametrize("ablation", [{}, {"ffm": False, "mhamb": False}])
@torch.inference_mode()
def test_the_exportable_form_computes_the_same(tlc: bool, ablation: dict[str, bool]) -> None:
    model: M3SNet = tiny(6, **ablation)
    model.ending.weight *= 0.05
    network = apply_tlc(model, 32) if tlc else model
    for height, width in [*SIZES, (17, 17), (16, 48), (200, 19)]:
        batch = torch.rand(2, 3, height, width)
        torch.testing.assert_close(exportable(network)(batch), network(batch), rtol=0, atol=1e-4)


@pytest.mark.slow
def test_a_compiled_network_gives_the_same_image_within_a_level() -> None:
    model = tiny(5, enc_blk_nums=(1, 1), dec_blk_nums=(1, 1))  # minutes for a larger one
    model.patch_size = 32
    model.ending.requires_grad_(False).weight *= 0.05
    exact, compiled = (Restorer(model, "cpu", "float32", backend, tile=0) for backend in ("exact", "compile"))
    for size in SIZES:
        expected, found = exact(image(*size)), compiled(image(*size))
        assert np.abs(expected.astype(int) - found).max() <= 1
        assert not np.array_equal(found, image(*size))


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_every_backend_gives_the_same_image_within_a_level(backend: str, weights: Path, cache: Path) -> None:
    exact = Restorer(weights, "cpu", "float32", "exact", tile=0)
    restorer = Restorer(weights, "cpu", "float32", backend, tile=0)
    assert restorer.backend == backend and str(restorer) == f"small: float32, {backend} on cpu"
    for size in SIZES:
        expected, found = exact(image(*size)), restorer(image(*size))
        assert np.abs(expected.astype(int) - found).max() <= 1
        assert not np.array_equal(found, image(*size))
    made = {file: file.stat().st_mtime_ns for file in cache.iterdir() if file.is_file()}
    Restorer(weights, "cpu", "float32", backend)
    assert {file: file.stat().st_mtime_ns for file in cache.iterdir() if file.is_file()} == made  # taken again
    with pytest.raises(ExportError, match=r"takes images from 17 pixels a side; take --backend torch"):
        restorer(image(16, 40))


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), [("onnx", "a.onnx"), ("openvino", "a.xml"), ("torch-export", "a.pt2")])
def test_a_file_is_made_compared_and_restores(
    kind: str,
    name: str,
    weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / name
    m3snet.export.main([str(weights), "--format", kind, "-o", str(path)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[3] == f"written: {path}: small, float32, TLC window 48, any height and width from 17 pixels"
    assert len(lines) == 4 and all("grey levels from PyTorch" in line for line in lines[:3])
    made = [".bin", ".xml"] if kind == "openvino" else [path.suffix]
    assert sorted(file.suffix for file in tmp_path.iterdir()) == made
    with pytest.raises(UserError, match="exists"):
        m3snet.export.main([str(weights), "--format", kind, "-o", str(path)])
    content = path.read_bytes()
    monkeypatch.setattr(m3snet.export, "open_export", lambda file: (lambda image: image, open_export(file)[1]))
    with pytest.raises(UserError, match=rf"^{name}: computes something else than PyTorch, and is not written$"):
        m3snet.export.main([str(weights), "--format", kind, "-o", str(path), "--overwrite"])
    assert path.read_bytes() == content and sorted(file.suffix for file in tmp_path.iterdir()) == made
    write_image(tmp_path / "in.png", image(61, 101))
    options = ["--weights", str(path), "--precision", "float32"]
    if kind == "torch-export":  # torch.export.load may run what is in a file
        with pytest.raises(WeightsError, match=r"a file of torch\.export can run code"):
            Restorer(path)
        return
    restore(["rain", str(tmp_path / "in.png"), "-o", str(tmp_path / "out.png"), *options])
    expected = Restorer(weights, "cpu", "float32", "exact")(image(61, 101)).astype(int)
    assert np.abs(expected - read_image(tmp_path / "out.png")).max() <= 1


@pytest.mark.parametrize(
    ("backend", "package", "extra"), [("openvino", "openvino", "fast"), ("onnxruntime", "onnxscript", "export")]
)
def test_a_package_that_is_missing_is_one_line(
    backend: str, package: str, extra: str, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = builtins.__import__

    def missing(name: str, *rest: Any) -> Any:
        if name == package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return found(name, *rest)

    monkeypatch.setenv("M3SNET_CACHE", str(tmp_path))
    monkeypatch.setattr(torch.export, "export", lambda *_, **__: None)
    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ExportError, match=rf"^{package} is not installed; pip install 'm3snet\[{extra}\]'$"):
        Restorer(weights, "cpu", "float32", backend)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a.onnx", "a.xml"])
def test_a_file_that_may_not_be_read_is_not_called_damaged(
    name: str, tmp_path: Path, lock_file: Callable[[Path], None]
) -> None:
    (tmp_path / name).touch()
    lock_file(tmp_path / name)
    with pytest.raises(PermissionError) as refused:
        open_export(tmp_path / name)
    assert refused.value.filename == str(tmp_path / name)


@pytest.mark.parametrize("name", ["a.onnx", "a.xml"])
def test_a_file_that_is_no_export_is_one_line(name: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="no such file"):
        Restorer(tmp_path / name)
    (tmp_path / name).write_bytes(b"something else")
    with pytest.raises(ExportError, match=r"not a file that export\.py made"):
        Restorer(tmp_path / name)


def test_what_a_file_does_not_run_with_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"")
    with pytest.raises(UserError, match="runs with backend onnxruntime, not torch"):
        Restorer(tmp_path / "a.onnx", backend="torch")
    with pytest.raises(UserError, match="computes as it was exported; bfloat16 is not to be had"):
        Restorer(tmp_path / "a.onnx", precision="bfloat16")
