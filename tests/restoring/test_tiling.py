"""Tiles cover an image and join without seams."""
from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from m3snet.utils.restoring.tiling import in_tiles, spans_of


@pytest.mark.parametrize("length", [1, 31, 32, 33, 56, 57, 100, 1001])
def test_spans_cover_a_side_evenly_and_overlap(length: int) -> None:
    spans = spans_of(length, tile=32, overlap=8)
    assert spans[0].start == 0
    assert spans[-1].stop == length
    (size,) = {span.stop - span.start for span in spans}
    assert size <= 32
    assert len(spans) * size - (len(spans) - 1) * 8 < length + len(spans)  # and no larger than they must be
    assert all(before.stop - after.start >= 8 for before, after in pairwise(spans))
    # One fewer could not do it.
    assert len(spans) == 1 or (len(spans) - 1) * (32 - 8) + 8 < length


def test_what_looks_at_single_pixels_is_the_same_in_tiles() -> None:
    image = torch.rand(1, 3, 75, 130, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(in_tiles(lambda part: part * 2 - 0.5, image, tile=32, overlap=8), image * 2 - 0.5, atol=1e-6)


def test_only_an_image_larger_than_a_tile_is_cut() -> None:
    shapes: list[tuple[int, ...]] = []

    def network(part: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(part.shape))
        return part

    in_tiles(network, torch.zeros(1, 3, 16, 64), tile=32, overlap=8)  # as many pixels as a tile
    assert shapes == [(1, 3, 16, 64)]
    shapes.clear()
    in_tiles(network, torch.zeros(1, 3, 33, 64), tile=32, overlap=8)
    assert shapes == [(1, 3, 21, 27)] * 6


def test_results_fade_into_each_other() -> None:
    """Tiles that are grey in different ways: no step where they meet, and each as it is where it is alone."""
    levels = iter((0.0, 1.0))
    image = torch.zeros(1, 3, 32, 56)
    joined = in_tiles(lambda part: torch.full_like(part, next(levels)), image, tile=32, overlap=8)[0, 0]
    assert torch.equal(joined, joined[:1].expand(32, 56))
    assert torch.allclose(joined[0, 24:32], (torch.arange(8) + 0.5) / 8)
    assert joined[0, :24].max() == 0
    assert joined[0, 32:].min() == 1


def test_tiles_must_be_larger_than_their_overlap() -> None:
    with pytest.raises(ValueError, match="tiles of 15 pixels are too small; expected at least 16"):
        in_tiles(lambda part: part, torch.zeros(1, 3, 9, 9), tile=15, overlap=8)
