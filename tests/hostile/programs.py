"""The programs in processes of their own, to be killed, or with a disk that is full."""
from __future__ import annotations

import importlib
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

from m3snet.utils.cli import run_program


class Program:
    """A program in a process forked from one that has imported everything, which is most of what a start takes.

    `limit`: how many bytes a file may have; a disk that is full is no different.
    """

    def __init__(self, module: str, words: list[str], folder: Path, limit: int | None = None) -> None:
        server = multiprocessing.get_context("forkserver")
        server.set_forkserver_preload(["m3snet.restore", "m3snet.tools.degrade", "m3snet.Deraining.test"])
        self._errors, writer = server.Pipe(duplex=False)
        self._process = server.Process(target=_run, args=(module, words, folder, writer, limit))
        self._process.start()
        writer.close()

    def stop(self, how: int, begun: Callable[[], bool], later: float) -> tuple[int | None, str]:
        """Send a signal, `later` seconds after it has `begun` to write; returns as `wait`."""
        while self._process.is_alive() and not begun():
            time.sleep(0.001)
        time.sleep(later)
        if self._process.is_alive() and self._process.pid:
            os.kill(self._process.pid, how)
        return self.wait()

    def wait(self) -> tuple[int | None, str]:
        """The exit code, once it has ended, and what it wrote to stderr."""
        with open(os.dup(self._errors.fileno()), encoding="utf-8") as errors:  # noqa: PTH123, it is no path
            said = errors.read()
        self._process.join()
        self._errors.close()
        return self._process.exitcode, said


def _run(module: str, words: list[str], folder: Path, errors: Connection, limit: int | None) -> None:
    os.chdir(folder)
    sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115, for as long as the process lives
    sys.stderr = open(errors.fileno(), "w", buffering=1, encoding="utf-8")  # noqa: PTH123, SIM115
    sys.argv = [module, *words]
    if limit:
        import resource  # late: Windows has none

        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    run_program(importlib.import_module(f"m3snet.{module}").main)
