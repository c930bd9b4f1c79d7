"""Configuration: what is widened, what is refused, and that every file of the repository loads."""
from pathlib import Path

import pytest

import m3snet.Deblurring.config
import m3snet.Deraining.config
from m3snet.utils.config import ConfigError, differences, load_config, load_task_config, save_config, to_dict

ROOT = Path(__file__).resolve().parents[1]
DEFAULTS = {"Deblurring": m3snet.Deblurring.config.DEFAULTS, "Deraining": m3snet.Deraining.config.DEFAULTS}

# Written as the files of MPRNet and of the published code are: same keys, same quirks.
MPRNET = """\
GPU: [0,1,2,3]
VERBOSE: True
MODEL:
  MODE: 'Deraining'
  SESSION: 7
OPTIM:
  BATCH_SIZE: 16
  NUM_EPOCHS: 250
  NEPOCH_DECAY: [10]
  LR_INITIAL: 2e-4
  LR_MIN: 1e-6
  BETA1: 0.9
TRAINING:
  VAL_AFTER_EVERY: 5
  RESUME: False
  TRAIN_PS: 256
  VAL_PS: 128
  TRAIN_DIR: './Datasets/train'
  VAL_DIR: './Datasets/test/Rain100L'
  SAVE_DIR: './checkpoints'
  SAVE_IMAGES: False
"""


@pytest.fixture
def defaults():
    return DEFAULTS["Deraining"]


INDEX = ROOT / "pretrained/models.yml"  # no configuration: tests/pretrained
FILES = sorted(file for room in ("De*", "pretrained") for file in ROOT.glob(f"{room}/**/*.yml") if file != INDEX)
TASK_OF = {"derain": "Deraining", "deblur": "Deblurring"}  # the folders of pretrained/history


@pytest.mark.parametrize("file", FILES, ids=[str(file.relative_to(ROOT)) for file in FILES])
def test_every_file_of_the_repository_loads(file, tmp_path):
    parts = file.relative_to(ROOT).parts
    task = TASK_OF[parts[2]] if parts[:2] == ("pretrained", "history") else parts[0]
    config = load_task_config(DEFAULTS[task], file, [])
    assert task == config.MODEL.MODE
    save_config(config, tmp_path / "config.yml")
    assert load_config(DEFAULTS[task], tmp_path / "config.yml") == config


def test_a_file_of_the_field_loads_unchanged(defaults, tmp_path):
    file = tmp_path / "training.yml"
    file.write_text(MPRNET)
    config = load_task_config(defaults, file, [])
    assert config.OPTIM.LR_INITIAL == 2e-4  # YAML reads 2e-4 as text
    assert config.TRAINING.RESUME is False
    assert config.MODEL.SESSION == "7"
    assert config.GPU == [0, 1, 2, 3]
    assert "VERBOSE" not in config  # of no effect here, nor has the cosine the steps of NEPOCH_DECAY
    assert "NEPOCH_DECAY" not in config.OPTIM
    before = {**to_dict(config), "VERBOSE": True}
    assert differences(before, to_dict(config)) == []


@pytest.mark.parametrize(
    ("opts", "key", "value"),
    [
        (["OPTIM.LR_INITIAL", "1"], "LR_INITIAL", 1.0),
        (["OPTIM.BATCH_SIZE", "4.0"], "BATCH_SIZE", 4),
        (["OPTIM.NUM_EPOCHS", "1e3"], "NUM_EPOCHS", 1000),
    ],
)
def test_numbers_are_widened(defaults, opts, key, value):
    found = load_config(defaults, opts=opts).OPTIM[key]
    assert found == value
    assert type(found) is type(value)


def test_lists_and_words_of_the_shell(defaults):
    config = load_config(defaults, opts=["TEST.DATASETS", "['Rain100L', 'Test100']", "TEST.TLC", "false"])
    assert config.TEST.DATASETS == ["Rain100L", "Test100"]
    assert config.TEST.TLC is False
    assert load_config(defaults, opts=["TEST.DATASETS", "Rain100L"]).TEST.DATASETS == ["Rain100L"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("OPTIM: {BATCHSIZE: 4}", "unknown key OPTIM.BATCHSIZE"),
        ("OPTIM: {BATCH_SIZE: many}", "OPTIM.BATCH_SIZE expects int"),
        ("OPTIM: {BATCH_SIZE: 2.5}", "OPTIM.BATCH_SIZE expects int"),
        ("OPTIM: {BATCH_SIZE: true}", "OPTIM.BATCH_SIZE expects int"),
        ("TEST: {TLC: 'yes'}", "TEST.TLC expects bool"),
        ("OPTIM: 3", "OPTIM is a group"),
        ("- a list", "expected keys and values"),
        ("a: b: c", "not valid YAML"),
    ],
)
def test_errors_name_the_file_and_the_key(defaults, tmp_path, text, message):
    file = tmp_path / "broken.yml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message) as error:
        load_config(defaults, file)
    assert str(file) in str(error.value)


def test_a_missing_file_and_an_odd_word(defaults):
    with pytest.raises(ConfigError, match=r"no_such\.yml"):
        load_config(defaults, "no_such.yml")
    with pytest.raises(ConfigError, match="odd number"):
        load_config(defaults, opts=["OPTIM.BATCH_SIZE"])


def test_the_other_tasks_file_is_refused(defaults, tmp_path):
    file = tmp_path / "training.yml"
    file.write_text("MODEL: {MODE: Deblurring}")
    with pytest.raises(ConfigError, match=r"Deblurring/train\.py"):
        load_task_config(defaults, file, [])


def test_an_absurd_number_of_epochs_is_named_in_one_line(defaults, capsys):
    load_task_config(defaults, None, ["OPTIM.NUM_EPOCHS", "9500000"])
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("warning: --opts: OPTIM.NUM_EPOCHS 9,500,000 stretches the cosine")
    assert err.count("\n") == 1
    load_task_config(defaults, None, ["OPTIM.NUM_EPOCHS", "9500"])
    assert capsys.readouterr() == ("", "")
