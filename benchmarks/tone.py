"""Does a network keep a photograph's tone, and does it depend on the image's border? `python benchmarks/tone.py`.

    python benchmarks/tone.py --photographs Datasets/clean/kodak --pairs Datasets/Rain13K/test/Test100

Tone: the mean of the restored image minus that of the photograph, in grey levels of 255, of dry photographs and of
the same with light or heavy rain drawn on them. Border: the PSNR (luma) of each pair over the area that three variants
share: padded by reflection, as photographs are restored; with zeros, as published; 16 rows and columns cut off.
"""
from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import numpy as np

from m3snet.utils.cli import run_program
from m3snet.utils.data.pairs import find_pairs, find_photographs
from m3snet.utils.data.rain import rain_of_kind
from m3snet.utils.images import read_image
from m3snet.utils.restoring.restorer import Restorer
from m3snet.utils.scoring.metrics import psnr, rgb_to_y

MULTIPLE = 16


def main(argv: Sequence[str] | None = None) -> None:
    """Print both tables for the weights and images that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="derain", metavar="FILE|NAME")
    parser.add_argument("--photographs", type=Path, metavar="DIR", help="sharp, dry photographs")
    parser.add_argument("--pairs", type=Path, metavar="DIR", help="holds input/ and target/")
    arguments = parser.parse_args(argv)
    restorer = Restorer(arguments.weights, precision="float32", backend="exact", tile=0)
    if arguments.photographs:
        shifts = {photo.name: tone(restorer, photo.target) for photo in find_photographs([arguments.photographs])}
        print(f"{'mean shift, grey levels':30}{'mean':>8}{'worst':>8}")
        for column, kind in enumerate(("dry", "light rain", "heavy rain")):
            values = {name: shift[column] for name, shift in shifts.items()}
            worst = max(values, key=lambda name: abs(values[name]))
            print(f"{kind:30}{fmean(map(abs, values.values())):8.2f}{values[worst]:+8.2f}  {worst}")
    if arguments.pairs:
        changes = {pair.name: border(restorer, pair.input, pair.target) for pair in find_pairs(arguments.pairs)}
        print(f"{'PSNR against reflected, dB':30}{'mean':>8}{'worst':>8}")
        for column, kind in enumerate(("zeros", "16 rows and columns cut off")):
            values = {name: change[column] for name, change in changes.items()}
            worst = max(values, key=lambda name: abs(values[name]))
            print(f"{kind:30}{fmean(values.values()):+8.2f}{values[worst]:+8.2f}  {worst}")


def tone(restorer: Restorer, path: Path) -> tuple[float, float, float]:
    """Mean of the restored image minus that of the photograph: dry, in light rain, in heavy rain."""
    photograph = read_image(path)
    seed = [*path.name.encode()]
    rained = (rain_of_kind(kind, photograph, np.random.default_rng(seed)) for kind in ("light", "heavy"))
    inputs = photograph, *rained
    dry, light, heavy = (float(restorer(image).mean() - photograph.mean()) for image in inputs)
    return dry, light, heavy


def border(restorer: Restorer, degraded: Path | None, target: Path) -> tuple[float, float]:
    """By how many dB the score changes: zeros beyond the border, not its reflection; 16 rows and columns cut off."""
    assert degraded is not None
    image, truth = read_image(degraded), read_image(target)
    height, width = (length - MULTIPLE for length in image.shape[:2])
    scores = []
    for variant, padding in (image, "reflect"), (image, "zeros"), (image[:height, :width], "reflect"):
        restorer.padding = padding
        restored = restorer(np.ascontiguousarray(variant))[:height, :width]
        scores.append(psnr(rgb_to_y(restored), rgb_to_y(truth[:height, :width])))
    return scores[1] - scores[0], scores[2] - scores[0]


if __name__ == "__main__":
    run_program(main)
