"""Restore and score the deblurring test sets, or the bundled samples where there are none.

    python Deblurring/test.py
    python Deblurring/test.py --weights FILE --results DIR --opts DATA.ROOT DIR TEST.DATASETS "['GoPro', 'HIDE']"
    python Deblurring/test.py --score RESTORED --target SHARP
"""
from __future__ import annotations

from collections.abc import Sequence

from m3snet.Deblurring.config import DEFAULTS
from m3snet.Deblurring.dataset import TASK
from m3snet.utils.cli import run_program
from m3snet.utils.scoring.run import run


def main(argv: Sequence[str] | None = None) -> None:
    """Run the evaluation that the command line describes."""
    run(DEFAULTS, TASK, __doc__, argv)


if __name__ == "__main__":
    run_program(main)
