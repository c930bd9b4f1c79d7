"""Checkpoints: a file holds the whole training state, checksums in it say whether it is whole, no crash tears one.

A run's folder has `model_latest.pth`, the one before it (`model_previous.pth`), the best and some numbered ones. A
state is written once, as the latest; its other names are hard links to it. `model_stopped.pth` stands apart.
"""
from __future__ import annotations

import contextlib
import errno
import os
import shutil
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from natsort import natsorted

from ...models.pickles import check_pickles
from ..cli import UserError
from ..files import TEMPORARY, temporary_name, write_atomically

LATEST, PREVIOUS, BEST = "model_latest.pth", "model_previous.pth", "model_best.pth"
# The state of a run whose loss broke. Its weights may be finite and spoilt: it takes no other's place, and goes by name
# alone.
STOPPED = "model_stopped.pth"
_NUMBERED = "model_epoch_*.pth"
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class CheckpointError(UserError):
    """A checkpoint that is missing, cannot be used or cannot be written; the message names it."""


def save_checkpoint(state: dict[str, Any], folder: Path, names: Sequence[str] = (), file: str = LATEST) -> Path:
    """Write `state` as the latest checkpoint of a run's `folder`, whole or not at all, and also under `names`.

    As another `file` it leaves the latest and the previous one as they are.

    The names are kept inside, so that `tidy` can give those that a crash right after the writing left out.

    Raises:
        CheckpointError: the disk is full, or the folder cannot be written to; the checkpoints that are there stay.
    """
    path = folder / file
    try:
        with write_atomically(path) as stream:
            torch.save({**state, "names": list(names)}, stream)
            if file == LATEST and path.is_file():
                _link(path, folder / PREVIOUS)
        _give_names(path, names)
    except (OSError, RuntimeError) as error:  # torch wraps what the file raised
        raise CheckpointError(_why_unwritten(error, state, folder)) from error
    return path


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a file written by `save_checkpoint`, on the CPU; nothing in it is executed.

    Raises:
        CheckpointError: the file is missing, damaged, or not a training state.
        OSError: it cannot be opened.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint; TRAINING.RESUME takes auto, a checkpoint's path or false")
    with path.open("rb"):
        pass  # one that may not be read is not damaged, and no reason to go on from another
    try:
        check_pickles(path)
        with zipfile.ZipFile(path) as archive:
            # Not covered by checksums, and torch's reader gives whatever was in memory for a "folder".
            if any(part.external_attr for part in archive.infolist()):
                raise CheckpointError("its table of contents is not as it was written")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever damaged bytes make the reader do
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise CheckpointError(f"{path}: damaged, or not a checkpoint of this program ({reason})") from error
    missing = {"epoch", "state_dict", "optimizer", "best", "names"} - set(state if isinstance(state, dict) else ())
    if missing:
        raise CheckpointError(
            f"{path}: no training state (without {', '.join(sorted(missing))}); "
            "to start from its weights alone set TRAINING.WEIGHTS instead of RESUME"
        )
    weights = [weight for weight in state["state_dict"].values() if isinstance(weight, torch.Tensor)]
    if not all(weight.isfinite().all() for weight in weights):
        raise CheckpointError(f"{path}: its weights are not finite (NaN or infinite): no training goes on from them")
    return state


def checkpoints(folder: Path) -> list[Path]:
    """All checkpoints of a run's folder, whole or not: the newest first, unless somebody changed their names."""
    numbered = natsorted(folder.glob(_NUMBERED), key=lambda path: path.name, reverse=True)
    return [path for path in (folder / LATEST, folder / PREVIOUS, *numbered, folder / BEST) if path.is_file()]


def newest_checkpoint(folder: Path, log: Callable[[str], Any] = print) -> tuple[Path, dict[str, Any]] | None:
    """The newest whole checkpoint of a run's folder and what is in it; None when there is none at all.

    Damaged ones are named through `log` and passed over.

    Raises:
        CheckpointError: there are checkpoints, and every one is damaged.
        OSError: one cannot be opened.
    """
    candidates = checkpoints(folder)
    for path in candidates:
        try:
            state = load_checkpoint(path)
        except CheckpointError as error:
            log(f"skipped: {error}")
            continue
        return path, state
    if candidates:
        raise CheckpointError(
            f"{folder}: none of its {len(candidates)} checkpoints is whole; to start anew delete the folder, "
            "or set another MODEL.SESSION"
        )
    return None


def newer_checkpoints(folder: Path, state: Mapping[str, Any]) -> list[Path]:
    """The checkpoints of a run's folder that are further than `state`; damaged ones are passed over."""
    return [path for path in checkpoints(folder) if (_progress(path) or (0, 0)) > (state["epoch"], state["epoch_step"])]


def tidy(path: Path, state: Mapping[str, Any]) -> None:
    """Put in order what a killed run left: `path` is its newest whole checkpoint, which holds `state`.

    It becomes the latest where that was damaged, gets the names it was written for, and temporary files go.
    """
    _give_names(path, [LATEST, *state["names"]])
    for temporary in path.parent.glob(TEMPORARY):
        if not temporary.is_dir():  # of an export, which may be at work
            temporary.unlink(missing_ok=True)


def prune_checkpoints(folder: Path, keep: int, epoch: int) -> None:
    """Delete all but the newest `keep` of the numbered checkpoints (model_epoch_N.pth) up to `epoch`, the last done.

    Those of later epochs are of a training that went on from here before; they are no reason to delete this one's.
    """
    numbered = natsorted(folder.glob(_NUMBERED), key=lambda path: path.name)
    past = [path for path in numbered if (number := _number(path)) is not None and number <= epoch]
    for path in past[: max(0, len(past) - keep)]:
        path.unlink()


def _number(path: Path) -> int | None:
    """N of model_epoch_N.pth; None: somebody's own name."""
    text = path.stem.rpartition("_")[2]
    return int(text) if text.isdecimal() else None


def _progress(path: Path) -> tuple[int, int] | None:
    """How far a checkpoint is, without reading its tensors: epochs, and steps in the next; None if it is damaged."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return state["epoch"], state["epoch_step"]
    except Exception:  # whatever damaged bytes make the reader do
        return None


def _give_names(path: Path, names: Sequence[str]) -> None:
    for name in names:
        _link(path, path.with_name(name))


def _link(source: Path, path: Path) -> None:
    """Make `path` another name of `source`, replacing what was there in one step."""
    temporary = temporary_name(path.parent)
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
