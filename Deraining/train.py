"""Train M3SNet for deraining.

    python Deraining/train.py --config Deraining/configs/quickstart.yml --opts OPTIM.NUM_EPOCHS 5
    torchrun --nproc_per_node 2 Deraining/train.py --config Deraining/configs/m3snet32.yml
"""
from __future__ import annotations

from collections.abc import Sequence

from m3snet.Deraining.config import DEFAULTS
from m3snet.Deraining.dataset import task_with_rain
from m3snet.utils.cli import run_program
from m3snet.utils.training.run import parse_arguments, train


def main(argv: Sequence[str] | None = None) -> None:
    """Run the training that the command line describes."""
    config, dry_run = parse_arguments(DEFAULTS, __doc__, argv)
    train(config, task_with_rain(config), dry_run)


if __name__ == "__main__":
    run_program(main)
