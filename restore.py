"""Restore photographs and videos: `python restore.py rain|blur PHOTO|VIDEO|FOLDER [...] -o OUT`."""
from __future__ import annotations

import argparse
import errno
import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from tqdm import tqdm

from m3snet.models.weights import find_weights, released
from m3snet.utils.cli import UserError, run_program, to_path, warn
from m3snet.utils.files import check_outputs
from m3snet.utils.images import (
    WRITTEN_SUFFIXES,
    Photograph,
    check_can_hold,
    read_photograph,
    suffix_of,
    write_photograph,
)
from m3snet.utils.restoring.backends import BACKENDS, PRECISIONS
from m3snet.utils.restoring.jobs import DEVELOP, FALLBACK, Job, find_photographs, plan
from m3snet.utils.restoring.photographs import restore_photograph
from m3snet.utils.restoring.restorer import Restorer, warn_of_other_task
from m3snet.utils.restoring.video import is_video, restore_video

WEIGHTS = {"rain": "derain", "blur": "deblur"}  # the released weights that remove it
STREAM = Path("-")  # stdin as PHOTO, stdout as OUT
GAP = 8  # pixels, white, between before and after


def run() -> None:
    """The command m3snet-restore."""
    run_program(main)


def main(argv: Sequence[str] | None = None) -> None:
    """Restore the photographs and videos that the command line names.

    Raises:
        UserError, OSError: something is asked that cannot be done, and nothing was restored; or, at the end, some of
            the files could not be.
    """
    args = parse(argv)
    if STREAM in (args.out, *args.photos):
        restore_piped(args)
    else:
        restore_files(args)


def restore_files(args: argparse.Namespace) -> None:
    """Restore photographs, videos and folders of them; what is finished already is left as it is."""
    found = find_photographs(args.photos, args.out)
    jobs = plan(found, args.out, args.format, args.compare)
    to_folder = [job.out for job in jobs] != [args.out]
    check_outputs((path for job in jobs for path in job.outputs), found.photos, args.overwrite or to_folder)
    missing = {job: [path for path in job.outputs if args.overwrite or not path.exists()] for job in jobs}
    todo = [job for job in jobs if missing[job]]
    if found.others:
        print(f"neither images nor videos, left out: {found.others}")
    if found.raws:
        print(f"raw files of cameras, left out: {found.raws}; {DEVELOP}")
    if todo:
        restorer = open_restorer(args)
        print(restorer, flush=True)
    done, left, failures = 0, len(todo), found.unread

    def tally() -> str:
        there = len(jobs) - len(todo)
        were = f"{'was' if there == 1 else 'were'} there already"
        counts = {"restored": done, were: there, "failed": len(failures), "left to do": left}
        return ", ".join(f"{count} {what}" for what, count in counts.items() if count)

    on_terminal = len(todo) > 1 and sys.stderr.isatty()
    bar = tqdm(todo, unit="file", leave=False, dynamic_ncols=True, smoothing=0, disable=not on_terminal)
    try:
        for job in bar:
            bar.set_postfix_str(job.photo.name)
            try:
                line = restore_file(restorer, job, missing[job], args.overwrite)
            except (OSError, UserError) as error:  # the files after it may be good
                if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise UserError(f"{job.out}: {error.strerror}") from error  # none of them could be written
                named = any(str(path) in str(error) for path in (job.photo, *job.outputs))
                failures.append(str(error) if named else f"{job.photo}: {error}")
                left -= 1
            else:
                done, left = done + 1, left - 1  # before the line: Ctrl-C may come while it is printed
                if not (on_terminal and sys.stdout.isatty()):
                    print(line, flush=True)
    finally:
        bar.close()
        if len(jobs) > 1:
            for failure in failures:
                print(f"error: {failure}", file=sys.stderr)
            if left:  # Ctrl-C, or a full disk
                print(tally())
    if failures:
        raise UserError(tally() if len(jobs) > 1 else "; ".join(failures))
    if len(jobs) > 1 or not todo:
        print(tally())


