"""One HTML page that shows an evaluation's images before and after, sorted by score; nothing outside it is needed."""
from __future__ import annotations

import base64
import html
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from ..data.pairs import read_pair
from ..files import write_atomically
from ..images import read_image
from .tables import Result, format_table, origin_lines
from .test_sets import TestSet

_TEMPLATE = Path(__file__).with_name("gallery.html")
_MOST = 48  # images of a set in the page: about 20 MB
_WIDTH = 960  # pixels, at most
_QUALITY = 88  # of the JPEGs in the page: differences between restored images survive it, the page stays small


class Picture(NamedTuple):
    """One image of an evaluation: H x W x 3 uint8 RGB before, after, and as it should be; and its scores."""

    dataset: str
    name: str
    degraded: np.ndarray
    restored: np.ndarray
    target: np.ndarray
    scores: dict[str, float]  # psnr, ssim, input_psnr, input_ssim


def write_gallery(
    pictures: Sequence[Picture], path: str | Path, title: str, table: str = "", origin: Sequence[str] = ()
) -> None:
    """Write a page with one before/after slider for each picture.

    Above them stands `table`, the scores as text; below, the `origin` lines say where the numbers come from.

    Pictures wider than 960 pixels are scaled down, and all are JPEGs: the page is for the eye, scores are those of
    the files.

    Raises:
        ValueError: there are no pictures.
    """
    if not pictures:
        raise ValueError(f"{path}: a gallery needs at least one picture")
    entries: list[dict[str, Any]] = [
        {
            "set": picture.dataset,
            "name": picture.name,
            "width": picture.target.shape[1],
            "height": picture.target.shape[0],
            "before": _data_uri(picture.degraded),
            "after": _data_uri(picture.restored),
            "target": _data_uri(picture.target),
            **{key: _text(value, 2 if "psnr" in key else 4) for key, value in picture.scores.items()},
            "gain": _text(_gain(picture.scores), 2),
        }
        for picture in pictures
    ]
    page = _TEMPLATE.read_text(encoding="utf-8")
    # '<' could begin or end a script inside the one that holds the data.
    texts = {
        "TITLE": html.escape(title),
        "TABLE": html.escape(table),
        "ORIGIN": html.escape("\n".join(origin)),
        "DATA": json.dumps(entries, allow_nan=False).replace("<", "\\u003c"),
    }
    # In one go, so that what is filled in is not searched again.
    page = re.sub("%(" + "|".join(texts) + ")%", lambda found: texts[found[1]], page)
    with write_atomically(path) as file:
        file.write(page.encode("utf-8", "backslashreplace"))


def draw_gallery(
    results: Sequence[Result], sets: Sequence[TestSet], size: str | None, restored: Path, path: Path, title: str
) -> None:
    """Write a page of an evaluation's images; of a large set those at even steps from the best to the worst.

    The `restored` images lie in a folder, as SET/NAME.png; `size` is the network's, for the paper's scores beside it.
    """
    pictures = []
    for result, (name, pairs, _) in zip(results, sets, strict=True):
        by_name = {pair.name: pair for pair in pairs}
        ranked = sorted(result["per_image"], key=lambda row: row["psnr"])
        for rank in np.unique(np.linspace(0, len(ranked) - 1, min(len(ranked), _MOST)).round().astype(int)):
            row = ranked[rank]
            degraded, target, _ = read_pair(by_name[row["name"]])
            image = read_image(restored / name / f"{row['name']}.png")
            scores = {key: row[key] for key in ("psnr", "ssim", "input_psnr", "input_ssim")}
            pictures.append(Picture(name, row["name"], degraded, image, target, scores))
    title += f" on {', '.join(result['dataset'] for result in results)}"
    table = format_table(results, {name: benchmark for name, _, benchmark in sets}, size)
    write_gallery(pictures, path, title, table, origin_lines(results))


def _gain(scores: dict[str, float]) -> float:
    before, after = scores["input_psnr"], scores["psnr"]
    return 0.0 if before == after else after - before  # two infinities have no difference


def _text(value: float, digits: int) -> str:
    """A number as the page shows it and as JavaScript reads it; JSON itself knows no infinity."""
    return f"{value:.{digits}f}" if math.isfinite(value) else ("Infinity" if value > 0 else "-Infinity")


def _data_uri(image: np.ndarray) -> str:
    height, width = image.shape[:2]
    if width > _WIDTH:
        image = cv2.resize(image, (_WIDTH, max(1, round(height * _WIDTH / width))), interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode("ascii")
