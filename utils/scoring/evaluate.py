"""A test set through a network: restored images on disk, and their scores."""
from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple, TypeVar

import numpy as np
from accelerate import PartialState
from accelerate.utils import gather_object
from tqdm import tqdm

from ..data.pairs import Pair, PairError, read_pair
from ..images import ImageError, write_image
from ..restoring.backends import find_device
from .journal import Journal
from .metrics import PROTOCOLS, Protocol
from .test_sets import TestSet

Restorer = Callable[[np.ndarray], np.ndarray]  # H x W x 3 uint8 RGB, and the same comes back
Result = dict[str, Any]
_Item = TypeVar("_Item")
_Made = TypeVar("_Made")


class Sample(NamedTuple):
    """A pair in memory: H x W x 3 uint8 RGB, and what was converted when its files were read."""

    pair: Pair
    degraded: np.ndarray
    target: np.ndarray
    converted: list[str]


def evaluate(
    restorer: Restorer | None,
    test_set: TestSet,
    out_dir: Path | None = None,
    journal: Journal | None = None,
    perceptual: Protocol | None = None,
) -> Result:
    """Restore and score every pair of a set.

    Returns {"dataset", "protocol", "images", scores, "per_image": [{"name", scores}]}, where scores are "psnr", "ssim",
    what else the protocol and `perceptual` name, and "input_psnr" and "input_ssim" of the degraded image as it is;
    those of the set are means over its images, and its "worse" names those whose PSNR restoring has lowered. Without
    `restorer` the inputs are restored images already, and are only scored. With `out_dir` the restored images are
    written to out_dir/NAME.png. Pairs that `journal` holds are not done again. Files that were converted as they were
    read (16 bits, gray, alpha, profile) are named in the "converted" of their image and counted in the set's. Under
    torchrun each process does its share of the pairs, and all return the whole.

    Raises:
        PairError: the set is empty, or an input and its target differ in size.
        ImageError: an image cannot be read or written, is not of its target's size, or too small for the protocol.
    """
    name, pairs, benchmark = test_set
    if not pairs:
        raise PairError(f"{name}: there are no pairs to score")
    state = start_processes()
    mine = pairs[state.process_index :: state.num_processes]
    rows = done_before(mine, journal, out_dir)
    left = [pair for pair in mine if pair.name not in rows]

    def finish(item: tuple[Sample, np.ndarray]) -> Result:
        sample, restored = item
        if out_dir is not None:
            write_image(out_dir / f"{sample.pair.name}.png", restored)
        try:
            row = _scores(sample, restored, PROTOCOLS[benchmark.protocol], perceptual, restorer is not None)
        except ValueError as error:
            raise ImageError(f"{name}, {sample.pair.name}: {error}") from error
        return row

    # Reading ahead and scoring behind go on in threads while the network works: OpenCV and numpy release the lock.
    threads = os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:
        samples = _ahead(pool, lambda pair: Sample(pair, *read_pair(pair)), left, threads)
        restored = ((sample, sample.degraded if restorer is None else restorer(sample.degraded)) for sample in samples)
        progress = tqdm(
            _ahead(pool, finish, restored, threads),
            desc=name,
            unit="image",
            total=len(mine),
            initial=len(rows),
            dynamic_ncols=True,
            disable=None if state.is_main_process else True,
        )
        for pair, row in zip(left, progress, strict=True):
            rows[row["name"]] = row
            if journal is not None:
                journal.add(row, files_of(pair, out_dir))
    whole = {row["name"]: row for row in gather_object(list(rows.values()))}
    ordered = [whole[pair.name] for pair in pairs]
    result = {"dataset": name, "protocol": benchmark.protocol, "images": len(ordered)}
    result |= {key: fmean(row[key] for row in ordered) for key in ordered[0] if key not in ("name", "converted")}
    if "input_psnr" in result:
        result["worse"] = [row["name"] for row in ordered if row["psnr"] < row["input_psnr"]]
    if converted := Counter(what for row in ordered if "converted" in row for what in row["converted"].split("; ")):
        result["converted"] = ", ".join(f"{what}: {count} of {len(ordered)}" for what, count in converted.items())
    return {**result, "per_image": ordered}


def done_before(pairs: Iterable[Pair], journal: Journal | None, out_dir: Path | None) -> dict[str, Result]:
    """The scores, by name, of those pairs that need not be done again."""
    if journal is None:
        return {}
    found = (journal.find(pair.name, files_of(pair, out_dir)) for pair in pairs)
    return {row["name"]: row for row in found if row}


def files_of(pair: Pair, out_dir: Path | None) -> list[Path]:
    """What the scores of a pair depend on: its files, and the restored image where one is written."""
    files = [path for path in (pair.input, pair.target) if path is not None]
    return files + ([out_dir / f"{pair.name}.png"] if out_dir is not None else [])


def start_processes() -> PartialState:
    """This process and its like: one, or as many as torchrun started."""
    # Without cpu=True, processes on a machine without an accelerator would not find each other.
    return PartialState(cpu=find_device().type == "cpu")


def _scores(
    sample: Sample, restored: np.ndarray, score: Protocol, perceptual: Protocol | None, has_input: bool
) -> Result:
    row = {"name": sample.pair.name, **score(restored, sample.target)}
    if perceptual is not None:
        row |= perceptual(restored, sample.target)
    if has_input:
        before = score(sample.degraded, sample.target)
        row |= {"input_psnr": before["psnr"], "input_ssim": before["ssim"]}
    if sample.converted:
        side = "input" if has_input else "restored"
        row["converted"] = "; ".join(what.replace("input", side, 1) for what in sample.converted)
    return row


def _ahead(
    pool: ThreadPoolExecutor, function: Callable[[_Item], _Made], items: Iterable[_Item], most: int
) -> Iterator[_Made]:
    """Like map(), in order, with up to `most` calls under way in `pool` while the caller looks at the result."""
    calls: deque[Future[_Made]] = deque()
    for item in items:
        calls.append(pool.submit(function, item))
        if len(calls) > most:
            yield calls.popleft().result()
    while calls:
        yield calls.popleft().result()
