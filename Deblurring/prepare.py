"""Get the deblurring data sets: download, unpack, cut into patches. What is there already is left as it is.

    python Deblurring/prepare.py
    python Deblurring/prepare.py --sets GoPro_train GoPro_test
    python Deblurring/prepare.py --archive ~/Downloads/GOPRO_Large.zip
    python Deblurring/prepare.py --patches 512 --stride 256

Without --archive it downloads the archives that the community's own scripts use (pip install -e '.[download]').
"""
from __future__ import annotations

from collections.abc import Sequence

from m3snet.Deblurring.dataset import TASK
from m3snet.utils.cli import run_program
from m3snet.utils.data.download import Archive
from m3snet.utils.data.prepare import prepare

ARCHIVES = (
    Archive("GoPro_train.zip", "1zgALzrLCC_tcXKu_iHQTHukKUVT1aodI", ("GoPro/train",)),
    Archive("GoPro_test.zip", "1k6DTSHu4saUgrGTYkkZXTptILyG9RRll", ("GoPro/test",)),
    Archive("HIDE_test.zip", "1XRomKYJF1H92g1EuD06pCQe4o6HlwB7A", ("HIDE/test",)),
    Archive("RealBlur_R_test.zip", "1glgeWXCy7Y0qWDc0MXBTUlZYJf8984hS", ("RealBlur_R/test",)),
    Archive("RealBlur_J_test.zip", "1Rb1DhhXmX7IXfilQ-zL9aGjQfAAvQTrW", ("RealBlur_J/test",)),
)


def main(argv: Sequence[str] | None = None) -> None:
    """Prepare what the command line names."""
    prepare(TASK, ARCHIVES, __doc__, argv)


if __name__ == "__main__":
    run_program(main)
