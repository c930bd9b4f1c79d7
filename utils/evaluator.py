"""A task's test sets through a network: restored images and scores on disk, one table for the eye."""
from __future__ import annotations

import argparse
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple, TypeVar

import numpy as np
from accelerate import PartialState
from accelerate.utils import gather_object
from tqdm import tqdm
from yacs.config import CfgNode

from models import size_name
from models.weights import WeightsError, find_weights
from utils.config import ConfigError, argument_parser
from utils.gallery import Picture, write_gallery
from utils.images import ImageError, read_image, write_image
from utils.journal import Journal
from utils.metrics import PROTOCOLS, Protocol
from utils.pairs import Pair, PairError, find_pairs, pair_folders
from utils.perceptual import perceptual_scores
from utils.provenance import provenance, sha256
from utils.report import comparison_sheet, error_map, format_paper, format_table, origin_lines, write_results
from utils.restorer import PUBLISHED_PATCH, best_device, load_restorer, restore
from utils.samples import sample_pairs
from utils.tasks import Benchmark, Task

Restorer = Callable[[np.ndarray], np.ndarray]
Sample = tuple[str, np.ndarray, np.ndarray]  # name, degraded, target: a pair that is in memory
Result = dict[str, Any]

# What a person can mend: the programs print these without a traceback.
ERRORS = (ConfigError, ImageError, PairError, WeightsError)

_GALLERY = 48  # images of a set in the HTML page, at most: about 20 MB
SAMPLES = "samples"  # the name of the bundled set
_Item = TypeVar("_Item")
_Made = TypeVar("_Made")


class TestSet(NamedTuple):
    """A set to evaluate: its name, its pairs, and what is known of it."""

    name: str
    pairs: list[Pair]
    benchmark: Benchmark


def evaluate(
    restorer: Restorer | None,
    dataset: str,
    pairs: Sequence[Pair | Sample],
    protocol: str,
    out_dir: Path | None = None,
    journal: Journal | None = None,
    perceptual: Protocol | None = None,
) -> Result:
    """Restore and score every pair of a set; `restorer` maps an H x W x 3 uint8 image to its restored version.

    Returns {"dataset", "protocol", "images", scores, "per_image": [{"name", scores}]}, where scores are "psnr", "ssim",
    what else the protocol and `perceptual` name, and "input_psnr" and "input_ssim" of the degraded image as it is;
    those of the set are means over its images. Without `restorer` the inputs are restored images already, and are only
    scored. With `out_dir` the restored images are written to out_dir/dataset/NAME.png. Pairs that `journal` holds are
    not done again. Under torchrun each process does its share of the pairs, and all return the whole.

    Raises:
        PairError: the set is empty, or an input and its target differ in size.
        ImageError: an image cannot be read or written, is not of its target's size, or too small for the protocol.
    """
    if not pairs:
        raise PairError(f"{dataset}: there are no pairs to score")
    state = start_processes()
    mine = pairs[state.process_index :: state.num_processes]
    rows = _done_before(mine, dataset, out_dir, journal)
    left = [pair for pair in mine if _name(pair) not in rows]
    finish = partial(_finish, dataset, protocol, out_dir, restorer is not None, perceptual)
    # Reading ahead and scoring behind go on in threads while the network works: OpenCV and numpy release the lock.
    threads = os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:
        samples = _ahead(pool, _read, left, threads)
        restored = ((sample, sample[1] if restorer is None else restorer(sample[1])) for sample in samples)
        progress = tqdm(
            _ahead(pool, finish, restored, threads),
            desc=dataset,
            unit="image",
            total=len(mine),
            initial=len(rows),
            dynamic_ncols=True,
            disable=None if state.is_main_process else True,
        )
        for pair, row in zip(left, progress, strict=True):
            rows[row["name"]] = row
            if journal is not None and isinstance(pair, Pair):
                journal.add(pair, row)
    whole = {row["name"]: row for row in gather_object(list(rows.values()))}
    ordered = [whole[_name(pair)] for pair in pairs]
    means = {key: fmean(row[key] for row in ordered) for key in ordered[0] if key != "name"}
    return {"dataset": dataset, "protocol": protocol, "images": len(ordered), **means, "per_image": ordered}


