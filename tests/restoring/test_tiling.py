"""Tiles cover an image and join without seams, and the memory decides how large they are."""
from __future__ import annotations

import subprocess
import sys
import tracemalloc
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage import data

from m3snet.models import create_model
from m3snet.utils.images import write_image
from m3snet.utils.restoring import memory
from m3snet.utils.restoring.restorer import Restorer, RestoringError
from m3snet.utils.restoring.tiling import fades, in_tiles, spans_of


def noise(height: int, width: int, dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (height, width, 3), dtype, endpoint=True)


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


@pytest.mark.parametrize("length", [1, 60, 64, 65, 100, 1001])
def test_spans_begin_on_a_grid(length: int) -> None:
    spans = spans_of(length, tile=71, overlap=13, grid=8)
    assert (spans[0].start, spans[-1].stop) == (0, length)
    assert all(span.start % 8 == 0 and span.stop - span.start <= 64 for span in spans)
    assert all(span.stop % 8 == 0 for span in spans[:-1])
    assert all(before.stop - after.start >= 16 for before, after in pairwise(spans[:-1]))
    assert len(spans) == 1 or spans[-2].stop - spans[-1].start >= 13


@pytest.mark.parametrize("length", [1, 32, 33, 40, 57, 1001])
def test_weights_add_up_to_one_and_leave_the_borders_out(length: int) -> None:
    spans = spans_of(length, tile=32, overlap=16)
    weights = fades(spans, 4)
    total = torch.zeros(length)
    for span, weight in zip(spans, weights, strict=True):
        total[span] += weight
        assert weight.min() >= 0
    assert torch.allclose(total, torch.ones(length))
    for before, after in pairwise(weights):
        assert before[-6:].max() == 0 and after[:6].max() == 0  # of 16 pixels, 4 in the middle are shared


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(75, 130), (1, 2000), (2000, 3)])
def test_what_looks_at_single_pixels_is_the_same_in_tiles(dtype: type, shape: tuple[int, int]) -> None:
    image = noise(*shape, dtype)
    negative = in_tiles(lambda part: 1 - part, image, tile=32, overlap=8)
    assert negative.dtype == dtype
    assert np.array_equal(negative, np.iinfo(dtype).max - image)


def test_only_an_image_larger_than_a_tile_is_cut() -> None:
    shapes: list[tuple[int, ...]] = []

    def network(part: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(part.shape))
        return part

    in_tiles(network, noise(16, 64), tile=32, overlap=8)  # as many pixels as a tile
    in_tiles(network, noise(64, 64), tile=0, overlap=8)
    assert shapes == [(1, 3, 16, 64), (1, 3, 64, 64)]
    shapes.clear()
    in_tiles(network, noise(33, 64), tile=32, overlap=8)
    assert shapes == [(1, 3, 21, 27)] * 6


def test_results_fade_into_each_other() -> None:
    """Tiles that are grey in different ways: no step where they meet, and each as it is where it is alone."""
    levels = iter((0.0, 1.0))
    image = noise(32, 44)
    joined = in_tiles(lambda part: torch.full_like(part, next(levels)), image, tile=32, overlap=16)
    assert np.array_equal(joined, np.broadcast_to(joined[:1, :, :1], joined.shape))
    row = joined[0, :, 0].astype(int)  # the tiles share columns 14 to 29, and change over the four in the middle
    assert row[:20].max() == 0 and row[24:].min() == 255
    assert np.abs(row[20:24] - 255 * (np.arange(4) + 0.5) / 4).max() <= 0.5


