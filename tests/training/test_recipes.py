"""The recipes that the pages tell people to run start: each through its --dry-run, on a few small pairs."""
from __future__ import annotations

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RECIPES = [
    (task, name)
    for task, own in (("Deblurring", "deblur"), ("Deraining", "derain"))
    for name in ("m3snet32", "finetune", own)
]
SMALL = {
    "GPU": "[]",
    "OPTIM.BATCH_SIZE": "2",
    "TRAINING.TRAIN_PS": "32",
    "TRAINING.VAL_PS": "32",
    "TRAINING.VAL_COUNT": "2",
    "TRAINING.NUM_WORKERS": "0",
    "TRAINING.SHARP_DIRS": "[]",
    "TRAINING.SHARES": "[]",
    "TRAINING.VAL_DIR": "",
}
OF_TASK = {"Deblurring": {}, "Deraining": {"TRAINING.RAIN.LAYERS": ""}}


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_process")
@pytest.mark.parametrize(("task", "name"), RECIPES)
def test_a_recipe_starts(
    task: str, name: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = ROOT / task / "configs" / f"{name}.yml"
    here = {"TRAINING.TRAIN_DIR": str(folder), "TRAINING.SAVE_DIR": str(tmp_path)}
    words = [word for pair in {**SMALL, **OF_TASK[task], **here}.items() for word in pair]
    importlib.import_module(f"m3snet.{task}.train").main(["--dry-run", "--config", str(recipe), "--opts", *words])
    printed = capsys.readouterr().out
    assert "7 training images, 2 for validation" in printed
    assert "a dry run: no checkpoint was written" in printed
