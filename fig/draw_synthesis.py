"""Draw what the made-up rain and blur are like: `python fig/draw_synthesis.py --pairs Datasets/Rain13K/train -o fig`.

synthesis_rain.png compares the streaks of real pairs (rainy minus clean; those that became darker in the mean are taken
by themselves) with those of every kind of made-up rain, put on the clean images of the same pairs; the percentiles are
printed as well. synthesis_blur.png shows the kinds of blur. The photographs in both are scikit-image's.
"""
from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from m3snet.benchmarks.streaks import LEVELS, Streaks, measure_streaks
from m3snet.utils.cli import run_program
from m3snet.utils.data.blur import BLURS, film, random_psf
from m3snet.utils.data.pairs import PairError, find_pairs
from m3snet.utils.data.rain import RAINS, VEILED, rain_of_kind
from m3snet.utils.data.samples import photographs
from m3snet.utils.images import read_image

Measures = dict[str, list[Streaks]]  # kind of rain -> one for each image

BRIGHTER, DARKER = PAIRS = ("brighter", "darker")  # the real ones, by what the rain did to their mean
COMPARED = (*PAIRS, "edited", "retouched")  # made-up kinds that follow measurements, and what was measured
COLOURS = {
    BRIGHTER: "#555555",
    "edited": "#1f5fa8",
    DARKER: "#b07aa1",
    "retouched": "#8a2f7a",
    "light": "#f0a868",
    "heavy": "#8cc98c",
}
NAMES = {BRIGHTER: "Rain800 pairs, brighter", DARKER: "Rain800 pairs, darker"}
NAMES |= {kind: f"{kind} rain" for kind in COLOURS if kind not in NAMES}
BANDS = np.arange(0, 257, 32)  # edges of Streaks.dark_to_bright
PERCENT = (5, 50, 95)

Quantity = tuple[str, Callable[[Streaks], float], int]
QUANTITIES: tuple[Quantity, ...] = (  # name with unit, value, decimals shown
    ("direction, degrees from the vertical", lambda s: s.angle, 0),
    ("spread of the directions, 0 to 1", lambda s: s.spread, 2),
    ("length, pixels", lambda s: s.length, 0),
    ("width, pixels", lambda s: s.width, 1),
    ("coverage, % of the pixels", lambda s: 100 * s.coverage, 0),
    ("added where covered, grey levels", lambda s: s.brightness, 0),
    ("added where the scene is 32-63", lambda s: s.dark_to_bright[1], 0),
    ("added where the scene is 128-159", lambda s: s.dark_to_bright[4], 0),
    ("added where the scene is 224-255", lambda s: s.dark_to_bright[7], 0),
)

RAIN_VIEW = ("astronaut", 130, 0)  # photograph, left, top
BLUR_VIEW = ("chelsea", 112, 40)
SIDE = 240  # pixels shown of each, about as many as the picture has there
RAIN_SEEDS = {"light": 2, "heavy": 4, "edited": 3, "retouched": 1}
BLUR_SEEDS = {"shaken": 5, "filmed": 4, "moving object": 9}
BLUR_REACH = 10.0  # pixels
DPI = 100


def measure(folder: str | Path, every: int) -> Measures:
    """The streaks of every `every`-th pair below `folder`, and of each kind of rain on the same clean images.

    Raises:
        PairError, ImageError: no pairs there, or one that cannot be read or measured.
    """
    found: Measures = {kind: [] for kind in NAMES}
    for pair in find_pairs(folder)[::every]:
        clean = read_image(pair.target)
        real = read_image(pair.input or pair.target)
        rainy = {DARKER if real.mean() < clean.mean() else BRIGHTER: real}
        for kind in RAINS:
            rainy[kind] = rain_of_kind(
                kind, clean, np.random.default_rng([*f"{kind} {pair.name}".encode()]), VEILED
            )
        for kind, image in rainy.items():
            try:
                found[kind].append(measure_streaks(image, clean))
            except ValueError as error:
                raise PairError(f"{pair.target}: {NAMES[kind]}: {error}") from error
    return {kind: measures for kind, measures in found.items() if measures}