def test_tiles_that_do_not_share_a_border_pixel_hide_what_a_border_does() -> None:
    """A network that sees three pixels far gives the same in tiles whose borders are four away from what is used."""

    def network(part: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(part, 7, 1, 3)

    image = noise(90, 70)
    in_parts, whole = (in_tiles(network, image, tile, 16) for tile in (40, 0))
    assert np.abs(in_parts.astype(int) - whole).max() <= 1  # the order of sums
    assert not np.array_equal(image, whole)


def test_tiles_must_be_larger_than_their_overlap() -> None:
    for tile in (8, 15):
        with pytest.raises(ValueError, match=f"tiles of {tile} pixels are too small; expected more than their overlap"):
            in_tiles(lambda part: part, noise(19, 19), tile=tile, overlap=8, grid=8)


def test_progress_is_told_of_every_tile() -> None:
    told: list[tuple[int, int]] = []
    in_tiles(lambda part: part, noise(33, 64), 32, 8, progress=lambda done, tiles: told.append((done, tiles)))
    assert told == [(done, 6) for done in range(1, 7)]
    in_tiles(lambda part: part, noise(3, 4), 32, 8, progress=lambda done, tiles: told.append((done, tiles)))
    assert told[6:] == [(1, 1)]


def test_memory_grows_with_a_row_of_tiles_not_with_the_image() -> None:
    """numpy's memory is counted exactly; torch's are views of it here, or of a size that the band is known to have."""

    def peak(height: int) -> int:
        image = np.zeros((height, 300, 3), np.uint8)
        tracemalloc.start()
        try:
            in_tiles(lambda part: part, image, 128, 32)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    low, high = peak(1000), peak(3000)
    assert (high - low) / (2000 * 300) < 3.1  # the result's three bytes per pixel, and nothing else


def restorer(tile: int | None = None, padding: str = "reflect") -> Restorer:
    model = create_model("M3SNet-T", enc_blk_nums=(1, 1, 1, 1))
    model.patch_size = 32  # tiles from 96 pixels
    return Restorer(model, "cpu", "float32", "torch", tile=tile, padding=padding)


def test_a_network_gives_the_same_in_tiles_as_whole() -> None:
    """Its levels see the same halves of the image where tiles begin at multiples of 16, but hardly anywhere else."""
    torch.manual_seed(0)
    model = create_model("M3SNet-T", enc_blk_nums=(1, 1, 1, 4))
    for name, parameter in model.named_parameters():
        if name.endswith(("beta", "gamma")):
            torch.nn.init.normal_(parameter, std=0.3)
    model.patch_size = 32
    image = data.astronaut()[:300, :410]
    whole, tiles = (Restorer(model, "cpu", "float32", "torch", tile=tile)(image).astype(int) for tile in (0, 150))
    assert np.abs(whole - image).mean() > 10
    assert np.abs(whole - tiles).max() <= 2


# Sides of 200 pixels in spans of 128, and of 96, that begin at multiples of 16 and overlap by 48.
FOUR = [(rows, columns) for rows in (128, 120) for columns in (128, 120)]
SIXTEEN = [(rows, columns) for rows in (96, 96, 96, 88) for columns in (96, 96, 96, 88)]


def test_what_is_free_decides_how_large_a_tile_is(monkeypatch: pytest.MonkeyPatch) -> None:
    restore = restorer(padding="zeros")  # so that parts are seen as they were cut
    assert (restore.tile, restore.smallest_tile) == (None, 96)
    seen: list[tuple[int, ...]] = []
    restore.network = lambda part: seen.append(tuple(part.shape[2:])) or part
    each = memory.bytes_per_pixel(8, "torch", "float32")
    image = noise(200, 200)
    for side, expected in [(201, [(200, 200)]), (150, FOUR), (10, SIXTEEN)]:
        monkeypatch.setattr(memory, "free_memory", lambda device, side=side: side**2 * each * 4 / 3)
        seen.clear()
        assert np.array_equal(restore(image), image)
        assert seen == expected
    assert memory.largest_tile(8, "torch", "float32", torch.device("cpu")) == 10


def test_on_a_cpu_a_pass_takes_no_more_than_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda device: 1 << 50)
    each = memory.bytes_per_pixel(64, "exact", "float32")
    side = memory.largest_tile(64, "exact", "float32", torch.device("cpu"))
    assert side**2 * each <= memory.MOST < (side + 1) ** 2 * each
    assert memory.largest_tile(64, "exact", "float32", torch.device("cuda")) > side
    assert memory.bytes_per_pixel(64, "a new one", "float32") == each


def test_what_was_not_measured_takes_no_less_than_what_was() -> None:
    known = memory.BYTES_PER_PIXEL["torch", "bfloat16"]
    widest = max(known)
    for precision in ("bfloat16", "float16"):
        assert memory.bytes_per_pixel(8, "torch", precision) == known[8]
        assert memory.bytes_per_pixel(9, "torch", precision) == known[16]
        assert memory.bytes_per_pixel(2 * widest, "torch", precision) == 2 * known[widest]


