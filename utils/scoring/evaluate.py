"""A task's test sets through a network: restored images and scores on disk, one table for the eye."""
from __future__ import annotations

import argparse
import os
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple, TypeVar

import cv2
import numpy as np
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from tqdm import tqdm
from yacs.config import CfgNode

from ...models import size_name, tlc_window
from ...models.weights import find_weights
from ..config import ConfigError, argument_parser, save_config
from ..data.pairs import Pair, PairError, check_pairs, find_pairs, pair_folders
from ..data.samples import sample_pairs
from ..images import ImageError, read_image, write_image
from ..provenance import provenance, sha256
from ..restoring.restorer import PUBLISHED_PATCH, best_device, load_restorer, restore_image, warn_of_other_task
from ..tasks import Benchmark, Task, default_config
from .gallery import Picture, write_gallery
from .journal import Journal
from .metrics import PROTOCOLS, Protocol
from .perceptual import perceptual_scores
from .report import (
    ERROR_SCALE,
    comparison_sheet,
    error_map,
    format_paper,
    format_table,
    origin_lines,
    write_results,
)

Restorer = Callable[[np.ndarray], np.ndarray]
Sample = tuple[str, np.ndarray, np.ndarray]  # name, degraded, target: a pair that is in memory
Result = dict[str, Any]

_ROUNDING = "8 bits, to nearest"
_GALLERY = 48  # images of a set in the HTML page, at most: about 20 MB
SAMPLES = "samples"  # the name of the bundled set
_Pair = TypeVar("_Pair", bound="Pair | Sample")
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
    those of the set are means over its images, and its "worse" names those whose PSNR restoring has lowered. Without
    `restorer` the inputs are restored images already, and are only scored. With `out_dir` the restored images are
    written to out_dir/dataset/NAME.png. Pairs that `journal` holds are not done again. Files that were converted as
    they were read (16 bits, gray, alpha) are named in the "converted" of their image and counted in that of the set.
    Under torchrun each process does its share of the pairs, and all return the whole.

    Raises:
        PairError: the set is empty, or an input and its target differ in size.
        ImageError: an image cannot be read or written, is not of its target's size, or too small for the protocol.
    """
    if not pairs:
        raise PairError(f"{dataset}: there are no pairs to score")
    state = start_processes()
    mine = pairs[state.process_index :: state.num_processes]
    rows = _done_before(mine, dataset, out_dir, journal)
    left = _left(mine, rows)
    finish = partial(_finish, dataset, protocol, out_dir, restorer is not None, perceptual)
    # Reading ahead and scoring behind go on in threads while the network works: OpenCV and numpy release the lock.
    threads = os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:
        samples = _ahead(pool, _read, left, threads)
        restored = (
            (pair, sample, sample[1] if restorer is None else restorer(sample[1]))
            for pair, sample in zip(left, samples, strict=True)
        )
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
                journal.add(row, _files(pair, dataset, out_dir))
    whole = {row["name"]: row for row in gather_object(list(rows.values()))}
    ordered = [whole[_name(pair)] for pair in pairs]
    result = {"dataset": dataset, "protocol": protocol, "images": len(ordered)}
    result |= {key: fmean(row[key] for row in ordered) for key in ordered[0] if key not in ("name", "converted")}
    if "input_psnr" in result:
        result["worse"] = [row["name"] for row in ordered if row["psnr"] < row["input_psnr"]]
    if converted := Counter(what for row in ordered if "converted" in row for what in row["converted"].split("; ")):
        result["converted"] = ", ".join(f"{what}: {count} of {len(ordered)}" for what, count in converted.items())
    return {**result, "per_image": ordered}


def evaluate_task(config: CfgNode, task: Task, weights: str | Path, out_dir: Path) -> list[Result]:
    """Evaluate all sets that `config` names, print their table and write scores, pictures and config.yml to `out_dir`.

    Every file is looked at before the first image is restored, except those of images that an interrupted run did.

    Raises:
        ConfigError: a set is unknown, none of them is there, or a perceptual metric is not to be had.
        PairError: files cannot be used, or have no partner.
        ImageError, WeightsError: a file cannot be used.
    """
    state = start_processes()
    say = state.print
    sets = find_sets(config, task, out_dir, say)
    perceptual = _perceptual(config.TEST.PERCEPTUAL)
    file = find_weights(weights)
    if state.is_main_process:
        warn_of_other_task(file, task.name)
    model = load_restorer(weights, config.TEST.TLC, device=state.device)
    size, window = size_name(model), tlc_window(model)
    patch = (model.patch_size or PUBLISHED_PATCH) if window else None
    parameters = sum(parameter.numel() for parameter in model.parameters())
    say(
        f"{weights}: {size or 'M3SNet'}, {parameters:,} parameters, "
        + (f"TLC window {window} (patches of {patch})" if window else "without TLC")
        + f", on {state.device.type}"
    )
    origin = {
        "weights": file.name,
        "weights_sha256": sha256(file),
        "size": size,
        "tlc_patch": patch,
        "tlc_window": window,
        "precision": "float32",
        "rounding": _ROUNDING,
        "tiling": None,
        "perceptual": list(config.TEST.PERCEPTUAL),
        **provenance(state.device),
    }
    journals = _begin(sets, out_dir, origin, images_in=out_dir)
    results, pictures = [], []
    for (name, pairs, benchmark), journal in zip(sets, journals, strict=True):
        result = evaluate(partial(restore_image, model), name, pairs, benchmark.protocol, out_dir, journal, perceptual)
        results.append(_with_origin(result, origin))
        if state.is_main_process:
            pictures.append(_draw(result, pairs, out_dir))
    if state.is_main_process:
        _publish(results, sets, size, config, out_dir, pictures)
        if config.TEST.REPORT:
            print(f"page:          {_draw_gallery(results, sets, size, out_dir, f'{task.name}: {weights}')}")
        for journal in journals:
            journal.discard()
    return results


def score_folders(config: CfgNode, task: Task, restored: Path, target: Path, out_dir: Path) -> list[Result]:
    """Score images that are restored already, made by any program; prints and writes scores as `evaluate_task` does.

    Where `target` is that of a test set below DATA.ROOT, the set's protocol is used, and the paper's scores stand
    beside; elsewhere it is the task's protocol.

    Raises:
        ConfigError: a perceptual metric is not to be had, or `out_dir` holds the results of a network.
        PairError, ImageError: files have no partner, or cannot be used.
    """
    state = start_processes()
    _keep_results_of_a_network(out_dir)
    scored = _scored_set(restored, target, task, Path(config.DATA.ROOT))
    perceptual = _perceptual(config.TEST.PERCEPTUAL)
    origin = {
        "restored": str(restored),
        "target": str(target),
        "rounding": _ROUNDING,
        "perceptual": list(config.TEST.PERCEPTUAL),
        **provenance(state.device if perceptual else None),
    }
    (journal,) = _begin([scored], out_dir, origin, images_in=None)
    name, pairs, benchmark = scored
    result = evaluate(None, name, pairs, benchmark.protocol, None, journal, perceptual)
    results = [_with_origin(result, origin)]
    if state.is_main_process:
        _publish(results, [scored], None, config, out_dir)
        journal.discard()
    return results


def find_sets(config: CfgNode, task: Task, out_dir: Path, say: Callable[[str], None]) -> list[TestSet]:
    """The sets to evaluate: those TEST.DATASETS names, else all that lie below DATA.ROOT, else the bundled samples.

    A name may also be a folder, below DATA.ROOT or anywhere, that holds input/ and target/. The samples stand in only
    where DATA.ROOT was left at its default.

    Raises:
        ConfigError: a name is unknown or stands for two sets, no named set is there, or none is below DATA.ROOT.
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
    if not names and config.DATA.ROOT != default_config(task.name).DATA.ROOT:
        looked = ", ".join(benchmark.folder for benchmark in known.values())
        found = f"holds none of {task.name}'s test sets" if root.is_dir() else "no such folder"
        raise ConfigError(
            f"DATA.ROOT {root}: {found} (looked for {looked}). Set it to the folder that holds them, name a folder in "
            f"TEST.DATASETS, or use the bundled samples: TEST.DATASETS {SAMPLES}"
        )
    if not names:
        say(f"no test set below {root}: restoring the bundled samples")
        names = [SAMPLES]
    # Their results and restored images would overwrite each other's.
    for name, count in Counter(Path(name).name for name in names).items():
        if count > 1:
            raise ConfigError(f"TEST.DATASETS: {count} sets are called {name}; evaluate them in runs of their own")
    return [_test_set(name, known, root, task, out_dir) for name in names]


