"""One HTML page that shows an evaluation's images before and after, sorted by score; nothing outside it is needed."""
from __future__ import annotations

import base64
import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

_TEMPLATE = Path(__file__).with_name("gallery.html")
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


def write_gallery(pictures: Sequence[Picture], path: str | Path, title: str, origin: Sequence[str] = ()) -> None:
    """Write a page with one before/after slider for each picture; `origin` lines say where the numbers come from.

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
            # JSON knows no infinity; text shows as it is.
            **{key: f"{value:.{2 if 'psnr' in key else 4}f}" for key, value in picture.scores.items()},
            "gain": picture.scores["psnr"] - picture.scores["input_psnr"],
        }
        for picture in pictures
    ]
    page = _TEMPLATE.read_text(encoding="utf-8")
    # '</' would end the script that holds the data.
    page = page.replace("%DATA%", json.dumps(entries).replace("</", "<\\/").replace("Infinity", "1e999"))
    page = page.replace("%TITLE%", html.escape(title)).replace("%ORIGIN%", html.escape("\n".join(origin)))
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")


def _data_uri(image: np.ndarray) -> str:
    height, width = image.shape[:2]
    if width > _WIDTH:
        image = cv2.resize(image, (_WIDTH, max(1, round(height * _WIDTH / width))), interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode("ascii")
