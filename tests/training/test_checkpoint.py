"""Checkpoints: whole or not at all, the newest whole one is found, and clear words about what is no checkpoint."""
import os
import shutil
from typing import Any

import pytest
import torch

from m3snet.utils.files import temporary_name
from m3snet.utils.training.checkpoint import (
    CheckpointError,
    load_checkpoint,
    newer_checkpoints,
    newest_checkpoint,
    prune_checkpoints,
    save_checkpoint,
    tidy,
)

STATE: dict[str, Any] = {
    "epoch": 3,
    "epoch_step": 0,
    "state_dict": {"weight": torch.arange(500.0)},
    "optimizer": {"lr": (0.1, 2)},
    "best": 30.5,
}
LATEST = "model_latest.pth"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def save(folder, epoch=3, names=()):
    return save_checkpoint({**STATE, "epoch": epoch}, folder, names)


def damage(path):
    """Replace the file (its other names keep their content) by one that lacks its end."""
    content = path.read_bytes()[:-100]
    path.unlink()
    path.write_bytes(content)


def test_what_is_saved_comes_back(tmp_path):
    path = save_checkpoint(STATE, tmp_path / "run")  # the folder is made
    assert path == tmp_path / "run" / LATEST
    state = load_checkpoint(str(path))
    assert torch.equal(state.pop("state_dict")["weight"], STATE["state_dict"]["weight"])
    assert state.pop("names") == []
    assert state == {key: STATE[key] for key in state}
    assert names(path.parent) == [LATEST]


def test_a_state_has_several_names_and_one_predecessor(tmp_path):
    for epoch in (1, 2, 3):
        save(tmp_path, epoch, [f"model_epoch_{epoch}.pth", "model_best.pth"] if epoch < 3 else [])
    epochs = {path.name: load_checkpoint(path)["epoch"] for path in tmp_path.iterdir()}
    assert epochs == {
        LATEST: 3,
        "model_previous.pth": 2,
        "model_best.pth": 2,
        "model_epoch_1.pth": 1,
        "model_epoch_2.pth": 2,
    }
    assert (tmp_path / "model_best.pth").samefile(tmp_path / "model_epoch_2.pth")  # written once


def test_a_file_system_without_hard_links_gets_copies(tmp_path, monkeypatch):
    def refuse(source, path):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    save(tmp_path, 1)
    save(tmp_path, 2, ["model_best.pth"])
    assert [load_checkpoint(tmp_path / name)["epoch"] for name in names(tmp_path)] == [2, 2, 1]


def test_the_old_file_is_there_until_the_new_one_is_whole(tmp_path, monkeypatch):
    old = save(tmp_path).read_bytes()
    seen = []

    def look(state, file):
        file.write(b"half")
        seen.append(((tmp_path / LATEST).read_bytes() == old, len(names(tmp_path))))

    monkeypatch.setattr(torch, "save", look)
    save(tmp_path)
    assert seen == [(True, 2)]  # the temporary file lies beside it, where a rename cannot cross disks
    assert (tmp_path / LATEST).read_bytes() == b"half"
    assert (tmp_path / "model_previous.pth").read_bytes() == old


@pytest.mark.parametrize(
    ("error", "raised", "words"),
    [
        (OSError(28, "No space left on device"), CheckpointError, r"no room.*needs 0\.0 MiB.*MiB free.*RESUME auto"),
        (RuntimeError("PytorchStreamWriter failed writing file"), CheckpointError, "could not be written.*untouched"),
        (KeyboardInterrupt(), KeyboardInterrupt, None),
    ],
)
def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, error, raised, words):
    old = save(tmp_path).read_bytes()

    def fail(state, file):
        file.write(b"half")
        raise error

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(raised, match=words):
        save(tmp_path)
    assert (tmp_path / LATEST).read_bytes() == old
    assert names(tmp_path) == [LATEST]


