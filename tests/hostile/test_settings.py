"""Thousands of odd settings: each is what was written, or is refused in one line that names its key."""
from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from accelerate.state import AcceleratorState
from yacs.config import CfgNode

import m3snet.Deraining.train
from m3snet.Deraining.config import DEFAULTS
from m3snet.tests.runs import options
from m3snet.utils.cli import UserError
from m3snet.utils.config import ConfigError, load_task_config, save_config

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SETTINGS = [
    *("", " ", "0", "-0", "1", "-1", "2", "0.5", "1.10", "0012", "0x10", "0o17", "1_000", "1,5", "1e3", "1e999"),
    *("1e-999", "1.0", "9" * 30, "9" * 5000, "nan", "inf", "-inf", ".inf", "12:30", "2024-01-01", "\u0661", "½", "1 2"),
    *("true", "no", "Off", "y", "null", "~", "None", "none", "auto", "M3SNet-32", "M3SNet-65", "adam", "Adam"),
    *("[]", "[5]", "[1, 1, 1, 28]", "[1, -1]", "[a, 1.10]", "['a b', \"c\"]", "[[1]]", "[" * 3000, "[a", "a]"),
    *("(0, 1)", "{}", "{a: 1}", "a: b", "a #2", "# a", "- a", "&a b", "*a", "!!python/object:os.system x", "%s {0}"),
    *("'", '"', "\\", "../..", "/", ".", "..", "a/b", "雨", "☔", "a\tb", "a\nb", "\x00", "\x1b[2J", "\u2028"),
    *("\udcff", "x" * 300, "x" * 9999),
]


def keys(schema: CfgNode, group: str = "") -> Iterator[tuple[str, Any]]:
    """Every key and its default."""
    for name, setting in schema.items():
        if isinstance(setting, CfgNode):
            yield from keys(setting, f"{group}{name}.")
        else:
            yield f"{group}{name}", setting[0]


KEYS = dict(keys(DEFAULTS))


def is_what_was_written(value: Any, default: Any, text: str) -> bool:
    """Whether a value says what the text says, as a person reads it."""
    words = ("true", "yes", "on"), ("false", "no", "off", *[""] * isinstance(default, str), "none")
    if isinstance(value, bool):
        return text.lower() in words[not value]
    if isinstance(value, int | float):
        return math.isfinite(value) and value == float(text)
    if isinstance(value, str):
        return value == text or (value == "auto" and text.lower() in words[0])
    if not value:
        return text in ("", "[]")
    if text[:1] == "[" and text[-1:] == "]":
        return [*map(str, value)] == yaml.load(text, yaml.BaseLoader) or value == yaml.safe_load(text)
    return value == ([text] if isinstance(value[0], str) else [float(part) for part in text.strip("()").split(",")])


def value_of(config: CfgNode, key: str) -> Any:
    for part in key.split("."):
        config = config[part]
    return config


def assert_one_line(error: ConfigError, *named: str) -> None:
    message = str(error)
    assert all(name in message for name in named), message
    assert message.isprintable() and len(message) < 600, message


@pytest.mark.parametrize("key", KEYS)
def test_on_the_command_line(key: str, tmp_path: Path) -> None:
    assert len(KEYS) * len(SETTINGS) > 5000
    for text in SETTINGS:
        try:
            config = load_task_config(DEFAULTS, None, [key, text])
        except ConfigError as error:
            assert_one_line(error, key.rpartition(".")[2])
            continue
        assert is_what_was_written(value_of(config, key), KEYS[key], text), (text, value_of(config, key))
        save_config(config, tmp_path / "config.yml")
        assert load_task_config(DEFAULTS, tmp_path / "config.yml", []) == config


IN_FILES = ["MODEL.SESSION", "OPTIM.LR_INITIAL", "TRAINING.TRAIN_DIR", "TEST.TLC", "TRAINING.SEED"]


@pytest.mark.parametrize("key", IN_FILES)
def test_in_a_file(key: str, tmp_path: Path) -> None:
    group, name = key.split(".")
    file = tmp_path / "training.yml"
    for text in SETTINGS:
        for written in (text, json.dumps(text)):
            file.write_text(f"{group}:\n  {name}: {written}\n", "utf-8", errors="surrogatepass")
            try:
                config = load_task_config(DEFAULTS, file, [])
            except ConfigError as error:
                assert_one_line(error, str(file))
                continue
            value = value_of(config, key)
            if value == KEYS[key] and not (written == text and text.strip()):
                continue  # nothing stands there
            said = yaml.load(written, yaml.BaseLoader)  # all scalars as text
            if isinstance(said, list):
                assert value == said
            else:
                assert is_what_was_written(value, KEYS[key], said or ""), (written, value)


