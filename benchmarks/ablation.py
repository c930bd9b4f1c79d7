"""What FFM and MHAMB bring: the networks of configs/ablation, each trained with several seeds, as a table.

    for seed in 1 2 3; do for name in full no_ffm no_mhamb nafnet; do
        python Deraining/train.py --config Deraining/configs/ablation/$name.yml \\
            --opts TRAINING.SEED $seed TRAINING.VAL_SEED $seed MODEL.SESSION ablation_${name}_$seed
    done; done
    python benchmarks/ablation.py checkpoints/Deraining

A seed decides about the first weights, the patches and their order, and which images are held out: networks are
compared seed by seed. The score is the validation PSNR after the last epoch, of the averaged weights.
"""
from __future__ import annotations

import argparse
import csv
import re
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import NamedTuple

import torch

import m3snet.Deblurring.config
import m3snet.Deraining.config
from m3snet.benchmarks.cost import count_macs, count_parameters
from m3snet.utils.cli import UserError, run_program
from m3snet.utils.config import load_config
from m3snet.utils.training.build import build_model

NAMES = {"full": "M3SNet", "no_ffm": "without FFM", "no_mhamb": "without MHAMB", "nafnet": "NAFNet, as many MACs"}
DEFAULTS = {"Deblurring": m3snet.Deblurring.config.DEFAULTS, "Deraining": m3snet.Deraining.config.DEFAULTS}
_RUN = re.compile(rf"ablation_({'|'.join(NAMES)})_(\d+)")


class Network(NamedTuple):
    """One of the networks, trained with every seed."""

    parameters: int
    macs: int  # of a 256 x 256 image
    scores: dict[int, float]  # seed -> dB


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table of the runs in a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="holds the runs: checkpoints/TASK")
    print(table(collect(parser.parse_args(argv).folder)))


def collect(folder: Path) -> dict[str, Network]:
    """The runs below `folder`, by network.

    Raises:
        UserError: the folder is not named after a task; a network lacks a seed that another one has, or there are fewer
            than two.
    """
    if folder.name not in DEFAULTS:
        raise UserError(f"{folder}: expected the runs of a task, checkpoints/{' or checkpoints/'.join(DEFAULTS)}")
    found: dict[str, Network] = {}
    for run in sorted(folder.glob("ablation_*_*")):
        match = _RUN.fullmatch(run.name)
        if not match:
            continue
        name, seed = match[1], int(match[2])
        if name not in found:
            config = load_config(DEFAULTS[folder.name], run / "config.yml")
            with torch.device("meta"):
                model = build_model(config)
                found[name] = Network(count_parameters(model), count_macs(model, 256, 256), {})
        with (run / "validation.csv").open(newline="") as lines:
            found[name].scores[seed] = [float(line["psnr"]) for line in csv.DictReader(lines)][-1]
    seeds = sorted({seed for network in found.values() for seed in network.scores})
    missing = [
        f"ablation_{name}_{seed}"
        for name in NAMES
        for seed in seeds
        if name not in found or seed not in found[name].scores
    ]
    if len(seeds) < 2 or missing:
        raise UserError(
            f"{folder}: expected runs of every network with the same two or more seeds; missing: "
            f"{', '.join(missing) or 'a second seed'}. How to train them: --help"
        )
    return found


def table(networks: dict[str, Network]) -> str:
    """The networks as a Markdown table: scores of each seed, mean and standard deviation, and difference to M3SNet."""
    seeds = sorted(networks["full"].scores)
    header = ["network", "parameters", "MACs", *(f"seed {seed}" for seed in seeds), "mean", "minus M3SNet"]
    lines = ["| " + " | ".join(header) + " |", "|---|" + "--:|" * (len(header) - 1)]
    for name, shown in NAMES.items():
        parameters, macs, scores = networks[name]
        differences = [scores[seed] - networks["full"].scores[seed] for seed in seeds]
        cells = [shown, f"{parameters:,}", f"{macs / 1e9:.2f} G", *(f"{scores[seed]:.2f}" for seed in seeds)]
        cells.append(f"{fmean(scores.values()):.2f} ± {stdev(scores.values()):.2f}")
        cells.append("" if name == "full" else f"{fmean(differences):+.2f} ± {stdev(differences):.2f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    run_program(main)
