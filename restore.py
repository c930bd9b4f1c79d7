"""Restore photographs: `python restore.py rain|blur PHOTO [PHOTO ...] -o OUT`."""
from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from natsort import natsorted

from m3snet.models.weights import find_weights, released
from m3snet.utils.cli import UserError, run_program
from m3snet.utils.files import check_outputs
from m3snet.utils.images import WRITTEN_SUFFIXES, Photograph, check_can_hold, read_photograph, write_photograph
from m3snet.utils.restoring.backends import BACKENDS, PRECISIONS
from m3snet.utils.restoring.photographs import restore_photograph
from m3snet.utils.restoring.restorer import Restorer, warn_of_other_task

if TYPE_CHECKING:
    from m3snet.utils.scoring.pictures import Row

WEIGHTS = {"rain": "derain", "blur": "deblur"}  # the released weights that remove it


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
    photos = find_photographs(args.photos)
    jobs = plan(photos, args.out)
    outputs = [out for _, out in jobs]
    if args.sheet:
        check_can_hold(args.sheet, Photograph(np.zeros((1, 1, 3), np.uint8)))
        outputs.append(args.sheet)
    check_outputs(outputs, photos, args.overwrite)
    file = find_weights(args.weights or WEIGHTS[args.task])
    warn_of_other_task(file, released()[WEIGHTS[args.task]]["task"])
    restorer = Restorer(file, args.device, args.precision, args.backend, args.tlc, args.tile)
    print(restorer, flush=True)
    failed = 0
    rows: list[Row] = []
    for photo, out in jobs:
        try:
            start = time.perf_counter()
            photograph = read_photograph(photo)
            check_can_hold(out, photograph)
            restored = restore_photograph(restorer, photograph)
            write_photograph(out, restored)
        except (OSError, UserError) as error:  # the photographs after it may be good
            named = str(photo) in str(error) or str(out) in str(error)
            print(f"error: {error}" if named else f"error: {photo}: {error}", file=sys.stderr)
            failed += 1
            continue
        height, width = photograph.pixels.shape[:2]
        print(f"{photo}  {width}x{height}  {time.perf_counter() - start:.1f} s  -> {out}", flush=True)
        if args.sheet:
            rows.append(sheet_row(photo.name, photograph, restored))
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
        type=_path,
        help="PNG, JPEG, TIFF, WebP, AVIF, ...; what is written has 8 bits",
    )
    parser.add_argument(
        "-o",
        "--out",
        metavar="OUT",
        required=True,
        type=_path,
        help="where to write: with one photograph a file (out.png), else a folder that gets PHOTO's name as .png; a "
        "name without a suffix is a folder, made when missing",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="write over files that exist already (never over a photograph)"
    )
    parser.add_argument(
        "--sheet",
        metavar="FILE",
        type=_path,
        help="also write a picture of all photographs, restored, and what was changed, side by side",
    )
    parser.add_argument(
        "--weights",
        metavar="FILE|NAME",
        help="a checkpoint, or the name of released weights (default: derain for rain, deblur for blur)",
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps (default: the fastest that is there)")
    parser.add_argument(
        "--backend",
        choices=["auto", *BACKENDS],
        default="auto",
        help="what runs the network; auto (default): the fastest that was measured for the device",
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
        help="restore a photograph with more pixels than PIXELS x PIXELS in overlapping tiles of at most that side "
        "(default: what fits into the memory; at least twice the TLC window, by which they overlap; 0: always whole)",
    )
    parser.add_argument(
        "--no-tlc",
        dest="tlc",
        action="store_false",
        help="pool over the whole image (with --tile 0, or else a tile), not over windows of the size the network was "
        "trained on",
    )
    return parser.parse_args(argv)


def find_photographs(names: Sequence[Path]) -> list[Path]:
    """The files that the command line names; patterns (*.jpg) are expanded, which shells on Windows leave to programs.

    Raises:
        UserError: one is missing, or a folder.
    """
    photos: list[Path] = []
    for name in names:
        if name.is_dir():
            raise UserError(f"{name} is a folder: name the photographs in it, for example {name / '*.jpg'}")
        found = [str(name)] if name.is_file() else natsorted(glob(str(name)))  # noqa: PTH207, it may be absolute
        matches = [match for match in map(Path, found) if match.is_file()]
        if not matches:
            raise UserError(f"{name}: no such file")
        photos += matches
    return photos


def plan(photos: Sequence[Path], out: Path) -> list[tuple[Path, Path]]:
    """Which photograph is written where.

    Raises:
        UserError: two would be written to one file, or `out` is neither a folder nor a file of a known kind.
    """
    is_file = out.suffix != "" and not out.is_dir()
    if is_file and out.suffix.lower() not in WRITTEN_SUFFIXES:
        known = ", ".join(sorted(WRITTEN_SUFFIXES))
        raise UserError(f"-o {out}: unknown suffix; a file needs one of {known}; a folder of such a name must exist")
    if not is_file and out.is_file():
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


def sheet_row(name: str, photograph: Photograph, restored: Photograph) -> Row:
    """A photograph, restored, and where it was changed, each in sRGB and at the size that a sheet shows."""
    from m3snet.utils.scoring.metrics import psnr  # late, with its report: they load what only a sheet needs
    from m3snet.utils.scoring.pictures import error_map, fit_panel

    before, after = photograph.rgb(), restored.rgb()
    changed = psnr(after, before)
    images = {"photograph": before, "restored": after, "change": error_map(after, before)}
    caption = f"restored against photograph: {changed:.1f} dB RGB"
    return name, {title: fit_panel(picture) for title, picture in images.items()}, caption


def _path(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("expected a name, found an empty one")
    return Path(text)


if __name__ == "__main__":
    run()
