"""Weights on disk: every layout in which M3SNet's are found is read, one is written. No file runs code.

Files name parameters as the published checkpoints do; the modules here have clearer names. What a network looks like
(width, blocks, with or without FFM and MHAMB) is found out from the tensors alone.
"""
from __future__ import annotations

import hashlib
import json
import pickle
import re
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import safe_open
from safetensors.torch import save

from ..utils.cli import UserError, short
from ..utils.files import write_atomically
from .m3snet import M3SNet
from .pickles import check_pickles, stand_ins

PRETRAINED = Path(__file__).resolve().parents[1] / "pretrained"

Tensors = dict[str, torch.Tensor]

_FIRST = "intro.weight"  # of every M3SNet and NAFNet: where it is, the network is
# What wrappers of modules put into names, at any place: torch.compile, FSDP, activation checkpointing.
_WRAPPERS = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# Of several networks in a file an average of the weights is what its makers use, then what stands here first.
_AVERAGE = re.compile(r"(?<![a-z])(ema|swa|averaged?)(?![a-z])")
_CONTAINERS = ("params_ema", "params", "state_dict", "model_state_dict", "model", "net_g", "net")
# Buffers that others leave in a network: thop, torch's and ema_pytorch's averages.
_EXTRAS = {"total_ops", "total_params", "n_averaged", "initted", "step"}
# (published, ours); each is tried at the places where both grammars differ.
_NAMES = (
    (r"\bsca\.1\.", "sca.conv."),
    (r"^middle\.(\d+)\.0\.", r"ffms.\1.block."),
    (r"^middle_ups\.(\d+)\.0\.", r"ffms.\1.up.0."),
)
_NAMES_BACK = (
    (r"\bsca\.conv\.", "sca.1."),
    (r"^ffms\.(\d+)\.block\.", r"middle.\1.0."),
    (r"^ffms\.(\d+)\.up\.0\.", r"middle_ups.\1.0."),
)
_SHOWN = 10
_MOST_BLOCKS = 1000  # more than any network has
_PATCH_SIZES = range(1, 1 << 16)


class WeightsError(UserError):
    """A file that holds no usable weights of an M3SNet; the message names it and says why."""


def load_model(weights: str | Path) -> M3SNet:
    """A ready M3SNet in eval mode, from a .pth or .safetensors file, or by the name of released weights.

    The tensors may lie in nested dictionaries ({'state_dict'}, {'params_ema'}, {'net_g': {'model'}}, ...), their names
    begin with any prefix (`module.`); of several networks in a file an average (EMA, SWA) comes first. Half precision
    becomes float32. NAFNet's are M3SNet's without FFM and MHAMB.

    Raises:
        WeightsError: no such file or name, a file that would run code, tensors that fit no M3SNet, or NaN or infinity.
        OSError: the file cannot be opened.
    """
    path = find_weights(weights)
    content, patch_size = _read(path)
    tensors = from_published(_network(content, path))
    config = detect(tensors, path)
    try:
        with torch.device("meta"):  # no memory before the shapes are known to be those of the file
            model = M3SNet(**config)
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise WeightsError(f"{path}: no M3SNet has this width and these levels ({short(error, 200)})") from error
    _check_fit(model.state_dict(), tensors, path)
    model.load_state_dict({name: tensor.to(torch.float32, copy=True) for name, tensor in tensors.items()}, assign=True)
    if wrong := [name for name, parameter in model.named_parameters() if not parameter.isfinite().all()]:
        raise WeightsError(
            f"{path}: {len(wrong)} of {len(tensors)} tensors hold NaN or infinity, {_some(wrong)}: "
            "the training failed or the file is damaged; take an earlier checkpoint"
        )
    model.patch_size = patch_size
    return model.eval()


def save_weights(model: M3SNet, path: str | Path, half: bool = False) -> None:
    """Write the weights as safetensors in the published parameter names, with the architecture as metadata.

    `half` stores 16-bit floats: half the size, and a difference that 8-bit images hardly ever show. The file is
    written whole or not at all.

    Raises:
        ValueError: `path` does not end in .safetensors, so that no reader would take the file for what it is; or a
            value is not finite, as the largest are in 16 bits.
    """
    path = Path(path)
    if path.suffix.lower() != ".safetensors":
        raise ValueError(f"{path}: weights are written as .safetensors; name the file so")
    dtype = torch.float16 if half else torch.float32
    tensors = {name: tensor.to("cpu", dtype).contiguous() for name, tensor in to_published(model.state_dict()).items()}
    if wrong := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
        raise ValueError(f"{path}: not written: values that are not finite as {dtype}, in {_some(wrong)}")
    metadata = {"architecture": "M3SNet", "config": json.dumps(model.config)}
    if model.patch_size is not None:
        metadata["patch_size"] = str(model.patch_size)
    with write_atomically(path) as file:
        file.write(save(tensors, metadata=metadata))


