"""Restore and score the deblurring test sets, or the bundled samples where there are none.

    python Deblurring/test.py
    python Deblurring/test.py --weights FILE --results DIR --opts DATA.ROOT DIR TEST.DATASETS "['GoPro', 'HIDE']"
    python Deblurring/test.py --score RESTORED --target SHARP
"""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from m3snet.Deblurring.config import DEFAULTS
from m3snet.Deblurring.dataset import TASK
from m3snet.utils.cli import run_program
from m3snet.utils.config import load_task_config
from m3snet.utils.scoring.evaluate import evaluate_task, parse_arguments, score_folders


def main(argv: Sequence[str] | None = None) -> None:
    """Run the evaluation that the command line describes."""
    arguments = parse_arguments(__doc__, argv)
    config = load_task_config(DEFAULTS, arguments.config, arguments.opts)
    home = Path("results") / TASK.name
    if arguments.score:
        out_dir = arguments.results or home / "scores" / arguments.score.resolve().name
        score_folders(config, TASK, arguments.score, arguments.target, out_dir)
    else:
        evaluate_task(config, TASK, arguments.weights or TASK.weights, arguments.results or home)


if __name__ == "__main__":
    run_program(main)
