"""Configuration: a YAML file and `--opts KEY VALUE ...` fill in the schema that utils/settings.py shows.

Every key must exist there, and every value must be one that its key takes. It is read as it was written: text stays
text (a run called 1.10, a folder called 0012), whatever YAML or Python would make of it.
"""
from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import yaml
from yacs.config import CfgNode

from .cli import UserError
from .files import write_atomically
from .settings import conflicts
from .values import Plain, compose, shown, written_in

# Files of the field set them, and they mean nothing here: the cosine has no steps, --dry-run prints the configuration.
_WITHOUT_EFFECT = ("VERBOSE", "OPTIM.NEPOCH_DECAY")

MOST_EPOCHS = 100_000  # above it the number of epochs is surely a mistake


class ConfigError(UserError):
    """A key or value that does not fit the schema; the message names the file and the key."""


def load_config(schema: CfgNode, file: str | Path | None = None, opts: Sequence[str] = ()) -> CfgNode:
    """A frozen configuration: the defaults of `schema`, then the YAML `file`, then `opts` (KEY VALUE KEY VALUE ...).

    Raises:
        ConfigError: the file is missing or not YAML, a key is unknown or stands twice, a value is none that its key
            takes, or two values contradict each other.
    """
    config = _defaults(schema)
    if file is not None:
        _merge(config, schema, _read_yaml(Path(file)), str(file))
    if len(opts) % 2:
        raise ConfigError(f"--opts: expected pairs of KEY VALUE, found {shown(list(map(Plain, opts)))}")
    for key, text in zip(opts[::2], opts[1::2], strict=True):
        _set(config, schema, key.split("."), Plain(text), "--opts")
    for conflict in conflicts(config):
        raise ConfigError(f"{_sources(file, opts)}: {conflict}")
    config.freeze()
    return config


def load_task_config(schema: CfgNode, file: str | Path | None, opts: Sequence[str]) -> CfgNode:
    """`load_config`, and what a person may have got wrong between the tasks' files.

    Raises:
        ConfigError: the file is for the other task.
    """
    config, source = load_config(schema, file, opts), _sources(file, opts)
    own, *_ = schema.MODEL.MODE
    if own != config.MODEL.MODE:
        raise ConfigError(
            f"{source}: MODEL.MODE is {config.MODEL.MODE}, but this is the program for {own}; "
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
        "--opts",
        nargs="*",
        action="extend",
        default=[],
        metavar="KEY VALUE",
        help="single keys, e.g. OPTIM.BATCH_SIZE 8 (docs/settings.md)",
    )
    return parser


def save_config(config: CfgNode, file: str | Path) -> None:
    """Write the resolved configuration as YAML that `load_config` reads back to the same values, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    with write_atomically(file) as stream:
        stream.write(config.dump().encode())


def to_dict(config: CfgNode) -> dict[str, Any]:
    """The configuration as plain nested dictionaries, as checkpoints keep it."""
    return {key: to_dict(value) if isinstance(value, CfgNode) else value for key, value in config.items()}


def differences(before: dict[str, Any], now: dict[str, Any], defaults: dict[str, Any] | None = None) -> list[str]:
    """"KEY old -> new" for every key whose value is another one now, in groups of keys too.

    `before` may be of an earlier version of this program: what it lacks was as in `defaults`.
    """
    old, new = _flat(defaults or {}) | _flat(before), _flat(now)
    lines = []
    for key in sorted({*old, *new}.difference(_WITHOUT_EFFECT)):
        if key not in old:
            lines.append(f"{key} is new: {new[key]!r}")
        elif key not in new:
            lines.append(f"{key} is gone, it was {old[key]!r}")
        elif old[key] != new[key]:
            lines.append(f"{key} {old[key]!r} -> {new[key]!r}")
    return lines


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """KEY -> value, over all groups."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def _defaults(schema: CfgNode) -> CfgNode:
    return CfgNode({name: _defaults(node) if isinstance(node, CfgNode) else node[0] for name, node in schema.items()})


def _sources(file: str | Path | None, opts: Sequence[str]) -> str:
    return " and ".join([*([str(file)] if file else []), *(["--opts"] if opts else [])]) or "defaults"


def _read_yaml(file: Path) -> yaml.MappingNode | None:
    try:
        node = compose(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror}); give --config a YAML file") from error
    except ValueError as error:  # UnicodeDecodeError is one
        raise ConfigError(f"{file}: not valid YAML: {error}") from error
    if node is not None and not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{file}: expected keys and values, found {_described(node)}")
    return node


def _merge(
    config: CfgNode, schema: CfgNode, node: yaml.MappingNode | None, file: str, group: tuple[str, ...] = ()
) -> None:
    """Lay a mapping of YAML, a whole file or a `group` of keys in it, over the configuration."""
    lines: dict[str, int] = {}
    for name_node, value in node.value if node else ():
        name, line = str(name_node.value), name_node.start_mark.line + 1
        key, source = (*group, name), f"{file}, line {line}"
        if name in lines:
            raise ConfigError(f"{source}: {'.'.join(key)} stands in line {lines[name]} already; write it once")
        lines[name] = line
        is_group = isinstance(reduce(lambda keys, part: keys[part], group, schema).get(name), CfgNode)
        if is_group and isinstance(value, yaml.MappingNode):
            _merge(config, schema, value, file, key)
        elif not (is_group and value.value == ""):  # all keys of the group are commented out
            _set(config, schema, key, value, source)


def _set(config: CfgNode, schema: CfgNode, key: Sequence[str], given: str | yaml.Node, source: str) -> None:
    """Set one key to what is given for it, text of the command line or a node of YAML."""
    name, known = ".".join(key), schema
    if name in _WITHOUT_EFFECT:
        return
    for part in key[:-1]:
        known, config = known.get(part), config.get(part)
        if not isinstance(known, CfgNode):
            break
    if not isinstance(known, CfgNode) or key[-1] not in known:
        raise ConfigError(f"{source}: unknown key {shown(Plain(name))}{_instead(name, schema)}")
    if isinstance(known[key[-1]], CfgNode):
        raise ConfigError(f"{source}: {name} is a group of keys, found {_described(given)}")
    _, values, _ = known[key[-1]]
    try:
        config[key[-1]] = values.read(given if isinstance(given, str) else written_in(given))
    except ValueError as error:
        raise ConfigError(f"{source}: {name} {_described(given)}: expected {values}") from error


def _instead(name: str, schema: CfgNode) -> str:
    """What somebody may have meant by a key that there is not."""
    every = _flat(schema)
    near = difflib.get_close_matches(name.upper(), every, n=1) or [key for key in every if key.endswith(f".{name}")]
    return f"; is {near[0]} meant?" if near else "; docs/settings.md lists them"


def _described(given: str | yaml.Node) -> str:
    """What was given, as an error shows it."""
    try:
        return shown(given if isinstance(given, str) else written_in(given))
    except ValueError:
        kinds = {yaml.MappingNode: "a group of keys", yaml.SequenceNode: "a list of lists"}
        tag = given.tag.replace("tag:yaml.org,2002:", "!!")  # type: ignore[union-attr]
        return kinds.get(type(given)) or shown(Plain(f"{tag} {given.value}"))  # type: ignore[union-attr]
