"""Restore photographs: `python restore.py rain|blur PHOTO [PHOTO ...] -o OUT`."""
from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

import m3snet.Deblurring.dataset
import m3snet.Deraining.dataset
from m3snet.models.weights import find_weights
from m3snet.utils.images import IMAGE_SUFFIXES, ImageError, read_image, write_image
from m3snet.utils.restoring.restorer import load_restorer, restore_image, warn_of_other_task
from m3snet.utils.restoring.tiling import OVERLAP
from m3snet.utils.scoring.metrics import psnr
from m3snet.utils.scoring.report import ERROR_SCALE, Row, comparison_sheet, error_map, fit_panel

TASKS = {"rain": m3snet.Deraining.dataset.TASK, "blur": m3snet.Deblurring.dataset.TASK}


def main(argv: Sequence[str] | None = None) -> None:
    """Restore the photographs that the command line names; exits with a message when one cannot be."""
    args = parse(argv)
    try:
        jobs = plan(args.photos, args.out)
        if args.sheet and args.sheet.suffix.lower() not in IMAGE_SUFFIXES:
            known = ", ".join(sorted(IMAGE_SUFFIXES))
            raise ValueError(f"--sheet {args.sheet}: unknown suffix; expected one of {known}")
        if args.tile and args.tile < 2 * OVERLAP:
            raise ValueError(f"--tile {args.tile}: expected 0, or at least {2 * OVERLAP} pixels")
        task = TASKS[args.task]
        weights = args.weights or task.weights
        warn_of_other_task(find_weights(weights), task.name, partial(print, file=sys.stderr))
        model = load_restorer(weights, tlc=args.tlc)
    except (OSError, ValueError) as error:
        sys.exit(f"restore.py: {error}")
    failed = 0
    rows: list[Row] = []
    for photo, out in jobs:
        try:
            start = time.perf_counter()
            image = read_image(photo)
            restored = restore_image(model, image, args.tile)
            write_image(out, restored)
            height, width = image.shape[:2]
            print(f"{photo}  {width}x{height}  {time.perf_counter() - start:.1f} s  -> {out}", flush=True)
            if args.sheet:
                rows.append(sheet_row(photo.name, image, restored))
        except (OSError, ImageError) as error:  # the photographs after it may be good
            print(f"restore.py: {error}", file=sys.stderr)
            failed += 1
    if rows:
        try:
            comparison_sheet(rows, args.sheet, f"change: {ERROR_SCALE}")
        except (OSError, ImageError) as error:
            sys.exit(f"restore.py: --sheet: {error}")
        print(f"side by side: {args.sheet}")
    if failed:
        sys.exit(f"restore.py: {failed} of {len(jobs)} photographs could not be restored")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="restore.py",
        description="Remove rain or motion blur from photographs.",
        epilog="examples:\n"
        "  python restore.py rain street.jpg -o street_dry.png\n"
        "  python restore.py blur a.jpg b.jpg c.jpg -o restored/",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("task", choices=TASKS, help="what to remove")
    parser.add_argument(
        "photos",
        metavar="PHOTO",
        nargs="+",
        type=Path,
        help="PNG, JPEG, TIFF, WebP, ...; what is written has 8 bits and no transparency",
    )
    parser.add_argument(
        "-o",
        "--out",
        metavar="OUT",
        required=True,
        type=Path,
        help="where to write: with one photograph a file (out.png), else a folder that gets PHOTO's name as .png; a "
        "name without a suffix is a folder, made when missing",
    )
    parser.add_argument(
        "--sheet",
        metavar="FILE",
        type=Path,
        help="also write a picture of all photographs, restored, and what was changed, side by side",
    )
    parser.add_argument(
        "--weights",
        metavar="FILE|NAME",
        help="a checkpoint, or the name of released weights (default: derain for rain, deblur for blur)",
    )
    parser.add_argument(
        "--tile",
        metavar="PIXELS",
        type=int,
        default=960,
        help="restore a photograph with more pixels than PIXELS x PIXELS in overlapping tiles of at most that side, "
        f"to save memory (default 960, at least {2 * OVERLAP}; 0: always whole)",
    )
    parser.add_argument(
        "--no-tlc",
        dest="tlc",
        action="store_false",
        help="pool over the whole image (with --tile 0, or else a tile), not over windows of the size the network was "
        "trained on",
    )
    return parser.parse_args(argv)


def sheet_row(name: str, image: np.ndarray, restored: np.ndarray) -> Row:
    """A photograph, restored, and where it was changed, each at the size that a sheet shows."""
    changed = psnr(restored, image)
    images = {"photograph": image, "restored": restored, "change": error_map(restored, image)}
    caption = f"restored against photograph: {changed:.1f} dB RGB"
    return name, {title: fit_panel(picture) for title, picture in images.items()}, caption


def plan(photos: Sequence[Path], out: Path) -> list[tuple[Path, Path]]:
    """Which photograph is written where.

    Raises:
        ValueError: a photograph is missing, or would be overwritten, or two would be written to one file, or `out` is
            neither a folder nor a file of a known kind.
    """
    for photo in photos:
        if photo.is_dir():
            raise ValueError(f"{photo} is a folder: name the photographs in it, for example {photo / '*.jpg'}")
        if not photo.is_file():
            raise ValueError(f"{photo}: no such file")
    is_file = out.suffix != "" and not out.is_dir()
    if is_file and out.suffix.lower() not in IMAGE_SUFFIXES:
        known = ", ".join(sorted(IMAGE_SUFFIXES))
        raise ValueError(f"-o {out}: unknown suffix; a file needs one of {known}; a folder of such a name must exist")
    if not is_file and out.is_file():
        raise ValueError(f"-o {out} is a file without a suffix, and would have to be a folder")
    if is_file and len(photos) > 1:
        raise ValueError(f"-o {out} is one file; {len(photos)} photographs need a folder")
    jobs: dict[Path, Path] = {}
    for photo in photos:
        target = out if is_file else out / f"{photo.stem}.png"
        if target in jobs:
            raise ValueError(f"{jobs[target]} and {photo} would both be written to {target}: restore them one by one")
        if target.exists() and any(target.samefile(other) for other in photos):
            raise ValueError(f"{target} is a photograph to restore and would be overwritten: choose another -o")
        jobs[target] = photo
    return [(photo, target) for target, photo in jobs.items()]


if __name__ == "__main__":
    main()