@pytest.mark.skipif(os.name != "posix", reason="limits are POSIX's")
def test_a_file_size_limit_is_met_like_a_full_disk(tmp_path):
    import resource

    save(tmp_path, 1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(CheckpointError, match=r"no room for the checkpoint: it needs .* MiB"):
            save(tmp_path, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert names(tmp_path) == [LATEST]
    assert load_checkpoint(tmp_path / LATEST)["epoch"] == 1


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
def test_others_may_read_it_as_any_file(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    assert save(tmp_path / "run").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_missing_file(tmp_path):
    with pytest.raises(CheckpointError, match=r"nowhere\.pth: no such checkpoint.*RESUME"):
        load_checkpoint(tmp_path / "nowhere.pth")
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load_checkpoint(tmp_path)  # a folder


def test_a_truncated_file(tmp_path):
    path = save(tmp_path)
    whole = path.read_bytes()
    for length in (0, 1, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"model_latest\.pth: damaged"):
            load_checkpoint(path)


def test_one_flipped_bit_of_a_weight_is_noticed(tmp_path):
    path = save(tmp_path)
    content = bytearray(path.read_bytes())
    place = content.index(STATE["state_dict"]["weight"].numpy().tobytes())
    content[place + 1003] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model_latest\.pth: damaged"):
        load_checkpoint(path)


def test_a_corrupted_file_never_raises_anything_else(tmp_path):
    path = save(tmp_path)
    whole = path.read_bytes()
    weight = STATE["state_dict"]["weight"]
    refused = 0
    # In the last 800 bytes, the table of contents, every one: nothing there is under a checksum.
    positions = [*range(0, len(whole) - 800, 7), *range(len(whole) - 800, len(whole))]
    for position in positions:
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x55]) + whole[position + 1 :])
        try:
            state = load_checkpoint(path)
        except CheckpointError as error:
            assert "model_latest.pth: damaged" in str(error)
            refused += 1
        else:  # a byte that means nothing: a date, or what fills up to the next 64 bytes
            assert torch.equal(state["state_dict"]["weight"], weight)
            assert {name: state[name] for name in ("epoch", "epoch_step", "best", "optimizer")} == {
                name: STATE[name] for name in ("epoch", "epoch_step", "best", "optimizer")
            }
    assert refused > len(positions) / 2


def test_a_checkpoint_of_the_first_format_loads(tmp_path):
    torch.save({**STATE, "names": [], "sha256": "of what was in it"}, tmp_path / LATEST)
    assert load_checkpoint(tmp_path / LATEST)["epoch"] == 3


def test_weights_that_are_not_finite_are_refused_and_passed_over(tmp_path):
    save(tmp_path, 1)
    broken = {**STATE, "epoch": 2, "state_dict": {"weight": torch.tensor([1.0, float("nan")])}}
    path = save_checkpoint(broken, tmp_path)
    with pytest.raises(CheckpointError, match=r"model_latest\.pth: its weights are not finite"):
        load_checkpoint(path)
    assert newest_checkpoint(tmp_path, lambda line: None)[1]["epoch"] == 1


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


@pytest.mark.parametrize("content", [{"state_dict": {}}, STATE, {"weight": torch.zeros(1)}, torch.zeros(3), [1, 2]])
def test_weights_alone_cannot_be_resumed(tmp_path, content):
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"weights\.pth: no training state.*TRAINING\.WEIGHTS"):
        load_checkpoint(path)


def test_the_newest_whole_checkpoint_is_found(tmp_path):
    said: list[str] = []
    assert newest_checkpoint(tmp_path, said.append) is None
    for epoch in (8, 9, 10, 11, 12):
        save(tmp_path, epoch, [f"model_epoch_{epoch}.pth"] if epoch < 11 else [])
    for expected, epoch in ((LATEST, 12), ("model_previous.pth", 11), ("model_epoch_10.pth", 10)):
        path, state = newest_checkpoint(tmp_path, said.append)
        assert (path.name, state["epoch"]) == (expected, epoch)
        damage(path)
    assert newest_checkpoint(tmp_path, said.append)[1]["epoch"] == 9
    skipped = [line.split(": damaged")[0].rpartition(os.sep)[-1] for line in said[-3:]]
    assert skipped == [LATEST, "model_previous.pth", "model_epoch_10.pth"]
    for path in tmp_path.iterdir():
        if path.is_file():
            path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="none of its 5 checkpoints is whole; to start anew delete the folder"):
        newest_checkpoint(tmp_path, said.append)


