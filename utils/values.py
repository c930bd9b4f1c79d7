"""What a setting may be: kinds of values, which read what a person wrote and say what they expect.

What is written is text without quotes (`Plain`), text in quotes (str), a list of these, or nothing (None, YAML's null).
A kind makes of it exactly what stands there, or refuses it: nothing is rounded, cut or guessed.
"""
from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import yaml

from .cli import short

_DECIMAL = re.compile(r"[+-]?(\d+(_\d+)*\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)
_LONGEST_NUMBER = 40  # characters
_LONGEST_TEXT = 4096  # what Linux takes for a path
_LONGEST_NAME = 200  # bytes; file systems take 255, and suffixes follow
_BREAKS = ("Cc", "Cs", "Zl", "Zp")  # control characters, halves of characters, ends of lines: Unicode's categories
_SWITCHES = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}  # YAML's words
_SHOWN = 60  # characters of a wrong value
_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "timestamp", "merge", "value")}


class Plain(str):
    """Text without quotes: a number, true or false, or a list may be meant by it."""


Written = str | list["Written"] | None  # list: of texts, once it has been read


class Values:
    """A kind of values; as text it is what an error or a table says of it ("a whole number from 1 to 8")."""

    def read(self, written: Any) -> Any:
        """The value that was written.

        Raises:
            ValueError: it is none of these values.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Whole(Values):
    """A whole number, however it is written (8, 8.0, 1e3)."""

    least: int
    most: int

    def read(self, written: Any) -> int:
        number = Decimal(_number(written))
        if not self.least <= number <= self.most or number % 1:  # before int(): 1e999 has a thousand digits
            raise ValueError
        return int(number)

    def __str__(self) -> str:
        return f"a whole number from {self.least:,} to {self.most:,}"


@dataclass(frozen=True)
class Number(Values):
    """A finite number; `above` and `below`: the limit itself is none of them."""

    least: float
    most: float
    above: bool = False
    below: bool = False

    def read(self, written: Any) -> float:
        number = float(_number(written))
        if not self.least <= number <= self.most:
            raise ValueError
        if (self.above and number == self.least) or (self.below and number == self.most):
            raise ValueError
        return number

    def __str__(self) -> str:
        least = f"{'above' if self.above else 'from'} {self.least:,.9g}"
        most = ", below" if self.below else ", at most" if self.above else " to"
        return f"a number {least}{most} {self.most:,.9g}"


@dataclass(frozen=True)
class Switch(Values):
    """true or false."""

    def read(self, written: Any) -> bool:
        if not isinstance(written, Plain) or written.lower() not in _SWITCHES:
            raise ValueError
        return _SWITCHES[written.lower()]

    def __str__(self) -> str:
        return "true or false"


@dataclass(frozen=True)
class Word(Values):
    """One of several words."""

    words: Collection[str]  # looked at when a value is read: it may still grow

    def read(self, written: Any) -> str:
        if not isinstance(written, str) or written not in self.words:
            raise ValueError
        return str(written)

    def __str__(self) -> str:
        *others, last = self.words
        return f"{', '.join(others)} or {last}" if others else last


@dataclass(frozen=True)
class Text(Values):
    """Text as it stands, whatever else it may look like: 1.10, no, 12:30."""

    empty: bool = True

    def read(self, written: Any) -> str:
        if not isinstance(written, str) or len(written) > _LONGEST_TEXT or not (written or self.empty):
            raise ValueError
        if any(unicodedata.category(character) in _BREAKS for character in written):
            raise ValueError
        return str(written)

    def __str__(self) -> str:
        return "text" if self.empty else "text, not empty"


@dataclass(frozen=True)
class Name(Text):
    """Text that a folder can be called."""

    empty: bool = False

    def read(self, written: Any) -> str:
        name = super().read(written)
        if name.strip(". ") == "" or re.search(r"[/\\]", name) or len(name.encode()) > _LONGEST_NAME:
            raise ValueError
        return name

    def __str__(self) -> str:
        return rf"a folder's name, without / and \, of at most {_LONGEST_NAME} bytes"


@dataclass(frozen=True)
class SwitchOr(Values):
    """false, or text: `word` (which true stands for too) or a path."""

    word: str
    text: Text = Text()

    def read(self, written: Any) -> bool | str:
        text = self.text.read(written)
        if text.lower() in ("", "none"):
            return False
        switch = _SWITCHES.get(text.lower(), text)
        return self.word if switch is True or text.lower() == self.word else switch

    def __str__(self) -> str:
        return f"{self.word}, false or a path"


@dataclass(frozen=True)
class Listed(Values):
    """A list. Written as one text it is the list of that; [a, b] on a command line is a list as in YAML."""

    of: Values
    lengths: tuple[int, ...] = ()  # (): any
    distinct: bool = False
    alone: bool = False  # one text stays one text

    def read(self, written: Any) -> Any:
        if isinstance(written, Plain) and written[:1] == "[" and written[-1:] == "]":
            written = written_in(compose(written))
        elif isinstance(written, Plain) and isinstance(self.of, Whole | Number):
            inner = written.strip("()")
            written = [Plain(part) for part in inner.split(",")] if inner else []
        elif isinstance(written, str):
            if self.alone:
                return self.of.read(written) if written else ""
            written = [written] * bool(written)
        if not isinstance(written, list) or (self.lengths and len(written) not in self.lengths):
            raise ValueError
        values = [self.of.read(value) for value in written]
        if self.distinct and len(set(values)) < len(values):
            raise ValueError
        return values

    def __str__(self) -> str:
        many = "".join(f" of {length}" if length else " of none or" for length in self.lengths)
        each = " of texts" if isinstance(self.of, Text) else f"{many}, each {self.of}"
        return f"{'text or ' * self.alone}a list{each}{', none twice' * self.distinct}"


def compose(text: str) -> yaml.Node | None:
    """The nodes of a YAML text, whose scalars still are what was written; None: it is empty.

    Raises:
        ValueError: it is no YAML; the message is one line.
    """
    try:
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}: " if mark else ""
        raise ValueError(f"{line}{error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def written_in(node: yaml.Node | None) -> Any:
    """What a node of YAML says, for `Values.read`.

    Raises:
        ValueError: a list in a list, a group of keys, or a tag that stands for none of YAML's own types.
    """
    if isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
        if not all(isinstance(item, yaml.ScalarNode) for item in node.value):
            raise ValueError
        return [written_in(item) for item in node.value]
    if not isinstance(node, yaml.ScalarNode) or node.tag not in _TAGS:
        raise ValueError
    if node.style is not None:
        return node.value
    return None if node.tag.endswith(":null") and node.value else Plain(node.value)


def shown(written: Any) -> str:
    """What was written, as an error shows it: on one line, cut if it is long."""
    if isinstance(written, list):
        return short(f"[{', '.join(map(shown, written))}]", _SHOWN)
    if written is None:
        return "null"
    text = short(written, _SHOWN)
    return text if isinstance(written, Plain) and text.strip() else f"'{text}'"


def _number(written: Any) -> str:
    if not isinstance(written, str) or len(written) > _LONGEST_NUMBER or not _DECIMAL.fullmatch(written.strip()):
        raise ValueError
    return written.strip()
