"""Files that are written whole or not at all, and those that are never written over."""
from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from m3snet.utils.files import TEMPORARY, OutputError, check_outputs, make_folder, temporary_name, write_atomically

HALF = """
import sys, time
from m3snet.utils.files import write_atomically
with write_atomically(sys.argv[1]) as file:
    file.write(bytes(1_000_000))
    file.flush()
    print("half", flush=True)
    time.sleep(60)
"""
LIMITED = """
import resource, sys
import numpy as np
from m3snet.utils.images import write_image
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
write_image(sys.argv[1], np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8))
"""


def test_what_is_written_is_there(tmp_path: Path) -> None:
    path = tmp_path / "new" / "größe.bin"
    with write_atomically(path) as file:
        file.write(b"whole")
        assert not path.exists()
    assert path.read_bytes() == b"whole"
    assert list(path.parent.iterdir()) == [path]
    mask = os.umask(0)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask  # readable to whom the user's files are


def test_what_another_program_has_written_meanwhile_stays(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with (
        pytest.raises(OutputError, match="file exists by now: another program has written it"),
        write_atomically(path, overwrite=False) as file,
    ):
        file.write(b"mine")
        path.write_bytes(b"theirs")
    assert path.read_bytes() == b"theirs" and list(tmp_path.iterdir()) == [path]


def test_a_block_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="half"), write_atomically(path) as file:
        file.write(b"new")
        raise RuntimeError("half")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_killed_process_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with subprocess.Popen([sys.executable, "-c", HALF, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "half\n"
        process.kill()
    assert path.read_bytes() == b"old"
    (left,) = (other for other in tmp_path.iterdir() if other != path)
    assert left.match(TEMPORARY)
    now = temporary_name(tmp_path)  # of a process that is at work
    theirs = [tmp_path / "upload.tmp", tmp_path / ".m3snet.tmp"]
    for file in (now, *theirs):
        file.write_bytes(b"half")
    exports = [temporary_name(tmp_path), temporary_name(tmp_path)]  # half a network, of the killed and of one at work
    for folder in (*exports, tmp_path / ".export-mine"):
        folder.mkdir()
        (folder / "network.bin").write_bytes(b"half")
    for file in (left, exports[0], tmp_path / ".export-mine", *theirs):
        os.utime(file, (time.time() - 7200,) * 2)
    with write_atomically(path) as stream:
        stream.write(b"new")
    assert {*tmp_path.iterdir()} == {path, now, exports[1], tmp_path / ".export-mine", *theirs}


@pytest.mark.skipif(sys.platform == "win32", reason="has no limits of this kind")
def test_an_image_on_a_full_disk_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(b"old")
    done = subprocess.run([sys.executable, "-c", LIMITED, str(path)], capture_output=True, text=True, check=False)
    assert "OSError: [Errno 27] File too large" in done.stderr
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    link, file = tmp_path / "link", tmp_path / "there" / "file"
    link.symlink_to(file)
    for content in (b"first", b"second"):
        with write_atomically(link) as stream:
            stream.write(content)
        assert file.read_bytes() == content
    assert link.is_symlink()


def test_an_input_is_never_an_output(tmp_path: Path) -> None:
    source, other = tmp_path / "a.jpg", tmp_path / "b.jpg"
    source.write_bytes(b"photograph")
    other.write_bytes(b"another")
    (tmp_path / "link.jpg").symlink_to(source)
    (tmp_path / "hard.jpg").hardlink_to(source)
    for output in (source, tmp_path / "link.jpg", tmp_path / "hard.jpg", tmp_path / ".." / tmp_path.name / "a.jpg"):
        with pytest.raises(OutputError, match=r"is an input, and would be overwritten"):
            check_outputs([output], [other, source], overwrite=True)


def test_what_is_there_is_overwritten_only_when_asked(tmp_path: Path) -> None:
    there = tmp_path / "there.png"
    there.write_bytes(b"somebody's")
    with pytest.raises(OutputError, match=r"there\.png exists: choose another output, or add --overwrite"):
        check_outputs([there], [])
    check_outputs([there, tmp_path / "new.png"], [tmp_path / "missing.jpg"], overwrite=True)
    with pytest.raises(OutputError, match="is a folder"):
        check_outputs([tmp_path], [], overwrite=True)


@pytest.mark.skipif(sys.platform == "win32", reason="has no such devices")
def test_a_device_is_never_replaced_by_a_file(tmp_path: Path) -> None:
    (tmp_path / "null.png").symlink_to("/dev/null")
    with pytest.raises(OutputError, match=r"null\.png is no plain file"):
        check_outputs([tmp_path / "null.png"], [], overwrite=True)


def test_an_error_names_the_file_that_could_not_be_written(tmp_path: Path) -> None:
    def full() -> None:
        with write_atomically(tmp_path / "out.png"):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match=r"No space left on device: '.*out\.png'"):
        full()


def test_no_name_is_written_twice(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"sub/\.\./a\.png would be written twice"):
        check_outputs([tmp_path / "a.png", tmp_path / "sub" / ".." / "a.png"], [])


def test_a_place_that_cannot_be_written_is_said_before(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"")
    with pytest.raises(OutputError, match=r"file/out/a\.png cannot be written: .*file: Not a directory"):
        check_outputs([file / "out" / "a.png"], [])
    if os.path.ismount("/proc"):  # where not even root can
        with pytest.raises(OutputError, match=r"/proc/out/a\.png cannot be written: /proc: "):
            check_outputs([Path("/proc/out/a.png")], [])
    check_outputs([tmp_path / "new" / "newer" / "a.png"], [])
    assert list(tmp_path.iterdir()) == [file]  # looked at, not made


def test_a_folder_that_cannot_be_made_or_written(tmp_path: Path) -> None:
    make_folder(tmp_path / "a/b", "--results DIR")
    assert list((tmp_path / "a/b").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"file/x cannot be written \(Not a .*\): choose another --results DIR$"):
        make_folder(tmp_path / "file/x", "--results DIR")
    if Path("/proc/self").is_dir():  # there, but nobody can write in it
        with pytest.raises(OutputError, match=r"^/proc/self cannot be written"):
            make_folder(Path("/proc/self"), "--results DIR")


def test_a_signal_leaves_no_file_by_which_a_folder_was_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        os.close(os.open(tmp_path, os.O_RDWR | os.O_TMPFILE))
    except (AttributeError, OSError):
        pytest.skip("every file has a name here")

    def stopped(*_: object, **__: object) -> None:
        raise RuntimeError("a signal")

    monkeypatch.setattr(os, "unlink", stopped)
    monkeypatch.setattr(Path, "unlink", stopped)
    make_folder(tmp_path, "--results DIR")
    assert list(tmp_path.iterdir()) == []
