"""Configuration: yacs defaults are the schema, a YAML file and `--opts KEY VALUE ...` fill it in.

Every key must exist in the defaults, every value must be of the default's type. What YAML and the shell blur is
widened on purpose: `1e-3` (text to YAML) is read as a number, an int serves where a float is expected, and a few
keys accept several types because the field's files write them so.
"""
from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from yacs.config import CfgNode

from .cli import UserError

# Files of the field write `RESUME: False` and `RESUME: auto`, `SESSION: 1` and `SESSION: run_a`.
# One folder of pairs, or several.
_FREE_TYPES: dict[str, tuple[type, ...]] = {
    "TRAINING.RESUME": (bool, str),
    "MODEL.SESSION": (str, int, float),
    "TRAINING.TRAIN_DIR": (str, list),
}

# Files of the field set them, and they mean nothing here: the cosine has no steps, --dry-run prints the configuration.
_WITHOUT_EFFECT = ("VERBOSE", "OPTIM.NEPOCH_DECAY")

MOST_EPOCHS = 100_000  # above it the number of epochs is surely a mistake


class ConfigError(UserError):
    """A key or value that does not fit the schema; the message names the file and the key."""


def load_config(defaults: CfgNode, file: str | Path | None = None, opts: Sequence[str] = ()) -> CfgNode:
    """A frozen copy of `defaults` with the YAML `file` and then the `opts` (KEY VALUE KEY VALUE ...) laid over it.

    Raises:
        ConfigError: the file is missing or not YAML, a key is unknown, or a value has the wrong type.
    """
    config = defaults.clone()
    config.defrost()
    if file is not None:
        _merge(config, _read_yaml(Path(file)), source=str(file))
    if len(opts) % 2:
        raise ConfigError(f"--opts: expected pairs of KEY VALUE, found an odd number of words: {' '.join(opts)}")
    for key, text in zip(opts[::2], opts[1::2], strict=True):
        node: Any = _literal(text)
        for part in reversed(key.split(".")):
            node = {part: node}
        _merge(config, node, source="--opts")
    config.freeze()
    return config


def load_task_config(defaults: CfgNode, file: str | Path | None, opts: Sequence[str]) -> CfgNode:
    """`load_config`, and what a person may have got wrong between the tasks' files.

    Raises:
        ConfigError: the file is for the other task.
    """
    config = load_config(defaults, file, opts)
    source = file or "--opts"
    if config.MODEL.MODE != defaults.MODEL.MODE:
        raise ConfigError(
            f"{source}: MODEL.MODE is {config.MODEL.MODE}, but this is the program for {defaults.MODEL.MODE}; "
            f"run {config.MODEL.MODE}/train.py or test.py, or correct the file"
        )
    if config.OPTIM.NUM_EPOCHS > MOST_EPOCHS:
        print(
            f"warning: {source}: OPTIM.NUM_EPOCHS {config.OPTIM.NUM_EPOCHS:,} stretches the cosine until the learning "
            "rate is constant; the paper trains 8,000 to 9,500 epochs of 66 steps",
            file=sys.stderr,
        )
    return config


def argument_parser(description: str | None) -> argparse.ArgumentParser:
    """The command line that every program of a task has: --config FILE and --opts KEY VALUE ..."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", metavar="FILE", help="YAML file with the keys that differ from the defaults")
    parser.add_argument(
        "--opts", nargs="*", default=[], metavar="KEY VALUE", help="single keys, e.g. OPTIM.BATCH_SIZE 8"
    )
    return parser


def save_config(config: CfgNode, file: str | Path) -> None:
    """Write the resolved configuration as YAML that `load_config` reads back to the same values."""
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(config.dump(), encoding="utf-8")


def to_dict(config: CfgNode) -> dict[str, Any]:
    """The configuration as plain nested dictionaries, as checkpoints keep it."""
    return {key: to_dict(value) if isinstance(value, CfgNode) else value for key, value in config.items()}


def differences(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    """"KEY old -> new" for every key whose value is another one now; groups and keys that only one has count too."""
    lines = []
    for name in sorted({*before, *now}):
        old, new = before.get(name), now.get(name)
        if f"{prefix}{name}" in _WITHOUT_EFFECT:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            lines += differences(old, new, f"{prefix}{name}.")
        elif old != new:
            lines.append(f"{prefix}{name} {old!r} -> {new!r}")
    return lines


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror}); give --config a YAML file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not valid YAML: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{file}: expected keys and values, found {type(content).__name__}")
    return content


def _literal(text: str) -> Any:
    """`--opts` values as Python reads them, else as YAML does (true, false), else as text."""
    if not text:
        return text
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        pass  # not a Python literal: YAML's words are tried next
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _merge(node: CfgNode, values: dict[str, Any], source: str, prefix: str = "") -> None:
    for name, value in values.items():
        key = f"{prefix}{name}"
        if key in _WITHOUT_EFFECT:
            continue
        if name not in node:
            known = ", ".join(sorted(node))
            raise ConfigError(f"{source}: unknown key {key}; known here: {known}")
        default = node[name]
        if isinstance(default, CfgNode):
            if not isinstance(value, dict):
                raise ConfigError(f"{source}: {key} is a group of keys, found {value!r}")
            _merge(default, value, source, prefix=f"{key}.")
        else:
            node[name] = _coerce(value, default, key, source)


def _coerce(value: Any, default: Any, key: str, source: str) -> Any:
    if key in _FREE_TYPES:
        if isinstance(value, _FREE_TYPES[key]):
            return str(value) if key == "MODEL.SESSION" else value
    elif isinstance(default, (int, float)) and not isinstance(default, bool):
        number = _number(value)
        if isinstance(default, float) and number is not None:
            return float(number)
        if number is not None and float(number).is_integer():
            return int(number)
    elif isinstance(default, (list, tuple)):
        if isinstance(value, (list, tuple)):
            return list(value)
        if isinstance(value, type(default[0]) if default else (str, int)) and not isinstance(value, bool):
            return [value]  # one name where several may stand
    elif type(value) is type(default):
        return value
    raise ConfigError(f"{source}: {key} expects {type(default).__name__} (like {default!r}), found {value!r}")


def _number(value: Any) -> int | float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        return value
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return None
    return None
