"""Restore photographs: `python restore.py rain|blur PHOTO [PHOTO ...] -o OUT`."""
from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from m3snet.models.weights import find_weights, released
from m3snet.utils.cli import UserError, run_program
from m3snet.utils.files import check_outputs
from m3snet.utils.images import IMAGE_SUFFIXES, read_image, write_image
from m3snet.utils.restoring.restorer import (
    PRECISIONS,
    fast_restorer,
    load_restorer,
    restore_image,
    smallest_tile,
    warn_of_other_task,
)

if TYPE_CHECKING:
    from m3snet.utils.scoring.pictures import Row

WEIGHTS = {"rain": "derain", "blur": "deblur"}  # the released weights that remove it
TILE = 960  # pixels


def run() -> None:
    """The command m3snet-restore."""
    run_program(main)


def main(argv: Sequence[str] | None = None) -> None:
    """Restore the photographs that the command line names.

    Raises:
        UserError, OSError: something is asked that cannot be done, and nothing was restored; or, at the end, some of
            the photographs could not be.
    """
    args = parse(argv)
    jobs = plan(args.photos, args.out)
    sheets = [args.sheet] if args.sheet else []
    for sheet in sheets:
        _check_suffix(f"--sheet {sheet}", sheet)
    check_outputs([*(out for _, out in jobs), *sheets], args.photos, args.overwrite)
    file = find_weights(args.weights or WEIGHTS[args.task])
    warn_of_other_task(file, released()[WEIGHTS[args.task]]["task"])
    model = fast_restorer(load_restorer(file, tlc=args.tlc), args.precision)
    smallest = smallest_tile(model)
    tile = max(TILE, smallest) if args.tile is None else args.tile
    if tile and tile < smallest:
        raise UserError(f"--tile {tile}: with these weights expected 0, or at least {smallest} pixels")
    print(f"{file.stem}: {str(model.dtype).removeprefix('torch.')} on {next(model.parameters()).device}", flush=True)
    failed = 0
    rows: list[Row] = []
    for photo, out in jobs:
        try:
            start = time.perf_counter()
            image = read_image(photo)
            restored = restore_image(model, image, tile)
            write_image(out, restored)
        except (OSError, UserError) as error:  # the photographs after it may be good
            named = str(photo) in str(error) or str(out) in str(error)
            print(f"error: {error}" if named else f"error: {photo}: {error}", file=sys.stderr)
            failed += 1
            continue
        height, width = image.shape[:2]
        print(f"{photo}  {width}x{height}  {time.perf_counter() - start:.1f} s  -> {out}", flush=True)
        if args.sheet:
            rows.append(sheet_row(photo.name, image, restored))
    if rows:
        from m3snet.utils.scoring.pictures import ERROR_SCALE, comparison_sheet

        comparison_sheet(rows, args.sheet, f"change: {ERROR_SCALE}")
        print(f"side by side: {args.sheet}")
    if failed:
        raise UserError(f"{failed} of {len(jobs)} photographs could not be restored")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="Remove rain or motion blur from photographs.",
        epilog="examples:\n"
        "  %(prog)s rain street.jpg -o street_dry.png\n"
        "  %(prog)s blur a.jpg b.jpg c.jpg -o restored/",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("task", choices=WEIGHTS, help="what to remove")
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
        "--overwrite", action="store_true", help="write over files that exist already (never over a photograph)"
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
        "--precision",
        choices=["auto", *PRECISIONS],
        default="auto",
        help="of the network's features; auto (default): bfloat16 where the processor has instructions for it",
    )
    parser.add_argument(
        "--tile",
        metavar="PIXELS",
        type=int,
        help="restore a photograph with more pixels than PIXELS x PIXELS in overlapping tiles of at most that side, "
        f"to save memory (default {TILE}; at least twice the TLC window, by which they overlap; 0: always whole)",
    )
    parser.add_argument(
        "--no-tlc",
        dest="tlc",
        action="store_false",
        help="pool over the whole image (with --tile 0, or else a tile), not over windows of the size the network was "
        "trained on",
    )
    return parser.parse_args(argv)


def plan(photos: Sequence[Path], out: Path) -> list[tuple[Path, Path]]:
    """Which photograph is written where.

    Raises:
        UserError: a photograph is missing, two would be written to one file, or `out` is neither a folder nor a file of
            a known kind.
    """
    for photo in photos:
        if photo.is_dir():
            raise UserError(f"{photo} is a folder: name the photographs in it, for example {photo / '*.jpg'}")
        if not photo.is_file():
            raise UserError(f"{photo}: no such file")
    is_file = out.suffix != "" and not out.is_dir()
    if is_file:
        _check_suffix(f"-o {out}", out, "; a folder of such a name must exist")
    elif out.is_file():
        raise UserError(f"-o {out} is a file without a suffix, and would have to be a folder")
    if is_file and len(photos) > 1:
        raise UserError(f"-o {out} is one file; {len(photos)} photographs need a folder")
    jobs: dict[Path, Path] = {}
    for photo in photos:
        target = out if is_file else out / f"{photo.stem}.png"
        if target in jobs:
            raise UserError(f"{jobs[target]} and {photo} would both be written to {target}: restore them one by one")
        jobs[target] = photo
    return [(photo, target) for target, photo in jobs.items()]


def sheet_row(name: str, image: np.ndarray, restored: np.ndarray) -> Row:
    """A photograph, restored, and where it was changed, each at the size that a sheet shows."""
    from m3snet.utils.scoring.metrics import psnr  # late, with its report: they load what only a sheet needs
    from m3snet.utils.scoring.pictures import error_map, fit_panel

    changed = psnr(restored, image)
    images = {"photograph": image, "restored": restored, "change": error_map(restored, image)}
    caption = f"restored against photograph: {changed:.1f} dB RGB"
    return name, {title: fit_panel(picture) for title, picture in images.items()}, caption


def _check_suffix(option: str, path: Path, hint: str = "") -> None:
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        known = ", ".join(sorted(IMAGE_SUFFIXES))
        raise UserError(f"{option}: unknown suffix; a file needs one of {known}{hint}")


if __name__ == "__main__":
    run()
