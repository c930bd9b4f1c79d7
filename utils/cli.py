"""What all programs do on the command line: warn in one line, and end in one where a person can put it right."""
from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from .allocator import keep_freed_memory


class UserError(ValueError):
    """Something that a person can put right; the message says what, where, and how."""


def short(text: object, most: int = 80) -> str:
    """Text out of a file as a terminal may show it: no control characters, no screens full of it."""
    shown = "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in str(text)[: most + 1]
    )
    return shown if len(shown) <= most else f"{shown[:most]}..."


def to_path(text: str) -> Path:
    """A path on a command line, as argparse takes it; an empty name would mean the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("expected a name, found an empty one")
    return Path(text)


def run_program(main: Callable[[], None]) -> None:
    """Run `main`; a `UserError` or an OSError ends the process with its message and exit code 1, Ctrl-C with 130.

    SIGTERM ends it with 143, and as an exception does: temporary files are removed. What a terminal's encoding cannot
    show is printed as escapes: no file name stops a program.
    """
    keep_freed_memory()
    tqdm.set_lock(threading.RLock())  # its own is shared by processes: a signal while it is made prints a traceback
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        named = error.filename is not None and error.strerror
        sys.exit(f"error: {short(error.filename, 300)}: {error.strerror}" if named else f"error: {error}")
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)


def warn(text: str) -> None:
    """Print one warning on stderr, above the bars that are shown there."""
    tqdm.write(f"warning: {text}", file=sys.stderr)
