"""Nothing is lost: whatever stops a training, it goes on from there, and ends with the weights of one never stopped."""
from __future__ import annotations

import itertools
import json
import math
import os
import random
import re
import shutil
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from torch.optim.swa_utils import AveragedModel

from m3snet.tests.runs import Forked, assert_same, configuration, metrics, start, torchrun, train
from m3snet.utils import provenance
from m3snet.utils.config import to_dict
from m3snet.utils.data.pairs import find_pairs
from m3snet.utils.data.patches import CentrePatches
from m3snet.utils.provenance import code_version
from m3snet.utils.training import build as recipe
from m3snet.utils.training import processes
from m3snet.utils.training import run as trainer
from m3snet.utils.training.build import TrainingError
from m3snet.utils.training.checkpoint import CheckpointError, load_checkpoint
from m3snet.utils.training.signals import Interruption
from m3snet.utils.training.step import TrainStep

pytestmark = pytest.mark.usefixtures("fresh_process")

EPOCH_STEPS = 8
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "all": {"TRAINING__EMA_DECAY": 0.9, "OPTIM__ACCUMULATE": 2, "OPTIM__NAME": "AdamW", "OPTIM__CLIP_NORM": 0.5},
}


def state_of(run: Path) -> dict[str, Any]:
    """The latest state, without the keys in which the runs to compare differ on purpose."""
    state = load_checkpoint(run / "model_latest.pth")
    for key in ("SAVE_DIR", "NUM_WORKERS", "SAVE_STEPS", "RESUME", "AUTO_BATCH"):
        del state["config"]["TRAINING"][key]
    return state


def before_step(monkeypatch: pytest.MonkeyPatch, number: int, act: Any) -> None:
    """Call `act` just before the step of that number, counted from 1 over all resumed runs."""
    take = TrainStep.__call__

    def watched(self: TrainStep, patch: Any) -> None:
        if self.state.step + 1 == number:
            act()
        take(self, patch)

    monkeypatch.setattr(TrainStep, "__call__", watched)


@pytest.mark.parametrize("kind", KINDS)
def test_17_steps_and_a_resume_are_40_steps(
    kind: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = {"OPTIM__NUM_EPOCHS": 5, "TRAINING__EPOCH_STEPS": EPOCH_STEPS, **KINDS[kind]}
    whole = train(folder, tmp_path / "whole", **recipe)
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stopped:
        before_step(patch, 17, lambda: os.kill(os.getpid(), signal.SIGTERM))
        train(folder, tmp_path / "parts", **recipe)
    assert stopped.value.code == 143
    middle = load_checkpoint(tmp_path / "parts/Deraining/run/model_latest.pth")
    assert (middle["epoch"], middle["epoch_step"], middle["step"]) == (2, 1, 17)  # that step was still finished
    assert "SIGTERM: stopped after step 17, TRAINING.RESUME auto goes on from it" in capsys.readouterr().out
    parts = train(folder, tmp_path / "parts", **recipe, TRAINING__NUM_WORKERS=2)
    assert "2 of 5 epochs and 1 steps done" in capsys.readouterr().out
    a, b = state_of(whole), state_of(parts)
    assert (a["step"], a["epoch"], a["epoch_step"]) == (40, 5, 0)
    assert_same(a, b)
    assert ("params_ema" in a) == (kind == "all")
    assert not torch.equal(a["state_dict"]["intro.weight"], middle["state_dict"]["intro.weight"])
    assert [line["step"] for line in metrics(parts)] == list(range(1, 41))
    assert [line["psnr"] for line in metrics(parts)] == [line["psnr"] for line in metrics(whole)]


def test_the_same_seed_gives_the_same_weights_and_is_in_the_checkpoint(folder: Path, tmp_path: Path) -> None:
    runs = [train(folder, tmp_path / name, TRAINING__SEED=seed) for name, seed in (("a", 7), ("b", 7), ("c", 8))]
    a, b, c = map(state_of, runs)
    assert_same(a, b)
    assert not torch.equal(a["state_dict"]["intro.weight"], c["state_dict"]["intro.weight"])
    content = load_checkpoint(runs[0] / "model_latest.pth")
    assert content["config"] == to_dict(configuration(folder, tmp_path / "a", TRAINING__SEED=7))
    assert content["config"]["TRAINING"]["SEED"] == 7
    assert content["code"].startswith(code_version().split(" ")[0])


def test_what_a_network_draws_is_drawn_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_dropout(config: Any) -> Any:
        model = recipe.build_model(config)
        model.intro.register_forward_hook(lambda module, images, out: torch.nn.functional.dropout(out, 0.3))
        return model

    monkeypatch.setattr(trainer, "build_model", with_dropout)
    short = {"OPTIM__NUM_EPOCHS": 2, "TRAINING__EPOCH_STEPS": 3}
    whole = train(folder, tmp_path / "whole", **short)
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        before_step(patch, 2, lambda: os.kill(os.getpid(), signal.SIGINT))
        train(folder, tmp_path / "parts", **short)
    torch.rand(100)  # whatever happens between
    assert_same(state_of(whole), state_of(train(folder, tmp_path / "parts", **short)))


def test_a_second_signal_stops_at_once() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), Interruption() as interruption:
        os.kill(os.getpid(), signal.SIGTERM)
        assert interruption.signum == signal.SIGTERM
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_ctrl_c_of_the_program(folder: Path, tmp_path: Path) -> None:
    program = start(folder, tmp_path, OPTIM__NUM_EPOCHS=2, TRAINING__EPOCH_STEPS=500, TRAINING__NUM_WORKERS=1)
    assert program.stdout is not None
    for line in program.stdout:
        if line.startswith("step 3"):
            break
    for process in [*psutil.Process(program.pid).children(), program]:  # a terminal sends it to the whole group
        os.kill(process.pid, signal.SIGINT)
    rest, _ = program.communicate(timeout=60)
    assert program.returncode == 130, rest
    assert "SIGINT: stopped after step " in rest
    assert "Traceback" not in rest
    state = load_checkpoint(tmp_path / "Deraining/run/model_latest.pth")
    assert 3 <= state["step"] == state["epoch_step"] < 500