def evaluate_task(config: CfgNode, task: Task, weights: str | Path, out_dir: Path) -> list[Result]:
    """Evaluate all sets that `config` names, print their table and write results.json and pictures to `out_dir`.

    Raises:
        ConfigError, PairError: a set is unknown, none of them is there, or a perceptual metric is not to be had.
        ImageError, WeightsError: a file cannot be used.
    """
    state = start_processes()
    say = state.print
    sets = find_sets(config, task, out_dir, say)
    perceptual = _perceptual(config.TEST.PERCEPTUAL)
    model = load_restorer(weights, config.TEST.TLC, device=state.device)
    size = size_name(model)
    window = (model.patch_size or PUBLISHED_PATCH) if config.TEST.TLC else None
    file = find_weights(weights)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    say(
        f"{weights}: {size or 'M3SNet'}, {parameters:,} parameters, "
        + (f"TLC for patches of {window} pixels" if window else "without TLC")
        + f", on {state.device.type}"
    )
    origin = {
        "weights": file.name,
        "weights_sha256": sha256(file),
        "size": size,
        "tlc_patch": window,
        "precision": "float32",
        "rounding": "8 bits, to nearest",
        "tiling": None,
        "perceptual": list(config.TEST.PERCEPTUAL),
        **provenance(state.device),
    }
    results = []
    for name, pairs, benchmark in sets:
        journal = Journal(out_dir, name, {**origin, "protocol": benchmark.protocol}, state.process_index)
        result = evaluate(partial(restore, model), name, pairs, benchmark.protocol, out_dir, journal, perceptual)
        results.append({**result, "provenance": origin})
        if state.is_main_process:
            _draw(result, pairs, out_dir)
    if state.is_main_process:
        _publish(results, task, size, out_dir)
        if config.TEST.REPORT:
            print(f"page:          {_draw_gallery(results, sets, out_dir, f'{task.name}: {weights}')}")
        Journal.discard(out_dir)
    return results


def score_folders(
    restored: Path, target: Path, task: Task, out_dir: Path, perceptual: Sequence[str] = ()
) -> list[Result]:
    """Score images that are restored already, made by any program, by the task's protocol; prints and writes as well.

    `perceptual` is what TEST.PERCEPTUAL is elsewhere.

    Raises:
        ConfigError: a perceptual metric is not to be had.
        PairError, ImageError: files have no partner, or cannot be read.
    """
    pairs = pair_folders(restored, target)
    scorer = _perceptual(perceptual)
    result = evaluate(None, restored.resolve().name, pairs, task.protocol, perceptual=scorer)
    origin = {
        "restored": str(restored),
        "target": str(target),
        "perceptual": list(perceptual),
        **provenance(None),
    }
    results = [{**result, "provenance": origin}]
    if start_processes().is_main_process:
        _publish(results, task, None, out_dir)
    return results


def find_sets(config: CfgNode, task: Task, out_dir: Path, say: Callable[[str], None]) -> list[TestSet]:
    """The sets to evaluate: those TEST.DATASETS names, else all that lie below DATA.ROOT, else the bundled samples.

    A name may also be a folder, below DATA.ROOT or anywhere, that holds input/ and target/.

    Raises:
        ConfigError: a name is unknown, or no named set is there.
    """
    root = Path(config.DATA.ROOT)
    asked = list(config.TEST.DATASETS)
    known = dict(task.test_sets)
    for name in asked:
        if name not in known and name != SAMPLES:
            folder = next((path for path in (root / name, Path(name)) if path.is_dir()), None)
            if folder is None:
                raise ConfigError(
                    f"TEST.DATASETS {name}: neither a folder nor a test set of this task "
                    f"({', '.join([*task.test_sets, SAMPLES])})"
                )
            known[name] = Benchmark(str(folder.resolve()), task.protocol, {})
    names = [name for name in asked or known if name == SAMPLES or (root / known[name].folder).is_dir()]
    if missing := [name for name in asked if name not in names]:
        where = ", ".join(f"{name} ({root / known[name].folder})" for name in missing)
        if not names:
            raise ConfigError(f"not found: {where}. Set DATA.ROOT to the folder that holds them")
        say(f"not found, and skipped: {where}")
    if not names:
        say(f"no test set below {root}: restoring the bundled samples")
        names = [SAMPLES]
    return [_test_set(name, known, root, task, out_dir) for name in names]


