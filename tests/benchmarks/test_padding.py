"""benchmarks/padding.py adds what it says, and scores the image without it."""
import numpy as np
import pytest
from skimage import data

from m3snet.benchmarks import padding
from m3snet.models import create_model, save_weights
from m3snet.tests.filled import fill
from m3snet.utils.images import write_image
from m3snet.utils.restoring.restorer import Restorer
from m3snet.utils.scoring.metrics import psnr, rgb_to_y


def test_one_row_and_column_more_than_a_multiple():
    assert padding.one_more(np.zeros((48, 50, 3), np.uint8)).shape == (33, 49, 3)
    assert padding.one_more(np.zeros((49, 33, 3), np.uint8)).shape == (49, 33, 3)


def test_the_two_paddings_of_a_restorer_score_the_same_here():
    model = fill(create_model("M3SNet-T")).eval()
    image, target = data.astronaut()[:33, :49], data.astronaut()[1:34, :49]
    for name in ("reflect", "zeros"):
        restored = Restorer(model, "cpu", "float32", "exact", tile=0, padding=name)(image)
        whole, rows, columns = (
            psnr(rgb_to_y(restored[part]), rgb_to_y(target[part])) for part in (np.s_[:], np.s_[-16:], np.s_[:, -16:])
        )
        restorer = Restorer(model, "cpu", "float32", "exact", tile=0)
        found = padding.border_scores(restorer, image, target, padding.PADDINGS[name])
        assert found == pytest.approx((whole, rows, columns))


def test_the_table(tmp_path, capsys):
    save_weights(create_model("M3SNet-T"), tmp_path / "weights.safetensors")
    for name in ("input/a", "target/a", "input/b", "target/b"):
        write_image(tmp_path / f"{name}.png", data.astronaut()[:33, :49])
    write_image(tmp_path / "input/a.png", data.astronaut()[1:34, :49])
    padding.main(["--weights", str(tmp_path / "weights.safetensors"), "--pairs", str(tmp_path), "--first", "1"])
    first, head, *rows = capsys.readouterr().out.splitlines()
    assert first.endswith("1 pairs") and head.startswith("PSNR")
    assert [row.split()[0] for row in rows] == ["zeros", "reflect", "symmetric", "repeated"]
    assert all(len(line) <= 80 for line in (first, head, *rows))
