"""Crops against numpy's reflection, and the eight orientations."""
import numpy as np
import pytest
import torch

from m3snet.utils.data.augment import ORIENTATIONS, crop, orient, random_corner


@pytest.mark.parametrize(
    ("top", "left", "height", "width"),
    [
        (1, 2, 3, 4),  # inside
        (-2, -3, 5, 6),  # over the top left corner
        (4, 5, 6, 7),  # over the bottom right corner
        (-3, 2, 12, 2),  # over top and bottom
        (-20, -30, 60, 70),  # many times larger than the image
    ],
)
@pytest.mark.parametrize("shape", [(7, 9, 3), (1, 9, 3), (2, 1, 3)])
def test_crop_is_a_cut_from_numpys_reflection(shape, top, left, height, width):
    top, left = min(top, shape[0] - 1), min(left, shape[1] - 1)  # a cut starts inside the image, or before it
    image = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    far = 100
    padded = np.pad(image, ((far, far), (far, far), (0, 0)), mode="reflect")
    expected = padded[far + top : far + top + height, far + left : far + left + width]
    cut = crop(image, top, left, height, width)
    assert cut.dtype == np.uint8
    np.testing.assert_array_equal(cut, expected)


def test_corners_reach_both_ends_and_stay_inside():
    rng = np.random.default_rng(0)
    corners = {random_corner(6, 5, 4, rng) for _ in range(300)}
    assert corners == {(top, left) for top in range(3) for left in range(2)}
    assert random_corner(3, 4, 4, rng) == (0, 0)


def test_eight_distinct_orientations_and_the_first_changes_nothing():
    patch = torch.arange(2 * 3 * 3).reshape(1, 2, 3, 3)
    turned = orient(patch.repeat(ORIENTATIONS, 1, 1, 1), torch.arange(ORIENTATIONS))
    assert torch.equal(turned[:1], patch)
    assert len({tuple(one.flatten().tolist()) for one in turned}) == 8
    square = {  # the symmetries of a square, written out by hand
        "abcd", "bdac", "dcba", "cadb", "badc", "acbd", "cdab", "dbca",
    }  # fmt: skip
    letters = torch.tensor([ord(letter) for letter in "abcd"]).reshape(1, 1, 2, 2).repeat(8, 1, 1, 1)
    rows = orient(letters, torch.arange(8)).flatten(1).tolist()
    assert {"".join(map(chr, row)) for row in rows} == square


def test_each_patch_has_its_own_orientation_and_pairs_stay_aligned():
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, 200, (8, 3, 5, 5), generator=generator, dtype=torch.uint8)
    degraded = target + 7
    order = torch.randperm(8, generator=generator)
    turned = orient(target, order)
    assert turned.dtype == torch.uint8
    assert torch.equal(orient(degraded, order), turned + 7)
    for i, k in enumerate(order):
        assert torch.equal(turned[i : i + 1], orient(target[i : i + 1], k[None]))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_memory_format_stays(memory_format):
    patches = torch.arange(8 * 3 * 5 * 5).reshape(8, 3, 5, 5)
    turned = orient(patches.contiguous(memory_format=memory_format), torch.arange(8))
    assert turned.is_contiguous(memory_format=memory_format)
    assert torch.equal(turned, orient(patches, torch.arange(8)))


def test_the_host_never_waits_for_orientations():
    on_meta = torch.arange(4, device="meta")  # a device that has no values to wait for
    assert orient(torch.zeros(4, 3, 5, 5, device="meta"), on_meta).shape == (4, 3, 5, 5)


def test_as_many_orientations_as_patches():
    for count in (1, 2):
        with pytest.raises(ValueError, match=f"expected 3 orientations, one per patch, found {count}"):
            orient(torch.zeros(3, 3, 2, 2), torch.zeros(count, dtype=torch.int64))
