"""train.py of both tasks: resuming, several processes, precision, what stops a run and what it leaves."""
from __future__ import annotations

import dataclasses
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import m3snet.Deraining.train
from m3snet.benchmarks.cost import count_macs
from m3snet.Deraining.dataset import TASK
from m3snet.models import SCA, SIZES, LayerNorm2d, create_model, load_model, save_weights
from m3snet.tests.runs import PROGRAM, metrics, options, train
from m3snet.utils.config import ConfigError, load_config
from m3snet.utils.data.pairs import PairError
from m3snet.utils.images import read_image
from m3snet.utils.scoring.metrics import PROTOCOLS, SMALLEST_SIDE, psnr, rgb_to_y, score_aligned
from m3snet.utils.settings import default_config
from m3snet.utils.training import build as recipe
from m3snet.utils.training import run as trainer
from m3snet.utils.training import step as stepping
from m3snet.utils.training.build import TrainingError
from m3snet.utils.training.checkpoint import CheckpointError, load_checkpoint

ROOT = PROGRAM.parents[1]

pytestmark = pytest.mark.usefixtures("fresh_process")


def test_accumulation_changes_nothing_but_memory(folder: Path, tmp_path: Path) -> None:
    runs = [train(folder, tmp_path / str(parts), OPTIM__ACCUMULATE=parts, OPTIM__NUM_EPOCHS=2) for parts in (1, 4)]
    one, four = ([line["psnr"] for line in metrics(run)] for run in runs)
    assert four == pytest.approx(one, rel=1e-4)
    with pytest.raises(TrainingError, match="ACCUMULATE 3 must divide the 4 images"):
        train(folder, tmp_path / "3", OPTIM__ACCUMULATE=3)


def test_bf16_runs_and_fp16_needs_a_gpu(folder: Path, tmp_path: Path) -> None:
    run = train(folder, tmp_path / "a", TRAINING__PRECISION="bf16", OPTIM__NUM_EPOCHS=2)
    assert all(math.isfinite(line["psnr"]) for line in metrics(run))
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="fp16 needs a GPU"):
            train(folder, tmp_path / "b", TRAINING__PRECISION="fp16")


def test_half_precision_does_not_reach_means_and_norms() -> None:
    image = 100 + torch.randn(2, 8, 96, 96, generator=torch.Generator().manual_seed(0))
    half = image.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        means, normed = SCA(8).pool(half), LayerNorm2d(8)(half)
    # Summed in 16 bits, 9,216 values of 100 would stop growing at 2 ** 15 and their mean be 4.
    assert torch.equal(means, half.float().mean((2, 3), keepdim=True).bfloat16())
    torch.testing.assert_close(normed.float(), LayerNorm2d(8)(half.float()), atol=0.02, rtol=0)


def test_rate_norm_and_clipping_are_logged(folder: Path, tmp_path: Path) -> None:
    lines = metrics(train(folder, tmp_path, OPTIM__CLIP_NORM=1e-9, OPTIM__WEIGHT_DECAY=0.0))
    assert [line["step"] for line in lines] == list(range(1, 9))
    assert all(line["gradient_norm"] > 1e-3 for line in lines)  # the norm before clipping
    assert [lines[i]["learning_rate"] for i in (0, 2, 6)] == pytest.approx(
        [1e-3, 1e-6 + (1e-3 - 1e-6) * (1 + math.cos(math.pi / 3)) / 2, 1e-6]
    )