@pytest.mark.skipif(sys.platform == "win32", reason="kills as POSIX does")
@pytest.mark.parametrize("kills", [3, pytest.param(30, marks=pytest.mark.slow)])
def test_killed_at_random_moments_it_ends_as_if_never_killed(kills: int, folder: Path, tmp_path: Path) -> None:
    random_ = random.Random(kills)
    keys: dict[str, Any] = {
        "MODEL__NAME": "M3SNet-T",
        "OPTIM__BATCH_SIZE": 2,
        "OPTIM__NUM_EPOCHS": 2 + kills,
        "TRAINING__EPOCH_STEPS": 5,
        "TRAINING__TRAIN_PS": 16,
        "TRAINING__SAVE_STEPS": 1,  # most of the time goes into saving: most kills hit a checkpoint being written
        "TRAINING__EMA_DECAY": 0.9,
    }
    reached = [0]
    for _ in range(kills):
        program = Forked(folder, tmp_path, **keys)
        steps = random_.randint(1, 4)
        for line in program.stdout:
            steps -= line.startswith("step ")
            if not steps:
                break
        time.sleep(random_.uniform(0, 0.3))
        assert program.kill() == -signal.SIGKILL, "the training ended before it was killed"
        latest = tmp_path / "Deraining/run/model_latest.pth"
        reached.append(load_checkpoint(latest)["step"] if latest.is_file() else 0)
    assert reached == sorted(reached)
    assert reached[-1] > 0
    # One more blow: the newest checkpoint is torn. It is named and skipped, the one before it is used.
    torn = latest.read_bytes()[:-1000]
    latest.unlink()
    latest.write_bytes(torn)
    program = Forked(folder, tmp_path, **keys)
    rest = program.stdout.read()
    assert program.wait() == 0, rest
    assert re.search(r"skipped: .*model_latest\.pth: damaged", rest)
    assert re.search(r"resumed from .*model_previous\.pth", rest)
    whole = train(folder, tmp_path / "whole", **keys)
    parts = tmp_path / "Deraining/run"
    assert_same(state_of(parts), state_of(whole))
    assert [line["step"] for line in metrics(parts)] == [line["step"] for line in metrics(whole)]
    assert {path.name for path in parts.glob("*.pth*")} == {path.name for path in whole.glob("*.pth*")}
    assert not list(parts.glob(".*.pth*"))


