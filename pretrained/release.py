r"""Turn a checkpoint into released weights, and record their scores.

    python pretrained/release.py derain checkpoints/Deraining/derain/model_best.pth \
        --task Deraining --recipe pretrained/history/derain/6.yml
    python Deraining/test.py
    python pretrained/release.py derain --scores results/Deraining/derain/results.json

Only this script writes pretrained/models.yml and the tables of scores in README.md and pretrained/README.md.
"""
from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

import m3snet.Deblurring.dataset
import m3snet.Deraining.dataset
from m3snet.models import load_model, save_weights, size_name
from m3snet.models.weights import PRETRAINED, released
from m3snet.utils.cli import UserError, run_program
from m3snet.utils.provenance import code_version, sha256

ROOT = Path(__file__).resolve().parents[1]
TASKS = {task.name: task for task in (m3snet.Deraining.dataset.TASK, m3snet.Deblurring.dataset.TASK)}
TERMS = "code MIT; these weights for research only, until the terms of every training image allow more"
MARKS = ("<!-- scores -->", "<!-- /scores -->")

Entry = dict[str, Any]


class ReleaseError(UserError):
    """Weights or scores that cannot be released; the message says why."""


def main(argv: Sequence[str] | None = None) -> None:
    """Write the weights, or the scores, that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="what users say: load_model(NAME), --weights NAME")
    parser.add_argument("checkpoint", nargs="?", type=Path, help="the weights to release, in half precision")
    parser.add_argument("--task", choices=TASKS, help="what they were trained for")
    parser.add_argument("--recipe", help="the configuration they were trained with, a path in this repository")
    parser.add_argument("--scores", nargs="+", type=Path, default=[], metavar="RESULTS", help="results.json of test.py")
    arguments = parser.parse_args(argv)
    if arguments.checkpoint and not (arguments.task and arguments.recipe):
        parser.error("a checkpoint needs --task and --recipe")
    index = released()
    if arguments.checkpoint:
        index[arguments.name] = release(arguments.name, arguments.checkpoint, arguments.task, arguments.recipe)
    if arguments.name not in index:
        raise ReleaseError(f"{arguments.name}: no released weights of this name; there are {', '.join(index)}")
    for results in arguments.scores:
        index[arguments.name]["scores"] |= scores(results, index[arguments.name]["sha256"])
    text = "# Written by pretrained/release.py; what the entries mean: pretrained/README.md\n"
    text += yaml.safe_dump(dict(sorted(index.items())), sort_keys=False)
    (PRETRAINED / "models.yml").write_text(text, encoding="utf-8")
    for page, table in PAGES.items():
        page.write_text(with_table(page.read_text(encoding="utf-8"), table(index)), encoding="utf-8")


def release(name: str, checkpoint: Path, task: str, recipe: str) -> Entry:
    """Write NAME.safetensors; returns its entry in models.yml.

    Raises:
        WeightsError: the checkpoint holds no usable weights.
        ReleaseError: there is no such recipe.
    """
    origin = facts(recipe)
    model = load_model(checkpoint)
    file = PRETRAINED / f"{name}.safetensors"
    save_weights(model, file, half=True)
    return {
        "task": task,
        "file": file.name,
        "sha256": sha256(file),
        "size": size_name(model),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "patch_size": model.patch_size,
        "recipe": recipe,
        **origin,
        "code": code_version(),
        "scores": {},
    }


def facts(recipe: str) -> Entry:
    """What the recipe of the last stage says: start, steps, training images; and the terms.

    Raises:
        ReleaseError: there is no such file in the repository.
    """
    file = ROOT / recipe
    if not file.is_file():
        raise ReleaseError(f"--recipe {recipe}: no such file in {ROOT}")
    config = yaml.safe_load(file.read_text(encoding="utf-8"))
    training = config["TRAINING"]
    pairs = training.get("TRAIN_DIR", [])
    folders = [*([pairs] if isinstance(pairs, str) else pairs), *training.get("SHARP_DIRS", [])]
    return {
        "started_from": training.get("WEIGHTS", ""),
        "steps": config["OPTIM"]["NUM_EPOCHS"] * training["EPOCH_STEPS"],
        "trained_on": [folder.removeprefix("./") for folder in dict.fromkeys(folders) if folder],
        "terms": TERMS,
    }


def scores(results: Path, file_hash: str) -> dict[str, Entry]:
    """The mean scores of each set in a results.json.

    Raises:
        ReleaseError: the file cannot be read, or other weights were scored.
    """
    try:
        found = json.loads(results.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReleaseError(f"{results}: expected a results.json of test.py ({error})") from error
    for result in found:
        if result["provenance"].get("weights_sha256") != file_hash:
            raise ReleaseError(f"{results}: scores other weights than the released ones; run test.py on those")
    keys = ("protocol", "images", "psnr", "ssim", "input_psnr", "input_ssim")
    return {result["dataset"]: {key: result[key] for key in keys} | {"worse": len(result["worse"])} for result in found}


def with_table(page: str, table: str) -> str:
    """The text of a page with what stands between its two marks replaced by `table`."""
    before, _, rest = page.partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    return f"{before}{MARKS[0]}\n{table}{MARKS[1]}{after}"


def full_table(index: dict[str, Entry]) -> str:
    """All scores of all released weights, as a Markdown table."""
    lines = [
        "| weights | set | images | protocol | PSNR input | restored | gain | worse | SSIM input | restored |",
        "|---|---|--:|---|--:|--:|--:|--:|--:|--:|",
    ]
    for name, dataset, s in _rows(index):
        gain = s["psnr"] - s["input_psnr"]
        lines.append(
            f"| `{name}` | {dataset} | {s['images']} | {s['protocol']} | {s['input_psnr']:.2f} | {s['psnr']:.2f} "
            f"| {gain:+.2f} | {s['worse']} | {s['input_ssim']:.4f} | {s['ssim']:.4f} |"
        )
    return "\n".join(lines) + "\n"


def short_table(index: dict[str, Entry]) -> str:
    """The PSNR of the weights that the programs use by default, as a Markdown table."""
    lines = ["| weights | set | images | input | restored |", "|---|---|--:|--:|--:|"]
    lines += [
        f"| `{name}` | {dataset} | {s['images']} | {s['input_psnr']:.2f} | {s['psnr']:.2f} |"
        for task in TASKS.values()
        for name, dataset, s in _rows({task.weights: index[task.weights]})
    ]
    return "\n".join(lines) + "\n"


def _rows(index: dict[str, Entry]) -> Iterator[tuple[str, str, Entry]]:
    """(weights, set, scores), the bundled samples last."""
    for name, entry in sorted(index.items()):
        for dataset, found in sorted(entry["scores"].items(), key=lambda item: item[0] == "samples"):
            yield name, dataset, found


PAGES = {ROOT / "pretrained" / "README.md": full_table, ROOT / "README.md": short_table}


if __name__ == "__main__":
    run_program(main)
