"""A network as a file for other programs: `python export.py derain --format onnx|openvino|torch-export -o FILE`."""
from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from m3snet.models import apply_tlc, load_model
from m3snet.models.exported import SMALLEST_SIDE
from m3snet.utils.cli import UserError, run_program, to_path
from m3snet.utils.files import check_outputs
from m3snet.utils.restoring.exports import SUFFIXES, export, facts_of, open_export
from m3snet.utils.restoring.restorer import PUBLISHED_PATCH

MOST_LEVELS = {"float32": 1.0, "float16": 4.0}  # grey levels that a pixel may be off


def main(argv: Sequence[str] | None = None) -> None:
    """Write the file that the command line describes, run it, and compare it with PyTorch.

    Raises:
        UserError, OSError: it cannot be made, or computes something else; then nothing is written.
    """
    args = parse(argv)
    name = Path(args.weights).stem
    path = args.out or Path(name).with_suffix(SUFFIXES[args.format])
    if path.suffix != SUFFIXES[args.format]:
        raise UserError(f"-o {path}: a file for {args.format} ends in {SUFFIXES[args.format]}")
    files = [path, path.with_suffix(".bin")] if args.format == "openvino" else [path]
    check_outputs(files, [], args.overwrite)
    model = load_model(args.weights)
    if args.tlc:
        model = apply_tlc(model, model.patch_size or PUBLISHED_PATCH)
    facts = facts_of(model, name, args.precision)
    window, most = facts.window or 64, MOST_LEVELS[args.precision]
    export(model, facts, args.format, path, lambda made: compare(made, model, window, most))
    pooling = f"TLC window {facts.window}" if facts.window else "without TLC"
    print(f"written: {path}: {name}, {args.precision}, {pooling}, any height and width from {SMALLEST_SIDE} pixels")


def compare(path: Path, model: torch.nn.Module, window: int, most: float) -> None:
    """Run an exported file at three sizes beside the network, and print how far they differ.

    Raises:
        UserError: by more than `most` grey levels.
    """
    network, _ = open_export(path)
    for height, width in ((17, window // 2 + 5), (window - 11, window + 29), (window + 45, 2 * window - 3)):
        image = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(height))
        with torch.inference_mode():
            levels = 255 * (network(image) - model(image)).clamp(-1, 1).abs().max().item()
        print(f"{width} x {height}: at most {levels:.4f} grey levels from PyTorch", flush=True)
        if not levels <= most:
            raise UserError(f"{path.name}: computes something else than PyTorch, and is not written")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", metavar="NAME|FILE", help="released weights, or a checkpoint")
    parser.add_argument("--format", choices=SUFFIXES, required=True, help="openvino: an .xml and a .bin")
    parser.add_argument("-o", "--out", type=to_path, metavar="FILE", help="default: NAME.onnx, NAME.xml, NAME.pt2 here")
    parser.add_argument("--no-tlc", dest="tlc", action="store_false", help="pool over the whole image")
    parser.add_argument("--precision", choices=MOST_LEVELS, default="float32", help="default: float32")
    parser.add_argument("--overwrite", action="store_true", help="write over files that exist already")
    return parser.parse_args(argv)


def run() -> None:
    """The command m3snet-export."""
    run_program(main)


if __name__ == "__main__":
    run()