def released() -> dict[str, dict[str, Any]]:
    """The released weights of pretrained/models.yml: name -> task, file, sha256, recipe, scores and origin."""
    index = PRETRAINED / "models.yml"
    return (yaml.safe_load(index.read_text(encoding="utf-8")) or {}) if index.is_file() else {}


def find_weights(weights: str | Path) -> Path:
    """The file that a path or the name of released weights means; a released file is compared with its hash.

    Raises:
        WeightsError: there is no such file or name, or the released file is not the one that was released.
    """
    entry = released().get(str(weights))
    if entry is None:
        path = Path(weights)
        if path.is_dir():
            raise WeightsError(f"{path}: a folder; name a file of weights in it, such as model.safetensors")
        if not path.is_file():
            names = ", ".join(released()) or "none"
            raise WeightsError(f"{path}: no such file, nor the name of released weights (there are: {names})")
        return path
    path = PRETRAINED / entry["file"]
    if not path.is_file():
        raise WeightsError(f"{path}: the released weights {weights!r} are missing; get the repository's file back")
    if hashlib.sha256(path.read_bytes()).hexdigest() != entry["sha256"]:
        raise WeightsError(f"{path}: is not the file that was released as {weights!r} (sha256 differs); get it anew")
    return path


def _read(path: Path) -> tuple[Any, int | None]:
    """What a file holds, on the CPU; and the size of the patches that it was trained on, if it says that."""
    content: Any
    patch_size: Any
    if path.suffix == ".pt2":  # torch.export.load falls back to pickles
        raise WeightsError(
            f"{path}: refused: a file of torch.export can run code; take the weights that it was made of, or export "
            "them to ONNX or OpenVINO"
        )
    with path.open("rb") as file:  # an error that names the file: one that may not be read is not damaged
        beginning = file.read(9)
    safe = path.suffix.lower() == ".safetensors" or beginning[8:] == b"{"  # the length of its header, and JSON
    if not safe and not beginning.startswith((b"PK\3\4", b"\x80")):  # a zip file, a pickle
        raise WeightsError(f"{path}: no file of weights: it begins like neither a PyTorch file nor a .safetensors")
    try:
        if safe:
            with safe_open(path, "pt") as tensors:
                patch_size = (tensors.metadata() or {}).get("patch_size", "")
                content = {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118, it is no dictionary
            patch_size = int(patch_size) if patch_size.isdecimal() else None
        else:
            check_pickles(path)
            with stand_ins():
                content = torch.load(path, map_location="cpu", weights_only=True)
            patch_size = _trained_on(content)
    except pickle.UnpicklingError as error:
        # Torch wraps the reason in advice to load the file unsafely; the error that it caught has the reason alone.
        lines = str(error.__context__ or error).split("\n")
        reason = next((line.strip() for line in lines if line.strip()), "unreadable pickle")
        raise WeightsError(
            f"{path}: refused: it holds more than tensors, and reading it could run code in it, or it is no PyTorch "
            f"file ({short(reason, 200)}). If you trust it, save torch.load(FILE, weights_only=False)['state_dict'] "
            "to a new file"
        ) from error
    except Exception as error:  # what a damaged file makes its readers raise has no end
        raise WeightsError(f"{path}: damaged, or no file of weights ({short(repr(error), 200)})") from error
    if patch_size is not None and patch_size not in _PATCH_SIZES:
        raise WeightsError(
            f"{path}: says that it was trained on patches of {short(patch_size)} pixels; expected "
            f"{_PATCH_SIZES[0]} to {_PATCH_SIZES[-1]:,}"
        )
    return content, patch_size


def _trained_on(checkpoint: Any) -> int | None:
    """TRAINING.TRAIN_PS of the configuration that a checkpoint of this project carries; None in those of others."""
    for key in ("config", "TRAINING", "TRAIN_PS"):
        checkpoint = checkpoint.get(key) if isinstance(checkpoint, Mapping) else None
    return checkpoint if isinstance(checkpoint, int) else None


def _network(content: Any, path: Path) -> Tensors:
    """The tensors of the one network in a file that is meant to be used, under their names in it."""
    found: dict[str, Tensors] = {}  # where -> tensors
    others: list[str] = []
    parts, seen = deque([("", content)]), {id(content)}
    while parts:
        where, part = parts.popleft()
        if not isinstance(part, Mapping):
            continue
        tensors: Tensors = {}
        for key, value in part.items():
            if isinstance(key, str) and isinstance(value, torch.Tensor):
                tensors[_WRAPPERS.sub("", key)] = value
            elif isinstance(key, str) and isinstance(value, Mapping) and id(value) not in seen:
                seen.add(id(value))
                parts.append((f"{where}.{key}"[-80:].strip("."), value))
        for prefix, of_prefix in _by_prefix(tensors).items():
            found[f"{where}.{prefix}".strip(".")] = of_prefix
        others += list(tensors)[:_SHOWN]
    if not found and others:
        raise WeightsError(f"{path}: not the weights of an M3SNet or NAFNet; its tensors begin {_some(others)}")
    if not found:
        raise WeightsError(f"{path}: expected named tensors, alone or in dictionaries; found none")
    ranks = {where: _rank(where) for where in found}
    best = [where for where in found if ranks[where] == min(ranks.values())]
    if len(best) > 1:
        raise WeightsError(f"{path}: holds several networks ({_some(best)}); save one of them to a file of its own")
    tensors = found[best[0]]
    if any(tensor.layout != torch.strided or tensor.device.type != "cpu" for tensor in tensors.values()):
        raise WeightsError(f"{path}: expected plain tensors; found sparse ones, or some without values")
    if sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()) > path.stat().st_size:
        raise WeightsError(f"{path}: its tensors claim to hold more values than the file has bytes for")
    return tensors


