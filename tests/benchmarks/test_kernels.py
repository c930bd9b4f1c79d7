"""benchmarks/kernels.py: what is compared computes the same."""
from __future__ import annotations

import pytest
import torch

from m3snet.benchmarks import kernels as benchmark
from m3snet.models import kernels

pytestmark = pytest.mark.skipif(not kernels.available(), reason="kernels.c is not compiled here")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_sides_compute_the_same(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("ROWS", 40), ("COLUMNS", 50), ("WINDOW", 24)):
        monkeypatch.setattr(benchmark, name, value)
    for compiled, beside in benchmark.pairs(16, dtype).values():
        found, expected = (torch.as_tensor(side()).float() for side in (compiled, beside))
        if found.shape != expected.shape:  # OpenCV's has a border
            expected = expected[12 : 12 + found.shape[0], 12 : 12 + found.shape[1]]
        torch.testing.assert_close(found, expected, rtol=0.02, atol=0.05)


def test_the_table(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("ROWS", 40), ("COLUMNS", 50), ("WINDOW", 24), ("keep_freed_memory", lambda: None)):
        monkeypatch.setattr(benchmark, name, value)
    benchmark.main(["--channels", "8", "--rounds", "2"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 12 and all(len(line) <= 80 for line in lines)
    assert lines[4].split()[:2] == ["normalise", "8"]
