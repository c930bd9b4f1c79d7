"""Train M3SNet for deblurring.

    python Deblurring/train.py --config Deblurring/configs/quickstart.yml --opts OPTIM.NUM_EPOCHS 5
    torchrun --nproc_per_node 2 Deblurring/train.py --config Deblurring/configs/m3snet32.yml
"""
from __future__ import annotations

from collections.abc import Sequence

from m3snet.Deblurring.config import DEFAULTS
from m3snet.Deblurring.dataset import TASK
from m3snet.utils.cli import run_program
from m3snet.utils.training.run import parse_arguments, train


def main(argv: Sequence[str] | None = None) -> None:
    """Run the training that the command line describes."""
    config, dry_run = parse_arguments(DEFAULTS, __doc__, argv)
    train(config, TASK, dry_run)


if __name__ == "__main__":
    run_program(main)