def test_two_processes_equal_one_and_survive_a_killed_worker(folder: Path, tmp_path: Path) -> None:
    keys = {"MODEL__NAME": "M3SNet-T", "OPTIM__NUM_EPOCHS": 2, "TRAINING__EPOCH_STEPS": 5, "TRAINING__VAL_COUNT": 3}
    one = train(folder, tmp_path / "one", **keys)
    for name in ("two", "killed"):
        (tmp_path / name).mkdir()
        killed = name == "killed"
        launcher = torchrun("--max-restarts", "1") if killed else torchrun()
        program = start(folder, tmp_path / name, launcher, **keys, TRAINING__SAVE_STEPS=1 if killed else 0)
        assert program.stdout is not None
        lines = []
        for line in program.stdout:
            lines.append(line)
            if killed and line.startswith("step 3"):
                workers = [p for p in psutil.Process(program.pid).children() if "train.py" in " ".join(p.cmdline())]
                assert len(workers) == 2
                workers[1].kill()
                killed = False
        assert program.wait() == 0, "".join(lines)
        assert "on 2 processes" in "".join(lines)
        assert ("resumed from" in "".join(lines)) == (name == "killed")
    two = tmp_path / "two/Deraining/run"
    a, b = metrics(one), metrics(two)
    assert len(a) == len(b) == 10
    assert [line["psnr"] for line in b] == pytest.approx([line["psnr"] for line in a], rel=1e-6)
    assert (two / "validation.csv").read_text().splitlines()[-1].split(",")[:2] == ["10", "2"]
    # Of three validation images one process has two, the other one: the mean is over images.
    scores = [float((run / "validation.csv").read_text().splitlines()[-1].split(",")[2]) for run in (one, two)]
    assert scores[1] == pytest.approx(scores[0], abs=2e-3)
    assert_same(state_of(tmp_path / "killed/Deraining/run"), state_of(two))


