"""Curves of a training, as pictures: what metrics.csv and validation.csv hold, and the learning rate to come."""
from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

_TRAIN, _VALIDATION, _GRID = "#4c72b0", "#c44e52", "#dddddd"


def draw_curves(folder: Path) -> Path:
    """Write `folder`/curves.png from the run's metrics.csv and validation.csv; an empty table is an empty plot."""
    metrics, validation = _read(folder / "metrics.csv"), _read(folder / "validation.csv")
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
    if psnr.get_legend_handles_labels()[0]:
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
    return _write(figure, folder / "curves.png")


def draw_rates(rates: Sequence[float], path: Path) -> Path:
    """Write a picture of the learning rate of each epoch, the first is 1."""
    figure = Figure(figsize=(8, 3), layout="constrained")
    axes = figure.subplots()
    axes.plot(range(1, len(rates) + 1), rates, color=_TRAIN)
    axes.set_xlabel("epoch")
    axes.set_ylabel("learning rate")
    axes.set_ylim(bottom=0)
    _clean(axes)
    return _write(figure, path)


def _read(path: Path) -> dict[str, np.ndarray]:
    with path.open(newline="", encoding="utf-8") as file:
        columns, *rows = csv.reader(file)
    return dict(zip(columns, np.array(rows, float).reshape(-1, len(columns)).T, strict=True))


def _smooth(values: np.ndarray, width: int) -> np.ndarray:
    """A moving average that is shorter at both ends, so that it neither lags nor loses the last values."""
    half = width // 2
    return np.array([values[max(0, i - half) : i + half + 1].mean() for i in range(len(values))])


def _clean(axes) -> None:  # type: ignore[no-untyped-def]
    axes.grid(color=_GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _write(figure: Figure, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    figure.savefig(temporary, format="png", dpi=130)
    temporary.replace(path)
    return path
