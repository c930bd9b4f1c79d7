"""What test.py of both tasks does: sets found and checked, evaluated, and published in a folder of results."""
from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
from yacs.config import CfgNode

from ...models import size_name, tlc_window
from ...models.weights import WeightsError, find_weights, released
from ..cli import to_path
from ..config import argument_parser, load_task_config, save_config
from ..data.pairs import PairError, check_pairs_quickly
from ..provenance import provenance, sha256
from ..restoring.backends import BACKENDS, PRECISIONS
from ..restoring.restorer import PUBLISHED_PATCH, Restorer, warn_of_other_task
from ..tasks import Task
from .evaluate import Result, done_before, evaluate, start_processes
from .gallery import draw_gallery
from .journal import Journal
from .metrics import Protocol
from .perceptual import perceptual_scores
from .pictures import draw_set
from .results import claim
from .tables import format_paper, format_table, write_results
from .test_sets import SAMPLES, TestSet, find_test_sets, restored_set

Origin = Mapping[str, Any]  # where results come from: weights, protocol, code, packages, device

_ROUNDING = "8 bits, to nearest"


def run(defaults: CfgNode, task: Task, description: str | None, argv: Sequence[str] | None = None) -> None:
    """Run the evaluation that the command line describes."""
    arguments = _parse(description, argv)
    config = load_task_config(defaults, arguments.config, arguments.opts)
    home = Path("results") / task.name
    if arguments.score:
        out_dir = arguments.results or home / "scores" / arguments.score.resolve().name
        score_folders(config, task, arguments.score, arguments.target, out_dir)
    else:
        weights = arguments.weights or task.weights
        out_dir = arguments.results or home / _title(weights)
        evaluate_task(config, task, weights, out_dir, arguments.backend, arguments.precision)


def evaluate_task(
    config: CfgNode,
    task: Task,
    weights: str | Path,
    out_dir: Path,
    backend: str = "exact",
    precision: str = "float32",
) -> list[Result]:
    """Evaluate all sets that `config` names, print their table and write scores, pictures and config.yml to `out_dir`.

    Every file is looked at before the first image is restored, except those of images that an interrupted run did.

    Raises:
        ConfigError: a set is unknown, none of them is there, or a perceptual metric is not to be had.
        PairError: files cannot be used, or have no partner.
        ImageError, WeightsError: a file cannot be used.
        ResultsError: `out_dir` holds something else, or is in use.
    """
    state = start_processes()
    file = find_weights(weights)
    warn_of_other_task(file, task.name)
    perceptual = _perceptual(config.TEST.PERCEPTUAL)
    test = config.TEST
    restorer = Restorer(weights, state.device, precision, backend, test.TLC, tile=0, padding=test.PADDING)
    model = restorer.model
    if model is None:
        raise WeightsError(f"{weights}: scores are taken with weights, not with a file of export.py")
    size, window = size_name(model), tlc_window(model)
    patch = (model.patch_size or PUBLISHED_PATCH) if window else None
    origin: Origin = {
        "weights": file.name,
        "weights_sha256": sha256(file),
        "size": size,
        "tlc_patch": patch,
        "tlc_window": window,
        "backend": restorer.backend,
        "precision": restorer.precision,
        "padding": restorer.padding,
        "rounding": _ROUNDING,
        "tiling": None,
        "perceptual": list(config.TEST.PERCEPTUAL),
        **provenance(state.device),
    }
    with claim(out_dir, f"the weights {_title(weights)}", origin["weights_sha256"], state):
        with state.main_process_first():
            sets = find_test_sets(
                task, Path(config.DATA.ROOT), config.TEST.DATASETS, out_dir / SAMPLES, log=state.print
            )
        parameters = sum(parameter.numel() for parameter in model.parameters())
        state.print(
            f"{weights}: {size or 'M3SNet'}, {parameters:,} parameters, "
            + (f"TLC window {window} (patches of {patch})" if window else "without TLC")
            + f", {restorer.precision}, {restorer.backend} on {state.device.type}"
            + ", borders of zeros" * (restorer.padding == "zeros")
        )
        folders: list[Path | None] = [out_dir / test_set.name for test_set in sets]
        journals = _begin(sets, folders, out_dir, origin)
        results = []
        for test_set, folder, journal in zip(sets, folders, journals, strict=True):
            result = evaluate(restorer, test_set, folder, journal, perceptual)
            results.append(_with_origin(result, origin))
            if state.is_main_process:
                draw_set(result["per_image"], test_set.pairs, out_dir / test_set.name, out_dir / f"{test_set.name}.png")
        if state.is_main_process:
            _print_tables(results, sets, size)
            for test_set in sets:
                print(f"side by side:  {out_dir / f'{test_set.name}.png'}")
            _write(results, sets, size, config, out_dir)
            if config.TEST.REPORT:
                page = out_dir / "report.html"
                draw_gallery(results, sets, size, out_dir, page, f"{task.name}: {weights}")
                print(f"page:          {page}")
            for journal in journals:
                journal.discard()
    return results


