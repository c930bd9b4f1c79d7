"""Files of weights: every layout loads to the same network, bad ones are refused with a reason, none runs code."""
from __future__ import annotations

import argparse
import datetime
import hashlib
import math
import os
import pickle
import re
import sys
import types
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from m3snet.models import M3SNet, WeightsError, load_model, save_weights
from m3snet.models.weights import Tensors, detect, from_published, to_published
from m3snet.tests.filled import tiny
from m3snet.utils.images import write_image


@pytest.fixture(scope="module")
def model() -> M3SNet:
    return tiny(seed=5)


@pytest.fixture(scope="module")
def published(model: M3SNet) -> Tensors:
    return to_published(model.state_dict())


def prefixed(tensors: Tensors, prefix: str = "module.") -> Tensors:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def assert_same(found: M3SNet, expected: M3SNet) -> None:
    assert found.config == expected.config
    assert not found.training
    state = expected.state_dict()
    assert found.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in found.state_dict().items())


def refusal(path: Path) -> str:
    with pytest.raises(WeightsError) as refused:
        load_model(path)
    message = str(refused.value)
    assert message.startswith(f"{path}: ")
    return message


# Layouts


LAYOUTS: dict[str, Callable[[Tensors], Any]] = {
    "published": lambda tensors: {"epoch": 3, "state_dict": tensors, "optimizer": {"state": {}, "param_groups": []}},
    "parallel": lambda tensors: {"epoch": 3, "state_dict": prefixed(tensors), "optimizer": {}},
    "params": lambda tensors: {"params": tensors},
    "params_ema": lambda tensors: {"params_ema": prefixed(tensors)},
    "bare": lambda tensors: tensors,
    "bare parallel": prefixed,
    "compiled": lambda tensors: prefixed(prefixed(tensors, "_orig_mod.")),
    "own names": lambda tensors: {"state_dict": from_published(tensors)},
    "lightning": lambda tensors: {"state_dict": prefixed(tensors, "net."), "loops": {"fit_loop": {"epoch": 3}}},
    "model": lambda tensors: {"model": tensors, "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}}},
    "model_state_dict": lambda tensors: {"model_state_dict": tensors},
    "net_g": lambda tensors: {"net_g": prefixed(tensors), "net_d": {"conv.weight": torch.zeros(1)}},
    "nested": lambda tensors: {"checkpoint": {"networks": {"generator": {"state_dict": tensors}}}},
    "fsdp": lambda tensors: {
        "net": {f"_fsdp_wrapped_module.{name.replace('.0.', '.0._fsdp_wrapped_module.', 1)}": tensor
                for name, tensor in tensors.items()}
    },
    "checkpointing": lambda tensors: prefixed(tensors, "module._checkpoint_wrapped_module._orig_mod."),
    "any prefix": lambda tensors: prefixed(tensors, "model.restorer.backbone."),
    "averaged model": lambda tensors: {"n_averaged": torch.tensor(7), **prefixed(tensors)},
    "ema_pytorch": lambda tensors: {
        "initted": torch.tensor(True),
        "step": torch.tensor(9),
        **prefixed({name: tensor + 1 for name, tensor in tensors.items()}, "online_model."),
        **prefixed(tensors, "ema_model."),
    },
    "thop": lambda tensors: {
        **tensors, "total_ops": torch.zeros(1), "encoders.0.0.conv1.total_params": torch.zeros(1, dtype=torch.float64)
    },
    "foreign config": lambda tensors: {"config": {"TRAINING": None}, "state_dict": tensors},
    "config text": lambda tensors: {"config": "m3snet.yml", "state_dict": tensors},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str, model: M3SNet, published: Tensors, tmp_path: Path) -> None:
    torch.save(LAYOUTS[layout](published), tmp_path / "weights.pth")
    found = load_model(tmp_path / "weights.pth")
    assert_same(found, model)
    assert found.patch_size is None


def test_layout_before_torch_1_6(model: M3SNet, published: Tensors, tmp_path: Path) -> None:
    torch.save({"state_dict": published}, tmp_path / "weights.pth", _use_new_zipfile_serialization=False)
    assert_same(load_model(tmp_path / "weights.pth"), model)


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("suffix", [".safetensors", ".SafeTensors"])
def test_safetensors_of_others(prefix: str, suffix: str, model: M3SNet, published: Tensors, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    save_file(prefixed(published, prefix), path)
    assert_same(load_model(path), model)
    assert load_model(path).patch_size is None


def test_averaged_weights_come_first(model: M3SNet, published: Tensors, tmp_path: Path) -> None:
    others = {name: tensor + 1 for name, tensor in published.items()}
    for content in (
        {"params": others, "params_ema": published},
        {"state_dict": others, "params_ema": published, "epoch": 1},
        {"params": published, "params_ema": None},
        {"model": others, "ema": prefixed(published)},
        {"state_dict": {**prefixed(others, "net."), **prefixed(published, "net_ema.")}},
        {"net_g": others, "swa_model": {"n_averaged": torch.tensor(2), **prefixed(published)}},
        {"teacher": others, "params": published},
    ):
        torch.save(content, tmp_path / "weights.pth")
        assert_same(load_model(tmp_path / "weights.pth"), model)


def test_several_networks_are_not_guessed_among(published: Tensors, tmp_path: Path) -> None:
    torch.save({"teacher": published, "student": published.copy()}, tmp_path / "weights.pth")
    message = refusal(tmp_path / "weights.pth")
    assert message.endswith("holds several networks (teacher, student); save one of them to a file of its own")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(dtype: torch.dtype, published: Tensors, tmp_path: Path) -> None:
    tensors = {name: tensor.to(dtype) for name, tensor in published.items()}
    torch.save({"state_dict": tensors}, tmp_path / "weights.pth")
    save_file(tensors, tmp_path / "weights.safetensors")
    for path in tmp_path.iterdir():
        state = to_published(load_model(path).state_dict())
        assert all(torch.equal(state[name], tensor.float()) for name, tensor in tensors.items())
        assert {tensor.dtype for tensor in state.values()} == {torch.float32}


@pytest.mark.parametrize(
    "config",
    [
        {"width": 8, "middle_blk_num": 1, "enc_blk_nums": (1, 1, 1, 28), "dec_blk_nums": (1, 1, 1, 1)},
        {"width": 16, "middle_blk_num": 3, "enc_blk_nums": (2, 11, 4), "dec_blk_nums": (1, 2, 3), "img_channel": 1},
        {"width": 8, "middle_blk_num": 1, "enc_blk_nums": (0, 1, 2), "dec_blk_nums": (1, 0, 1)},
        {"width": 8, "middle_blk_num": 12, "enc_blk_nums": (1, 1, 1, 1), "dec_blk_nums": (1, 1, 1, 1)},
        {"width": 12, "middle_blk_num": 1, "enc_blk_nums": (1, 1), "dec_blk_nums": (1, 1), "mhamb": False},
    ],
)
@pytest.mark.parametrize("without", [{}, {"ffm": False}, {"mhamb": False}, {"ffm": False, "mhamb": False}])
def test_networks_are_known_by_their_tensors(config: dict[str, Any], without: dict[str, bool]) -> None:
    with torch.device("meta"):
        model = M3SNet(**{**config, **without})
    assert detect(from_published(to_published(model.state_dict())), "file") == model.config


@pytest.mark.parametrize("without", [{"ffm": False}, {"mhamb": False}, {"ffm": False, "mhamb": False}])
def test_ablations_and_nafnet_load(without: dict[str, bool], tmp_path: Path) -> None:
    model = tiny(**without)
    torch.save({"params": to_published(model.state_dict())}, tmp_path / "weights.pth")
    assert_same(load_model(tmp_path / "weights.pth"), model)


def test_patch_size_of_a_training_state(model: M3SNet, published: Tensors, tmp_path: Path) -> None:
    torch.save({"state_dict": published, "config": {"TRAINING": {"TRAIN_PS": 96}}}, tmp_path / "model_best.pth")
    assert load_model(tmp_path / "model_best.pth").patch_size == 96


# Written files


@pytest.mark.parametrize("patch_size", [None, 128])
def test_written_files_load_again(patch_size: int | None, tmp_path: Path) -> None:
    model = tiny(seed=2, mhamb=False)
    model.patch_size = patch_size
    path = tmp_path / "new folder" / "weights.safetensors"
    save_weights(model, path)
    found = load_model(path)
    assert_same(found, model)
    assert found.patch_size == patch_size
    assert [file.name for file in path.parent.iterdir()] == ["weights.safetensors"]


def test_written_names_are_the_published_ones(model: M3SNet, published: Tensors, tmp_path: Path) -> None:
    save_weights(model, tmp_path / "weights.safetensors")
    tensors = load_file(tmp_path / "weights.safetensors")
    assert tensors.keys() == published.keys()
    assert {"encoders.0.0.sca.1.weight", "middle.4.0.beta", "middle_ups.4.0.weight", "ups.0.0.weight"} < tensors.keys()
    with safe_open(tmp_path / "weights.safetensors", "pt") as file:
        assert file.metadata()["architecture"] == "M3SNet"


def test_half_files_are_half_as_large_and_almost_equal(model: M3SNet, tmp_path: Path) -> None:
    whole, half = tmp_path / "whole.safetensors", tmp_path / "half.safetensors"
    save_weights(model, whole)
    save_weights(model, half, half=True)
    assert 0.5 <= half.stat().st_size / whole.stat().st_size < 0.55
    expected = model.state_dict()
    for name, tensor in load_model(half).state_dict().items():
        assert torch.allclose(tensor, expected[name], rtol=2**-11, atol=1e-7)


def test_failed_writes_leave_the_old_file(model: M3SNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights.safetensors"
    save_weights(model, path)

    def fill_disk(_: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", fill_disk)
    with pytest.raises(OSError, match="no space"):
        save_weights(tiny(), path)
    assert_same(load_model(path), model)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_values_that_are_not_finite_are_refused(name: str, value: float, published: Tensors, tmp_path: Path) -> None:
    tensors = dict(published)
    for spoilt in ("ending.bias", "middle.0.0.beta"):
        tensors[spoilt] = tensors[spoilt].clone()
        tensors[spoilt].flatten()[-1] = value
    path = tmp_path / name
    save_file(tensors, path) if name.endswith("safetensors") else torch.save(tensors, path)
    message = refusal(path)
    assert f"2 of {len(tensors)} tensors hold NaN or infinity, ending.bias, ffms.0.block.beta: " in message


def test_values_too_large_for_16_bits_are_not_written(tmp_path: Path) -> None:
    model = tiny()
    torch.nn.init.constant_(model.ending.bias, 70000)
    save_weights(model, tmp_path / "whole.safetensors")
    with pytest.raises(ValueError, match=r"half\.safetensors: not written: values that are not finite .*ending\.bias"):
        save_weights(model, tmp_path / "half.safetensors", half=True)
    assert not (tmp_path / "half.safetensors").exists()


def test_files_are_named_for_what_they_are(model: M3SNet, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model\.pth: weights are written as \.safetensors"):
        save_weights(model, tmp_path / "model.pth")


class DictConfig:
    """As omegaconf's is saved: types, metadata and nodes that point at each other."""

    def __init__(self, content: dict[str, Any]) -> None:
        self._content, self._parent, self._metadata = content, self, {"ref_type": Any, "key_type": int, "flags": dict}


class CfgNode(dict[str, Any]):
    """As yacs's: a dictionary with attributes."""


class HistoryBuffer:
    """Of a package that is not known here."""


# What trainings save beside the tensors, or around them.
EXTRAS: dict[str, Callable[[Tensors], Any]] = {
    "numbers of numpy": lambda tensors: {
        "psnr": np.float64(31.2), "step": np.int64(7), np.str_("x"): np.float32(1), "best": np.bool_(True),
        "state_dict": tensors,
    },
    "arrays": lambda tensors: {"losses": np.arange(9.0), "random": np.random.get_state(), "state_dict": tensors},
    "arguments": lambda tensors: {"args": argparse.Namespace(lr=1e-3, out=Path("a/b")), "state_dict": tensors},
    "paths": lambda tensors: {"root": Path("data"), "win": PureWindowsPath("c:/x"), Path("key"): 1, "model": tensors},
    "defaultdict": lambda tensors: {
        "log": defaultdict(list, psnr=[1.0]), "deep": defaultdict(dict), "model": defaultdict(float, tensors)
    },
    "OrderedDict": lambda tensors: OrderedDict(epoch=1, model=OrderedDict(tensors)),
    "dates": lambda tensors: {"when": datetime.datetime.now(datetime.timezone.utc), "model": tensors},
    "namespaces": lambda tensors: {"hyper": types.SimpleNamespace(a=1, range=range(3)), "model": tensors},
    "omegaconf": lambda tensors: {"config": DictConfig({"width": 8}), "state_dict": tensors},
    "yacs": lambda tensors: {"config": with_attribute(CfgNode(width=8, SOLVER=CfgNode(lr=1))), "state_dict": tensors},
    "tensors in a yacs node": lambda tensors: CfgNode(params=CfgNode(tensors)),
}  # fmt: skip


def with_attribute(node: CfgNode) -> CfgNode:
    node.__dict__["__immutable__"] = True
    return node


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Classes of this file get the names of those that they stand for, to be saved under them."""
    monkeypatch.setitem(sys.modules, "omegaconf", types.ModuleType("omegaconf"))
    for kind, name in ((DictConfig, "omegaconf.dictconfig"), (CfgNode, "yacs.config"), (HistoryBuffer, "mmengine")):
        module = types.ModuleType(name)
        setattr(module, kind.__name__, kind)
        monkeypatch.setattr(kind, "__module__", name)
        monkeypatch.setitem(sys.modules, name, module)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("extra", EXTRAS)
@pytest.mark.usefixtures("packages")
def test_what_trainings_save_beside_the_tensors(
    extra: str, zipped: bool, model: M3SNet, published: Tensors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "weights.pth"
    torch.save(EXTRAS[extra](published), path, _use_new_zipfile_serialization=zipped)
    for module in ("omegaconf.dictconfig", "yacs.config"):  # not installed where the file is read
        monkeypatch.setitem(sys.modules, module, None)
    assert_same(load_model(path), model)


@pytest.mark.usefixtures("packages")
def test_what_is_not_known_is_refused(published: Tensors, tmp_path: Path) -> None:
    torch.save({"loss": HistoryBuffer(), "state_dict": published}, tmp_path / "weights.pth")
    assert "mmengine.HistoryBuffer" in refusal(tmp_path / "weights.pth")


def test_nobody_else_gets_what_stands_in(tmp_path: Path) -> None:
    torch.save({"args": argparse.Namespace(lr=1)}, tmp_path / "weights.pth")
    refusal(tmp_path / "weights.pth")  # without tensors
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "weights.pth", weights_only=True)


# Files that would run code


class Intruder:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("layout", ["zip", "legacy", "plain pickle"])
def test_no_file_runs_code(layout: str, published: Tensors, tmp_path: Path) -> None:
    folder, path = tmp_path / "intruder was here", tmp_path / "weights.pth"
    content = {"state_dict": {"intro.weight": Intruder(folder)}}
    if layout == "plain pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=layout == "zip")
    message = refusal(path)
    assert not folder.exists()
    assert "refused: it holds more than tensors" in message
    assert "mkdir" in message  # the reason
    torch.load(path, weights_only=False) if layout != "plain pickle" else pickle.loads(path.read_bytes())
    assert folder.exists()  # so the file was dangerous indeed


def test_whole_pickled_models_are_refused_with_the_reason(model: M3SNet, tmp_path: Path) -> None:
    torch.save(model, tmp_path / "model.pth")
    message = refusal(tmp_path / "model.pth")
    assert "m3snet.models.m3snet.M3SNet" in message
    assert "weights_only=False" in message  # the way out


# Files that are none


def test_damaged_files(model: M3SNet, published: Tensors, tmp_path: Path) -> None:
    new, old, safe = tmp_path / "new.pth", tmp_path / "old.pth", tmp_path / "safe.safetensors"
    torch.save({"state_dict": published}, new)
    torch.save({"state_dict": published}, old, _use_new_zipfile_serialization=False)
    save_weights(model, safe)
    for path in (new, old, safe):
        whole = path.read_bytes()
        for size in (0, 1, 7, 100, 5000, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:size])
            refusal(path)


def test_a_wrong_value_in_a_checkpoint_is_found_by_its_checksum(published: Tensors, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"state_dict": published}, path)
    value = published["ending.bias"].numpy().tobytes()
    content = path.read_bytes()
    assert content.count(value) == 1
    path.write_bytes(content.replace(value, value[:-1] + bytes([value[-1] ^ 1])))
    torch.load(path, weights_only=True)  # does not mind
    assert "Bad CRC-32" in refusal(path)


def test_a_checkpoint_without_checksums_loads(model: M3SNet, published: Tensors, tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(published, tmp_path / "weights.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    assert_same(load_model(tmp_path / "weights.pth"), model)


def test_a_file_that_may_not_be_read_is_not_called_damaged(
    published: Tensors, tmp_path: Path, lock_file: Callable[[Path], None]
) -> None:
    torch.save(published, tmp_path / "weights.pth")
    lock_file(tmp_path / "weights.pth")
    with pytest.raises(PermissionError) as refused:
        load_model(tmp_path / "weights.pth")
    assert refused.value.filename == str(tmp_path / "weights.pth")



@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
@pytest.mark.parametrize(
    "content", [b"not weights, but text\n", b"\x80", b"{}", b"<html>404</html>", b"PK\x05\x06" + bytes(18), bytes(99)]
)
def test_files_of_other_kinds(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    refusal(tmp_path / name)


def test_a_photograph_is_no_file_of_weights(tmp_path: Path) -> None:
    for suffix in (".png", ".jpg"):
        write_image(tmp_path / f"photo{suffix}", np.zeros((8, 8, 3), np.uint8))
        with pytest.raises(WeightsError, match=rf"photo\{suffix}: no file of weights: it begins like neither"):
            load_model(tmp_path / f"photo{suffix}")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([torch.zeros(1)], "expected named tensors"),
        (torch.zeros(1), "expected named tensors"),
        (None, "expected named tensors"),
        ({"state_dict": 3}, "expected named tensors"),
        ({"state_dict": {"intro.weight": [1.0]}}, "expected named tensors"),
        ({}, "expected named tensors"),
        ({"conv1.weight": torch.zeros(64, 3, 7, 7)}, "its tensors begin conv1.weight"),
        ({"intro.weight": torch.zeros(8), "downs.0.weight": torch.zeros(16, 8, 2, 2)}, "not the weights of an M3SNet"),
        ({"intro.weight": torch.zeros(0, 3, 3, 3), "downs.0.weight": torch.zeros(1)}, "not the weights of an M3SNet"),
        ({"intro.weight": torch.zeros(3, 3, 3, 3), "downs.0.weight": torch.zeros(1),
          "middle_blks.0.temperature": torch.zeros(8, 1, 1)}, "8 heads do not divide 6 channels"),
    ],
)  # fmt: skip
def test_other_contents(content: Any, reason: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "weights.pth")
    assert reason in refusal(tmp_path / "weights.pth")


def test_safetensors_named_otherwise_and_the_reverse(model: M3SNet, published: Tensors, tmp_path: Path) -> None:
    torch.save(published, tmp_path / "torch.safetensors")
    refusal(tmp_path / "torch.safetensors")
    save_file(published, tmp_path / "safe.pth")
    try:  # newer releases of torch read it, older ones do not
        assert_same(load_model(tmp_path / "safe.pth"), model)
    except WeightsError as error:
        assert str(error).startswith(f"{tmp_path / 'safe.pth'}: ")


def test_tensors_that_do_not_fit_are_listed_in_one_error(published: Tensors, tmp_path: Path) -> None:
    tensors = dict(published)
    del tensors["encoders.0.0.conv1.bias"]
    tensors["middle.0.0.beta"] = torch.zeros(1, 9, 1, 1)
    tensors["encoders.1.0.conv9.weight"] = torch.zeros(2, 3)
    tensors["ending.bias"] = torch.zeros(3, dtype=torch.int64)
    torch.save({"state_dict": tensors}, tmp_path / "weights.pth")
    message = refusal(tmp_path / "weights.pth")
    assert message.splitlines()[1:] == [
        "  missing encoders.0.0.conv1.bias (16,)",
        "  unexpected encoders.1.0.conv9.weight (2, 3)",
        "  misshapen ffms.0.block.beta: expected (1, 8, 1, 1), found (1, 9, 1, 1)",
        "  not floating point ending.bias",
    ]


def test_long_lists_are_cut(published: Tensors, tmp_path: Path) -> None:
    tensors = {name: tensor for name, tensor in published.items() if not name.startswith("encoders.0.0.")}
    tensors["encoders.0.0.beta"] = published["encoders.0.0.beta"]
    missing = len(published) - len(tensors)
    torch.save(tensors, tmp_path / "weights.pth")
    lines = refusal(tmp_path / "weights.pth").splitlines()
    assert len(lines) == 12
    assert lines[-1] == f"  ... and {missing - 10} more"


# Files made to harm


ONES = torch.ones(8)
# Tensors that are put among those of a sound network, and why it is refused. Each took minutes, or gigabytes.
BOMBS: dict[str, tuple[dict[str, torch.Tensor], str]] = {
    "blocks": ({"encoders.0.999999.norm1.weight": ONES}, r"names 1,000,0\d\d blocks"),
    "middle": ({"middle_blks.999999.temperature": ONES}, r"names 1,000,0\d\d blocks"),
    "levels": ({"downs.40.bias": ONES}, "no M3SNet has this width and these levels"),
    "digits": ({f"encoders.0.{'9' * 5000}.norm1.weight": ONES}, r"unexpected encoders\.0\.9{60,80}\.\.\. \(8,\)"),
    "width": ({"intro.weight": torch.ones(1).expand(8 << 40, 3, 3, 3)}, "more values than the file has bytes for"),
    "shared": ({"ending.weight": torch.ones(1).expand(3, 8, 9999, 9999)}, "more values than the file has bytes for"),
    "sparse": ({"ending.weight": torch.ones(3, 8, 3, 3).to_sparse()}, "expected plain tensors"),
    "meta": ({"ending.weight": torch.ones(3, 8, 3, 3, device="meta")}, "expected plain tensors"),
    "terminal": ({"\x1b[2J" + "a" * 9999: ONES}, r"unexpected \\x1b\[2Ja{60,80}\.\.\. \(8,\)"),
}


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
def test_bombs_are_refused_in_a_few_words(bomb: str, published: Tensors, tmp_path: Path) -> None:
    harm, reason = BOMBS[bomb]
    torch.save({**published, **harm}, tmp_path / "weights.pth")
    message = refusal(tmp_path / "weights.pth")
    assert re.search(reason, message), message
    assert len(message) < 1000


@pytest.mark.parametrize("patch_size", [0, -1, 10**9])
def test_an_absurd_patch_size_is_refused(patch_size: int, published: Tensors, tmp_path: Path) -> None:
    torch.save({"state_dict": published, "config": {"TRAINING": {"TRAIN_PS": patch_size}}}, tmp_path / "weights.pth")
    expected = f"says that it was trained on patches of {patch_size} pixels; expected 1 to 65,535"
    assert expected in refusal(tmp_path / "weights.pth")


def test_a_compressed_checkpoint_is_not_unpacked(published: Tensors, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(published, path)
    with zipfile.ZipFile(path) as whole:
        members = {name: whole.read(name) for name in whole.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in members.items():
            packed.writestr(name, content)
    assert "compressed, which torch.save never does" in refusal(path)


# Released weights


@pytest.fixture
def shelf(model: M3SNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of released weights with one entry, `toy`."""
    save_weights(model, tmp_path / "toy.safetensors")
    digest = hashlib.sha256((tmp_path / "toy.safetensors").read_bytes()).hexdigest()
    (tmp_path / "models.yml").write_text(yaml.safe_dump({"toy": {"file": "toy.safetensors", "sha256": digest}}))
    monkeypatch.setattr("m3snet.models.weights.PRETRAINED", tmp_path)
    return tmp_path


def test_released_weights_go_by_name(shelf: Path, model: M3SNet) -> None:
    assert_same(load_model("toy"), model)


def test_altered_released_weights_are_refused(shelf: Path) -> None:
    save_weights(tiny(seed=6), shelf / "toy.safetensors")  # sound weights, but others
    with pytest.raises(WeightsError, match=re.escape(f"{shelf / 'toy.safetensors'}: is not the file")):
        load_model("toy")
    (shelf / "toy.safetensors").unlink()
    with pytest.raises(WeightsError, match="the released weights 'toy' are missing"):
        load_model("toy")


def test_other_names(shelf: Path) -> None:
    with pytest.raises(WeightsError, match=r"boy: no such file, nor the name of released weights \(there are: toy\)"):
        load_model("boy")
    with pytest.raises(WeightsError, match="a folder; name a file of weights in it"):
        load_model(shelf)
    for empty in ("", "# nothing yet\n"):
        (shelf / "models.yml").write_text(empty)
        with pytest.raises(WeightsError, match=r"there are: none"):
            load_model("toy")
    (shelf / "models.yml").unlink()
    with pytest.raises(WeightsError, match=r"there are: none"):
        load_model("toy")