@pytest.mark.parametrize(
    "text",
    [
        *("\t", "]", "OPTIM", "OPTIM: [", "OPTIM: {NAME: Adam", "? [a]\n: b", "1: 2", "null: 1", "\x01", "\x00"),
        *("OPTIM: &a {NAME: *a}", "--- 1\n--- 2", "a: &a [*a]", "GPU: &a [*a]", "OPTIM:\n\tNAME: Adam", "? \n"),
        *("%YAML 9.9\n---\na: 1", "<<: {GPU: [1]}", "OPTIM.NAME: Adam", "OPTIM: {OPTIM: {NAME: Adam}}", "'': ''"),
        *("MODEL: !!set {NAME}", "{" * 3000, "- " * 3000, '"\\ud800": 1', "MODEL: {SESSION: [a, b]}", "gpu: [0]"),
        *("\ufeff- a", "GPU: [0, 0]", "GPU: [,]"),
    ],
)
def test_files_that_are_none(text: str, tmp_path: Path) -> None:
    file = tmp_path / "training.yml"
    file.write_text(text, "utf-8", errors="surrogatepass")
    with pytest.raises(ConfigError) as error:
        load_task_config(DEFAULTS, file, [])
    assert_one_line(error.value, str(file))


LIMITS = {
    "MODEL.ENC_BLK_NUMS": ["[1, 2, 1, 1]"],
    "MODEL.MHAMB": ["no"],
    "MODEL.FFM": ["off"],
    "OPTIM.ACCUMULATE": ["3", "8"],
    "OPTIM.BATCH_SIZE": ["1"],
    "OPTIM.BETA1": ["0", "0.9999999999999999"],
    "OPTIM.CLIP_NORM": ["1e-300"],
    "OPTIM.LOSS_EPS": ["1e-300", "1"],
    "OPTIM.LR_INITIAL": ["10"],
    "OPTIM.WEIGHT_DECAY": ["1"],
    "TRAINING.CACHE_DIR": ["/dev/null"],
    "TRAINING.EMA_DECAY": ["1e-300", "0.9999999999999999"],
    "TRAINING.OVERFIT": ["65536"],
    "TRAINING.PRECISION": ["bf16", "fp16"],
    "TRAINING.RAIN.DRY": ["1e-300"],
    "TRAINING.RAIN.LAYERS": ["nowhere", "/dev/null"],
    "TRAINING.SEED": ["0", str(2**32 - 1)],
    "TRAINING.SHARES": ["[1e-300]", "[1000000]"],
    "TRAINING.SHARP_DIRS": ["[5]", "/dev/null"],
    "TRAINING.TRAIN_DIR": ["", "null", "/dev/null"],
    "TRAINING.TRAIN_PS": ["8"],
    "TRAINING.VAL_COUNT": ["0", "9", "1000000000"],
    "TRAINING.VAL_DIR": ["null", "/dev/null", "~"],
    "TRAINING.VAL_PS": ["11"],
    "TRAINING.VAL_SEED": [str(2**32 - 1)],
    "TRAINING.WEIGHTS": ["null", ".", "/dev/null"],
}


@pytest.mark.usefixtures("fresh_process")
def test_a_dry_run_with_what_was_let_through(folder: Path, tmp_path: Path) -> None:
    started = 0
    for key, texts in LIMITS.items():
        for text in texts:
            AcceleratorState._reset_state(reset_partial_state=True)
            words = options(folder, tmp_path / "out", **{"OPTIM.NUM_EPOCHS": 2, "TRAINING.CACHE": "disk", key: text})
            try:
                m3snet.Deraining.train.main(["--dry-run", *words])
                started += 1
            except (UserError, OSError) as error:
                assert "\n" not in str(error), (key, text)
    assert started > 20


@pytest.mark.parametrize("program", ["Deraining/train.py", "Deraining/test.py"])
@pytest.mark.parametrize(
    ("opts", "said"),
    [
        (["OPTIM.BATCH_SIZE", "9" * 5000], "OPTIM.BATCH_SIZE 999"),
        (["OPTIM.LR_INITIAL", "nan"], "OPTIM.LR_INITIAL nan: expected a number above 0"),
        (["TRAINING.SEED", "-1"], "TRAINING.SEED -1: expected a whole number from 0"),
        (["MODEL.NAME", "M3SNet-65"], "MODEL.NAME M3SNet-65: expected M3SNet-32, "),
        (["TEST.DATASETS", "[[5]]"], "TEST.DATASETS [[5]]: expected a list of texts"),
        (["MODEL.SESSION", b"\xff"], r"MODEL.SESSION \udcff: expected a folder's name"),
        (["TRAINING.SAVE_DIR", "", "DATA.ROOT", "a"], "TRAINING.SAVE_DIR '': expected text"),
    ],
    ids=str,
)
def test_the_programs_end_in_one_line(program: str, opts: list[Any], said: str, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / program), "--opts", *opts]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"error: --opts: {said}")
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("program", "words", "said"),
    [
        ("train", ["--opts", "TRAINING.SAVE_DIR", "file/x"], "choose another TRAINING.SAVE_DIR"),
        ("test", ["--results", "file/x", "--opts", "TEST.DATASETS", "samples"], "choose another --results DIR"),
    ],
)
def test_a_folder_that_cannot_be_written(program: str, words: list[str], said: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    command = [sys.executable, str(ROOT / f"Deraining/{program}.py"), *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: file/x") and "cannot be written (Not a directory)" in last and last.endswith(said)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
