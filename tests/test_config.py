"""Configuration: what is widened, what is refused, and that every file of the repository loads."""
import os
from pathlib import Path

import pytest

import m3snet.Deblurring.config
import m3snet.Deraining.config
from m3snet.utils.config import (
    ConfigError,
    argument_parser,
    differences,
    load_config,
    load_task_config,
    save_config,
    to_dict,
)

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
        ("OPTIM: {BATCH_SIZE: many}", r"line 1: OPTIM\.BATCH_SIZE many: expected a whole number from 1 to 65,536$"),
        ("OPTIM:\n  BATCH_SIZE: 2.5", r"line 2: OPTIM\.BATCH_SIZE 2\.5: expected a whole number"),
        ("OPTIM: {BATCH_SIZE: true}", r"OPTIM\.BATCH_SIZE true: expected a whole number"),
        ("TEST: {TLC: 'yes'}", r"TEST\.TLC 'yes': expected true or false$"),
        ("TRAINING: {VAL_DIR: null}", r"TRAINING\.VAL_DIR null: expected text$"),
        ("MODEL: {NAME: {A: 1}}", r"MODEL\.NAME a group of keys: expected M3SNet-32, "),
        ("GPU: [[0]]", r"GPU a list of lists: expected a list, each a whole number from 0 to 1,023, none twice$"),
        ("MODEL: {SESSION: !!binary YQ==}", r"MODEL\.SESSION !!binary YQ==: expected a folder's name"),
        ("OPTIM: 3", r"line 1: OPTIM is a group of keys, found 3$"),
        ("OPTIM: {BATCH_SIZE: 4}\n\nOPTIM: {NAME: Adam}", r"line 3: OPTIM stands in line 1 already; write it once$"),
        ("OPTIM:\n  NAME: Adam\n  NAME: Adam", r"line 3: OPTIM\.NAME stands in line 2 already"),
        ("- a list", "expected keys and values"),
        ("a: b: c", r"not valid YAML: line 1: mapping values are not allowed here$"),
        ("GPU: " + "[" * 5000, r"not valid YAML: nested too deeply$"),
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
    with pytest.raises(ConfigError, match=r"^--opts: expected pairs of KEY VALUE, found \[OPTIM\.BATCH_SIZE\]$"):
        load_config(defaults, opts=["OPTIM.BATCH_SIZE"])
    with pytest.raises(ConfigError, match=r"^--opts: unknown key OPTIM\.BATCHSIZE; is OPTIM\.BATCH_SIZE meant\?$"):
        load_config(defaults, opts=["OPTIM.BATCHSIZE", "4"])
    with pytest.raises(ConfigError, match=r"^--opts: unknown key batch; docs/settings\.md lists them$"):
        load_config(defaults, opts=["batch", "4"])


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


TEXTS = ["1.10", "0012", "12:30", "no", "1e5", "2024-01-01", "0x10", "None", "' '", "a #2", "[x", "{a: 1}", "雨", "-"]


@pytest.mark.parametrize("text", TEXTS)
def test_text_stays_as_it_stands(defaults, tmp_path, text):
    keys = {"MODEL.SESSION": text, "DATA.ROOT": f"/data #2/{text}", "TRAINING.SHARP_DIRS": text}
    config = load_config(defaults, opts=[word for pair in keys.items() for word in pair])
    assert (text, f"/data #2/{text}") == (config.MODEL.SESSION, config.DATA.ROOT)
    assert [text] == config.TRAINING.SHARP_DIRS
    save_config(config, tmp_path / "config.yml")
    assert load_config(defaults, tmp_path / "config.yml") == config


def test_text_of_a_file_stays_as_it_stands(defaults, tmp_path):
    file = tmp_path / "training.yml"
    lines = "MODEL:\n  SESSION: {}\nTRAINING:\n  TRAIN_DIR: [0012, '1.10', no]\n  VAL_DIR:\nOPTIM:\n"
    for text in ("1.10", "0012", "12:30", "no", "2024-01-01"):
        file.write_text(lines.format(text))
        config = load_config(defaults, file)
        assert text == config.MODEL.SESSION
        assert config.TRAINING.TRAIN_DIR == ["0012", "1.10", "no"]
        assert config.TRAINING.VAL_DIR == ""
    file.write_text("DATA: {ROOT: 'a #2'}")  # without quotes YAML takes # and what follows for a comment
    assert load_config(defaults, file).DATA.ROOT == "a #2"


def test_several_opts_add_up(defaults):
    words = ["--opts", "OPTIM.BATCH_SIZE", "4", "--opts", "OPTIM.ACCUMULATE", "2", "TEST.TLC", "no"]
    config = load_config(defaults, opts=argument_parser(None).parse_args(words).opts)
    assert (config.OPTIM.BATCH_SIZE, config.OPTIM.ACCUMULATE, config.TEST.TLC) == (4, 2, False)


@pytest.mark.parametrize(
    ("written", "value"), [("auto", "auto"), ("True", "auto"), ("false", False), ("None", False), ("a.pth", "a.pth")]
)
def test_resume_takes_words_and_a_path(defaults, written, value):
    assert value == load_config(defaults, opts=["TRAINING.RESUME", written]).TRAINING.RESUME


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        ("OPTIM.NUM_EPOCHS 3", r"^--opts: OPTIM\.WARMUP_EPOCHS 3: expected less than OPTIM\.NUM_EPOCHS 3$"),
        ("OPTIM.LR_INITIAL 1e-7", r"OPTIM\.LR_MIN 1e-06: expected at most OPTIM\.LR_INITIAL 1e-07$"),
        ("TRAINING.WIDEN 1", r"TRAINING\.WIDEN 1 grows the network of TRAINING\.WEIGHTS, which is not set"),
        ("TRAINING.TRAIN_DIR [a,b] TRAINING.VAL_DIR ./b/", r"TRAINING\.VAL_DIR \./b/ is a TRAIN_DIR as well"),
        ("TRAINING.SHARES [1,2]", r"TRAINING\.SHARES \[1\.0, 2\.0\]: expected one number above 0 for each of the 0"),
    ],
)
def test_settings_that_contradict_each_other(defaults, opts, message):
    with pytest.raises(ConfigError, match=message):
        load_config(defaults, opts=opts.split())


def test_differences_name_what_changed_and_not_what_a_version_added(defaults):
    config = load_config(defaults, opts=["OPTIM.BATCH_SIZE", "8", "TRAINING.WIDEN", "1", "TRAINING.WEIGHTS", "derain"])
    before = to_dict(load_config(defaults))
    del before["TRAINING"]["WIDEN"], before["TRAINING"]["KEEP"]
    before["MODEL"]["DEPTH"] = 4
    assert differences(before, to_dict(config), to_dict(load_config(defaults))) == [
        "MODEL.DEPTH is gone, it was 4",
        "OPTIM.BATCH_SIZE 32 -> 8",
        "TRAINING.WEIGHTS '' -> 'derain'",
        "TRAINING.WIDEN 0 -> 1",
    ]
    assert differences({}, {"GPU": [0]}) == ["GPU is new: [0]"]


def test_a_configuration_is_written_whole_or_not_at_all(defaults, tmp_path, monkeypatch):
    config, file = load_config(defaults), tmp_path / "config.yml"
    save_config(config, file)
    before = file.read_bytes()
    monkeypatch.setattr(os, "fsync", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_config(load_config(defaults, opts=["OPTIM.BATCH_SIZE", "8"]), file)
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["config.yml"]
