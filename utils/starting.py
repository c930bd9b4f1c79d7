"""Ctrl-C while a program of this package still imports torch, which takes seconds: one word instead of a traceback.

Imported before all else; `cli.run_program`, which does the same later, has not begun by then.
"""
from __future__ import annotations

import sys
from pathlib import Path
from types import TracebackType

_ROOT = Path(__file__).resolve().parents[1]


def _is_ours(program: str) -> bool:
    """Whether this is a script of the package, or one of its commands (m3snet-restore): others keep their traceback."""
    path = Path(program)
    return path.name.startswith("m3snet-") or (path.suffix == ".py" and _ROOT in path.resolve().parents[:2])


def _say_stopped(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        print("stopped", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


if any(map(_is_ours, sys.argv[:1])):
    sys.excepthook = _say_stopped