def score_folders(config: CfgNode, task: Task, restored: Path, target: Path, out_dir: Path) -> list[Result]:
    """Score images that are restored already, made by any program; prints and writes scores as `evaluate_task` does.

    Where `target` is that of a test set below DATA.ROOT, the set's protocol is used, and the paper's scores stand
    beside; elsewhere it is the task's protocol.

    Raises:
        ConfigError: a perceptual metric is not to be had.
        PairError, ImageError: files have no partner, or cannot be used.
        ResultsError: `out_dir` holds something else, the results of a network say, or is in use.
    """
    state = start_processes()
    scored = restored_set(restored, target, task, Path(config.DATA.ROOT))
    perceptual = _perceptual(config.TEST.PERCEPTUAL)
    origin: Origin = {
        "restored": str(restored),
        "target": str(target),
        "rounding": _ROUNDING,
        "perceptual": list(config.TEST.PERCEPTUAL),
        **provenance(state.device if perceptual else None),
    }
    with claim(out_dir, f"the images in {restored.resolve()}", "", state):
        (journal,) = _begin([scored], [None], out_dir, origin)
        results = [_with_origin(evaluate(None, scored, None, journal, perceptual), origin)]
        if state.is_main_process:
            _print_tables(results, [scored], None)
            _write(results, [scored], None, config, out_dir)
            journal.discard()
    return results


def _parse(description: str | None, argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argument_parser(description)
    parser.add_argument("--weights", metavar="FILE|NAME", help="a checkpoint, or the name of released weights")
    parser.add_argument(
        "--results",
        metavar="DIR",
        type=to_path,
        help="where to write (default: results/TASK/WEIGHTS, with --score results/TASK/scores/NAME OF ITS FOLDER)",
    )
    parser.add_argument(
        "--backend", choices=["auto", *BACKENDS], default="exact", help="what runs the network (default: exact)"
    )
    parser.add_argument(
        "--precision", choices=["auto", *PRECISIONS], default="float32", help="of its features (default: float32)"
    )
    parser.add_argument("--score", metavar="DIR", type=to_path, help="score these restored images; no network is run")
    parser.add_argument("--target", metavar="DIR", type=to_path, help="with --score: their ground truths, same names")
    arguments = parser.parse_args(argv)
    if (arguments.score is None) != (arguments.target is None):
        parser.error("--score DIR and --target DIR go together")
    return arguments


def _title(weights: str | Path) -> str:
    """What results of `weights` are called: a released name, or the file's with its run's folder before it."""
    if str(weights) in released():
        return str(weights)
    path = Path(weights)
    return "-".join(part for part in (path.parent.name, path.stem) if part not in ("", "."))


def _perceptual(names: Sequence[str]) -> Protocol | None:
    state = start_processes()
    with state.main_process_first():  # the others find the weights downloaded
        return perceptual_scores(names, state.device)


def _begin(
    sets: Sequence[TestSet], folders: Sequence[Path | None], out_dir: Path, origin: Origin
) -> list[Journal]:
    """The journals of all sets, once every pair that is left to do was looked at."""
    state = start_processes()
    journals = [
        Journal(out_dir, name, {**origin, "protocol": benchmark.protocol}, state.process_index)
        for name, _, benchmark in sets
    ]
    left = []
    for test_set, folder, journal in zip(sets, folders, journals, strict=True):
        done = done_before(test_set.pairs, journal, folder)
        left += [pair for pair in test_set.pairs if pair.name not in done]
        if journal.outdated:
            state.print(f"{test_set.name}: an interrupted run is not continued: {', '.join(journal.outdated)}")
    state.print(f"checking {len(left):,} pairs")
    problem = [""]
    if state.is_main_process:
        try:
            check_pairs_quickly(left)
        except PairError as error:
            problem = [str(error)]
    broadcast_object_list(problem)
    if problem[0] and not state.is_main_process:
        sys.exit(1)  # quietly: one process says it
    if problem[0]:
        raise PairError(problem[0])
    return journals


def _with_origin(result: Result, origin: Origin) -> Result:
    facts = {"protocol": result["protocol"], **origin, "converted": result.get("converted")}
    return {**result, "provenance": facts}


def _print_tables(results: Sequence[Result], sets: Sequence[TestSet], size: str | None) -> None:
    benchmarks = {name: benchmark for name, _, benchmark in sets}
    tables = format_table(results, benchmarks, size), format_paper(results, benchmarks, size)
    print("\n" + "\n\n".join(filter(None, tables)) + "\n")


def _write(
    results: Sequence[Result], sets: Sequence[TestSet], size: str | None, config: CfgNode, out_dir: Path
) -> None:
    benchmarks = {name: benchmark for name, _, benchmark in sets}
    print(f"scores:        {', '.join(map(str, write_results(results, out_dir, benchmarks, size)))}")
    save_config(config, out_dir / "config.yml")