def table(found: Measures) -> str:
    """The percentiles of every quantity for every kind, in Markdown."""
    rows = [[", ".join(f"{p} %" for p in PERCENT), *(f"{NAMES[kind]} ({len(found[kind])})" for kind in found)]]
    for name, value, decimals in QUANTITIES:
        percentiles = [_percentiles([value(s) for s in measures], PERCENT) for measures in found.values()]
        rounded = np.round(percentiles, decimals) + 0  # which makes -0 a 0
        rows.append([name, *(", ".join(f"{level:.{decimals}f}" for level in levels) for levels in rounded)])
    head, *body = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([head, "|---|" + "--:|" * len(found), *body])


def draw_rain(found: Measures, path: Path) -> None:
    """Distributions of what was measured, and a photograph under each kind of rain."""
    figure = _figure(10.4, 9.2)
    plots, pictures = figure.subfigures(2, 1, squeeze=False, height_ratios=(2.75, 1)).flat
    axes = plots.subplots(2, 3)
    bins = {
        "direction, degrees from the vertical": np.arange(-62.5, 63, 5),
        "length, pixels": np.arange(0, 81, 4),
        "width, pixels": np.arange(0, 6.1, 0.25),
        "coverage, % of the pixels": np.arange(0, 101, 5),
    }
    values = {name: value for name, value, _ in QUANTITIES}
    for ax, (name, edges) in zip(axes.flat, bins.items(), strict=False):
        _distributions(ax, found, values[name], edges)
        ax.set_xlabel(name)
    for ax in axes[:, 0]:
        ax.set_ylabel("share of the images, %")
    _pixels(axes[1, 1], found)
    _scenes(axes[1, 2], found)
    handles = axes[0, 0].get_legend_handles_labels()
    plots.legend(*handles, loc="outside upper center", ncols=len(found), frameon=False)
    photograph = _view(*RAIN_VIEW)
    shown = {"photograph": photograph}
    for kind, seed in RAIN_SEEDS.items():
        shown[NAMES[kind]] = rain_of_kind(kind, photograph, np.random.default_rng(seed), VEILED)
    _pictures(pictures.subplots(1, len(shown)), shown)
    _write(figure, path)


def draw_blur(path: Path) -> None:
    """A photograph blurred in each way, point spread functions, and how far the points of a filmed scene move."""
    figure = _figure(10.4, 6.2)
    pictures, below = figure.subfigures(2, 1, squeeze=False, height_ratios=(1, 1.22)).flat
    margin = round(BLUR_REACH)
    name, left, top = BLUR_VIEW
    around = _view(name, left - margin, top - margin, SIDE + 2 * margin)
    inside = slice(margin, -margin)
    shown = {"photograph": around[inside, inside]}
    for kind, seed in BLUR_SEEDS.items():
        blurred = BLURS[kind].expose(around.astype(np.float32) / 255, BLUR_REACH, np.random.default_rng(seed))
        shown[kind] = blurred[inside, inside].clip(0, 1)
    _pictures(pictures.subplots(1, len(shown)), shown)
    spread, moved = below.subfigures(1, 2, width_ratios=(1.35, 1))
    spread.suptitle(f"point spread functions of a shaken camera, {2 * BLUR_REACH + 1:.0f} x {2 * BLUR_REACH + 1:.0f}")
    for seed, ax in enumerate(spread.subplots(2, 4).flat):
        ax.imshow(random_psf(BLUR_REACH, np.random.default_rng(seed)) ** 0.5, cmap="gray")  # faint parts show
        ax.set_axis_off()
    _motion(moved, around.shape[0], inside)
    _write(figure, path)


def _percentiles(values: Sequence[float] | np.ndarray, percent: Sequence[float]) -> np.ndarray:
    """Of those that are numbers; NaN where none is."""
    known = np.asarray(values)[~np.isnan(values)]
    return np.percentile(known, percent) if known.size else np.full(len(percent), np.nan)


def _distributions(ax: Axes, found: Measures, value: Callable[[Streaks], float], edges: np.ndarray) -> None:
    """One outline for each kind, the real one filled; what is beyond the edges counts in the last bin."""
    for kind, measures in found.items():
        inside = np.clip([value(streaks) for streaks in measures], edges[0], edges[-1])
        share = 100 * np.histogram(inside, edges)[0] / len(measures)
        ax.stairs(share, edges, label=NAMES[kind], baseline=0 if kind in PAIRS else None, **_style(kind))
    ax.set_ylim(bottom=0)
    _clean(ax)


