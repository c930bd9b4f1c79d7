"""Get the deraining data sets: download, unpack, cut into patches. What is there already is left as it is.

    python Deraining/prepare.py
    python Deraining/prepare.py --sets Rain13K_test
    python Deraining/prepare.py --archive ~/Downloads/Rain13K.zip
    python Deraining/prepare.py --patches 512 --stride 256

Without --archive it downloads the archives that the community's own scripts use (pip install -e '.[download]').
"""
from __future__ import annotations

from collections.abc import Sequence

from m3snet.Deraining.dataset import TASK
from m3snet.utils.cli import run_program
from m3snet.utils.data.download import Archive
from m3snet.utils.data.prepare import prepare

ARCHIVES = (
    Archive("Rain13K_train.zip", "14BidJeG4nSNuFNFDf99K-7eErCq4i47t", ("Rain13K/train",)),
    Archive(
        "Rain13K_test.zip",
        "1P_-RAvltEoEhfT-9GrWRdpEi6NSswTs8",
        tuple(benchmark.folder for benchmark in TASK.test_sets.values()),
    ),
)


def main(argv: Sequence[str] | None = None) -> None:
    """Prepare what the command line names."""
    prepare(TASK, ARCHIVES, __doc__, argv)


if __name__ == "__main__":
    run_program(main)
