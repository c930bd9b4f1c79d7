"""Draw how a training went: `python fig/draw_curves.py checkpoints/Deraining/SESSION -o curves.png`.

PSNR of training patches and validation images, gradient norm and learning rate over the steps, from the metrics.csv and
validation.csv of a run's folder. It needs matplotlib (pip install -e '.[fig]').
"""
from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from m3snet.utils.cli import UserError, run_program

_TRAIN, _VALIDATION, _GRID = "#4c72b0", "#c44e52", "#dddddd"


def draw_curves(folder: Path, out: Path) -> None:
    """Write the picture of the run in `folder` to `out`; an empty table is an empty plot.

    Raises:
        UserError: the folder is not that of a run.
        OSError: the picture cannot be written.
    """
    metrics, validation = read_table(folder / "metrics.csv"), read_table(folder / "validation.csv")
    figure = Figure(figsize=(8, 7), layout="constrained")
    psnr, norm, rate = figure.subplots(3, 1, sharex=True, height_ratios=(3, 1.2, 1.2))
    psnr.plot(metrics["step"], metrics["psnr"], color=_TRAIN, linewidth=0.8, alpha=0.5)
    if len(metrics["step"]) > 20:
        smooth = _smooth(metrics["psnr"], max(5, len(metrics["psnr"]) // 40))
        psnr.plot(metrics["step"], smooth, color=_TRAIN, linewidth=1.6, label="training patches, smoothed")
    psnr.plot(
        validation["step"], validation["psnr"], color=_VALIDATION, marker="o", markersize=3, label="validation images"
    )
    psnr.set_ylabel("PSNR (dB)")
    psnr.legend(loc="lower right", frameon=False)
    norm.plot(metrics["step"], metrics["gradient_norm"], color=_TRAIN, linewidth=0.8)
    norm.set_ylabel("gradient norm")
    if np.any(metrics["gradient_norm"] > 0):
        norm.set_yscale("log")
    rate.plot(metrics["step"], metrics["learning_rate"], color=_TRAIN)
    rate.set_ylabel("learning rate")
    rate.set_xlabel("step")
    for axes in (psnr, norm, rate):
        _clean(axes)
    figure.savefig(out, dpi=130)


def read_table(path: Path) -> dict[str, np.ndarray]:
    """The columns of a run's table by their names; rows that are not as many numbers are passed over.

    Raises:
        UserError: there is no such table.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such table; name the folder of a run, which holds metrics.csv and validation.csv")
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        columns, *rows = csv.reader(file)
    numbers = []
    for row in rows:
        with suppress(ValueError):
            if len(row) == len(columns):
                numbers.append([float(cell) for cell in row])
    return dict(zip(columns, np.array(numbers).reshape(-1, len(columns)).T, strict=True))


def _smooth(values: np.ndarray, width: int) -> np.ndarray:
    """A moving average that is shorter at both ends, so that it neither lags nor loses the last values."""
    half = width // 2
    return np.array([values[max(0, i - half) : i + half + 1].mean() for i in range(len(values))])


def _clean(axes: Axes) -> None:
    axes.grid(color=_GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def main(argv: Sequence[str] | None = None) -> None:
    """Draw the picture that the command line describes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="FOLDER", type=Path, help="checkpoints/TASK/SESSION")
    parser.add_argument("-o", "--out", metavar="FILE", type=Path, required=True)
    arguments = parser.parse_args(argv)
    draw_curves(arguments.run, arguments.out)
    print(arguments.out)


if __name__ == "__main__":
    run_program(main)