def restore_file(restorer: Restorer, job: Job, missing: Sequence[Path], overwrite: bool) -> str:
    """Restore one file and write those that are `missing` of its outputs; a line that says so comes back.

    Raises:
        UserError, OSError: it cannot be read, restored or written; or, without `overwrite`, another program has
            written one of them meanwhile.
    """
    start = time.perf_counter()
    if is_video(job.photo):
        frames = restore_video(restorer, job.photo, job.out, overwrite=overwrite)
        return f"{job.photo}  {frames} frames  {time.perf_counter() - start:.1f} s  -> {job.out}"
    photograph = read_photograph(job.photo)
    if lost := [*photograph.notes, *check_can_hold(job.out, photograph)]:
        warn(f"{job.photo}: {', '.join(lost)}")
    height, width = photograph.pixels.shape[:2]
    if job.comparison:
        wide = np.broadcast_to(photograph.pixels[:1, :1], (height, 2 * width + GAP, 3))
        check_can_hold(job.comparison, replace(photograph, pixels=wide))
    restored = restore_photograph(restorer, photograph)
    if job.out in missing:
        write_photograph(job.out, restored, overwrite)
    if job.comparison and job.comparison in missing:
        write_photograph(job.comparison, side_by_side(photograph, restored), overwrite)
    return f"{job.photo}  {width}x{height}  {time.perf_counter() - start:.1f} s  -> {job.out}"


def side_by_side(before: Photograph, after: Photograph) -> Photograph:
    """Two photographs of one size as one picture, with a white gap between them."""
    white = np.iinfo(after.pixels.dtype).max
    gap = np.full_like(after.pixels, white, shape=(len(after.pixels), GAP, 3))
    pixels = np.hstack([before.pixels, gap, after.pixels])
    if before.alpha is None or after.alpha is None:
        return replace(after, pixels=pixels)
    return replace(after, pixels=pixels, alpha=np.hstack([before.alpha, gap[..., 0], after.alpha]))


def restore_piped(args: argparse.Namespace) -> None:
    """Restore one photograph that comes from stdin, goes to stdout, or both; messages go to stderr."""
    (photo, *others), out = args.photos, args.out
    if others:
        raise UserError("- stands for one photograph, in a pipe: name no other")
    if is_video(photo) or is_video(out):
        raise UserError("- stands for a photograph; a video needs names of files")
    if args.compare or (args.format and out != STREAM):
        raise UserError(f"--{'compare' if args.compare else 'format'} does not go with - here")
    if photo == STREAM and sys.stdin.isatty():
        raise UserError("- reads a photograph from a pipe: cat a.jpg | python restore.py ...")
    if out == STREAM and sys.stdout.isatty():
        raise UserError("-o - writes a photograph into a pipe or a file: python restore.py ... > a.jpg")
    if out != STREAM:
        check_outputs([out], [], args.overwrite)
    with TemporaryDirectory(prefix="m3snet-") as folder:
        source = Path(folder, "stdin") if photo == STREAM else photo
        if photo == STREAM:
            with source.open("wb") as file:
                shutil.copyfileobj(sys.stdin.buffer, file)
        try:
            suffix = args.format or suffix_of(source)
            result = Path(folder, "stdout" + (suffix if suffix in WRITTEN_SUFFIXES else FALLBACK))
            restorer = open_restorer(args)
            print(restorer, file=sys.stderr)
            job = Job(source, result if out == STREAM else out)
            line = restore_file(restorer, job, job.outputs, args.overwrite)
        except UserError as error:
            raise UserError(str(error).replace(f"{folder}{os.sep}", "")) from error
        print(line.replace(f"{folder}{os.sep}", ""), file=sys.stderr)
        if out == STREAM:
            with result.open("rb") as file:
                shutil.copyfileobj(file, sys.stdout.buffer)
            sys.stdout.flush()


