"""Training images decoded once: what TRAINING.CACHE none, ram and disk read from."""
from __future__ import annotations

import errno
import hashlib
import math
import os
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from statistics import fmean
from typing import TypeVar

import cv2
import numpy as np
import torch
from numpy.lib import format as npy
from tqdm import tqdm

from ..config import ConfigError
from ..images import read_image
from .patches import ONE, Process

Reader = Callable[[Path], np.ndarray]
T = TypeVar("T")

KINDS = ("none", "ram", "disk")
_OPEN_MAPS = 30_000  # Linux allows a process 65,530 (vm.max_map_count)
_SAMPLE = 16  # images that are decoded to know how much room all take
_ABANDONED = 3600  # seconds after which a temporary file belongs to no living process


def open_cache(kind: str, folder: Path, paths: Iterable[Path], process: Process = ONE) -> Reader:
    """A function that reads the images `paths` as `read_image` does: H x W x 3 uint8 RGB, not to be written to.

    `none` decodes an image whenever it is read. `ram` decodes all of them now; processes that are forked later share
    the memory, others (those of a second GPU; on Windows and macOS the data loader's workers too) have a copy each.
    `disk` keeps them uncompressed in `folder`, as .npy files that every process on the machine maps: in memory they
    are the system's page cache, and the next training finds them. What an interrupted process left is completed; an
    image that changed (size or time of change) is decoded anew, and its old array deleted.

    The processes of one training call it alike, each as the `process` it is; none has to wait for another.

    Raises:
        ConfigError: an unknown kind, or a folder that cannot be written or lacks room.
        ImageError: an image cannot be read.
    """
    if kind not in KINDS:
        raise ConfigError(f"TRAINING.CACHE {kind}: expected {', '.join(KINDS[:-1])} or {KINDS[-1]}")
    paths = list(dict.fromkeys(paths))
    if kind == "ram":
        return dict(zip(paths, _of_all(read_image, paths, process.rank == 0), strict=True)).__getitem__
    return _DiskCache(folder, paths, process) if kind == "disk" else read_image


class _DiskCache:
    """Arrays in a folder, named after path and state of the image they come from."""

    def __init__(self, folder: Path, paths: Sequence[Path], process: Process) -> None:
        self._files = {path: folder / _file_name(path) for path in paths}
        missing = self._missing()
        size = fmean(read_image(path).nbytes for path in missing[:: -(-len(missing) // _SAMPLE)]) if missing else 0.0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _tidy(folder, self._files.values())
            if size * len(missing) > shutil.disk_usage(folder).free:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # before it is filled for everyone
            # Each process begins with its share and then helps with the others'.
            start = len(missing) * process.rank // process.world
            _of_all(self._build, missing[start:] + missing[:start], process.rank == 0)
        except OSError as error:
            free = f", {shutil.disk_usage(folder).free / 1e9:.2f} GB are free" if folder.is_dir() else ""
            raise ConfigError(
                f"TRAINING.CACHE disk: {folder} cannot be written ({error.strerror}). The images that are still "
                f"missing there need about {size * len(self._missing()) / 1e9:.2f} GB{free}. Make room, name another "
                "folder in TRAINING.CACHE_DIR, or set TRAINING.CACHE ram or none"
            ) from error

    def __call__(self, path: Path) -> np.ndarray:
        try:
            return _map(self._files[path])
        except (OSError, ValueError, RuntimeError):  # deleted since, or torn when the power failed
            self._files[path].unlink(missing_ok=True)
            self._build(path)
            return _map(self._files[path])

    def _missing(self) -> list[Path]:
        return [path for path, file in self._files.items() if not file.exists()]

    def _build(self, path: Path) -> None:
        """Decode an image into its array, whole or not at all, unless another process has done so."""
        file = self._files[path]
        if file.exists():
            return
        image = np.ascontiguousarray(read_image(path))
        temporary = file.with_name(f".{uuid.uuid4().hex}.tmp")
        try:
            with temporary.open("wb") as stream:
                npy.write_array_header_1_0(stream, npy.header_data_from_array_1_0(image))
                stream.write(image.data)  # not npy.write_array: its error does not say that the disk is full
            temporary.replace(file)
        finally:
            temporary.unlink(missing_ok=True)


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


def _file_name(path: Path) -> str:
    """SOURCE-STATE.npy. OpenCV's version is part of the state: JPEG decoders differ by a gray level."""
    stat = path.stat()
    source = hashlib.sha256(os.fsencode(path.absolute())).hexdigest()
    state = hashlib.sha256(f"{stat.st_size} {stat.st_mtime_ns} {cv2.__version__}".encode()).hexdigest()
    return f"{source[:24]}-{state[:16]}.npy"


def _tidy(folder: Path, files: Iterable[Path]) -> None:
    """Delete the arrays of earlier states of the images that `files` stand for, and what killed processes left."""
    names = {file.name.partition("-")[0]: file.name for file in files}
    for path in folder.iterdir():
        stale = path.suffix == ".npy" and names.get(path.name.partition("-")[0], path.name) != path.name
        with suppress(FileNotFoundError, PermissionError):  # another process was faster; Windows keeps what is mapped
            if stale or (path.suffix == ".tmp" and time.time() - path.stat().st_mtime > _ABANDONED):
                path.unlink()


def _of_all(work: Callable[[Path], T], paths: Sequence[Path], show: bool) -> list[T]:
    """What `work` gives for each of the paths, in parallel; with a progress bar on a terminal."""
    with ThreadPoolExecutor() as pool:
        hidden = not (show and sys.stderr.isatty())
        return list(tqdm(pool.map(work, paths), "decoding", len(paths), unit=" images", disable=hidden))
