"""Files that programs write: whole or not at all, and never over what a person did not offer."""
from __future__ import annotations

import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import BinaryIO

from .cli import UserError

TEMPORARY = ".m3snet-*.tmp"  # what a killed process may leave in a folder: files, and folders of an export
_ABANDONED = 3600  # seconds after which it belongs to no living process


class OutputError(UserError):
    """A file that a program must not write, or cannot; the message names it and says what to do."""


@contextmanager
def write_atomically(path: str | Path, overwrite: bool = True) -> Iterator[BinaryIO]:
    """A file to write bytes into, and to read them again; it gets the name `path` when the block ends without an error.

    Until then, and for ever if the block fails or the process is killed, `path` is what it was. Missing folders are
    made; what killed processes left in them goes. A symbolic link stays one: the file it leads to is replaced, unless
    `overwrite` is off.

    Raises:
        OutputError: without `overwrite`, there is such a file by the time the block ends.
        OSError: the folder or the file cannot be written, or the disk is full.
    """
    named, path = path, Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_once(path.parent)
    temporary = temporary_name(path.parent)
    try:
        with temporary.open("x+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # or a power failure could leave an empty file under the final name
        if not overwrite and path.exists():
            raise OutputError(f"{named} exists by now: another program has written it, and it is left as it is")
        temporary.replace(path)
    except OSError as error:
        if error.errno and error.filename in (None, str(temporary)):  # a full disk gives no name
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def temporary_name(folder: Path) -> Path:
    """A new name for a file that is being written, in the folder where it will get its final name."""
    return folder / TEMPORARY.replace("*", uuid.uuid4().hex)


def remove_abandoned(folder: Path) -> None:
    """Delete the temporary files and folders of killed processes in a folder; others than ours are left alone."""
    for path in folder.glob(TEMPORARY):
        with suppress(FileNotFoundError, PermissionError):  # another process was faster; Windows keeps what is open
            if time.time() - path.stat().st_mtime <= _ABANDONED:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


_remove_once = cache(remove_abandoned)  # a folder is listed once in a process


def check_outputs(outputs: Iterable[Path], inputs: Iterable[Path], overwrite: bool = False) -> None:
    """Whether a program may write `outputs`, and can; call it before the work whose results they are.

    An input is never overwritten, by whatever name or link it goes; another file only with `overwrite`.

    Raises:
        OutputError: an output is an input, exists, is a folder or a device, is named twice, or lies where nothing can
            be written.
    """
    taken = {_identity(path): path for path in inputs if path.exists()}
    seen: set[str] = set()
    folders: dict[Path, Path] = {}
    for output in outputs:
        name = os.path.normcase(os.path.realpath(output))
        if name in seen:
            raise OutputError(f"{output} would be written twice: choose another name for one of the two")
        seen.add(name)
        if output.is_dir():
            raise OutputError(f"{output} is a folder: name a file in it")
        if output.exists() and not output.is_file():
            raise OutputError(f"{output} is no plain file, but a device or a pipe: choose another output")
        if output.exists():
            if (source := taken.get(_identity(output))) is not None:
                same = "" if source == output else f" (the same file as {source})"
                raise OutputError(f"{output}{same} is an input, and would be overwritten: choose another output")
            if not overwrite:
                raise OutputError(f"{output} exists: choose another output, or add --overwrite")
        folders.setdefault(Path(name).parent, output)
    for folder, output in folders.items():
        _check_folder(folder, output)


def make_folder(folder: Path, setting: str) -> None:
    """Make the folder that `setting` names, if it is not there, and see that files can be written in it.

    Raises:
        OutputError: it cannot be made, or nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _probe(folder)
    except OSError as error:
        raise OutputError(f"{folder} cannot be written ({error.strerror}): choose another {setting}") from error


def _identity(path: Path) -> tuple[int, int]:
    """What all names of one file have in common."""
    stat = path.stat()
    return stat.st_dev, stat.st_ino


def _check_folder(folder: Path, output: Path) -> None:
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    try:
        _probe(existing)
    except OSError as error:
        raise OutputError(f"{output} cannot be written: {existing}: {error.strerror}") from error


def _probe(folder: Path) -> None:
    """Make a file that is gone at once; most file systems need give it no name, which a signal could leave behind."""
    before, after = TEMPORARY.split("*")
    with tempfile.TemporaryFile(prefix=before, suffix=after, dir=folder):
        pass
