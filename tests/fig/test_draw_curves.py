"""The curves of a run: drawn from its tables, whatever else stands in them."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from m3snet.fig.draw_curves import main, read_table
from m3snet.utils.cli import UserError
from m3snet.utils.images import read_image
from m3snet.utils.training.log import METRICS, VALIDATION


def draw(run: Path, metrics: str, validation: str) -> np.ndarray:
    (run / "metrics.csv").write_text(",".join(METRICS) + "\n" + metrics)
    (run / "validation.csv").write_text(",".join(VALIDATION) + "\n" + validation)
    main([str(run), "-o", str(run / "curves.png")])
    return read_image(run / "curves.png")


def inked(image: np.ndarray, colour: tuple[int, int, int]) -> int:
    """How many pixels are about of that colour."""
    return int((np.abs(image.astype(int) - colour).max(axis=2) < 8).sum())


def test_an_empty_run_and_a_long_one(tmp_path: Path) -> None:
    rows = "".join(
        f"{step},1,{20 + step / 50},{1e-3 - step * 1e-6},{step % 7 + 1},1,0,1\n" for step in range(1, 500)
    )
    empty, full = draw(tmp_path, "", ""), draw(tmp_path, rows, "250,1,25\n499,2,30\n")
    for colour in ((76, 114, 176), (196, 78, 82)):  # training, validation; the legend has a little of both
        assert inked(full, colour) > 2 * inked(empty, colour)


def test_rows_of_others_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "validation.csv"
    path.write_bytes(b"step,epoch,psnr\n# \xff\n1,1,20.5\n2,1\nlater,1,2\n3,2,21\n")
    table = read_table(path)
    assert table["step"].tolist() == [1, 3]
    assert table["psnr"].tolist() == [20.5, 21]


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"metrics\.csv: no such table; name the folder of a run"):
        main([str(tmp_path), "-o", str(tmp_path / "curves.png")])
