"""Weights on disk: every layout in which M3SNet's are found is read, one is written. No file runs code.

Files name parameters as the published checkpoints do; the modules here have clearer names. What a network looks like
(width, blocks, with or without FFM and MHAMB) is found out from the tensors alone.
"""
from __future__ import annotations

import hashlib
import json
import pickle
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import safe_open
from safetensors.torch import save

from ..utils.cli import UserError
from .m3snet import M3SNet

PRETRAINED = Path(__file__).resolve().parents[1] / "pretrained"

Tensors = dict[str, torch.Tensor]

# Where programs of the field put the tensors; an average of the weights is what they mean to be used.
_CONTAINERS = ("params_ema", "params", "state_dict")
# What DataParallel, DistributedDataParallel and torch.compile put before every name.
_PREFIX = re.compile(r"^(module\.|_orig_mod\.)+")
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


class WeightsError(UserError):
    """A file that holds no usable weights of an M3SNet; the message names it and says why."""


def load_model(weights: str | Path) -> M3SNet:
    """A ready M3SNet in eval mode, from a .pth or .safetensors file, or by the name of released weights.

    Files may be published checkpoints, with or without `module.` prefixes, {'state_dict'}, {'params'},
    {'params_ema'} or bare tensors; half precision becomes float32. NAFNet's are M3SNet's without FFM and MHAMB.

    Raises:
        WeightsError: no such file or name, a file that would run code, or tensors that fit no M3SNet.
    """
    path = find_weights(weights)
    content, patch_size = _read(path)
    tensors = from_published(content)
    config = detect(tensors, path)
    try:
        model = M3SNet(**config)
    except (ValueError, RuntimeError) as error:
        raise WeightsError(f"{path}: no M3SNet has this width and these levels ({error})") from error
    _check_fit(model.state_dict(), tensors, path)
    model.load_state_dict(tensors)  # into float32, whatever they are in
    model.patch_size = patch_size
    return model.eval()


def save_weights(model: M3SNet, path: str | Path, half: bool = False) -> None:
    """Write the weights as safetensors in the published parameter names, with the architecture as metadata.

    `half` stores 16-bit floats: half the size, and a difference that 8-bit images hardly ever show. The file is
    written whole or not at all.

    Raises:
        ValueError: `path` does not end in .safetensors, so that no reader would take the file for what it is.
    """
    dtype = torch.float16 if half else torch.float32
    tensors = {name: tensor.to("cpu", dtype).contiguous() for name, tensor in to_published(model.state_dict()).items()}
    path = Path(path)
    if path.suffix.lower() != ".safetensors":
        raise ValueError(f"{path}: weights are written as .safetensors; name the file so")
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"architecture": "M3SNet", "config": json.dumps(model.config)}
    if model.patch_size is not None:
        metadata["patch_size"] = str(model.patch_size)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_bytes(save(tensors, metadata=metadata))  # save_file's would be unreadable to colleagues
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


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


def _read(path: Path) -> tuple[Tensors, int | None]:
    """The named tensors of a file, on the CPU, without `module.` prefixes; and the training patches' size, if known."""
    content: Any
    patch_size: Any
    try:
        if path.suffix.lower() == ".safetensors":
            with safe_open(path, "pt") as file:
                patch_size = (file.metadata() or {}).get("patch_size", "")
                content = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no dictionary
            patch_size = int(patch_size) if patch_size.isdecimal() else None
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
            patch_size = _trained_on(content)
    except pickle.UnpicklingError as error:
        # Torch wraps the reason in advice to load the file unsafely; the error that it caught has the reason alone.
        lines = str(error.__context__ or error).split("\n")
        reason = next((line.strip() for line in lines if line.strip()), "unreadable pickle")
        raise WeightsError(
            f"{path}: refused: it holds more than tensors, and reading it could run code in it, or it is no PyTorch "
            f"file ({reason}). If you trust it, save torch.load(FILE, weights_only=False)['state_dict'] to a new file"
        ) from error
    except Exception as error:  # what a damaged file makes its readers raise has no end
        raise WeightsError(f"{path}: damaged, or no file of weights ({error!r})") from error
    for container in _CONTAINERS:
        if isinstance(content, Mapping) and isinstance(content.get(container), Mapping):
            content = content[container]
            break
    if not isinstance(content, Mapping) or not all(isinstance(tensor, torch.Tensor) for tensor in content.values()):
        raise WeightsError(f"{path}: expected named tensors, alone or under {', '.join(_CONTAINERS)}; found none")
    return {_PREFIX.sub("", str(name)): tensor for name, tensor in content.items()}, patch_size


def _trained_on(checkpoint: Any) -> int | None:
    """TRAINING.TRAIN_PS of the configuration that a checkpoint of this project carries; None in those of others."""
    for key in ("config", "TRAINING", "TRAIN_PS"):
        checkpoint = checkpoint.get(key) if isinstance(checkpoint, Mapping) else None
    return checkpoint if isinstance(checkpoint, int) else None


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
    intro = tensors.get("intro.weight")
    levels = _count(tensors, r"downs\.(\d+)\.")
    if intro is None or intro.ndim != 4 or not intro.numel() or not levels:
        raise WeightsError(f"{path}: not the weights of an M3SNet or NAFNet; its tensors begin {_some(tensors)}")
    return {
        "img_channel": intro.shape[1],
        "width": intro.shape[0],
        "middle_blk_num": _count(tensors, r"middle_blks\.(\d+)\."),
        "enc_blk_nums": tuple(_count(tensors, rf"encoders\.{level}\.(\d+)\.") for level in range(levels)),
        "dec_blk_nums": tuple(_count(tensors, rf"decoders\.{level}\.(\d+)\.") for level in range(levels)),
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
    problems += [f"unexpected {name} {tuple(tensor.shape)}" for name, tensor in found.items() if name not in expected]
    problems += [
        f"misshapen {name}: expected {tuple(tensor.shape)}, found {tuple(found[name].shape)}"
        for name, tensor in expected.items()
        if name in found and found[name].shape != tensor.shape
    ]
    problems += [f"not floating point {name}" for name, tensor in found.items() if not tensor.is_floating_point()]
    if problems:
        more = f"\n  ... and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise WeightsError(f"{path}: not the tensors of an M3SNet:\n  " + "\n  ".join(problems[:_SHOWN]) + more)


def _some(names: Iterable[str]) -> str:
    return ", ".join(list(names)[:5]) or "nowhere: there are none"
