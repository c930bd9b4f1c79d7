"""What the pickles in a file would do to this process, found out before torch.load reads them.

Its weights_only keeps them from running code. Left are calls that it allows, of a size that the file chooses: 20 bytes
make a bytearray of 2 GB, a few hundred nest tuples so that their hash never ends, or overflows the stack and with it
the process.

It also refuses what trainings save beside the tensors: their arguments, paths, numbers of numpy. In the place of these
stand objects that do nothing (`stand_ins`); no name of a file is imported.
"""
from __future__ import annotations

import pickle
import pickletools
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch

_LEGACY = 5  # pickles at the beginning of a file as torch.save wrote it before 1.6
_MOST_ITEMS = 10_000  # in a tuple and the tuples in it; the state of Python's random numbers has 626
_MOST_CODES = 1_000_000  # of a pickle; 1,000 tensors, their averages and an optimizer take some 100,000
_CHECKED = {"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"}  # what can be hashed, and so can be a key

_PATHS = ["Path", "PosixPath", "PurePath", "PurePosixPath", "PureWindowsPath", "WindowsPath"]
# What is known to hold nothing but data. Of mappings the items are kept: the tensors may be among them.
_VALUES = {
    "argparse": ["Namespace"],
    "builtins": ["bool", "dict", "float", "frozenset", "int", "list", "object", "range", "slice", "str", "tuple"],
    "datetime": ["date", "datetime", "time", "timedelta", "timezone"],
    "numpy": ["dtype", "ndarray"],
    "numpy.core.multiarray": ["scalar", "_reconstruct"],  # numpy 1
    "numpy._core.multiarray": ["scalar", "_reconstruct"],
    "omegaconf.base": ["ContainerMetadata", "Metadata"],
    "omegaconf.dictconfig": ["DictConfig"],
    "omegaconf.listconfig": ["ListConfig"],
    "omegaconf.nodes": [
        *("AnyNode", "BooleanNode", "BytesNode", "EnumNode", "FloatNode"),
        *("IntegerNode", "InterpolationResultNode", "PathNode", "StringNode"),
    ],
    "pathlib": _PATHS,
    "pathlib._local": _PATHS,  # Python 3.13
    "types": ["SimpleNamespace"],
    "typing": ["Any"],
}
_MAPPINGS = {
    "addict.addict": ["Dict"],
    "collections": ["defaultdict"],
    "easydict": ["EasyDict"],
    "lightning_fabric.utilities.data": ["AttributeDict"],
    "munch": ["Munch"],
    "pytorch_lightning.utilities.parsing": ["AttributeDict"],
    "yacs.config": ["CfgNode"],
}
_LOADING = threading.Lock()  # what torch allows, it allows to all threads


class _Value:
    """Takes whatever a pickle gives it, and keeps nothing."""

    def __new__(cls, *_: Any) -> Any:
        return super().__new__(cls)

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


class _Mapping:
    """Becomes a dictionary of a kind that torch fills with items, and gives attributes."""

    def __new__(cls, *_: Any) -> Any:
        return OrderedDict()


_STAND_INS = [
    type(name, (base,), {"__module__": module, "__qualname__": name})
    for base, modules in ((_Value, _VALUES), (_Mapping, _MAPPINGS))
    for module, names in modules.items()
    for name in names
]


@contextmanager
def stand_ins() -> Iterator[None]:
    """While entered, torch.load(weights_only=True) also reads known objects that are no tensors, as empty ones."""
    with _LOADING, torch.serialization.safe_globals(_STAND_INS):  # type: ignore[arg-type]
        yield


def check_pickles(path: Path) -> None:
    """Read the pickles of a file that torch.save wrote, without making an object of them.

    Torch writes its zip files uncompressed, and unpacks compressed ones: 4 KB of them can become any size. It writes
    checksums, too, and does not compare them.

    Raises:
        pickle.UnpicklingError: one is damaged or far too long, makes bytes of any number, or nests tuples without an
            end.
        zipfile.BadZipFile: compressed, or damaged.
    """
    with path.open("rb") as file:
        if file.peek(4)[:4] != b"PK\3\4":
            for _ in range(_LEGACY):
                if file.peek(1):
                    _check_pickle(file)
            return
        with zipfile.ZipFile(file) as members:
            if any(member.compress_type != zipfile.ZIP_STORED for member in members.infolist()):
                raise zipfile.BadZipFile("compressed, which torch.save never does; unpack it first")
            for member in members.infolist():
                member.CRC = member.CRC or None  # type: ignore[assignment]  # torch.save can leave it out
                with members.open(member) as content:
                    if member.filename.endswith(".pkl"):
                        _check_pickle(content)
                    while content.read(1 << 20):  # at its end the checksum is compared
                        pass


def _check_pickle(file: IO[bytes]) -> None:
    stack: list[int | None] = []  # per object: how many items its hash goes through; None is a mark
    memo: dict[Any, int] = {}
    try:
        for count, (code, argument, _) in enumerate(pickletools.genops(file)):
            if count == _MOST_CODES:
                raise pickle.UnpicklingError(f"it has more than {_MOST_CODES:,} instructions")
            if code.name == "GLOBAL" and str(argument).endswith(" bytearray"):
                raise pickle.UnpicklingError("it holds a bytearray")
            if code.name == "MARK":
                stack.append(None)
            elif code.name in ("GET", "BINGET", "LONG_BINGET"):
                stack.append(memo[argument])
            elif code.name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
                memo[len(memo) if argument is None else argument] = stack[-1] or 0
            elif code.stack_before != code.stack_after:  # otherwise it is about the pickle, not about objects
                items = _taken(stack, code)
                made = 1 + sum(items) if code.name in _CHECKED else 1
                if made > _MOST_ITEMS:
                    raise pickle.UnpicklingError("it nests tuples without an end")
                stack += [made] * len(code.stack_after)
    except (ValueError, LookupError) as error:
        raise pickle.UnpicklingError(f"it is damaged ({error!r})") from error


def _taken(stack: list[int | None], code: pickletools.OpcodeInfo) -> list[int]:
    """What an opcode takes from the stack."""
    items: list[int] = []
    for kind in reversed(code.stack_before):
        if kind is pickletools.stackslice:  # all down to the mark, which is named after it
            while (item := stack.pop()) is not None:
                items.append(item)
        elif kind is not pickletools.markobject:
            items.append(stack.pop() or 0)
    return items