def test_a_crash_saves_what_was_whole(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash() -> None:
        raise ZeroDivisionError("a bug")

    whole = train(folder, tmp_path / "whole", OPTIM__NUM_EPOCHS=2)
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        before_step(patch, 4, crash)
        train(folder, tmp_path / "parts", OPTIM__NUM_EPOCHS=2)
    assert load_checkpoint(tmp_path / "parts/Deraining/run/model_latest.pth")["step"] == 3
    assert_same(state_of(train(folder, tmp_path / "parts", OPTIM__NUM_EPOCHS=2)), state_of(whole))


def test_a_crash_within_a_step_saves_nothing_half_done(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(self: AveragedModel, model: torch.nn.Module) -> None:
        raise ZeroDivisionError("the weights are new, their average is not")

    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        before_step(patch, 4, lambda: patch.setattr(AveragedModel, "update_parameters", half))
        train(folder, tmp_path, OPTIM__NUM_EPOCHS=2, TRAINING__EMA_DECAY=0.9)
    assert load_checkpoint(tmp_path / "Deraining/run/model_latest.pth")["step"] == 2  # that of the epoch's end


def test_a_full_disk_stops_the_run_and_keeps_the_last_checkpoint(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(state: Any, file: Any) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    whole = train(folder, tmp_path / "whole", OPTIM__NUM_EPOCHS=2)
    told: list[Any] = []
    monkeypatch.setattr(processes, "gather_object", lambda items: told.extend(items) or items)
    with monkeypatch.context() as patch, pytest.raises(CheckpointError, match=r"no room .* needs 3\.\d MiB"):
        before_step(patch, 4, lambda: patch.setattr(torch, "save", full))
        train(folder, tmp_path / "parts", OPTIM__NUM_EPOCHS=2)
    assert "no room for the checkpoint" in told[-1][2]  # the other processes do not wait
    assert load_checkpoint(tmp_path / "parts/Deraining/run/model_latest.pth")["epoch"] == 1
    assert_same(state_of(train(folder, tmp_path / "parts", OPTIM__NUM_EPOCHS=2)), state_of(whole))


def test_another_batch_or_network_is_noticed_on_resuming(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        before_step(patch, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
        train(folder, tmp_path, TRAINING__EPOCH_STEPS=4)
    train(folder, tmp_path, TRAINING__EPOCH_STEPS=4, OPTIM__BATCH_SIZE=2, OPTIM__NUM_EPOCHS=2)
    printed = capsys.readouterr().out
    assert "changed since: OPTIM.BATCH_SIZE 4 -> 2" in printed
    assert "the order of the samples is another one: epoch 1 starts from its beginning" in printed
    assert load_checkpoint(tmp_path / "Deraining/run/model_latest.pth")["step"] == 3 + 2 * 4
    with pytest.raises(CheckpointError, match=r"does not fit the network .*MODEL\.NAME M3SNet-T"):
        train(folder, tmp_path, MODEL__NAME="M3SNet-T")


def test_what_is_announced_holds(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of the optimizer's settings the configuration's are used, of its moments the checkpoint's."""
    train(folder, tmp_path, OPTIM__NUM_EPOCHS=2)
    before = load_checkpoint(tmp_path / "Deraining/run/model_latest.pth")["optimizer"]
    changed = {"BETA1": 0.5, "BETA2": 0.9, "WEIGHT_DECAY": 0.25, "LR_INITIAL": 0.125, "NAME": "AdamW"}
    run = train(folder, tmp_path, OPTIM__NUM_EPOCHS=3, **{f"OPTIM__{key}": value for key, value in changed.items()})
    printed = capsys.readouterr().out
    for key, value in changed.items():
        assert f"changed since: OPTIM.{key} " in printed
        assert f"-> {value!r}" in printed
    after = load_checkpoint(run / "model_latest.pth")["optimizer"]
    (group,) = after["param_groups"]
    fresh = recipe.build_optimizer(
        torch.nn.Linear(1, 1),
        configuration(folder, tmp_path, **{f"OPTIM__{key}": value for key, value in changed.items()}),
    ).param_groups[0]
    for key in fresh.keys() - {"params", "lr"}:
        assert group[key] == fresh[key], key
    assert (group["betas"], group["weight_decay"], group["initial_lr"]) == ((0.5, 0.9), 0.25, 0.125)
    assert metrics(run)[-1]["learning_rate"] == pytest.approx(1e-6)  # the cosine's last: 0.125 only shapes it
    assert [float(slot["step"]) for slot in before["state"].values()] == len(before["state"]) * [4.0]
    assert [float(slot["step"]) for slot in after["state"].values()] == len(after["state"]) * [6.0]


def test_other_start_weights_are_said_to_have_no_effect(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(folder, tmp_path, OPTIM__NUM_EPOCHS=2)
    weights = tmp_path / "start.pth"
    weights.write_bytes((run / "model_best.pth").read_bytes())
    train(folder, tmp_path, OPTIM__NUM_EPOCHS=3, TRAINING__WEIGHTS=weights)
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "TRAINING.WEIGHTS '' ->" in line)
    assert line.endswith("(of no effect: the weights are the checkpoint's)")


def test_the_best_score_does_not_outlive_its_validation_images(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(folder, tmp_path, OPTIM__NUM_EPOCHS=2)
    path = run / "model_latest.pth"
    state = load_checkpoint(path)
    assert math.isfinite(state["best"])
    torch.save({**state, "best": 99.0}, path)  # no other image reaches it
    train(folder, tmp_path, OPTIM__NUM_EPOCHS=3)
    assert load_checkpoint(path)["best"] == 99.0
    train(folder, tmp_path, OPTIM__NUM_EPOCHS=4, TRAINING__VAL_COUNT=3)
    assert "the validation images are others: the best score is looked for anew" in capsys.readouterr().out
    last = float((run / "validation.csv").read_text().splitlines()[-1].split(",")[2])
    assert load_checkpoint(path)["best"] == last < 99
    assert load_checkpoint(run / "model_best.pth")["epoch"] == 4


@pytest.mark.parametrize("change", ["name", "content", "VAL_PS", "VAL_SEED"])
def test_what_makes_validation_images_others(change: str, folder: Path, tmp_path: Path) -> None:
    def fingerprint(where: Path, size: int = 32, seed: int = 1) -> str:
        return recipe.fingerprint(CentrePatches(find_pairs(where), size, seed), "y")

    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    assert fingerprint(moved) == fingerprint(folder)
    if change == "name":
        for side in ("input", "target"):
            (moved / side / "3.png").rename(moved / side / "9.png")
    elif change == "content":
        shutil.copy(moved / "input/1.png", moved / "input/2.png")
    assert fingerprint(moved, 48 if change == "VAL_PS" else 32, 2 if change == "VAL_SEED" else 1) != fingerprint(folder)


def test_going_back_does_not_overwrite_what_came_after(folder: Path, tmp_path: Path) -> None:
    keys = {"TRAINING__CHECKPOINT_EVERY": 1, "TRAINING__KEEP": 2}
    run = train(folder, tmp_path, **keys)
    back = {**keys, "TRAINING__RESUME": run / "model_epoch_3.pth"}
    named = r"model_epoch_3\.pth: .*/run holds checkpoints that are further \(model_latest\.pth, model_epoch_4\.pth, "
    with pytest.raises(CheckpointError, match=named + r"model_best.*RESUME auto .*MODEL\.SESSION, or delete them"):
        train(folder, tmp_path, **back, OPTIM__NUM_EPOCHS=6)
    elsewhere = tmp_path / "elsewhere"
    assert load_checkpoint(train(folder, elsewhere, **back) / "model_epoch_4.pth")["epoch"] == 4
    for name in ("model_latest.pth", "model_epoch_4.pth", "model_best.pth"):
        (run / name).unlink()
    train(folder, tmp_path, **back, OPTIM__NUM_EPOCHS=5)
    assert {path.name for path in run.glob("model_epoch_*")} == {"model_epoch_4.pth", "model_epoch_5.pth"}


def test_stale_numbered_checkpoints_do_not_push_out_new_ones(folder: Path, tmp_path: Path) -> None:
    keys = {"TRAINING__CHECKPOINT_EVERY": 1, "TRAINING__KEEP": 2}
    run = train(folder, tmp_path, **keys, OPTIM__NUM_EPOCHS=2)
    for epoch in (7, 8):  # damaged: the run goes on from epoch 2
        (run / f"model_epoch_{epoch}.pth").write_bytes(b"")
    train(folder, tmp_path, **keys)
    assert load_checkpoint(run / "model_epoch_4.pth")["epoch"] == 4
    assert not (run / "model_epoch_2.pth").exists()


def test_numbered_checkpoints_alone_are_not_overwritten_either(folder: Path, tmp_path: Path) -> None:
    run = train(folder, tmp_path, TRAINING__CHECKPOINT_EVERY=2)
    for name in ("latest", "previous", "best"):
        (run / f"model_{name}.pth").unlink()
    with pytest.raises(CheckpointError, match=r"epoch_4\.pth belongs to an earlier run, which RESUME false would"):
        train(folder, tmp_path, TRAINING__RESUME="false")


@pytest.mark.parametrize("epochs", [2, 3])
def test_fewer_epochs_than_are_done(epochs: int, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        before_step(patch, 7, lambda: os.kill(os.getpid(), signal.SIGTERM))
        train(folder, tmp_path)
    said = rf"3 epochs and 1 steps are done, more than OPTIM\.NUM_EPOCHS {epochs}: raise it to go on"
    with pytest.raises(CheckpointError, match=said):
        train(folder, tmp_path, OPTIM__NUM_EPOCHS=epochs)
    assert load_checkpoint(train(folder, tmp_path) / "model_latest.pth")["epoch"] == 4


def test_a_finished_run_is_finished(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = train(folder, tmp_path)
    content = (run / "model_latest.pth").read_bytes()
    train(folder, tmp_path)
    assert "4 of 4 epochs done" in capsys.readouterr().out
    assert (run / "model_latest.pth").read_bytes() == content


def test_broken_weights_are_not_saved(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    take = TrainStep.__call__

    def breaking(self: TrainStep, patch: Any) -> None:
        take(self, patch)
        if self.state.step == 3:  # as a gradient clipped to nan would do
            with torch.no_grad():
                self.state.model.intro.weight[0, 0, 0, 0] = math.nan

    with monkeypatch.context() as patch, pytest.raises(TrainingError, match="after step 4 the weights are not finite"):
        patch.setattr(TrainStep, "__call__", breaking)
        train(folder, tmp_path)
    latest = tmp_path / "Deraining/run/model_latest.pth"
    assert load_checkpoint(latest)["step"] == 2
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(TrainStep, "__call__", lambda self, patch: breaking(self, patch) or 1 / (3 - self.state.step))
        train(folder, tmp_path)
    assert load_checkpoint(latest)["step"] == 2
    assert load_checkpoint(train(folder, tmp_path) / "model_latest.pth")["step"] == 8


def test_a_loss_that_breaks_costs_no_checkpoint(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights that are finite and far too large are kept apart, however often the run is started again."""
    run, take = tmp_path / "Deraining/run", TrainStep.__call__

    def exploding(self: TrainStep, patch: Any) -> None:
        take(self, patch)
        if self.state.step == 5:
            with torch.no_grad():
                self.state.model.intro.weight.fill_(3e38)

    for _ in range(3):
        with monkeypatch.context() as patch, pytest.raises(TrainingError, match="was not finite for 1 step"):
            patch.setattr(TrainStep, "__call__", exploding)
            train(folder, tmp_path)
        steps = {path.name: load_checkpoint(path)["step"] for path in run.glob("*.pth")}
        assert steps == {"model_latest.pth": 4, "model_previous.pth": 2, "model_best.pth": 4, "model_stopped.pth": 6}
    assert load_checkpoint(run / "model_stopped.pth")["state_dict"]["intro.weight"].max() > 1e38
    with pytest.raises(TrainingError, match="was not finite for 1 step"):  # by name it can be gone on from
        train(folder, tmp_path, TRAINING__RESUME=run / "model_stopped.pth")


def test_weights_whose_output_is_not_finite_are_not_saved(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = TrainStep.__call__

    def exploding(self: TrainStep, patch: Any) -> None:
        take(self, patch)
        if self.state.step == 4:  # the last before a validation
            with torch.no_grad():
                self.state.model.intro.weight.fill_(3e38)

    with monkeypatch.context() as patch, pytest.raises(TrainingError, match="after step 4: the network's output is"):
        patch.setattr(TrainStep, "__call__", exploding)
        train(folder, tmp_path)
    assert load_checkpoint(tmp_path / "Deraining/run/model_latest.pth")["step"] == 2


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no SIGHUP")
def test_a_closed_terminal_saves_too(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stopped:
        before_step(patch, 3, lambda: os.kill(os.getpid(), signal.SIGHUP))
        train(folder, tmp_path)
    assert stopped.value.code == 129
    assert load_checkpoint(tmp_path / "Deraining/run/model_latest.pth")["step"] == 3
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with monkeypatch.context() as patch:
            before_step(patch, 4, lambda: os.kill(os.getpid(), signal.SIGHUP))
            train(folder, tmp_path, OPTIM__NUM_EPOCHS=2)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_code_that_ran_is_read_once(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = (f"commit{number}\n" for number in itertools.count())
    monkeypatch.setattr(provenance.subprocess, "run", lambda *_, **__: SimpleNamespace(stdout=next(answers)))
    code_version.cache_clear()
    try:
        run = train(folder, tmp_path, TRAINING__SAVE_STEPS=1)
    finally:
        code_version.cache_clear()
    assert "(commit0)" in load_checkpoint(run / "model_latest.pth")["code"]
    assert json.loads((run / "environment.json").read_text())["code"] == load_checkpoint(run / "model_best.pth")["code"]


@pytest.fixture
def small_memory(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A network for which memory runs out with more than two images; returns the sizes it was called with."""
    sizes: list[int] = []

    def build(config: Any) -> Any:
        model = recipe.build_model(config)

        def forward(module: Any, images: tuple[torch.Tensor]) -> None:
            if not module.training:
                return
            sizes.append(len(images[0]))
            if len(images[0]) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")

        model.register_forward_pre_hook(forward)
        return model

    monkeypatch.setattr(trainer, "build_model", build)
    return sizes


def test_out_of_memory_says_what_to_change(folder: Path, tmp_path: Path, small_memory: list[int]) -> None:
    with pytest.raises(TrainingError, match=r"4 images of 32 x 32 at once in fp32: set TRAINING\.AUTO_BATCH true"):
        train(folder, tmp_path)
    train(folder, tmp_path, OPTIM__ACCUMULATE=2, OPTIM__NUM_EPOCHS=2)  # and that helps


def test_auto_batch_halves_until_it_fits(
    folder: Path, tmp_path: Path, small_memory: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    auto = train(folder, tmp_path / "auto", TRAINING__AUTO_BATCH="true", OPTIM__NUM_EPOCHS=2)
    assert small_memory == [4, 2] + 8 * [2]  # two trials, then two parts of each of four steps
    assert "TRAINING.AUTO_BATCH: 4 images do not fit; taken 2 at a time" in capsys.readouterr().out
    by_hand = train(folder, tmp_path / "hand", OPTIM__ACCUMULATE=2, OPTIM__NUM_EPOCHS=2)
    a, b = state_of(auto), state_of(by_hand)
    assert_same(a["state_dict"], b["state_dict"])


def test_auto_batch_that_fails_here_fails_everywhere(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []
    monkeypatch.setattr(processes, "gather_object", lambda items: told.extend(items) or items)
    monkeypatch.setattr(torch.Tensor, "backward", lambda self: (_ for _ in ()).throw(torch.OutOfMemoryError))
    with pytest.raises(TrainingError, match="out of memory with a single 32 x 32 image"):
        train(folder, tmp_path, TRAINING__AUTO_BATCH="true")
    assert str(told[-1][2]).startswith("out of memory with a single")  # the other processes do not wait
