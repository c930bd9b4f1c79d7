r"""Turn a checkpoint into released weights, and record their scores.

pretrained/models.yml is written by this alone, and so are the tables of scores in README.md and pretrained/README.md.

    python pretrained/release.py derain checkpoints/Deraining/derain_2/model_best.pth \
        --recipe Deraining/configs/derain_2.yml
    python Deraining/test.py
    python pretrained/release.py derain --scores results/Deraining/results.json
"""
from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from m3snet.models import load_model, save_weights, size_name
from m3snet.models.weights import PRETRAINED, WeightsError, released
from m3snet.utils.provenance import code_version, sha256

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "pretrained" / "README.md", ROOT / "README.md")
TERMS = "code MIT; these weights for research only, until the terms of every training image allow more"
MARKS = ("<!-- scores -->", "<!-- /scores -->")


def main(argv: Sequence[str] | None = None) -> None:
    """Write the weights, or the scores, that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="what users say: load_model(NAME), --weights NAME")
    parser.add_argument("checkpoint", nargs="?", type=Path, help="the weights to release, in half precision")
    parser.add_argument("--recipe", help="the configuration they were trained with")
    parser.add_argument("--scores", nargs="+", type=Path, default=[], metavar="RESULTS", help="results.json of test.py")
    arguments = parser.parse_args(argv)
    index = released()
    try:
        if arguments.checkpoint:
            index[arguments.name] = release(arguments.name, arguments.checkpoint, arguments.recipe)
        for results in arguments.scores:
            index[arguments.name]["scores"] |= scores(results, index[arguments.name]["sha256"])
    except (WeightsError, ValueError, OSError, KeyError) as error:
        sys.exit(f"release.py: {error}")
    text = "# Written by pretrained/release.py; what the entries mean: pretrained/README.md\n"
    text += yaml.safe_dump(dict(sorted(index.items())), sort_keys=False)
    (PRETRAINED / "models.yml").write_text(text, encoding="utf-8")
    for page in PAGES:
        page.write_text(with_table(page.read_text(encoding="utf-8"), index), encoding="utf-8")


def release(name: str, checkpoint: Path, recipe: str) -> dict[str, Any]:
    """Write NAME.safetensors; returns its entry in models.yml."""
    model = load_model(checkpoint)
    file = PRETRAINED / f"{name}.safetensors"
    save_weights(model, file, half=True)
    return {
        "file": file.name,
        "sha256": sha256(file),
        "size": size_name(model),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "patch_size": model.patch_size,
        "recipe": recipe,
        **facts(recipe),
        "code": code_version(),
        "scores": {},
    }


def facts(recipe: str) -> dict[str, Any]:
    """What a recipe, a path below the project, says of the last stage of training, and on which terms it was made."""
    config = yaml.safe_load((ROOT / recipe).read_text(encoding="utf-8"))
    training = config["TRAINING"]
    folders = [training.get("TRAIN_DIR", ""), *training.get("SHARP_DIRS", [])]
    return {
        "started_from": training.get("WEIGHTS", ""),
        "steps": config["OPTIM"]["NUM_EPOCHS"] * training["EPOCH_STEPS"],
        "trained_on": [folder.removeprefix("./") for folder in dict.fromkeys(folders) if folder],
        "terms": TERMS,
    }


def scores(results: Path, file_hash: str) -> dict[str, dict[str, Any]]:
    """The sets' means in a results.json, if it was these weights that were scored.

    Raises:
        ValueError: it was not.
    """
    found = json.loads(results.read_text(encoding="utf-8"))
    for result in found:
        if result["provenance"].get("weights_sha256") != file_hash:
            raise ValueError(f"{results}: scores other weights than the released ones; run test.py on those")
    keys = ("protocol", "images", "psnr", "ssim", "input_psnr", "input_ssim")
    return {result["dataset"]: {key: result[key] for key in keys} | {"worse": len(result["worse"])} for result in found}


def with_table(page: str, index: dict[str, dict[str, Any]]) -> str:
    """The text of a page with what is between its two marks replaced by the table of `index`."""
    before, _, rest = page.partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    return f"{before}{MARKS[0]}\n{table(index)}{MARKS[1]}{after}"


def table(index: dict[str, dict[str, Any]]) -> str:
    """The scores of all released weights as a Markdown table."""
    lines = [
        "| weights | set | images | protocol | PSNR input | restored | gain | worse | SSIM input | restored |",
        "|---|---|--:|---|--:|--:|--:|--:|--:|--:|",
    ]
    for name, entry in sorted(index.items()):
        for dataset, s in sorted(entry["scores"].items(), key=lambda item: item[0] == "samples"):
            gain = s["psnr"] - s["input_psnr"]
            lines.append(
                f"| `{name}` | {dataset} | {s['images']} | {s['protocol']} | {s['input_psnr']:.2f} | {s['psnr']:.2f} "
                f"| {gain:+.2f} | {s['worse']} | {s['input_ssim']:.4f} | {s['ssim']:.4f} |"
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
