"""Pictures of an evaluation: images side by side, and where they differ."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..data.pairs import Pair, read_pair
from ..images import read_image, write_image

Row = tuple[str, Mapping[str, np.ndarray], str]  # name, title -> image, caption

_PANEL = 400  # pixels: a sheet of four fits a 1700-pixel screen
_AMPLIFIED = 4  # what an error map multiplies errors by, so that the eye sees them
ERROR_SCALE = f"black is none, yellow a difference of {256 // _AMPLIFIED} levels and more, mean of R, G and B"
_GAP, _MARGIN = 10, 24
_TITLE, _TEXT = 20, 17  # letter heights
_INK, _GRAY, _WHITE = (32, 33, 36), (105, 110, 118), 255


def error_map(restored: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Where two H x W x 3 uint8 images differ: black is equal, yellow an error of 64 levels and more; same shape."""
    error = np.abs(restored.astype(np.int16) - target).mean(axis=2) * _AMPLIFIED
    colours = cv2.applyColorMap(np.clip(np.rint(error), 0, 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
    return cv2.cvtColor(colours, cv2.COLOR_BGR2RGB)


def fit(image: np.ndarray, side: int) -> np.ndarray:
    """An H x W x 3 uint8 image, scaled down to `side` pixels where it is wider or higher."""
    height, width = image.shape[:2]
    scale = min(1, side / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def comparison_sheet(rows: Sequence[Row], path: str | Path, note: str = "") -> None:
    """Write a picture with one row per sample: its images side by side, and under them its name and caption.

    Images are H x W x 3 uint8 RGB, titled by their keys, which are the same in every row; those wider or higher than
    400 pixels are scaled down to that. `note` stands below all rows. The font knows Latin letters only.

    Raises:
        ValueError: there are no rows.
    """
    if not rows:
        raise ValueError(f"{path}: a comparison sheet needs at least one image")
    titles = list(rows[0][1])
    panels = [[fit(images[name], _PANEL) for name in titles] for _, images, _ in rows]
    column = max(_PANEL // 2, *(image.shape[1] for row in panels for image in row))  # not too narrow for the caption
    heights = [max(image.shape[0] for image in row) for row in panels]
    head, caption_height = _MARGIN + _TITLE + 12, _TEXT + 26
    width = len(titles) * column + (len(titles) - 1) * _GAP + 2 * _MARGIN
    height = head + sum(heights) + (len(rows) + bool(note)) * caption_height
    canvas = Image.new("RGB", (width, height), (_WHITE,) * 3)
    draw = ImageDraw.Draw(canvas)
    title, text = ImageFont.load_default(_TITLE), ImageFont.load_default(_TEXT)
    lefts = [_MARGIN + i * (column + _GAP) for i in range(len(titles))]
    for left, word in zip(lefts, titles, strict=True):
        draw.text((left + column // 2, head - 12), word, _INK, title, anchor="ms")
    top = head
    for images, row_height, (name, _, caption) in zip(panels, heights, rows, strict=True):
        for left, image in zip(lefts, images, strict=True):
            canvas.paste(Image.fromarray(image), (left + (column - image.shape[1]) // 2, top))
        top += row_height + caption_height
        draw.text((_MARGIN, top - 18), name, _INK, text, anchor="ls")
        draw.text((width - _MARGIN, top - 18), caption, _GRAY, text, anchor="rs")
    draw.text((_MARGIN, height - 18), note, _GRAY, text, anchor="ls")
    write_image(path, np.asarray(canvas))


def draw_set(per_image: Sequence[Mapping[str, Any]], pairs: Sequence[Pair], restored: Path, path: Path) -> None:
    """Write a picture of a set's best, median and worst image; the `restored` ones lie in a folder, as NAME.png.

    `per_image` holds each image's name and scores, as `evaluate` returns them.
    """
    ranked = sorted(per_image, key=lambda row: row["psnr"], reverse=True)
    shown = {(len(ranked) - 1) // 2: "median", 0: "best", len(ranked) - 1: "worst"}  # no image twice
    if len(ranked) == 1:
        shown = {0: "only image"}
    by_name = {pair.name: pair for pair in pairs}
    rows = []
    for rank, place in sorted(shown.items()):
        row = ranked[rank]
        degraded, target, _ = read_pair(by_name[row["name"]])
        image = read_image(restored / f"{row['name']}.png")
        caption = (
            f"PSNR {row['input_psnr']:.2f} -> {row['psnr']:.2f} dB   SSIM {row['input_ssim']:.3f} -> {row['ssim']:.3f}"
        )
        images = {"input": degraded, "restored": image, "target": target, "error": error_map(image, target)}
        rows.append((f"{place}: {row['name']}", images, caption))
    comparison_sheet(rows, path, f"error: {ERROR_SCALE}")