def _pixels(ax: Axes, found: Measures) -> None:
    for kind, measures in found.items():
        share = 100 * np.mean([streaks.light for streaks in measures], axis=0)
        ax.stairs(share, LEVELS, baseline=1e-3 if kind in PAIRS else None, **_style(kind))
    ax.set_yscale("log")
    ax.set_ylim(1e-3, 100)
    ax.set_xlabel("added to a pixel, grey levels")
    ax.set_ylabel("share of the pixels, %")
    _clean(ax)


def _scenes(ax: Axes, found: Measures) -> None:
    """The median image; around what is compared, the middle half of them."""
    centres = (BANDS[:-1] + BANDS[1:]) / 2
    for kind, measures in found.items():
        bands = np.transpose([streaks.dark_to_bright for streaks in measures])
        low, middle, high = np.transpose([_percentiles(band, (25, 50, 75)) for band in bands])
        ax.plot(centres, middle, color=COLOURS[kind], marker="o", markersize=3.5, linewidth=1.8, zorder=_order(kind))
        if kind in COMPARED:
            ax.fill_between(centres, low, high, color=COLOURS[kind], alpha=0.16, linewidth=0)
    ax.set_xlim(BANDS[0], BANDS[-1])
    ax.set_xticks(BANDS[::2])
    ax.set_xlabel("brightness of the scene, grey levels")
    ax.set_ylabel("added there, grey levels (median)")
    _clean(ax)


def _motion(figure: SubFigure, side: int, inside: slice) -> None:
    """How far each point of the filmed example moves, and the paths of some of them."""
    frames = np.array(list(film(side, side, BLUR_REACH, np.random.default_rng(BLUR_SEEDS["filmed"]))))
    y, x = np.indices((side, side))
    frames = frames[:, :, inside, inside]  # frame, x or y, height, width
    steps = frames - np.stack([x, y])[:, inside, inside]
    ax = figure.subplots()
    farthest = np.hypot(steps[:, 0], steps[:, 1]).max(axis=0)
    image = ax.imshow(farthest, cmap="viridis", vmin=0, vmax=BLUR_REACH)
    figure.colorbar(image, ax=ax, label="pixels from its place, at most", shrink=0.9)
    for row in range(12, SIDE, 24):
        for column in range(12, SIDE, 24):
            # What a pixel sees moves one way, the point it shows at mid-exposure the other.
            across, down = -steps[:, :, row, column].T
            ax.plot(column + across, row + down, color="white", linewidth=1)
    ax.set_title("paths of the filmed scene's points")
    ax.set_axis_off()


def _pictures(axes: Sequence[Axes], shown: dict[str, np.ndarray]) -> None:
    for ax, (title, image) in zip(axes, shown.items(), strict=True):
        ax.imshow(image, interpolation="none")
        ax.set_title(title)
        ax.set_axis_off()


def _view(name: str, left: int, top: int, side: int = SIDE) -> np.ndarray:
    return read_image(photographs("test")[name])[top : top + side, left : left + side]


def _order(kind: str) -> int:
    return 1 if kind == BRIGHTER else 4 if kind in RAINS and kind in COMPARED else 2


def _style(kind: str) -> dict[str, Any]:
    if kind in PAIRS:
        return {"fill": True, "color": COLOURS[kind], "alpha": 0.35, "zorder": _order(kind)}
    return {"color": COLOURS[kind], "linewidth": 2.2 if kind in COMPARED else 1.4, "zorder": _order(kind)}


def _clean(ax: Axes) -> None:
    ax.grid(color="#dddddd", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height))
    figure.set_layout_engine("constrained", w_pad=0.08, h_pad=0.07)
    return figure


def _write(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI, metadata={"Software": None})  # the same bytes every time


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table, and draw both pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", metavar="DIR", type=Path, required=True, help="holds input/ and target/")
    parser.add_argument("--every", metavar="N", type=int, default=5, help="measure each N-th pair (default: 5)")
    parser.add_argument("-o", "--out", metavar="DIR", type=Path, required=True, help="gets the two pictures")
    args = parser.parse_args(argv)
    found = measure(args.pairs, args.every)
    print(table(found))
    draw_rain(found, args.out / "synthesis_rain.png")
    draw_blur(args.out / "synthesis_blur.png")


if __name__ == "__main__":
    run_program(main)
