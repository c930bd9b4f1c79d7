"""Draw what restoring does: `python fig/draw_samples.py -o fig/samples.jpg`.

One row per task: a bundled sample through the released weights (or those of --rain and --blur), beside its input and
target, each with an enlarged detail.
"""
from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from m3snet.Deblurring.dataset import TASK as DEBLURRING
from m3snet.Deraining.dataset import TASK as DERAINING
from m3snet.utils.cli import run_program
from m3snet.utils.data.samples import sample_pairs
from m3snet.utils.images import read_image
from m3snet.utils.restoring.restorer import Restorer
from m3snet.utils.scoring.metrics import PROTOCOLS
from m3snet.utils.scoring.pictures import Row, comparison_sheet
from m3snet.utils.tasks import Task


class Shown(NamedTuple):
    """A row of the picture: a photograph, what of it is shown, and which detail of that is enlarged."""

    task: Task
    photograph: str  # a name in utils.data.samples
    view: tuple[int, int, int, int]  # left, top, width, height in the photograph
    detail: tuple[int, int]  # left and top in the view


SHOWN = (
    Shown(DERAINING, "astronaut", (60, 0, 400, 290), (126, 90)),
    Shown(DEBLURRING, "chelsea", (0, 0, 400, 290), (126, 66)),
)
DETAIL, ZOOM = 72, 2  # side of the enlarged square, in pixels of the photograph
FRAME = 3  # pixels, white, around the detail


def draw(weights: dict[str, str], path: str | Path) -> None:
    """Restore the samples with `weights` (degradation -> file or released name) and write the picture.

    Raises:
        WeightsError: no such weights, or not those of an M3SNet.
        ImageError, OSError: the picture cannot be written.
    """
    with tempfile.TemporaryDirectory() as folder:
        rows = [_row(shown, weights[shown.task.degradation.name], Path(folder)) for shown in SHOWN]
    comparison_sheet(rows, path)


def _row(shown: Shown, weights: str, folder: Path) -> Row:
    task, name = shown.task, shown.photograph
    pairs = sample_pairs(task.degradation, folder / task.degradation.name)
    degraded, target = (read_image(pairs / side / f"{name}.png") for side in ("input", "target"))
    restored = Restorer(weights, precision="float32", backend="exact", tile=0)(degraded)
    score = PROTOCOLS[task.protocol]
    before, after = score(degraded, target), score(restored, target)
    caption = (
        f"PSNR {before['psnr']:.2f} -> {after['psnr']:.2f} dB   SSIM {before['ssim']:.3f} -> {after['ssim']:.3f}"
        f"   ({task.protocol}, whole image)"
    )
    images = {"input": degraded, "restored": restored, "target": target}
    return f"{task.name}: {name}", {title: with_detail(image, shown) for title, image in images.items()}, caption


def with_detail(image: np.ndarray, shown: Shown) -> np.ndarray:
    """The view of an H x W x 3 uint8 image with its detail framed, and enlarged in the lower right corner."""
    left, top, width, height = shown.view
    view = image[top : top + height, left : left + width].copy()
    x, y = shown.detail
    detail = view[y : y + DETAIL, x : x + DETAIL]
    # Nearest: every pixel stays what the network made it.
    large = cv2.resize(detail, None, fx=ZOOM, fy=ZOOM, interpolation=cv2.INTER_NEAREST)
    large = np.pad(large, ((FRAME, FRAME), (FRAME, FRAME), (0, 0)), constant_values=255)
    cv2.rectangle(view, (x, y), (x + DETAIL - 1, y + DETAIL - 1), (255,) * 3, 2)
    view[-large.shape[0] :, -large.shape[1] :] = large
    return view


def main(argv: Sequence[str] | None = None) -> None:
    """Draw the picture that the command line describes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for shown in SHOWN:
        task = shown.task
        parser.add_argument(
            f"--{task.degradation.name}",
            metavar="FILE|NAME",
            default=task.weights,
            help=f"weights for {task.name.lower()} (default: {task.weights})",
        )
    parser.add_argument("-o", "--out", metavar="FILE", type=Path, required=True)
    arguments = parser.parse_args(argv)
    names = [shown.task.degradation.name for shown in SHOWN]
    draw({name: getattr(arguments, name) for name in names}, arguments.out)
    print(arguments.out)


if __name__ == "__main__":
    run_program(main)
