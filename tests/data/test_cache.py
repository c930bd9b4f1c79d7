"""TRAINING.CACHE: every kind reads what read_image reads; on disk, whole or not at all, and never out of date."""
from __future__ import annotations

import os
import pickle
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from m3snet.utils.config import ConfigError
from m3snet.utils.data import cache
from m3snet.utils.data.cache import Reader, open_cache
from m3snet.utils.files import temporary_name
from m3snet.utils.images import ImageError, read_image, write_image
from m3snet.utils.settings import CACHES


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Six images of different sizes and contents; one name is not ASCII, two paths differ in the folder only."""
    names = ["a/0.png", "b/0.png", "1.jpg", "2.bmp", "bäh 3.png", "4.png"]
    for i, name in enumerate(names):
        image = np.random.default_rng(i).integers(0, 256, (20 + i, 30, 3)).astype(np.uint8)
        write_image(tmp_path / "images" / name, image)
    return [tmp_path / "images" / name for name in names]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The images that were decoded since the list was cleared."""
    seen: list[Path] = []

    def read(path: Path, changes: list[str] | None = None) -> np.ndarray:
        seen.append(path)
        return read_image(path, changes)

    monkeypatch.setattr(cache, "read_image", read)
    return seen


def filled(kind: str, folder: Path, paths: list[Path]) -> Reader:
    """A cache of which every image has been read once."""
    read = open_cache(kind, folder, paths)
    for path in paths:
        read(path)
    return read


def assert_reads(read: Reader, paths: list[Path]) -> None:
    for path in paths:
        image = read(path)
        assert image.dtype == np.uint8
        np.testing.assert_array_equal(image, read_image(path))


@pytest.mark.parametrize("kind", CACHES)
def test_every_kind_reads_the_image_also_in_a_spawned_process(kind: str, paths: list[Path], tmp_path: Path) -> None:
    read = open_cache(kind, tmp_path / "cache", [*paths, paths[0]])
    assert_reads(read, paths)
    assert_reads(pickle.loads(pickle.dumps(read)), paths)
    assert (tmp_path / "cache").exists() == (kind == "disk")
    broken = paths[0].with_name("broken.png")
    broken.write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"broken\.png"):
        open_cache(kind, tmp_path / "cache", [broken])(broken)


def test_memory_and_disk_decode_each_image_once(paths: list[Path], decoded: list[Path], tmp_path: Path) -> None:
    for kind in ("ram", "disk"):
        decoded.clear()
        read = filled(kind, tmp_path / "cache", paths)
        assert sorted(decoded) == sorted(paths)
        decoded.clear()
        for _ in range(2):
            for path in paths:
                read(path)
        assert not decoded


def test_a_later_run_completes_what_is_there(paths: list[Path], decoded: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    filled("disk", folder, paths[:4])
    left, written = temporary_name(folder), temporary_name(folder)  # of a killed process, and of one that is at work
    foreign = [folder / name for name in ("upload.tmp", ".m3snet.tmp", f".{'0' * 32}.tmp", "mine.npy")]
    for file in (left, written, *foreign):
        file.write_bytes(b"half an image")
    for file in (left, *foreign):
        os.utime(file, (time.time() - 7200,) * 2)
    decoded.clear()
    assert_reads(open_cache("disk", folder, paths), paths)
    assert set(decoded) == set(paths[4:])
    assert not left.exists()
    assert all(file.read_bytes() == b"half an image" for file in (written, *foreign))
    for file in folder.glob("*-*.npy"):
        assert np.load(file).shape[1:] == (30, 3)


@pytest.mark.parametrize("what", ["size", "time"])
def test_a_changed_image_is_decoded_again(what: str, paths: list[Path], decoded: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    others = paths[:2]
    filled("disk", folder, paths)
    before = paths[3].stat()
    write_image(paths[3], np.zeros((40 if what == "size" else 23, 30, 3), np.uint8))
    if what == "size":
        os.utime(paths[3], ns=(before.st_mtime_ns, before.st_mtime_ns))
    else:
        assert paths[3].stat().st_size == before.st_size
        os.utime(paths[3], ns=(before.st_mtime_ns + 1000, before.st_mtime_ns + 1000))
    decoded.clear()
    assert_reads(open_cache("disk", folder, paths[2:]), paths[2:])
    assert set(decoded) == {paths[3]}
    assert len(list(folder.glob("*.npy"))) == len(paths)  # the stale array is gone, those of another set are not
    decoded.clear()
    filled("disk", folder, others)
    assert not decoded


def test_arrays_that_are_gone_or_torn_are_made_again(paths: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    read = filled("disk", folder, paths)
    cache._map.cache_clear()
    files = sorted(folder.glob("*.npy"))
    files[0].unlink()
    files[1].write_bytes(files[1].read_bytes()[:-1])
    files[2].write_bytes(b"")
    assert_reads(read, paths)
    shutil.rmtree(folder)
    assert_reads(open_cache("disk", folder, paths), paths)


def test_processes_build_together_without_waiting(paths: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    with ThreadPoolExecutor(4) as pool:
        readers = list(pool.map(lambda rank: filled("disk", folder, paths[rank:] + paths[:rank]), range(4)))
    for read in readers:
        assert_reads(read, paths)
    assert len(list(folder.iterdir())) == len(paths)


def test_too_little_room_is_said_before_the_disk_is_full(
    paths: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "cache"
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: SimpleNamespace(free=10_000))
    needed = r"No space left .*still missing there need 0\.00 GB, 0\.00 GB are free.*CACHE_DIR"
    with pytest.raises(ConfigError, match=needed) as error:
        open_cache("disk", folder, paths)
    assert str(folder) in str(error.value)
    assert not list(folder.iterdir())


def test_a_disk_that_fills_up_leaves_no_torn_array(paths: list[Path], tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    folder = tmp_path / "cache"
    small = 20 * 30 * 3 + 128  # bytes of the first array; the others are larger
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (small, before[1]))
    try:
        with pytest.raises(ConfigError, match=r"cannot be written \(File too large\).*still missing there need"):
            filled("disk", folder, paths)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [file.stat().st_size for file in folder.iterdir()] in ([], [small])
    assert_reads(open_cache("disk", folder, paths), paths)


def test_a_folder_that_cannot_be_made(paths: list[Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"file.cache cannot be written \(Not a directory\)"):
        open_cache("disk", tmp_path / "file/cache", paths)


@pytest.mark.skipif(sys.platform != "linux", reason="counts maps and open files in /proc")
def test_few_maps_and_no_files_stay_open(paths: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cache, "_map", lru_cache(3)(cache._map.__wrapped__))
    folder = tmp_path / "cache"
    read = open_cache("disk", folder, paths)
    files = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(2):
        assert_reads(read, paths)
    assert len(list(Path("/proc/self/fd").iterdir())) == files
    maps = [line for line in Path("/proc/self/maps").read_text().splitlines() if str(folder) in line]
    assert len(maps) == 3


def test_what_is_written_into_an_array_stays_there(paths: list[Path], tmp_path: Path) -> None:
    filled("disk", tmp_path / "cache", paths)(paths[0])[:] = 0
    cache._map.cache_clear()
    assert_reads(open_cache("disk", tmp_path / "cache", paths), paths)
