"""Draw what restore.py prints: `python fig/draw_command_line.py -o fig/command_line.png`.

It restores bundled photographs, made rainy, and one file that is cut off, in a terminal of 80 columns, and draws what
that shows; the bar as it was half-way. It needs matplotlib (pip install -e '.[fig]'), and does not run on Windows.
"""
from __future__ import annotations

import argparse
import os
import re
import shlex
import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from m3snet.Deraining.dataset import TASK
from m3snet.utils.cli import run_program
from m3snet.utils.data.samples import photographs
from m3snet.utils.images import read_image, write_image

RESTORE = Path(__file__).resolve().parents[1] / "restore.py"
COMMANDS = ("rain photos/coffee.jpg -o coffee_dry.jpg", "rain photos -o photos_dry --compare")
COLUMNS, LINES = 80, 24
BACK, TEXT, COMMAND, ERROR = "#1e2530", "#d7dde6", "#8fd18f", "#f08a80"
SIZE, ADVANCE, HEIGHT, EDGE = 10.5, 0.602, 1.45, 22  # points; of a letter: width and line height; margin
BAR = re.compile(r"\s*\d+%\|")


def draw(lines: Sequence[str], path: Path) -> None:
    """Write a picture of a terminal that shows these lines, broken where they are longer than it is wide.

    Raises:
        OSError: the picture cannot be written.
    """
    rows = [
        (line[start : start + COLUMNS], COMMAND if line.startswith("$ ") else ERROR if "error: " in line else TEXT)
        for line in lines
        for start in range(0, max(len(line), 1), COLUMNS)
    ]
    width, height = COLUMNS * ADVANCE * SIZE + 2 * EDGE, len(rows) * HEIGHT * SIZE + 2 * EDGE
    figure = Figure(figsize=(width / 72, height / 72), facecolor=BACK)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    for number, (text, colour) in enumerate(rows, 1):
        y = EDGE + (number - 0.3) * HEIGHT * SIZE
        axes.text(EDGE, y, text, family="DejaVu Sans Mono", size=SIZE, color=colour, parse_math=False)
    figure.savefig(path, dpi=140)


def photographs_to_restore(folder: Path) -> None:
    """Write rainy photographs as JPEG, and one file that is cut off."""
    for number, (name, path) in enumerate(sorted({**photographs("train"), **photographs("test")}.items())):
        image = np.ascontiguousarray(read_image(path)[:512, :512])
        write_image(folder / f"{name}.jpg", TASK.degradation.sample(image, np.random.default_rng(number)))
    whole = (folder / "coffee.jpg").read_bytes()
    (folder / "copied_badly.jpg").write_bytes(whole[: len(whole) // 2])


def said_in_terminal(command: Sequence[str], folder: Path) -> str:
    """All that a command writes into a terminal; it runs in `folder`."""
    import fcntl  # these three are not on Windows
    import pty
    import termios

    screen, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    with subprocess.Popen(command, cwd=folder, stdin=terminal, stdout=terminal, stderr=terminal):
        os.close(terminal)
        said = b""
        try:
            while part := os.read(screen, 4096):
                said += part
        except OSError:  # how Linux says that the terminal is closed
            pass
        os.close(screen)
    return said.decode()


def lines_shown(said: str) -> list[str]:
    """The lines that a terminal shows in the end; and where a bar was, that bar as it was half-way."""
    shown: list[str] = []
    for line in said.replace("\r\n", "\n").rstrip("\n").split("\n"):
        states = [state.rstrip() for state in line.split("\r") if state.strip()]
        bars = [state for state in states if BAR.match(state)]
        texts = [state for state in states if state not in bars]
        shown += [*bars[len(bars) // 2 :][:1], *texts[-1:]]
    return shown


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line, run restore.py and write the picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, usage="%(prog)s [-o FILE]", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--out", metavar="FILE", type=Path, default=Path("command_line.png"), help="the picture")
    args = parser.parse_args(argv)
    lines: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        photographs_to_restore(Path(name, "photos"))
        for command in COMMANDS:
            said = said_in_terminal([sys.executable, str(RESTORE), *shlex.split(command)], Path(name))
            lines += [f"$ python restore.py {command}", *lines_shown(said), ""]
    draw(lines[:-1], args.out)


if __name__ == "__main__":
    run_program(main)
