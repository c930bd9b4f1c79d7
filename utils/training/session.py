"""The folder of a run belongs to one training at a time."""
from __future__ import annotations

import contextlib
import json
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from accelerate import Accelerator
from filelock import FileLock, Timeout

from ..cli import UserError, warn
from ..files import make_folder
from .processes import in_all_processes

LOCK, ENVIRONMENT = "run.lock", "environment.json"
WAIT = 10.0  # seconds; the workers of a killed training end within five


class SessionError(UserError):
    """Another training uses the folder; the message says which."""


@contextlib.contextmanager
def hold(folder: Path, accelerator: Accelerator) -> Iterator[None]:
    """Keep `folder`, which is made, for this training alone; its first process does so.

    The lock is the operating system's: it ends with its process, however that ends.

    Raises:
        OutputError: nothing can be written there.
        SessionError: another training holds it.
    """
    lock = FileLock(folder / LOCK)
    in_all_processes(lambda: _acquire(lock, folder) if accelerator.is_main_process else None)
    try:
        yield
    finally:
        lock.release()


def _acquire(lock: FileLock, folder: Path) -> None:
    make_folder(folder, "TRAINING.SAVE_DIR")
    try:
        lock.acquire(timeout=WAIT)
    except Timeout as error:
        raise SessionError(
            f"{folder}: another training runs there{_holder(folder)}; two would overwrite each other's checkpoints. "
            "Wait for it, stop it, or set another MODEL.SESSION"
        ) from error
    except OSError as error:
        warn(f"{folder} cannot be locked ({error.strerror}): make sure that no second training runs there")


def whose() -> dict[str, str | int]:
    """{"host", "process"}: what environment.json says of who holds the folder."""
    return {"host": platform.node(), "process": os.getpid()}


def _holder(folder: Path) -> str:
    try:
        environment = json.loads((folder / ENVIRONMENT).read_text(encoding="utf-8"))
        return f", process {environment['process']} on {environment['host']}, since {environment['started']}"
    except (OSError, ValueError, KeyError, TypeError):
        return ""  # it has not got so far, or somebody wrote into it
