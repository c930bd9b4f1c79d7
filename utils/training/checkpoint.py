"""Checkpoints: a file holds the whole training state, a hash in it says whether it is whole, and no crash tears one.

A run's folder has `model_latest.pth`, the one before it (`model_previous.pth`), the best and some numbered ones. A
state is written once, as the latest; its other names are hard links to it.
"""
from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from natsort import natsorted

from ..cli import UserError

LATEST, PREVIOUS, BEST = "model_latest.pth", "model_previous.pth", "model_best.pth"
_NUMBERED = "model_epoch_*.pth"
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class CheckpointError(UserError):
    """A checkpoint that is missing, cannot be used or cannot be written; the message names it."""


def save_checkpoint(state: dict[str, Any], folder: Path, names: Sequence[str] = ()) -> Path:
    """Write `state` as the latest checkpoint of a run's `folder`, whole or not at all, and also under `names`.

    The bytes go to a temporary file beside it, are flushed to disk, and renamed. The names are kept inside, so that
    `newest_checkpoint` can give those that a crash right after the renaming left out.

    Raises:
        CheckpointError: the disk is full, or the folder cannot be written to; the checkpoints that are there stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = {**state, "names": list(names)}
    state["sha256"] = digest(state)
    latest = folder / LATEST
    temporary = folder / f".{LATEST}.{os.getpid()}.tmp"  # tempfile's own would be unreadable to colleagues
    try:
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        if latest.is_file():
            _link(latest, folder / PREVIOUS)
        temporary.replace(latest)
        _give_names(latest, names)
    except (OSError, RuntimeError) as error:  # torch wraps what the file raised
        raise CheckpointError(_why_unwritten(error, state, folder)) from error
    finally:
        temporary.unlink(missing_ok=True)
    return latest


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a file written by `save_checkpoint`, on the CPU; nothing in it is executed.

    Raises:
        CheckpointError: the file is missing, damaged, or not a training state.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint; TRAINING.RESUME takes auto, a checkpoint's path or false")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever damaged bytes make the reader do
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise CheckpointError(f"{path}: damaged, or not a checkpoint of this program ({reason})") from error
    missing = {"epoch", "state_dict", "optimizer", "best", "sha256"} - set(state if isinstance(state, dict) else ())
    if missing:
        raise CheckpointError(
            f"{path}: no training state (without {', '.join(sorted(missing))}); "
            "to start from its weights alone set TRAINING.WEIGHTS instead of RESUME"
        )
    if state.pop("sha256") != digest(state):
        raise CheckpointError(f"{path}: damaged: its content does not have the hash that was written with it")
    return state


def newest_checkpoint(folder: Path, say: Callable[[str], Any] = print) -> tuple[Path, dict[str, Any]] | None:
    """The newest whole checkpoint of a run's folder and what is in it; None when there is none at all.

    Damaged ones are named through `say` and passed over.

    Raises:
        CheckpointError: there are checkpoints, and every one is damaged.
    """
    numbered = natsorted(folder.glob(_NUMBERED), key=lambda path: path.name, reverse=True)
    candidates = [path for path in (folder / LATEST, folder / PREVIOUS, *numbered, folder / BEST) if path.is_file()]
    for path in candidates:
        try:
            state = load_checkpoint(path)
        except CheckpointError as error:
            say(f"skipped: {error}")
            continue
        return path, state
    if candidates:
        raise CheckpointError(
            f"{folder}: none of its {len(candidates)} checkpoints is whole; to start anew delete the folder, "
            "or set another MODEL.SESSION"
        )
    return None


def tidy(path: Path, state: Mapping[str, Any]) -> None:
    """Put in order what a killed run left: `path` is its newest whole checkpoint, which holds `state`.

    It becomes the latest where that was damaged, gets the names it was written for, and temporary files go.
    """
    _give_names(path, [LATEST, *state["names"]])
    for temporary in path.parent.glob(".*.pth.*.tmp"):
        temporary.unlink(missing_ok=True)


def prune_checkpoints(folder: Path, keep: int) -> None:
    """Delete all but the newest `keep` of the numbered checkpoints (model_epoch_N.pth)."""
    numbered = natsorted(folder.glob(_NUMBERED), key=lambda path: path.name)
    for path in numbered[: max(0, len(numbered) - keep)]:
        path.unlink()


def digest(state: Any) -> str:
    """SHA-256 of nested dictionaries and lists of tensors and plain values: of what is in them, in their order."""
    content = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            content.update(f"{value.dtype}{tuple(value.shape)}".encode())
            content.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        elif isinstance(value, Mapping):
            content.update(f"{{{len(value)}".encode())
            for key, item in value.items():
                add(key)
                add(item)
        elif isinstance(value, list | tuple):
            content.update(f"[{len(value)}".encode())
            for item in value:
                add(item)
        else:
            content.update(f"{type(value).__name__} {value!r}".encode())

    add(state)
    return content.hexdigest()


def _give_names(path: Path, names: Sequence[str]) -> None:
    for name in names:
        _link(path, path.with_name(name))


def _link(source: Path, path: Path) -> None:
    """Make `path` another name of `source`, replacing what was there in one step."""
    temporary = path.with_name(f".{source.name}.{os.getpid()}.link.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, temporary)
    try:
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)  # renaming one name of a file to another of its names does nothing


def _why_unwritten(error: BaseException, state: dict[str, Any], folder: Path) -> str:
    needed = _bytes(state)
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__
    full = isinstance(cause, OSError) and cause.errno in _NO_SPACE
    free = None
    with contextlib.suppress(OSError):
        free = shutil.disk_usage(folder).free
    full = full or (free is not None and free < needed)
    kept = "the checkpoints written before are untouched"
    if not full:
        return f"{folder}: the checkpoint could not be written ({cause or error}); {kept}"
    has = "" if free is None else f" and its disk has {free / 2**20:,.0f} MiB free"
    return (
        f"{folder}: no room for the checkpoint: it needs {needed / 2**20:,.1f} MiB{has} ({cause or error}); {kept}. "
        "Free some space (or raise the limit on file sizes) and start again with TRAINING.RESUME auto"
    )


def _bytes(value: Any) -> int:
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, Mapping):
        return sum(map(_bytes, value.values()))
    if isinstance(value, list | tuple):
        return sum(map(_bytes, value))
    return 0