def parse_arguments(description: str | None, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line that every test.py has."""
    parser = argument_parser(description)
    parser.add_argument("--weights", metavar="FILE|NAME", help="a checkpoint, or the name of released weights")
    parser.add_argument("--results", metavar="DIR", type=Path, help="where to write (default: results/TASK)")
    parser.add_argument("--score", metavar="DIR", type=Path, help="score these restored images; no network is run")
    parser.add_argument("--target", metavar="DIR", type=Path, help="with --score: their ground truths, same names")
    arguments = parser.parse_args(argv)
    if (arguments.score is None) != (arguments.target is None):
        parser.error("--score DIR and --target DIR go together")
    return arguments


def start_processes() -> PartialState:
    """This process and its like: one, or as many as torchrun started."""
    # Without cpu=True, processes on a machine without an accelerator would not find each other.
    return PartialState(cpu=best_device().type == "cpu")


def _perceptual(names: Sequence[str]) -> Protocol | None:
    state = start_processes()
    with state.main_process_first():  # the others find the weights downloaded
        return perceptual_scores(names, state.device)


def _test_set(name: str, known: dict[str, Benchmark], root: Path, task: Task, out_dir: Path) -> TestSet:
    if name == SAMPLES:
        with start_processes().main_process_first():
            folder = sample_pairs(task.degradation, out_dir / SAMPLES)
        return TestSet(name, find_pairs(folder), Benchmark(str(folder), task.protocol, {}))
    benchmark = known[name]
    return TestSet(Path(name).name, find_pairs(root / benchmark.folder), benchmark)


def _publish(results: Sequence[Result], task: Task, size: str | None, out_dir: Path) -> None:
    published = {name: benchmark.paper.get(size or "") for name, benchmark in task.test_sets.items()}
    paper = {name: scores for name, scores in published.items() if scores}
    tables = format_table(results, paper), format_paper(results, task.test_sets, size)
    print("\n" + "\n\n".join(filter(None, tables)) + "\n")
    for picture in [out_dir / f"{result['dataset']}.png" for result in results]:
        if picture.is_file():
            print(f"side by side:  {picture}")
    print(f"scores:        {', '.join(map(str, write_results(results, out_dir, paper)))}")


def _draw_gallery(results: Sequence[Result], sets: Sequence[TestSet], out_dir: Path, title: str) -> Path:
    """A page of the run's images; of a large set those at even steps from the best to the worst."""
    pictures = []
    for result, (name, pairs, _) in zip(results, sets, strict=True):
        by_name = {pair.name: pair for pair in pairs}
        ranked = sorted(result["per_image"], key=lambda row: row["psnr"])
        for rank in np.unique(np.linspace(0, len(ranked) - 1, min(len(ranked), _GALLERY)).round().astype(int)):
            row = ranked[rank]
            _, degraded, target = _read(by_name[row["name"]])
            restored = read_image(_restored_file(out_dir, name, row["name"]))
            scores = {key: row[key] for key in ("psnr", "ssim", "input_psnr", "input_ssim")}
            pictures.append(Picture(name, row["name"], degraded, restored, target, scores))
    lines = [format_table(results), "", *origin_lines(results[0])]
    write_gallery(pictures, out_dir / "report.html", title, lines)
    return out_dir / "report.html"


def _draw(result: Result, pairs: Sequence[Pair], out_dir: Path) -> None:
    """A picture of the set's best, median and worst image."""
    ranked = sorted(result["per_image"], key=lambda row: row["psnr"], reverse=True)
    shown = dict.fromkeys((0, (len(ranked) - 1) // 2, len(ranked) - 1))  # no image twice
    by_name = {pair.name: pair for pair in pairs}
    rows = []
    for rank in shown:
        row = ranked[rank]
        _, degraded, target = _read(by_name[row["name"]])
        restored = read_image(_restored_file(out_dir, result["dataset"], row["name"]))
        caption = (
            f"PSNR {row['input_psnr']:.2f} -> {row['psnr']:.2f} dB   SSIM {row['input_ssim']:.3f} -> {row['ssim']:.3f}"
        )
        images = {"input": degraded, "restored": restored, "target": target, "error": error_map(restored, target)}
        rows.append((row["name"], images, caption))
    comparison_sheet(rows, out_dir / f"{result['dataset']}.png")


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


def _finish(
    dataset: str,
    protocol: str,
    out_dir: Path | None,
    has_input: bool,
    perceptual: Protocol | None,
    item: tuple[Sample, np.ndarray],
) -> Result:
    (name, degraded, target), restored = item
    score = PROTOCOLS[protocol]
    if out_dir is not None:
        write_image(_restored_file(out_dir, dataset, name), restored)
    try:
        row = {"name": name, **score(restored, target)}
        if perceptual is not None:
            row |= perceptual(restored, target)
        if has_input:
            before = score(degraded, target)
            row |= {"input_psnr": before["psnr"], "input_ssim": before["ssim"]}
    except ValueError as error:
        raise ImageError(f"{dataset}, {name}: {error}") from error
    return row


def _done_before(
    pairs: Sequence[Pair | Sample], dataset: str, out_dir: Path | None, journal: Journal | None
) -> dict[str, Result]:
    """The rows of those pairs that need not be done again: scored under the same stamp, restored image still there."""
    if journal is None or out_dir is None:
        return {}
    found = [journal.find(pair) for pair in pairs if isinstance(pair, Pair)]
    return {row["name"]: row for row in found if row and _restored_file(out_dir, dataset, row["name"]).is_file()}


def _name(pair: Pair | Sample) -> str:
    return pair.name if isinstance(pair, Pair) else pair[0]


def _read(pair: Pair | Sample) -> Sample:
    if not isinstance(pair, Pair):
        return pair
    if pair.input is None:
        raise PairError(f"{pair.target}: a sharp photograph without its degraded partner cannot be scored")
    degraded, target = read_image(pair.input), read_image(pair.target)
    if degraded.shape != target.shape:
        sizes = [f"{image.shape[1]}x{image.shape[0]}" for image in (degraded, target)]
        raise PairError(f"{pair.input} is {sizes[0]} but {pair.target} is {sizes[1]}")
    return pair.name, degraded, target


def _restored_file(out_dir: Path, dataset: str, name: str) -> Path:
    return out_dir / dataset / f"{name}.png"
