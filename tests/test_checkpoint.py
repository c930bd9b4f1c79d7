"""Checkpoints: whole or not at all, and clear words about what is no checkpoint."""
import os

import pytest
import torch

from utils.checkpoint import CheckpointError, load_checkpoint, prune_checkpoints, save_checkpoint

STATE = {"epoch": 3, "state_dict": {"weight": torch.arange(500.0)}, "optimizer": {"lr": 0.1}, "best": (2, 30.5)}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_is_saved_comes_back(tmp_path):
    path = tmp_path / "run" / "model_latest.pth"  # the folder is made
    save_checkpoint(STATE, path)
    state = load_checkpoint(str(path))
    assert torch.equal(state.pop("state_dict")["weight"], STATE["state_dict"]["weight"])
    assert state == {key: STATE[key] for key in state}
    assert names(path.parent) == ["model_latest.pth"]


def test_the_old_file_is_there_until_the_new_one_is_whole(tmp_path, monkeypatch):
    path = tmp_path / "model.pth"
    save_checkpoint(STATE, path)
    old = path.read_bytes()
    seen = []

    def look(state, file):
        file.write(b"half")
        seen.append((path.read_bytes() == old, len(names(tmp_path))))

    monkeypatch.setattr(torch, "save", look)
    save_checkpoint(STATE, path)
    assert seen == [(True, 2)]  # the temporary file lies beside it, where a rename cannot cross disks
    assert path.read_bytes() == b"half"
    assert names(tmp_path) == ["model.pth"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, error):
    path = tmp_path / "model.pth"
    save_checkpoint(STATE, path)
    old = path.read_bytes()

    def fail(state, file):
        file.write(b"half")
        raise error

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(type(error)):
        save_checkpoint(STATE, path)
    assert path.read_bytes() == old
    assert names(tmp_path) == ["model.pth"]


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
def test_others_may_read_it_as_any_file(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    save_checkpoint(STATE, tmp_path / "model.pth")
    assert (tmp_path / "model.pth").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_missing_file(tmp_path):
    with pytest.raises(CheckpointError, match=r"nowhere\.pth: no such checkpoint.*RESUME"):
        load_checkpoint(tmp_path / "nowhere.pth")
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load_checkpoint(tmp_path)  # a folder


def test_a_truncated_file(tmp_path):
    path = tmp_path / "model.pth"
    save_checkpoint(STATE, path)
    whole = path.read_bytes()
    for length in (0, 1, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"model\.pth: damaged"):
            load_checkpoint(path)


def test_a_corrupted_file_never_raises_anything_else(tmp_path):
    path = tmp_path / "model.pth"
    torch.save(STATE, path, _use_new_zipfile_serialization=False)  # no checksums: damage reaches the unpickler
    whole = path.read_bytes()
    caught = set()
    for position in range(0, 400):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x55]) + whole[position + 1 :])
        try:
            load_checkpoint(path)
        except CheckpointError as error:
            assert "model.pth" in str(error)
            caught.add(type(error.__cause__))
    assert len(caught) > 2  # several kinds of error, not just the unpickler's own


def test_text_and_code_are_refused(tmp_path):
    path = tmp_path / "model.pth"
    path.write_text("<html>Too many requests</html>")
    with pytest.raises(CheckpointError, match=r"model\.pth: damaged"):
        load_checkpoint(path)
    torch.save({**STATE, "extra": Runs(tmp_path / "ran")}, path)
    with pytest.raises(CheckpointError, match=r"model\.pth: damaged, or not a checkpoint"):
        load_checkpoint(path)
    assert not (tmp_path / "ran").exists()


class Runs:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("content", [{"state_dict": {}}, {"weight": torch.zeros(1)}, torch.zeros(3), [1, 2]])
def test_weights_alone_cannot_be_resumed(tmp_path, content):
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"weights\.pth: no training state.*TRAINING\.WEIGHTS"):
        load_checkpoint(path)


@pytest.mark.parametrize("keep", range(6))
def test_the_newest_are_kept_in_natural_order(tmp_path, keep):
    for epoch in (9, 10, 100, 99):
        (tmp_path / f"model_epoch_{epoch}.pth").touch()
    for other in ("model_latest.pth", "model_best.pth", "notes.txt"):
        (tmp_path / other).touch()
    prune_checkpoints(tmp_path, keep)
    newest = [f"model_epoch_{epoch}.pth" for epoch in (100, 99, 10, 9)[:keep]]
    assert names(tmp_path) == sorted([*newest, "model_latest.pth", "model_best.pth", "notes.txt"])
