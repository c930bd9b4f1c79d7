"""SIGTERM, SIGINT and SIGHUP asked for politely: what is being done is finished first."""
from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

# Windows has no SIGHUP, which says that the terminal was closed.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name))


class Stopped(SystemExit):
    """Leaves the program with the exit code shells give to that signal: 143 for SIGTERM, 130 for SIGINT."""

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)


class Interruption:
    """While entered, the first signal is only noted in `signum` (0: none yet); a second one stops at once.

    Schedulers send SIGTERM some seconds before they kill, a person presses Ctrl-C or closes the terminal: all want the
    work kept. Under nohup, which ignores SIGHUP, it stays ignored.
    """

    def __init__(self) -> None:
        self.signum = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():  # Python delivers signals nowhere else
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS if not _by_nohup(number)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.signum = signum
        for number in self._before:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def leave_to_trainer(_: int = 0) -> None:
    """For workers that read data: a terminal signals to them too, but only the trainer decides when to stop."""
    for number in SIGNALS:
        if number != signal.SIGTERM:  # with which the data loader ends its workers
            signal.signal(number, signal.SIG_IGN)


def _by_nohup(number: int) -> bool:
    return number not in (signal.SIGTERM, signal.SIGINT) and signal.getsignal(number) == signal.SIG_IGN
