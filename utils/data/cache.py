"""Training images decoded once: what TRAINING.CACHE none, ram and disk read from."""
from __future__ import annotations

import errno
import hashlib
import math
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.lib import format as npy
from PIL import Image

from ..config import ConfigError
from ..files import remove_abandoned, temporary_name
from ..images import READING, read_image

Reader = Callable[..., np.ndarray]  # path, and optionally what `read_image` tells its changes to

_OPEN_MAPS = 30_000  # Linux allows a process 65,530 (vm.max_map_count)


def open_cache(kind: str, folder: Path, paths: Iterable[Path]) -> Reader:
    """A function that reads the images `paths` as `read_image` does: H x W x 3 uint8 RGB, not to be written to.

    `none` decodes an image whenever it is read. `ram` and `disk` decode it when it is read first: read all of them
    before the data loader starts its workers, as `utils.data.pairs.check_pairs` does.
    `ram` keeps it in memory; processes that are forked later share that, others (those of a second GPU; on Windows and
    macOS the data loader's workers too) have a copy each.
    `disk` keeps it uncompressed in `folder`, as an .npy file that every process on the machine maps: in memory it is
    the system's page cache, and the next training finds it. What an interrupted process left is completed; an image
    that changed (size or time of change) is decoded anew, and its old array deleted. Several processes may fill a
    folder at once; none has to wait for another.

    Raises:
        ConfigError: a folder that cannot be written or lacks room; some of it only when reading.
    """
    if kind == "none":
        return read_image
    return _MemoryCache() if kind == "ram" else _DiskCache(folder, list(dict.fromkeys(paths)))


class _MemoryCache:
    """Arrays in memory."""

    def __init__(self) -> None:
        self._images: dict[Path, np.ndarray] = {}

    def __call__(self, path: Path, changes: list[str] | None = None) -> np.ndarray:
        if path not in self._images:
            self._images[path] = read_image(path, changes)
        return self._images[path]


class _DiskCache:
    """Arrays in a folder, named after path and state of the image they come from."""

    def __init__(self, folder: Path, paths: Sequence[Path]) -> None:
        self._folder = folder
        self._files = {path: folder / _file_name(path) for path in paths}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _tidy(folder, self._files.values())
            if self._needed() > shutil.disk_usage(folder).free:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # before it is filled for everyone
        except OSError as error:
            raise self._cannot_write(error) from error

    def __call__(self, path: Path, changes: list[str] | None = None) -> np.ndarray:
        try:
            return self._map(path, changes)
        except FileNotFoundError:
            pass  # not decoded yet
        except (OSError, ValueError, RuntimeError):  # torn when the power failed
            self._files[path].unlink(missing_ok=True)
        made: list[str] = []
        image = read_image(path, made)
        try:
            _write(self._files[path], image, made)
            return self._map(path, changes)
        except OSError as error:
            raise self._cannot_write(error) from error

    def _map(self, path: Path, changes: list[str] | None) -> np.ndarray:
        array = _map(self._files[path])
        if changes is not None:
            changes += _changes(self._files[path], array.nbytes)
        return array

    def _needed(self) -> int:
        """Bytes of the images that are still missing, as far as the files' headers tell."""
        return sum(_bytes(path) for path, file in self._files.items() if not file.exists())

    def _cannot_write(self, error: OSError) -> ConfigError:
        free = f", {shutil.disk_usage(self._folder).free / 1e9:.2f} GB are free" if self._folder.is_dir() else ""
        return ConfigError(
            f"TRAINING.CACHE disk: {self._folder} cannot be written ({error.strerror}). The images that are still "
            f"missing there need {self._needed() / 1e9:.2f} GB{free}. Make room, name another folder in "
            "TRAINING.CACHE_DIR, or set TRAINING.CACHE ram or none"
        )


def _write(file: Path, image: np.ndarray, changes: Sequence[str]) -> None:
    """Write an array and, behind it, what was converted; whole or not at all, unless another process has done so."""
    if file.exists():
        return
    image = np.ascontiguousarray(image)
    temporary = temporary_name(file.parent)
    try:
        with temporary.open("xb") as stream:  # not flushed to the disk: what a power failure takes is decoded again
            npy.write_array_header_1_0(stream, npy.header_data_from_array_1_0(image))
            stream.write(image.data)  # not npy.write_array: its error does not say that the disk is full
            stream.write("\n".join(changes).encode())
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def _bytes(path: Path) -> int:
    try:
        with Image.open(path) as image:
            return 3 * image.width * image.height
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return 0  # what it is will be said when it is read


@lru_cache(_OPEN_MAPS)
def _map(file: Path) -> np.ndarray:
    """Map an H x W x 3 uint8 .npy file; what is written into the array stays in this process."""
    with file.open("rb") as stream:
        npy.read_magic(stream)
        shape, _, _ = npy.read_array_header_1_0(stream)
        start = stream.tell()
    # Not np.memmap: it keeps a file open for every map, and a process may have only 256 (macOS) or 1,024 (Linux).
    content = torch.from_file(str(file), shared=False, size=start + math.prod(shape), dtype=torch.uint8)
    return content.numpy()[start:].reshape(shape)


def _changes(file: Path, size: int) -> list[str]:
    """What `_write` has put behind an array of `size` bytes."""
    with file.open("rb") as stream:
        npy.read_magic(stream)
        npy.read_array_header_1_0(stream)
        stream.seek(size, os.SEEK_CUR)
        return stream.read().decode().splitlines()


def _file_name(path: Path) -> str:
    """SOURCE-STATE.npy. The state holds OpenCV's version, for JPEG decoders differ by a gray level, and READING."""
    stat = path.stat()
    source = hashlib.sha256(os.fsencode(path.absolute())).hexdigest()
    state = hashlib.sha256(f"{stat.st_size} {stat.st_mtime_ns} {cv2.__version__} {READING}".encode()).hexdigest()
    return f"{source[:24]}-{state[:16]}.npy"


def _tidy(folder: Path, files: Iterable[Path]) -> None:
    """Delete the arrays of earlier states of the images that `files` stand for, and what killed processes left."""
    remove_abandoned(folder)
    names = {file.name.partition("-")[0]: file.name for file in files}
    for path in folder.iterdir():
        stale = path.suffix == ".npy" and names.get(path.name.partition("-")[0], path.name) != path.name
        with suppress(FileNotFoundError, PermissionError):  # another process was faster; Windows keeps what is mapped
            if stale:
                path.unlink()
