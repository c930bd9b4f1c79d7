"""The benchmarks of tiles and of the memory of a pass measure what they say."""
from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage import data

from m3snet.benchmarks import memory, tiles
from m3snet.models import SIZES, create_model, save_weights
from m3snet.utils.images import write_image
from m3snet.utils.restoring.backends import has_bfloat16
from m3snet.utils.restoring.memory import BYTES_PER_PIXEL, bytes_per_pixel


def test_tiles_are_compared_with_the_whole_image(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = create_model("M3SNet-T", enc_blk_nums=(1, 1, 1, 1))
    model.patch_size = 32
    torch.nn.init.zeros_(model.ending.weight)  # so that it changes nothing
    torch.nn.init.zeros_(model.ending.bias)
    save_weights(model, tmp_path / "tiny.safetensors")
    write_image(tmp_path / "photographs" / "a.png", data.astronaut()[:160, :160])
    write_image(tmp_path / "photographs" / "b.png", data.astronaut()[:160, 160:320])
    write_image(tmp_path / "photographs" / "c.png", data.astronaut()[:20, :20])
    calls: list[int] = []

    def off(restorer: object, image: np.ndarray, tile: int, overlap: int) -> np.ndarray:
        """The first photograph is off by 3 levels at one in ten pixels when tiles share little."""
        calls.append(tile)
        other = image.astype(np.uint8)
        other[:16, :, 1] = np.where(other[:16, :, 1] > 100, other[:16, :, 1] - 3, other[:16, :, 1] + 3)
        return other if overlap == 16 and len(calls) == 1 else image

    monkeypatch.setattr(tiles, "tiled", off)
    options = ["--photographs", str(tmp_path / "photographs"), "--first", "2", "--tile", "96", "--overlaps", "16", "48"]
    tiles.main(["--weights", str(tmp_path / "tiny.safetensors"), *options])
    few, many = (line.split() for line in capsys.readouterr().out.splitlines()[-2:])
    assert calls == [96] * 4
    # Two tiles of 96 pixels cover 160 when they share 16, and three when they share 48.
    assert few[:-1] == ["16", "5.0000%", "5.0000%", "10.0000%", "3", f"{(192 / 160) ** 2:.2f}"]
    assert many[:-1] == ["48", "0.0000%", "0.0000%", "0.0000%", "0", f"{(288 / 160) ** 2:.2f}"]
    assert 1 < float(few[-1]) < float(many[-1]) < 1.2


def test_tiles_are_restored_with_the_overlap_that_is_asked_for() -> None:
    from m3snet.utils.restoring.restorer import Restorer

    model = create_model("M3SNet-T", enc_blk_nums=(1, 1, 1, 1))
    restorer = Restorer(model, "cpu", "float32", "torch", tile=0)
    seen: list[tuple[int, ...]] = []
    restorer.network = lambda part: seen.append(tuple(part.shape[2:])) or part
    image = data.astronaut()[:64, :160]
    assert np.array_equal(tiles.tiled(restorer, image, 96, 16), image)
    assert seen == [(64, 96), (64, 96)]


def test_memory_is_told_per_pixel(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "in_new_process", lambda function, *case: 1000 + 123 * case[3] ** 2)
    memory.main(["--sizes", "M3SNet-S", "--backends", "exact", "--json", str(tmp_path / "memory.json")])
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("M3SNet-S"))
    assert line.split() == ["M3SNet-S", "exact", "float32", "123", str(bytes_per_pixel(16, "exact", "float32"))]
    (row,) = json.loads((tmp_path / "memory.json").read_text())["rows"]
    assert row == {"size": "M3SNet-S", "backend": "exact", "precision": "float32", "bytes_per_pixel": 123}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="nothing tells how much memory a process holds")
@pytest.mark.parametrize(("backend", "precision"), BYTES_PER_PIXEL)
def test_a_pass_takes_no_more_than_is_reckoned_with(backend: str, precision: str) -> None:
    if precision == "bfloat16" and not has_bfloat16(torch.device("cpu")):
        pytest.skip("emulated here, with other buffers")
    reckoned = bytes_per_pixel(SIZES["M3SNet-T"]["width"], backend, precision)
    assert 0.4 * reckoned < memory.measure("M3SNet-T", backend, precision) <= reckoned
