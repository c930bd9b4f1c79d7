"""Checkpoints: one file holds the whole training state, and no crash leaves a torn one behind."""
from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from natsort import natsorted

LATEST, BEST = "model_latest.pth", "model_best.pth"


class CheckpointError(ValueError):
    """A checkpoint that is missing or cannot be used; the message names it."""


def save_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Write `state` to `path` whole or not at all: to a temporary file beside it, flushed to disk, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")  # tempfile's own would be unreadable to colleagues
    try:
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


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
        raise CheckpointError(f"{path}: damaged, or not a checkpoint of this program ({error})") from error
    missing = {"epoch", "state_dict", "optimizer", "best"} - set(state if isinstance(state, dict) else ())
    if missing:
        raise CheckpointError(
            f"{path}: no training state (without {', '.join(sorted(missing))}); "
            "to start from its weights alone set TRAINING.WEIGHTS instead of RESUME"
        )
    return state


def prune_checkpoints(folder: Path, keep: int) -> None:
    """Delete all but the newest `keep` of the numbered checkpoints (model_epoch_N.pth)."""
    numbered = natsorted(folder.glob("model_epoch_*.pth"), key=lambda path: path.name)
    for path in numbered[: max(0, len(numbered) - keep)]:
        path.unlink()