def _by_prefix(tensors: Tensors) -> dict[str, Tensors]:
    """The tensors of every network among these: what its names begin with -> the rest of its names -> tensor."""
    prefixes = [name.removesuffix(_FIRST) for name in tensors if re.search(rf"(^|\.){_FIRST}$", name)][:_SHOWN]
    found: dict[str, Tensors] = {prefix: {} for prefix in prefixes}
    for name, tensor in tensors.items():
        owner = max((prefix for prefix in prefixes if name.startswith(prefix)), key=len, default=None)
        if owner is not None and name.rpartition(".")[2] not in _EXTRAS:
            found[owner][name.removeprefix(owner)] = tensor
    return found


def _rank(where: str) -> tuple[bool, int]:
    """Which of several networks in a file is meant: the least."""
    last = where.removesuffix("module").strip(".").rpartition(".")[2]
    return not _AVERAGE.search(where.lower()), (*_CONTAINERS, last).index(last)


def from_published(tensors: Mapping[str, torch.Tensor]) -> Tensors:
    """Published parameter names -> those of the modules here; other names stay as they are."""
    return {_rename(name, _NAMES): tensor for name, tensor in tensors.items()}


def to_published(tensors: Mapping[str, torch.Tensor]) -> Tensors:
    """The inverse of `from_published`."""
    return {_rename(name, _NAMES_BACK): tensor for name, tensor in tensors.items()}


def detect(tensors: Mapping[str, torch.Tensor], path: str | Path) -> dict[str, Any]:
    """The constructor's arguments of the M3SNet that these tensors (in the names of the modules here) belong to.

    Raises:
        WeightsError: they are not those of an M3SNet; `path` is named.
    """
    intro = tensors.get(_FIRST)
    levels = _count(tensors, r"downs\.(\d{1,6})\.")
    if intro is None or intro.ndim != 4 or not intro.numel() or not levels:
        raise WeightsError(f"{path}: not the weights of an M3SNet or NAFNet; its tensors begin {_some(tensors)}")
    encoders, decoders = (
        tuple(_count(tensors, rf"{part}\.{level}\.(\d{{1,6}})\.") for level in range(min(levels, _MOST_BLOCKS)))
        for part in ("encoders", "decoders")
    )
    middle = _count(tensors, r"middle_blks\.(\d{1,6})\.")
    blocks = levels + sum(encoders) + sum(decoders) + middle
    if blocks > min(len(tensors), _MOST_BLOCKS):
        raise WeightsError(f"{path}: names {blocks:,} blocks, and has {len(tensors):,} tensors: no M3SNet is like that")
    return {
        "img_channel": intro.shape[1],
        "width": intro.shape[0],
        "middle_blk_num": middle,
        "enc_blk_nums": encoders,
        "dec_blk_nums": decoders,
        "ffm": any(name.startswith("ffms.") for name in tensors),
        "mhamb": not any(name.startswith("middle_blks.0.conv1") for name in tensors),
    }


def _rename(name: str, rules: Iterable[tuple[str, str]]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _count(tensors: Iterable[str], pattern: str) -> int:
    return 1 + max((int(match[1]) for name in tensors if (match := re.match(pattern, name))), default=-1)


def _check_fit(expected: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor], path: Path) -> None:
    problems = [f"missing {name} {tuple(tensor.shape)}" for name, tensor in expected.items() if name not in found]
    problems += [
        f"unexpected {short(name)} {short(tuple(tensor.shape))}"
        for name, tensor in found.items()
        if name not in expected
    ]
    problems += [
        f"misshapen {name}: expected {tuple(tensor.shape)}, found {short(tuple(found[name].shape))}"
        for name, tensor in expected.items()
        if name in found and found[name].shape != tensor.shape
    ]
    problems += [f"not floating point {short(name)}" for name, value in found.items() if not value.is_floating_point()]
    if problems:
        more = f"\n  ... and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise WeightsError(f"{path}: not the tensors of an M3SNet:\n  " + "\n  ".join(problems[:_SHOWN]) + more)


def _some(names: Iterable[str]) -> str:
    return ", ".join(map(short, list(names)[:5])) or "nowhere: there are none"