def open_restorer(args: argparse.Namespace) -> Restorer:
    """What the command line asks for, ready."""
    file = find_weights(args.weights or WEIGHTS[args.task])
    warn_of_other_task(file, released()[WEIGHTS[args.task]]["task"])
    return Restorer(
        file, args.device, args.precision, args.backend, args.tlc, args.tile, args.ensemble, args.strength
    )


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        usage="%(prog)s rain|blur PHOTO|VIDEO|FOLDER [...] -o OUT [options]",
        description="Remove rain or motion blur from photographs and videos.",
        epilog="examples:\n"
        "  %(prog)s rain street.jpg -o street_dry.jpg\n"
        "  %(prog)s rain clip.mp4 -o clip_dry.mp4\n"
        "  %(prog)s rain holiday/ -o holiday_dry/\n"
        "  %(prog)s blur a.jpg b.jpg c.jpg -o restored/ --compare",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("task", type=_task, choices=WEIGHTS, help="what to remove")
    parser.add_argument(
        "photos",
        metavar="PHOTO",
        nargs="+",
        type=to_path,
        help="a photograph (JPEG, PNG, TIFF, WebP, ...), a video (MP4, MOV, MKV, WebM), a folder of them, or a pattern "
        "('*.jpg'); -: a photograph from a pipe",
    )
    files = parser.add_argument_group("files")
    files.add_argument(
        "-o",
        "--out",
        metavar="OUT",
        required=True,
        type=to_path,
        help="where to write: of one PHOTO a file (dry.jpg), else a folder, in which names, formats and "
        "subfolders stay; a name without a suffix is a folder, made when missing; -: into a pipe",
    )
    files.add_argument(
        "--overwrite",
        action="store_true",
        help="restore again what is in OUT already, and write over it; never over a PHOTO",
    )
    files.add_argument(
        "--format",
        metavar="SUFFIX",
        type=_format,
        help="write all photographs as png, jpg, tif, ... (default: as each is)",
    )
    files.add_argument(
        "--compare",
        action="store_true",
        help="also write NAME-compare, a photograph before and after, side by side",
    )
    effect = parser.add_argument_group("effect")
    effect.add_argument(
        "--strength",
        metavar="0..1",
        type=float,
        default=1.0,
        help="how much of the effect: 0 none, 1 all (default)",
    )
    effect.add_argument(
        "--ensemble",
        action="store_true",
        help="the mean of eight views (mirrored, turned): a little better, eight times as slow",
    )
    effect.add_argument(
        "--weights",
        metavar="FILE|NAME",
        help="a checkpoint, or the name of released weights (default: derain for rain, deblur for blur)",
    )
    machine = parser.add_argument_group("machine")
    machine.add_argument("--device", help="cpu, cuda, cuda:1, mps (default: the fastest that is there)")
    machine.add_argument(
        "--backend",
        metavar="NAME",
        choices=["auto", *BACKENDS],
        default="auto",
        help=f"what runs the network: {', '.join(BACKENDS)} (default: the fastest that was measured for the device)",
    )
    machine.add_argument(
        "--precision",
        metavar="NAME",
        choices=["auto", *PRECISIONS],
        default="auto",
        help=f"{', '.join(PRECISIONS)} (default: bfloat16 where the processor has instructions for it)",
    )
    machine.add_argument(
        "--tile",
        metavar="PIXELS",
        type=int,
        help="restore a photograph with more pixels than PIXELS x PIXELS in overlapping tiles of at most that side "
        "(default: what fits into the memory; 0: always whole)",
    )
    machine.add_argument(
        "--no-tlc",
        dest="tlc",
        action="store_false",
        help="pool over the whole image (with --tile 0, or else a tile), not over windows of the size the network was "
        "trained on",
    )
    return parser.parse_args(argv)


def _task(text: str) -> str:
    if text not in WEIGHTS:
        tasks = " or ".join(WEIGHTS)
        raise argparse.ArgumentTypeError(f"expected {tasks}, found {text}: restore.py rain {text} -o OUT")
    return text


def _format(text: str) -> str:
    suffix = f".{text.lower().removeprefix('.')}"
    if suffix not in WRITTEN_SUFFIXES:
        known = ", ".join(sorted(known[1:] for known in WRITTEN_SUFFIXES))
        raise argparse.ArgumentTypeError(f"expected one of {known}, found {text}")
    return suffix


if __name__ == "__main__":
    run()