def test_out_of_memory_becomes_smaller_tiles(capsys: pytest.CaptureFixture[str]) -> None:
    restore = restorer(tile=400)

    def network(part: torch.Tensor) -> torch.Tensor:
        if part.shape[2] * part.shape[3] > 110**2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return part

    restore.network = network
    image = noise(300, 410)
    assert np.array_equal(restore(image), image)
    assert capsys.readouterr().err == (
        "warning: not enough memory on cpu for 350 x 350 pixels; now in tiles of 175 x 175\n"
        "warning: not enough memory on cpu for 175 x 175 pixels; now in tiles of 96 x 96\n"
    )
    assert restore.tile == 96  # the next image does not try again
    restore.network = lambda part: network(part.repeat(1, 1, 9, 9))
    with pytest.raises(RestoringError, match=r"not enough memory on cpu for 410 x 300 pixels$"):
        restore(image)
    whole = restorer(tile=0)
    whole.network = network
    with pytest.raises(RestoringError, match=r"not enough memory on cpu for 410 x 300 pixels; restore it in tiles$"):
        whole(image)


def test_limits_of_the_process_and_of_its_group_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups, mounted = tmp_path / "cgroup", tmp_path / "mounted"
    for folder, most, used in (("a", "max", 900), ("a/b", "5000", 700)):
        (mounted / folder).mkdir(parents=True)
        (mounted / folder / "memory.max").write_text(f"{most}\n")
        (mounted / folder / "memory.current").write_text(f"{used}\n")
        (mounted / folder / "memory.stat").write_text("anon 1\ninactive_file 60\n")
    groups.write_text("0::/a/b/c\n")
    assert memory.left_to_group(groups, mounted) == [5000 - 700 + 60]
    old = mounted / "memory"  # version 1, as a container sees it: without the folder that its name says
    old.mkdir()
    (old / "memory.limit_in_bytes").write_text("4000\n")
    (old / "memory.usage_in_bytes").write_text("1000\n")
    (old / "memory.stat").write_text("total_inactive_file 10\n")
    groups.write_text("9:cpu:/x\n4:memory:/docker/1234\n")
    assert memory.left_to_group(groups, mounted) == [3010]
    assert memory.left_to_group(tmp_path / "none", mounted) == []
    monkeypatch.setattr(memory, "left_to_group", lambda: [12345])
    monkeypatch.setattr(memory, "kept_memory", lambda: 5)
    assert memory.free_memory(torch.device("cpu")) == 12350


def test_a_limit_of_the_address_space_counts() -> None:
    resource = pytest.importorskip("resource")
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    assert memory.left_to_process() == []
    import psutil

    used = psutil.Process().memory_info().vms
    try:
        resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), hard))
        (left,) = memory.left_to_process()
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, hard))
    assert 0.9 < left / (1 << 30) < 1.1


# restore.py with a network that hands back what it is given, and takes as much memory as one may; says how many bytes
# the process has held at most.
PROGRAM = """
import sys
import torch
from m3snet.restore import main
from m3snet.utils.cli import run_program
from m3snet.utils.restoring import memory, restorer

def network(part):
    taken = [torch.ones(memory.MOST // 64) for _ in range(16)]
    return part.clone()

restorer.open_backend = lambda backend, model, precision: (network, "torch", "bfloat16")
run_program(lambda: main(sys.argv[1:]))
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM:")).split()[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="nothing tells how much memory a process holds")
@pytest.mark.parametrize(("suffix", "dtype"), [(".jpg", np.uint8), (".png", np.uint16), (".tif", np.uint16)])
def test_restore_stays_within_its_memory_at_100_megapixels(suffix: str, dtype: type, tmp_path: Path) -> None:
    """With noise in it, or it would be a small file."""
    photo = tmp_path / f"photo{suffix}"
    image: np.ndarray = np.tile(data.astronaut(), (17, 24, 1))[:8400, :12_000].astype(dtype)
    if dtype == np.uint16:
        image *= 256
        image |= np.random.default_rng(0).integers(0, 256, image.shape, np.uint8)
    write_image(photo, image)
    del image
    command = ["rain", str(photo), "-o", str(tmp_path / f"out{suffix}"), "--weights", "derain", "--tile", "2300"]
    done = subprocess.run([sys.executable, "-c", PROGRAM, *command], capture_output=True, text=True, check=True)
    most = 4.0 if dtype == np.uint8 else 4.2  # GiB, docs/restoring.md
    assert 1024 * int(done.stdout.splitlines()[-1]) < most * 2**30
