"""Make pairs of sharp photographs: `python tools/degrade.py rain|blur|shake FOLDER -o OUT`.

OUT gets input/ and target/, like any other data set: `test.py --opts TEST.DATASETS OUT` scores on it.
"""
from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock, Timeout
from tqdm import tqdm

from m3snet.utils.cli import UserError, run_program, to_path
from m3snet.utils.data.blur import BLUR, shake
from m3snet.utils.data.pairs import Pair, converted, find_photographs, seeded_by
from m3snet.utils.data.rain import RAIN
from m3snet.utils.images import ImageError, read_image, write_image

KINDS = {"rain": RAIN.apply, "blur": BLUR.apply, "shake": shake}
UNFINISHED = ".unfinished-pairs"  # in OUT, until all pairs are written


def main(argv: Sequence[str] | None = None) -> None:
    """Write the pairs that the command line describes; photographs that cannot be read are listed at the end.

    OUT gets input/ and target/ when all pairs are written, not before.

    Raises:
        UserError: OUT holds pairs already, another run is writing it, or photographs cannot be read; the pairs of the
            others are made.
    """
    args = parse(argv)
    photographs = find_photographs([args.folder])
    for folder in (args.out / "input", args.out / "target"):
        if folder.exists():
            raise UserError(f"{folder}: is there already; name another OUT, or delete it")
    work = args.out / UNFINISHED
    lock = FileLock(work / "lock")  # the operating system's: it ends with its process, however that ends
    failed: list[str] = []
    changes: list[str] = []
    try:
        work.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
        for side in ("input", "target"):
            shutil.rmtree(work / side, ignore_errors=True)  # of a run that was killed
        for photograph in tqdm(photographs, unit=" images", disable=not sys.stderr.isatty()):
            try:
                changes += write_pair(args.kind, photograph, args.seed, work)
            except ImageError as error:
                failed.append(str(error))
        if len(failed) < len(photographs):
            for side in ("input", "target"):
                (work / side).rename(args.out / side)
    except Timeout as error:
        raise UserError(f"{work}: another run is writing it; wait for it, or name another OUT") from error
    finally:
        if lock.is_locked:
            lock.release()
            shutil.rmtree(work)
    print(f"{len(photographs) - len(failed)} pairs: {args.out}/input, {args.out}/target")
    if told := converted(changes, len(photographs)):
        print(told)
    if failed:
        raise UserError(f"{len(failed)} photograph(s) cannot be read:\n  " + "\n  ".join(failed))


def write_pair(kind: str, photograph: Pair, seed: int, out: Path) -> list[str]:
    """Degrade a photograph, and write both versions below `out`; they depend on kind, seed and name only.

    Returns what was converted as it was read, in words.
    """
    changes: list[str] = []
    target = read_image(photograph.target, changes)
    degraded = KINDS[kind](target, seeded_by(photograph.name, seed))
    write_image(out / "target" / f"{photograph.name}.png", target)
    write_image(out / "input" / f"{photograph.name}.png", degraded)
    return changes


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="degrade.py",
        description="Make pairs of degraded and sharp images from sharp photographs.",
        epilog="rain and blur are what training makes on the fly, of any strength (docs/synthesis.md); shake is the "
        "blur of a shaken camera alone. What becomes of a photograph depends on its name and the seed only.",
    )
    parser.add_argument("kind", choices=KINDS, help="what is done to the photographs")
    parser.add_argument("folder", metavar="FOLDER", type=to_path, help="the sharp photographs")
    parser.add_argument("-o", "--out", metavar="OUT", required=True, type=to_path, help="gets input/ and target/")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


if __name__ == "__main__":
    run_program(main)
