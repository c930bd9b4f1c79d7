"""Preparing data sets: what prepare.py of both tasks does, from archives to training patches."""
from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from filelock import FileLock, Timeout
from tqdm import tqdm

from ..cli import to_path
from ..files import make_folder
from ..images import read_image, write_image
from ..tasks import Task
from .download import Archive, ArchiveError, fetch, unpack
from .pairs import Pair, PairError, check_sizes, find_pairs

LOCK = ".prepare.lock"


def prepare(
    task: Task, archives: Sequence[Archive], description: str | None, argv: Sequence[str] | None = None
) -> None:
    """Download, unpack and cut what the command line names; what is there already is left as it is.

    Raises:
        OutputError: nothing can be written below DATA.ROOT.
        ArchiveError, PairError, ImageError, OSError: see utils.data.download and `cut_patches`; or another prepare.py
            is at work there.
    """
    arguments = _parse(task, archives, description, argv)
    make_folder(arguments.root, "--root DIR")
    lock = FileLock(arguments.root / LOCK)  # the operating system's: it ends with its process, however that ends
    try:
        lock.acquire(timeout=0)
        _prepare(task, archives, arguments)
    except Timeout as error:
        raise ArchiveError(
            f"{arguments.root}: another prepare.py is at work there; wait for it, or name another --root DIR"
        ) from error
    finally:
        if lock.is_locked:
            lock.release()
            (arguments.root / LOCK).unlink(missing_ok=True)


def _prepare(task: Task, archives: Sequence[Archive], arguments: argparse.Namespace) -> None:
    root: Path = arguments.root
    training = [known.folder for known in task.train_sets.values()]
    folders = _folders(task)
    if arguments.archive:
        into = [arguments.folder] if arguments.folder else None
        counts = unpack(arguments.archive, root, folders, into)
        _say(counts, ", ".join(path.name for path in arguments.archive))
        if not counts:
            print("nothing to unpack: no pairs in it whose folder is not there already")
    else:
        for archive in archives:
            if arguments.sets and _stem(archive) not in arguments.sets:
                continue
            if arguments.patches and not arguments.sets and not set(archive.folders) & set(training):
                continue  # cutting patches needs no test set
            missing = [folder for folder in archive.folders if not (root / folder).exists()]
            for folder in archive.folders:
                if folder not in missing:
                    print(f"{folder}: is there already and is left as it is")
            if missing:
                path = fetch(archive, arguments.downloads or root / "archives")
                _say(unpack([path], root, folders, archive.folders), archive.name)
    if arguments.patches:
        there = [root / folder for folder in training if (root / folder).is_dir()]
        if not there:
            raise ArchiveError(f"{root}: no training set to cut; looked for {', '.join(training)}")
        for source in there:
            out = source.with_name(f"{source.name}_{arguments.patches}")
            if out.exists():
                print(f"{out}: is there already and is left as it is")
            else:
                number = cut_patches(source, out, arguments.patches, arguments.stride or arguments.patches // 2)
                print(f"{out}: {number:,} pairs of patches; to train on them: --opts TRAINING.TRAIN_DIR {out}")
    print(f"to check what is there: python -m m3snet.tools.check_data {root} --task {task.name}")


def cut_patches(folder: Path, out: Path, size: int, stride: int) -> int:
    """Cut every pair of `folder` into overlapping patches below `out`; returns their number.

    The last patch of a row or column ends at the border, so that no pixel is lost; images smaller than `size` stay
    as they are in that direction. `out` gets its name when all patches are written, not before.

    Raises:
        PairError, ImageError: `folder` holds no pairs, a pair differs in size, or an image cannot be read.
    """
    pairs = find_pairs(folder)
    work = out.with_name(f".cutting-{out.name}")
    shutil.rmtree(work, ignore_errors=True)  # of a run that was killed
    try:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            jobs = pool.map(lambda pair: _cut(pair, work, size, stride), pairs)
            progress = tqdm(jobs, desc=out.name, total=len(pairs), unit="image", dynamic_ncols=True, disable=None)
            number = sum(progress)
        work.rename(out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return number


def _cut(pair: Pair, out: Path, size: int, stride: int) -> int:
    if pair.input is None:
        raise PairError(f"{pair.target}: has no degraded partner")
    degraded, target = read_image(pair.input), read_image(pair.target)
    check_sizes(pair, degraded, target)
    corners = [
        (top, left) for top in _starts(target.shape[0], size, stride) for left in _starts(target.shape[1], size, stride)
    ]
    for number, (top, left) in enumerate(corners, start=1):
        for side, image in (("input", degraded), ("target", target)):
            # utils.data.pairs knows this suffix: patches of one image stay on one side of the validation split.
            write_image(out / side / f"{pair.name}_patch{number}.png", image[top : top + size, left : left + size])
    return len(corners)


def _starts(length: int, size: int, stride: int) -> list[int]:
    return [*range(0, length - size, stride), max(length - size, 0)]


def _say(counts: dict[str, int], source: str) -> None:
    for folder, number in counts.items():
        print(f"{folder}: {number:,} pairs from {source}")


def _folders(task: Task) -> list[str]:
    """Where all sets of a task lie, below DATA.ROOT."""
    train = [known.folder for known in task.train_sets.values()]
    return train + [known.folder for known in task.test_sets.values()]


def _stem(archive: Archive) -> str:
    return Path(archive.name).stem


def _parse(
    task: Task, archives: Sequence[Archive], description: str | None, argv: Sequence[str] | None
) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--root", metavar="DIR", type=to_path, default=Path("Datasets"), help="DATA.ROOT: where the sets go (Datasets)"
    )
    parser.add_argument(
        "--sets", nargs="+", choices=[_stem(archive) for archive in archives], help="download these only"
    )
    parser.add_argument("--downloads", metavar="DIR", type=to_path, help="where archives are kept (ROOT/archives)")
    parser.add_argument(
        "--archive",
        nargs="+",
        metavar="FILE",
        type=to_path,
        help="unpack this archive, or these parts of one; no download",
    )
    parser.add_argument(
        "--folder",
        choices=_folders(task),
        metavar="SET",
        help=f"with --archive: the set it is, where its folders do not say so: {', '.join(_folders(task))}",
    )
    parser.add_argument("--patches", metavar="SIZE", type=int, help="cut the training set into patches, e.g. 512")
    parser.add_argument("--stride", metavar="N", type=int, help="pixels from one patch to the next (half of SIZE)")
    arguments = parser.parse_args(argv)
    if arguments.folder and not arguments.archive:
        parser.error("--folder goes with --archive")
    if arguments.stride is not None and not arguments.patches:
        parser.error("--stride goes with --patches")
    if arguments.patches is not None and (arguments.patches < 2 or (arguments.stride or 1) < 1):
        parser.error("--patches and --stride are numbers of pixels")
    return arguments
