"""Training patches: a function of (seed, epoch, index) alone; batches, of the seed, not of the number of processes."""
from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage import data
from torch.utils.data import DataLoader

from m3snet.utils.config import ConfigError
from m3snet.utils.data.cache import open_cache
from m3snet.utils.data.pairs import Pair, PairError
from m3snet.utils.data.patches import CentrePatches, Order, PatchBatches, PatchDataset, Process
from m3snet.utils.images import read_image, write_image
from m3snet.utils.settings import CACHES
from m3snet.utils.tasks import Degradation


def darker(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A degradation that tells where its patch comes from: half the light, and a random level."""
    return image // 2 + np.uint8(rng.integers(0, 100))


DARKER = Degradation("darker", darker, margin=4, sample=darker, visible=(0, 100))


@pytest.fixture
def pairs(tmp_path: Path) -> list[Pair]:
    """Two real pairs, whose input is the inverted target, and a photograph without input; one pair is small."""
    made = []
    for i, size in enumerate((60, 20, 70)):
        target = data.astronaut()[80 * i : 80 * i + size, 100 : 100 + size + 7]
        write_image(tmp_path / f"{i}.png", target)
        write_image(tmp_path / f"input{i}.png", 255 - target)
        made.append(Pair(str(i), tmp_path / f"input{i}.png" if i < 2 else None, tmp_path / f"{i}.png"))
    return made


def dataset(pairs: list[Pair], **options: object) -> PatchDataset:
    return PatchDataset(pairs, 32, 1, DARKER, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("kind", CACHES)
def test_patches_are_the_same_from_every_cache_and_any_number_of_workers(
    kind: str, workers: int, pairs: list[Pair], tmp_path: Path
) -> None:
    images = [path for pair in pairs for path in (pair.input, pair.target) if path]
    patches = dataset(pairs, read=open_cache(kind, tmp_path / "cache", images))
    keys = [[(epoch, index) for index in range(start, start + 4)] for epoch in (1, 2, 3) for start in (0, 4)]
    content = hashlib.sha256()
    for batch in DataLoader(patches, batch_sampler=keys, num_workers=workers):
        assert batch.degraded.shape == batch.target.shape == (4, 32, 32, 3)
        for degraded, target, orientation, pair in zip(*batch, strict=True):
            for pixels in (degraded, target):
                content.update(pixels.numpy().tobytes())
            content.update(bytes([orientation, pair]))
    # Written down when patches came from the PNG files one by one: checkpoints of then go on with the same patches.
    assert content.hexdigest() == "b4e1c603e43fb01939f45327cc000be3d38ea009501508f72dbc99ca4d893ab9"


def test_a_patch_depends_on_seed_epoch_and_index_alone(pairs: list[Pair]) -> None:
    a, b, c = (dataset(pairs)[key].target for key in ((1, 0), (2, 0), (1, 3)))
    assert not torch.equal(a, b)
    assert not torch.equal(a, c)  # index 3 is another look at pair 0
    assert dataset(pairs)[1, 3].pair == 0
    assert not torch.equal(a, PatchDataset(pairs, 32, 2, DARKER)[1, 0].target)


def test_a_share_of_the_patches_ends_in_zeros(pairs: list[Pair]) -> None:
    borders = []
    for key in [(epoch, index) for epoch in range(120) for index in range(2)]:
        whole, bordered = dataset(pairs)[key], dataset(pairs, zero_borders=0.5)[key]
        inside = (bordered.degraded | bordered.target).any(dim=2)  # one is the negative of the other
        rows, columns = int(inside.any(dim=1).sum()), int(inside.any(dim=0).sum())
        for before, after in (whole.degraded, bordered.degraded), (whole.target, bordered.target):
            assert torch.equal(before[:rows, :columns], after[:rows, :columns])
            assert not after[rows:].any() and not after[:, columns:].any()
        borders.append((32 - rows, 32 - columns))
    assert 90 < sum(border != (0, 0) for border in borders) < 150
    assert {rows for rows, _ in borders} == {columns for _, columns in borders} == set(range(16))


def test_input_and_target_show_the_same_place_in_8_bits(pairs: list[Pair]) -> None:
    for epoch in range(5):
        for index in range(2):
            patch = dataset(pairs)[epoch, index]
            assert patch.degraded.dtype == patch.target.dtype == torch.uint8
            assert patch.target.shape == (32, 32, 3)
            assert torch.equal(255 - patch.degraded, patch.target)
        made = dataset(pairs)[epoch, 2]
        offset = made.degraded.int() - made.target.int() // 2
        assert offset.unique().numel() == 1  # degraded with its margin, then trimmed to where the target lies


def test_a_photograph_needs_a_degradation(pairs: list[Pair]) -> None:
    with pytest.raises(ValueError, match="need a degradation"):
        PatchDataset(pairs, 32, 1)
    with pytest.raises(ValueError, match="need a degradation"):
        CentrePatches(pairs, 32, 1)


def test_validation_sees_the_centre_and_the_same_degradation_every_time(pairs: list[Pair]) -> None:
    images = CentrePatches(pairs, 32, 1, DARKER)
    sizes = [degraded.shape[:2] for degraded, target in images]
    assert sizes == [(32, 32), (20, 27), (32, 32)]
    for (degraded, target), pair in zip(images, pairs, strict=True):
        whole = read_image(pair.target)
        top, left = (whole.shape[0] - target.shape[0]) // 2, (whole.shape[1] - target.shape[1]) // 2
        assert np.array_equal(target, whole[top : top + target.shape[0], left : left + target.shape[1]])
        if pair.input:
            assert np.array_equal(degraded, 255 - target)
    # The seed and the name, as in every run so far: their scores compare.
    level = np.random.default_rng((1, *b"2")).integers(0, 100)
    assert np.array_equal(images[2][0], images[2][1] // 2 + np.uint8(level))
    assert not np.array_equal(images[2][0], CentrePatches(pairs, 32, 2, DARKER)[2][0])


def test_a_name_that_is_not_utf_8(pairs: list[Pair]) -> None:
    (photograph,) = (pair for pair in pairs if pair.input is None)
    pairs = [Pair(name, None, photograph.target) for name in ("\udcff", "\udcfe")]
    (first, _), (second, _) = CentrePatches(pairs, 32, 1, DARKER)
    assert not np.array_equal(first, second)


def test_an_input_that_changed_its_size_is_not_trained_on(pairs: list[Pair]) -> None:
    assert pairs[0].input
    write_image(pairs[0].input, np.zeros((60, 90, 3), np.uint8))
    for read in (lambda: dataset(pairs)[1, 0], lambda: CentrePatches(pairs, 32, 1, DARKER)[0]):
        with pytest.raises(PairError, match=r"input0\.png is 90x60 but .*0\.png is 67x60"):
            read()


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("shares", [(), (1, 3)])
def test_processes_share_the_same_batches(world: int, shares: tuple[float, ...]) -> None:
    order = Order((7, 3), 4, 7, shares=shares)
    whole = list(PatchBatches(order, range(2, 4)))
    parts = [list(PatchBatches(order, range(2, 4), Process(rank, world))) for rank in range(world)]
    assert [[key for part in batch for key in part] for batch in zip(*parts, strict=True)] == whole
    assert len(whole) == len(PatchBatches(order, range(2, 4))) == 6
    assert list(PatchBatches(order, range(3, 4))) == whole[3:]  # what a resumed run sees
    assert list(PatchBatches(order, range(2, 4), skip=2)) == whole[2:]
    with pytest.raises(ValueError, match="BATCH_SIZE 4 cannot be shared equally by 3"):
        PatchBatches(order, range(1, 2), Process(0, 3))


@pytest.mark.parametrize(("length", "steps"), [(50, 3), (5, 10), (6, 0), (10, 15)])
def test_the_order_of_whole_passes_is_that_of_earlier_checkpoints(length: int, steps: int) -> None:
    order = Order((length,), 2, 7, steps)
    size = 2 * order.steps_per_epoch
    before = np.random.default_rng((7, 3)).permutation(max(1, size // length) * length)[:size]
    assert order.epoch(3) == [(3, int(index)) for index in before]
    assert order.facts == [length, 2, 7, steps, 0]


@pytest.mark.parametrize(("length", "batch", "steps"), [(1000, 32, 60), (2103, 32, 0), (7, 4, 5), (1, 2, 3)])
def test_no_patch_comes_twice_in_a_training(length: int, batch: int, steps: int) -> None:
    order = Order((length,), batch, 1, steps)
    keys = [key for epoch in (1, 2) for key in order.epoch(epoch)]
    assert len(set(keys)) == len(keys) == 2 * batch * order.steps_per_epoch
    counts = np.bincount([index % length for _, index in order.epoch(1)], minlength=length)
    assert counts.max() - counts.min() <= 1  # and all images are looked at alike


def test_each_folder_gets_its_share() -> None:
    lengths, shares = (686, 193, 50), (0.2, 0.35, 0.45)
    order = Order(lengths, 4, 1, 50, shares)
    ends = np.cumsum(lengths)
    for epoch in (1, 2):
        keys = order.epoch(epoch)
        assert len(set(keys)) == len(keys) == 200
        numbers = np.array([index % ends[-1] for _, index in keys])
        folders = np.searchsorted(ends, numbers, side="right")
        assert np.bincount(folders).tolist() == [40, 70, 90]
        assert set(np.bincount(numbers)[ends[1] :]) == {1, 2}  # 90 looks at 50 images
        assert 10 < (folders[:100] == 0).sum() < 30  # shuffled with the others
    assert order.epoch(1) == Order(lengths, 4, 1, 50, (4, 7, 9)).epoch(1) != order.epoch(2)
    assert Order((10, 10, 10), 4, 1, 1, (1, 1, 1))._counts() == [2, 1, 1]  # the largest remainder, the first of equals
    assert order.facts != Order(lengths, 4, 1, 50, (1, 1, 1)).facts


def test_a_share_of_no_patch_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"TRAINING.SHARES \[1000, 1\]: an epoch of 40 patches leaves none"):
        Order((5, 5), 4, 1, 10, (1000, 1))


def test_overfitting_sees_the_same_patches_again() -> None:
    assert Order((9,), 4, 1, 2, overfit=3).epoch(5) == [(0, i) for i in (0, 1, 2, 0, 1, 2, 0, 1)]