def parse_arguments(description: str | None, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line that every test.py has."""
    parser = argument_parser(description)
    parser.add_argument("--weights", metavar="FILE|NAME", help="a checkpoint, or the name of released weights")
    parser.add_argument(
        "--results",
        metavar="DIR",
        type=Path,
        help="where to write (default: results/TASK, with --score results/TASK/scores/NAME OF ITS FOLDER)",
    )
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


def _scored_set(restored: Path, target: Path, task: Task, root: Path) -> TestSet:
    """Restored images as a set: known by where the targets lie, for any folder may be called Rain100L."""
    for name, benchmark in task.test_sets.items():
        if target.resolve().parent == (root / benchmark.folder).resolve():
            return TestSet(name, pair_folders(restored, target), benchmark)
    return TestSet(restored.resolve().name, pair_folders(restored, target), Benchmark(str(target), task.protocol, {}))


def _keep_results_of_a_network(out_dir: Path) -> None:
    file = out_dir / "results.json"
    if file.is_file() and '"weights_sha256"' in file.read_text(encoding="utf-8"):
        raise ConfigError(
            f"--results {out_dir}: holds the results of a network, which scores of a folder would overwrite; "
            "name another folder, or leave --results out"
        )


def _begin(sets: Sequence[TestSet], out_dir: Path, origin: Result, images_in: Path | None) -> list[Journal]:
    """The journals of all sets, once every pair that is left to do was found to be whole."""
    state = start_processes()
    journals = [
        Journal(out_dir, name, {**origin, "protocol": benchmark.protocol}, state.process_index)
        for name, _, benchmark in sets
    ]
    left: list[Pair] = []
    for (name, pairs, _), journal in zip(sets, journals, strict=True):
        left += _left(pairs, _done_before(pairs, name, images_in, journal))
        if journal.outdated:
            state.print(f"{name}: an interrupted run is not continued: {', '.join(journal.outdated)}")
    state.print(f"checking {len(left):,} pairs")
    problem = [""]
    if state.is_main_process:
        try:
            check_pairs(left)
        except PairError as error:
            problem = [str(error)]
    broadcast_object_list(problem)
    if problem[0] and not state.is_main_process:
        sys.exit(1)  # quietly: one process says it
    if problem[0]:
        raise PairError(problem[0])
    return journals


def _with_origin(result: Result, origin: Result) -> Result:
    facts = {"protocol": result["protocol"], **origin, "converted": result.get("converted")}
    return {**result, "provenance": facts}


def _publish(
    results: Sequence[Result],
    sets: Sequence[TestSet],
    size: str | None,
    config: CfgNode,
    out_dir: Path,
    pictures: Sequence[Path] = (),
) -> None:
    benchmarks = {name: benchmark for name, _, benchmark in sets}
    tables = format_table(results, benchmarks, size), format_paper(results, benchmarks, size)
    print("\n" + "\n\n".join(filter(None, tables)) + "\n")
    for picture in pictures:
        print(f"side by side:  {picture}")
    print(f"scores:        {', '.join(map(str, write_results(results, out_dir, benchmarks, size)))}")
    save_config(config, out_dir / "config.yml")


def _draw_gallery(
    results: Sequence[Result], sets: Sequence[TestSet], size: str | None, out_dir: Path, title: str
) -> Path:
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
    title += f" on {', '.join(result['dataset'] for result in results)}"
    table = format_table(results, {name: benchmark for name, _, benchmark in sets}, size)
    write_gallery(pictures, out_dir / "report.html", title, table, origin_lines(results))
    return out_dir / "report.html"


def _draw(result: Result, pairs: Sequence[Pair], out_dir: Path) -> Path:
    """A picture of the set's best, median and worst image."""
    ranked = sorted(result["per_image"], key=lambda row: row["psnr"], reverse=True)
    shown = {(len(ranked) - 1) // 2: "median", 0: "best", len(ranked) - 1: "worst"}  # no image twice
    if len(ranked) == 1:
        shown = {0: "only image"}
    by_name = {pair.name: pair for pair in pairs}
    rows = []
    for rank, place in sorted(shown.items()):
        row = ranked[rank]
        _, degraded, target = _read(by_name[row["name"]])
        restored = read_image(_restored_file(out_dir, result["dataset"], row["name"]))
        caption = (
            f"PSNR {row['input_psnr']:.2f} -> {row['psnr']:.2f} dB   SSIM {row['input_ssim']:.3f} -> {row['ssim']:.3f}"
        )
        images = {"input": degraded, "restored": restored, "target": target, "error": error_map(restored, target)}
        rows.append((f"{place}: {row['name']}", images, caption))
    comparison_sheet(rows, out_dir / f"{result['dataset']}.png", f"error: {ERROR_SCALE}")
    return out_dir / f"{result['dataset']}.png"


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
    item: tuple[Pair | Sample, Sample, np.ndarray],
) -> Result:
    pair, (name, degraded, target), restored = item
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
    if isinstance(pair, Pair) and (converted := _conversions(pair, "input" if has_input else "restored")):
        row["converted"] = "; ".join(converted)
    return row


def _conversions(pair: Pair, input_side: str) -> list[str]:
    """What `read_image` changed in the files of a pair, as in "target alpha dropped"."""
    found = []
    for side, path in ((input_side, pair.input), ("target", pair.target)):
        image = None if path is None else cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
        if image is not None:
            found += [f"{side} 16-bit rounded to 8"] * (image.dtype == np.uint16)
            found += [f"{side} gray repeated to RGB"] * (image.ndim == 2)
            found += [f"{side} alpha dropped"] * (image.shape[2:] == (4,))
    return found


def _done_before(
    pairs: Sequence[Pair | Sample], dataset: str, out_dir: Path | None, journal: Journal | None
) -> dict[str, Result]:
    """The rows of those pairs that need not be done again."""
    if journal is None:
        return {}
    found = [journal.find(pair.name, _files(pair, dataset, out_dir)) for pair in pairs if isinstance(pair, Pair)]
    return {row["name"]: row for row in found if row}


def _left(pairs: Sequence[_Pair], rows: Result) -> list[_Pair]:
    return [pair for pair in pairs if _name(pair) not in rows]


def _files(pair: Pair, dataset: str, out_dir: Path | None) -> list[Path]:
    """What a row depends on: the files of a pair, and the restored image where one is written."""
    files = [path for path in (pair.input, pair.target) if path is not None]
    return files + ([_restored_file(out_dir, dataset, pair.name)] if out_dir is not None else [])


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
