"""SIGTERM and SIGINT asked for politely: what is being done is finished first."""
from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(SystemExit):
    """Leaves the program with the exit code shells give to that signal: 143 for SIGTERM, 130 for SIGINT."""

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)


class Interruption:
    """While entered, the first signal is only noted in `signum` (0: none yet); a second one stops at once.

    Schedulers send SIGTERM some seconds before they kill, a person presses Ctrl-C: both want the work kept.
    """

    def __init__(self) -> None:
        self.signum = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():  # Python delivers signals nowhere else
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.signum = signum
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)


def ignore_ctrl_c(_: int = 0) -> None:
    """For workers that read data: a terminal sends Ctrl-C to them too, but only the trainer decides when to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