@pytest.mark.parametrize("limit", [1, 2])
def test_a_loss_that_is_not_finite_stops_before_the_step(
    limit: int, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Breaks(stepping.PSNRLoss):
        calls = 0

        def forward(self, restored: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            Breaks.calls += 1
            return super().forward(restored, target) * (math.nan if Breaks.calls > 3 else 1)

    train(folder, tmp_path / "good", OPTIM__NUM_EPOCHS=4)
    monkeypatch.setattr(stepping, "PSNRLoss", Breaks)
    with pytest.raises(TrainingError, match=rf"not finite for {limit} step\(s\) in a row") as error:
        train(folder, tmp_path / "bad", TRAINING__NONFINITE_LIMIT=limit)
    assert Breaks.calls == 3 + limit
    named = str(error.value).split("the last on ")[1].split(".")[0].split(", ")
    assert len(named) == 4
    assert set(named) <= {str(i) for i in range(9)}
    assert "the loss is not finite, step skipped; this process's batch: " in capsys.readouterr().out
    state = load_checkpoint(tmp_path / "bad/Deraining/run/model_stopped.pth")
    assert all(torch.isfinite(tensor).all() for tensor in state["state_dict"].values())
    # Three steps were taken: the optimizer says so.
    assert {float(slot["step"]) for slot in state["optimizer"]["state"].values()} == {3.0}


def test_what_a_run_leaves(folder: Path, tmp_path: Path) -> None:
    run = train(folder, tmp_path, TRAINING__CHECKPOINT_EVERY=1, TRAINING__KEEP=2, TRAINING__SAVE_IMAGES="true")
    assert sorted(path.name for path in run.glob("*.pth")) == [
        "model_best.pth",
        "model_epoch_3.pth",
        "model_epoch_4.pth",
        "model_latest.pth",
        "model_previous.pth",
    ]
    model = load_model(run / "model_best.pth")
    assert (model.config["width"], model.patch_size) == (8, 32)
    assert {path.name for path in run.iterdir() if path.suffix != ".pth"} == {
        "config.yml",
        "environment.json",
        "metrics.csv",
        "run.lock",
        "tensorboard",
        "train.log",
        "validation",
        "validation.csv",
    }
    with pytest.raises(CheckpointError, match="which RESUME false would overwrite"):
        train(folder, tmp_path, TRAINING__RESUME="false")
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        train(folder, tmp_path, TRAINING__RESUME=tmp_path / "none.pth")
    for path in run.glob("*.pth"):
        path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="none of its 5 checkpoints is whole"):
        train(folder, tmp_path)


def test_a_test_set_is_not_used_for_validation_unless_asked(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    test_set = tmp_path / "Rain13K/test/Rain100L"
    shutil.copytree(folder, test_set)
    pairs = {"TRAINING__VAL_DIR": test_set, "OPTIM__NUM_EPOCHS": 2}
    train(folder, tmp_path / "a", **pairs)
    printed = capsys.readouterr().out
    assert "is a test set; a checkpoint chosen on it has no honest test" in printed
    assert "checking 9 images\n7 training images, 2 for validation" in printed
    train(folder, tmp_path / "b", **pairs, TRAINING__VAL_ON_TEST_SET="true")
    assert "9 training images, 9 for validation" in capsys.readouterr().out


def test_without_validation_images_none_is_best(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(folder, tmp_path, TRAINING__VAL_COUNT=0, OPTIM__NUM_EPOCHS=2)
    printed = capsys.readouterr().out
    assert "9 training images, 0 for validation" in printed
    assert f"2 epochs done, without validation images: {run / 'model_latest.pth'}\n" in printed
    assert (run / "validation.csv").read_text() == "step,epoch,psnr\n"
    train(folder, tmp_path, TRAINING__VAL_COUNT=0, OPTIM__NUM_EPOCHS=3)
    printed += capsys.readouterr().out
    assert "2 of 3 epochs done, not validated yet" in printed
    assert "inf" not in printed
    assert "best" not in printed


def test_the_best_is_only_named_where_it_is(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(folder, tmp_path / "a", OPTIM__NUM_EPOCHS=2)
    state = load_checkpoint(run / "model_latest.pth")
    torch.save({**state, "best": 99.0}, tmp_path / "good.pth")
    other = train(folder, tmp_path / "b", TRAINING__RESUME=tmp_path / "good.pth")
    assert not (other / "model_best.pth").exists()
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"4 epochs done, none better than the 99.000 dB it was resumed with: {other / 'model_latest.pth'}"


@pytest.mark.parametrize("protocol", ["y", "rgb", "aligned", "new"])
def test_validation_scores_by_the_protocol_of_the_task(
    protocol: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PROTOCOLS, "new", lambda restored, target: {"psnr": 12.5 if len(target) == 32 else 14.5})
    task = dataclasses.replace(TASK, protocol=protocol)
    monkeypatch.setattr(m3snet.Deraining.train, "task_with_rain", lambda config: task)
    run = train(folder, tmp_path, OPTIM__NUM_EPOCHS=2, TRAINING__SAVE_IMAGES="true")
    found = float((run / "validation.csv").read_text().splitlines()[-1].split(",")[2])
    scores = []
    for path in (run / "validation/epoch_2").iterdir():
        restored, target = read_image(path), read_image(folder / "target" / path.name)
        top, left = ((whole - part) // 2 for whole, part in zip(target.shape, restored.shape[:2], strict=False))
        target = target[top : top + restored.shape[0], left : left + restored.shape[1]]
        channel: Any = rgb_to_y if protocol == "y" else lambda image: image
        known = {"new": 12.5 if len(target) == 32 else 14.5, "aligned": score_aligned(restored, target)["psnr"]}
        scores.append(known.get(protocol) or psnr(channel(restored), channel(target)))
    assert len(scores) == 2
    assert found == math.fsum(scores) / 2


def test_images_too_small_to_be_scored(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"TRAINING\.VAL_PS 10: expected a whole number from {SMALLEST_SIDE} to"):
        train(folder, tmp_path, TRAINING__VAL_PS=10)
    train(folder, tmp_path, TRAINING__VAL_PS=SMALLEST_SIDE, OPTIM__NUM_EPOCHS=2)


def test_fine_tuning_starts_from_the_given_weights(folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    start = create_model("M3SNet-T")
    save_weights(start, tmp_path / "start.safetensors")
    rate = {"OPTIM__LR_INITIAL": 1e-12, "OPTIM__LR_MIN": 0.0, "OPTIM__NUM_EPOCHS": 2}
    run = train(folder, tmp_path, TRAINING__WEIGHTS=tmp_path / "start.safetensors", **rate)
    tuned = load_model(run / "model_best.pth")
    assert tuned.config == start.config  # those of the weights, whatever MODEL.NAME says
    for name, tensor in start.state_dict().items():
        torch.testing.assert_close(tuned.state_dict()[name], tensor, atol=1e-7, rtol=0)


def test_a_network_is_grown_before_it_is_trained_on(folder: Path, tmp_path: Path) -> None:
    save_weights(create_model("tiny"), tmp_path / "start.safetensors")
    keys = {"OPTIM__NUM_EPOCHS": 2, "TRAINING__WIDEN": 1}
    run = train(folder, tmp_path, TRAINING__WEIGHTS=tmp_path / "start.safetensors", **keys)
    assert load_model(run / "model_best.pth").config["width"] == 16


def test_loss_eps_reaches_the_loss(folder: Path, tmp_path: Path) -> None:
    small, large = (metrics(train(folder, tmp_path / eps, OPTIM__LOSS_EPS=eps))[0] for eps in ("1e-8", "1.0"))
    assert float(small["psnr"]) > 5 and float(large["psnr"]) < 0  # -10 log10(MSE + 1)


def test_the_fourier_error_is_trained_on_and_the_psnr_is_shown(folder: Path, tmp_path: Path) -> None:
    plain, fourier = (metrics(train(folder, tmp_path / weight, OPTIM__LOSS_FOURIER=weight)) for weight in ("0", "1000"))
    assert plain[0]["psnr"] == fourier[0]["psnr"]
    assert plain[-1]["psnr"] != fourier[-1]["psnr"]


def test_bad_data_is_said_before_the_first_step(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(PairError, match=r"no training data: set TRAINING\.TRAIN_DIR"):
        train(folder, tmp_path, TRAINING__TRAIN_DIR="")
    with pytest.raises(PairError, match="VAL_COUNT"):
        train(folder, tmp_path, TRAINING__VAL_COUNT=9)
    (folder / "input/3.png").write_bytes(b"")
    with pytest.raises(PairError, match=r"3\.png"):
        train(folder, tmp_path)


def test_quickstart_from_another_folder_and_errors_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "Deblurring/train.py"), "--config"]
    quickstart = str(ROOT / "Deblurring/configs/quickstart.yml")
    short = ["OPTIM.NUM_EPOCHS", "2", "TRAINING.EPOCH_STEPS", "2", "TRAINING.LOG_EVERY", "1", "TRAINING.VAL_PS", "64"]

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.run([*command, *words], cwd=tmp_path, capture_output=True, text=True, env=env, check=False)

    done = run(quickstart, "--opts", *short)
    assert done.returncode == 0, done.stderr
    assert "step 4  epoch 2  PSNR " in done.stdout
    assert "2 epochs done, best " in done.stdout
    assert (tmp_path / "checkpoints/Deblurring/quickstart/model_best.pth").is_file()
    failed = run(quickstart, "--opts", "OPTIM.BATCHSIZE", "2")
    assert (failed.returncode, failed.stderr.splitlines()[-1][:40]) == (1, "error: --opts: unknown key OPTIM.BATCHSI")
    assert "Traceback" not in failed.stderr


@pytest.mark.parametrize("limit", [1, 2])
def test_a_gradient_that_is_not_finite_is_skipped_and_counted(
    limit: int, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    build, calls = recipe.build_model, []

    def breaking(config: Any) -> Any:
        model = build(config)

        def third(gradient: torch.Tensor) -> torch.Tensor:
            calls.append(1)
            return gradient * (math.inf if len(calls) == 3 else 1)

        model.ending.weight.register_hook(third)
        return model

    monkeypatch.setattr(trainer, "build_model", breaking)
    if limit == 1:
        with pytest.raises(TrainingError, match=r"the gradient was not finite for 1 step\(s\) in a row"):
            train(folder, tmp_path, TRAINING__NONFINITE_LIMIT=limit)
        assert len(calls) == 3
    else:
        run = train(folder, tmp_path, TRAINING__NONFINITE_LIMIT=limit)
        assert len(calls) == 8
        state = load_checkpoint(run / "model_latest.pth")
        assert (state["step"], state["skipped"]) == (8, 1)
        assert {float(slot["step"]) for slot in state["optimizer"]["state"].values()} == {7.0}
        assert all(torch.isfinite(tensor).all() for tensor in state["state_dict"].values())
    assert "the gradient is not finite, step skipped" in capsys.readouterr().out


def test_where_compiling_fails_training_goes_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_compiler(model: torch.nn.Module) -> Any:
        def call(images: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("no C++ compiler\nmany more lines")

        return call

    monkeypatch.setattr(torch, "compile", no_compiler)
    run = train(folder, tmp_path, TRAINING__COMPILE="true", OPTIM__NUM_EPOCHS=2)
    assert len(metrics(run)) == 4
    assert "torch.compile does not work here, training goes on without it (no C++ compiler)" in capsys.readouterr().out


def test_a_network_is_compiled_for_the_precision_it_is_trained_in(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What compiles looks at the autocast mode: whatever else it is in the first call is compiled twice."""
    modes: list[tuple[bool, torch.dtype, bool, torch.Size]] = []

    class Compiled(torch.nn.Module):
        def __init__(self, model: torch.nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            modes.append(
                (
                    torch.is_autocast_enabled("cpu"),
                    torch.get_autocast_dtype("cpu"),
                    torch.is_grad_enabled(),
                    images.shape,
                )
            )
            return self.model(images)

    monkeypatch.setattr(torch, "compile", Compiled)
    train(folder, tmp_path, TRAINING__COMPILE="true", TRAINING__PRECISION="bf16", OPTIM__NUM_EPOCHS=2)
    assert modes == [(True, torch.bfloat16, True, torch.Size([4, 3, 32, 32]))] * 5


@pytest.mark.slow
def test_a_compiled_network_learns_the_same(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Two levels have every kind of block, and compile in half the time that four take.
    monkeypatch.setitem(SIZES, "tiny", {"width": 8, "enc_blk_nums": (1, 1), "dec_blk_nums": (1, 1)})
    runs = [train(folder, tmp_path / key, TRAINING__COMPILE=key, OPTIM__NUM_EPOCHS=2) for key in ("false", "true")]
    assert "does not work here" not in capsys.readouterr().out
    eager, compiled = ([line["psnr"] for line in metrics(run)] for run in runs)
    assert compiled == pytest.approx(eager, rel=1e-3)


def test_overfitting_four_patches_reaches_40_db(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = {"TRAINING__OVERFIT": 4, "TRAINING__TRAIN_PS": 16, "TRAINING__LOG_EVERY": 50, "OPTIM__CLIP_NORM": 1.0}
    train(folder, tmp_path / "a", **keys, TRAINING__EPOCH_STEPS=100, OPTIM__NUM_EPOCHS=3, OPTIM__LR_INITIAL=3e-3)
    last = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("overfit: 4 patches from "))
    before, reached = (float(word) for word in last.split() if word[0].isdigit() and "." in word)
    assert before < 30
    assert reached >= 40
    with pytest.raises(TrainingError, match=r"OVERFIT: 4 patches reached \d+\.\d+ dB of 40"):
        train(folder, tmp_path / "b", **keys, TRAINING__EPOCH_STEPS=2, OPTIM__NUM_EPOCHS=2)


def test_a_dry_run_says_everything_and_keeps_nothing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = options(folder, tmp_path, OPTIM__NUM_EPOCHS=100, OPTIM__WARMUP_EPOCHS=3)
    m3snet.Deraining.train.main(["--dry-run", *words])
    printed = capsys.readouterr().out
    for text in (
        "7 training images, 2 for validation",
        "268,403 parameters",
        "  NUM_EPOCHS: 100",
        "    1    3.333e-04",
        "    3    1.000e-03",
        "  100    1.000e-06",
        "200 steps of 4 images, ",
        "50 validations of 2 images, ",
        "GiB used",
    ):
        assert text in printed
    assert not (tmp_path / "Deraining").exists()


@pytest.mark.parametrize("task", ["Deblurring", "Deraining"])
def test_the_ablation_compares_networks_of_equal_cost(task: str) -> None:
    def macs(name: str) -> int:
        config = load_config(default_config(task), ROOT / task / "configs" / "ablation" / f"{name}.yml")
        with torch.device("meta"):
            return count_macs(recipe.build_model(config), 256, 256)

    assert macs("nafnet") == pytest.approx(macs("full"), rel=0.01)
    assert macs("no_mhamb") == pytest.approx(macs("full"), rel=0.01)
    assert macs("no_ffm") < 0.9 * macs("full")
