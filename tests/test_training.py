"""train.py of both tasks: resuming, several processes, precision, what stops a run and what it leaves."""
from __future__ import annotations

import csv
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from skimage import data

import Deraining.train
from models import SIZES, create_model, load_model, save_weights
from utils import trainer
from utils.checkpoint import CheckpointError, load_checkpoint
from utils.images import write_image
from utils.pairs import PairError
from utils.trainer import TrainingError

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def fresh_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "tiny", {"width": 8, "enc_blk_nums": (1, 1, 1, 1)})
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    AcceleratorState._reset_state(reset_partial_state=True)  # one process of a person runs one training


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Nine pairs of different scenes; one is smaller than a patch."""
    photograph = data.astronaut()
    for i in range(9):
        top, left = divmod(i, 3)
        size = 20 if i == 8 else 48
        target = photograph[150 * top : 150 * top + size, 160 * left : 160 * left + 56]
        noise = np.random.default_rng(i).normal(0, 20, target.shape)
        write_image(tmp_path / "pairs/target" / f"{i}.png", target)
        write_image(tmp_path / "pairs/input" / f"{i}.png", np.clip(target + noise, 0, 255).astype(np.uint8))
    return tmp_path / "pairs"


def options(folder: Path, out: Path, **keys: Any) -> list[str]:
    settings: dict[str, Any] = {
        "MODEL.NAME": "tiny",
        "MODEL.SESSION": "run",
        "OPTIM.BATCH_SIZE": 4,
        "OPTIM.NUM_EPOCHS": 4,
        "OPTIM.WARMUP_EPOCHS": 1,
        "TRAINING.TRAIN_DIR": folder,
        "TRAINING.SAVE_DIR": out,
        "TRAINING.TRAIN_PS": 32,
        "TRAINING.VAL_PS": 32,
        "TRAINING.VAL_COUNT": 2,
        "TRAINING.VAL_AFTER_EVERY": 2,
        "TRAINING.NUM_WORKERS": 0,
        "TRAINING.LOG_EVERY": 1,
        **{key.replace("__", "."): value for key, value in keys.items()},
    }
    return ["--opts", *(str(word) for pair in settings.items() for word in pair)]


def train(folder: Path, out: Path, **keys: Any) -> Path:
    Deraining.train.main(options(folder, out, **keys))
    return out / "Deraining/run"


def metrics(run: Path) -> list[dict[str, float]]:
    with (run / "metrics.csv").open(newline="") as file:
        return [{key: float(value) for key, value in line.items()} for line in csv.DictReader(file)]


def assert_same(a: Any, b: Any, path: str = "") -> None:
    """Bit for bit, through nested dictionaries and lists."""
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), path
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            assert_same(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), path
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{path}.{i}")
    else:
        assert a == b, path


@pytest.mark.parametrize("recipe", [{}, {"TRAINING__EMA_DECAY": 0.9, "OPTIM__ACCUMULATE": 2, "OPTIM__NAME": "AdamW"}])
def test_a_resumed_run_is_bit_for_bit_the_uninterrupted_one(
    recipe: dict[str, Any], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(folder, tmp_path / "whole", **recipe)
    save, saved = trainer.save, []

    def stop_after_two(state: Any, path: Path, *rest: Any) -> None:
        save(state, path, *rest)
        saved.append(path.name)
        if path.name == "model_latest.pth" and state.epoch == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(trainer, "save", stop_after_two)
        train(folder, tmp_path / "parts", **recipe)
    parts = train(folder, tmp_path / "parts", **recipe, TRAINING__NUM_WORKERS=2)
    a, b = (load_checkpoint(run / "model_latest.pth") for run in (whole, parts))
    for state in (a, b):
        for key in ("SAVE_DIR", "NUM_WORKERS"):
            del state["config"]["TRAINING"][key]
    assert a["epoch"] == 4
    assert_same(a, b)
    initial = create_model("tiny").state_dict()
    assert any(not torch.equal(a["state_dict"][key], initial[key]) for key in ("intro.weight", "ending.weight"))
    assert ("params_ema" in a) == bool(recipe)
    assert [line["step"] for line in metrics(parts)] == [line["step"] for line in metrics(whole)]


def test_two_processes_see_the_same_losses_as_one(folder: Path, tmp_path: Path) -> None:
    losses = []
    for name, start in (("one", []), ("two", ["-m", "torch.distributed.run", "--nproc_per_node", "2"])):
        words = options(folder, tmp_path / name, MODEL__NAME="M3SNet-T", OPTIM__NUM_EPOCHS=2)
        port = ["--master_port", "29617"] if start else []
        done = subprocess.run(
            [sys.executable, *start, *port, str(ROOT / "Deraining/train.py"), *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert f"on {2 if start else 1} process" in done.stdout
        losses.append([line["psnr"] for line in metrics(tmp_path / name / "Deraining/run")])
    assert len(losses[0]) == len(losses[1]) == 4
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)


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
        with pytest.raises(TrainingError, match="fp16 needs a GPU"):
            train(folder, tmp_path / "b", TRAINING__PRECISION="fp16")
    with pytest.raises(TrainingError, match="expected fp32, bf16 or fp16"):
        train(folder, tmp_path / "c", TRAINING__PRECISION="int8")


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
    class Breaks(trainer.PSNRLoss):
        calls = 0

        def forward(self, restored: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            Breaks.calls += 1
            return super().forward(restored, target) * (math.nan if Breaks.calls > 3 else 1)

    train(folder, tmp_path / "good", OPTIM__NUM_EPOCHS=4)
    monkeypatch.setattr(trainer, "PSNRLoss", Breaks)
    with pytest.raises(TrainingError, match=rf"not finite for {limit} step\(s\) in a row") as error:
        train(folder, tmp_path / "bad", TRAINING__NONFINITE_LIMIT=limit)
    assert Breaks.calls == 3 + limit
    named = str(error.value).split("the last on ")[1].split(".")[0].split(", ")
    assert len(named) == 4
    assert set(named) <= {str(i) for i in range(9)}
    assert "the loss is nan" in capsys.readouterr().out
    state = load_checkpoint(tmp_path / "bad/Deraining/run/model_latest.pth")
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
    ]
    model = load_model(run / "model_best.pth")
    assert (model.config["width"], model.patch_size) == (8, 32)
    assert {"config.yml", "train.log", "metrics.csv", "tensorboard", "validation"} <= {p.name for p in run.iterdir()}
    with pytest.raises(CheckpointError, match="which RESUME false would overwrite"):
        train(folder, tmp_path, TRAINING__RESUME="false")
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        train(folder, tmp_path, TRAINING__RESUME=tmp_path / "none.pth")
    torn = run / "model_latest.pth"
    torn.write_bytes(torn.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match=r"model_latest\.pth: damaged"):
        train(folder, tmp_path)


def test_a_test_set_is_not_used_for_validation_unless_asked(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    test_set = tmp_path / "Rain13K/test/Rain100L"
    test_set.parent.mkdir(parents=True)
    folder.rename(test_set)
    pairs = {"TRAINING__TRAIN_DIR": test_set, "TRAINING__VAL_DIR": test_set, "OPTIM__NUM_EPOCHS": 2}
    train(test_set, tmp_path / "a", **pairs)
    printed = capsys.readouterr().out
    assert "is a test set; a checkpoint chosen on it has no honest test" in printed
    assert "7 training images, 2 for validation" in printed
    train(test_set, tmp_path / "b", **pairs, TRAINING__VAL_ON_TEST_SET="true")
    assert "9 training images, 9 for validation" in capsys.readouterr().out


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


def test_several_gpus_under_plain_python_print_the_torchrun_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Two:
        device, num_processes, scaler, print = torch.device("cuda"), 1, None, staticmethod(print)

    monkeypatch.setattr(trainer, "Accelerator", lambda **_: Two())
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    trainer.start_accelerator(trainer_config(folder, tmp_path, GPU="[3, 5]"))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3,5"
    assert "torchrun --nproc_per_node 2 " in capsys.readouterr().out


def trainer_config(folder: Path, out: Path, **keys: Any) -> Any:
    return Deraining.train.load_task_config(Deraining.train.DEFAULTS, None, options(folder, out, **keys)[1:])


def test_bad_data_is_said_before_the_first_step(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"no training data: set TRAINING\.TRAIN_DIR"):
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