def test_one_that_may_not_be_read_is_not_passed_over(tmp_path, lock_file):
    save(tmp_path, 1)
    save(tmp_path, 2)
    lock_file(tmp_path / LATEST)
    with pytest.raises(PermissionError) as refused:
        newest_checkpoint(tmp_path)
    assert refused.value.filename == str(tmp_path / LATEST)


def test_what_a_killed_run_left_is_put_in_order(tmp_path):
    save(tmp_path, 1)
    save(tmp_path, 2, ["model_best.pth"])
    (tmp_path / "model_best.pth").unlink()  # killed before the second name was given
    temporary_name(tmp_path).write_bytes(b"half")
    tidy(*newest_checkpoint(tmp_path))
    assert names(tmp_path) == ["model_best.pth", LATEST, "model_previous.pth"]
    assert load_checkpoint(tmp_path / "model_best.pth")["epoch"] == 2


def test_a_damaged_latest_never_becomes_the_previous_one(tmp_path):
    for epoch in (1, 2):
        save(tmp_path, epoch)
    damage(tmp_path / LATEST)
    tidy(*newest_checkpoint(tmp_path))
    save(tmp_path, 3)
    assert {path.name: load_checkpoint(path)["epoch"] for path in tmp_path.iterdir()} == {
        LATEST: 3,
        "model_previous.pth": 1,
    }


def test_a_copied_run_is_a_run(tmp_path):
    for epoch in (1, 2):
        save(tmp_path / "a", epoch, ["model_best.pth"])
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    path, state = newest_checkpoint(tmp_path / "b")
    assert (path, state["epoch"]) == (tmp_path / "b" / LATEST, 2)


@pytest.mark.parametrize("keep", range(6))
def test_the_newest_are_kept_in_natural_order(tmp_path, keep):
    for epoch in (9, 10, 100, 99):
        (tmp_path / f"model_epoch_{epoch}.pth").touch()
    others = ("model_latest.pth", "model_best.pth", "model_epoch_mine.pth", "notes.txt")
    for other in others:
        (tmp_path / other).touch()
    prune_checkpoints(tmp_path, keep, epoch=100)
    newest = [f"model_epoch_{epoch}.pth" for epoch in (100, 99, 10, 9)[:keep]]
    assert names(tmp_path) == sorted([*newest, *others])


def test_checkpoints_of_epochs_to_come_do_not_count(tmp_path):
    for epoch in (1, 2, 3, 8, 9):  # 8 and 9 are damaged, say: the run goes on from 2 and has just done 3
        (tmp_path / f"model_epoch_{epoch}.pth").touch()
    prune_checkpoints(tmp_path, 2, epoch=3)
    assert names(tmp_path) == [f"model_epoch_{epoch}.pth" for epoch in (2, 3, 8, 9)]


def test_what_is_further_is_found(tmp_path):
    for epoch in (1, 2, 3):
        save(tmp_path, epoch, [f"model_epoch_{epoch}.pth"])
    assert newer_checkpoints(tmp_path, {"epoch": 3, "epoch_step": 0}) == []
    further = {path.name for path in newer_checkpoints(tmp_path, {"epoch": 2, "epoch_step": 0})}
    assert further == {LATEST, "model_epoch_3.pth"}
    assert len(newer_checkpoints(tmp_path, {"epoch": 1, "epoch_step": 5})) == 4  # latest, previous, 2, 3
    damage(tmp_path / LATEST)
    assert len(newer_checkpoints(tmp_path, {"epoch": 2, "epoch_step": 0})) == 1
