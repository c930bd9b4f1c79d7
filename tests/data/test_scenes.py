"""Scenes: near-equal images, patches of one image and frames of one film stay on one side of the split."""
from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from m3snet.utils.data.pairs import Pair, PairError, find_pairs
from m3snet.utils.data.scenes import perceptual_hash, scenes_of, split_by_scene
from m3snet.utils.images import write_image


def photo(seed: int, size: tuple[int, int] = (40, 60)) -> np.ndarray:
    """A smooth random image: its coarse structure is what tells scenes apart."""
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 16, 3)).astype(np.uint8)
    return cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)


def pairs_of(*names: str, scene: str = "") -> list[Pair]:
    return [Pair(name, None, Path(f"{name}.png"), scene) for name in names]


def unlike(count: int) -> np.ndarray:
    """Hashes of as many images that have nothing in common."""
    return np.stack([perceptual_hash(photo(seed)) for seed in range(count)])


def scenes(*names: str) -> list[list[str]]:
    """The scenes among images that look unlike each other, by their names."""
    return [[names[i] for i in scene] for scene in scenes_of(pairs_of(*names), unlike(len(names)))]


def test_scenes_stay_on_one_side() -> None:
    hashes, names = [], []
    for scene in range(12):
        for shot in range(3):
            brighter = np.clip(photo(scene).astype(int) + 3 * shot, 0, 255).astype(np.uint8)
            hashes.append(perceptual_hash(brighter))
            names.append(f"{scene}-{'abc'[shot]}")
    pairs = pairs_of(*names)
    assert [len(scene) for scene in scenes_of(pairs, np.stack(hashes))] == [3] * 12
    rest, held = split_by_scene(pairs, np.stack(hashes), 4, seed=1)
    assert len(held) == 6  # two whole scenes
    assert not {p.name.split("-")[0] for p in rest} & {p.name.split("-")[0] for p in held}
    assert split_by_scene(pairs, np.stack(hashes), 4, seed=1) == (rest, held)
    assert split_by_scene(pairs, np.stack(hashes), 4, seed=2)[1] != held


def test_the_split_is_that_of_earlier_runs() -> None:
    pairs, hashes = pairs_of(*map(str, range(40))), unlike(40)
    order = np.random.default_rng(1234).permutation(40)
    assert [pair.name for pair in split_by_scene(pairs, hashes, 8, 1234)[1]] == [str(i) for i in sorted(order[:8])]
    # Of the photograph, as every split so far has seen it.
    assert perceptual_hash(photo(1)).tobytes().hex() == "4256ad4d32b62563323664e5d9c72884eb0da699dd317dce7b1893492692"


def test_frames_of_one_film_are_one_scene() -> None:
    a, b, c = "GOPR0372_07_00-000047", "GOPR0372_07_00-000900", "GOPR0372_07_01-000047"
    assert scenes(a, c, b) == [[a, b], [c]]
    a, b, c = "GOPR0477_11_00-mean07-000001", "GOPR0477_11_00-st614-avg8", "GOPR0372_07_01-000047"
    assert scenes(a, b, c) == [[a, b], [c]]
    reds = ["000_00000009", "000_00000019", "001_00000009", "010_00000009", "010_00000010"]
    assert scenes(*reds) == [reds[:2], reds[2:3], reds[3:]]
    clips = ["clip1-1", "clip2-1", "clip1-22", "clip2-2"]
    assert scenes(*clips) == [["clip1-1", "clip1-22"], ["clip2-1", "clip2-2"]]


def test_photographs_that_are_numbered_are_no_film() -> None:
    for name in ("img_{:03}", "{}", "DSC{:04}", "DIV2K_{:04}", "COCO_train2014_{:012}"):
        names = [name.format(i) for i in range(6)]
        assert scenes(*names) == [[name] for name in names]
    assert len(scenes("rain200h-006", "rain200h-007", "sirr-val-01", "sirr-val-02", "IMG_1", "IMG_2")) == 6


def test_numbered_frames_that_look_alike_are_a_film() -> None:
    """A camera that moves: each frame resembles the one before, the last has nothing of the first."""
    panorama = photo(3, (40, 400))
    frames = [perceptual_hash(panorama[:, 12 * i : 12 * i + 60]) for i in range(20)]
    far = np.bitwise_count(frames[0] ^ frames[-1]).sum()
    assert far > 90
    for name in ("walk{:04}", "{:04}"):
        assert len(scenes_of(pairs_of(*map(name.format, range(20))), np.stack(frames))) == 1
    assert len(scenes_of(pairs_of(*"abcdefghij"), np.stack(frames[::2]))) > 1


def test_the_folder_of_a_scene_and_patches_of_an_image() -> None:
    pairs = pairs_of("a-1", "a-2", scene="a") + pairs_of("b-1", scene="b") + pairs_of("x_patch1", "y", "x_patch12")
    assert scenes_of(pairs, unlike(6)) == [[0, 1], [2], [3, 5], [4]]


def test_a_tree_of_scenes_is_split_between_them(tmp_path: Path) -> None:
    for scene in range(3):
        for frame in range(2):
            for side in ("blur", "sharp"):
                write_image(tmp_path / f"{'xyz'[scene]}/{side}/{frame}.png", photo(10 * scene + frame))
    pairs = find_pairs(tmp_path)
    rest, held = split_by_scene(pairs, unlike(6), 1, 0)
    assert len(held) == 2 and len({pair.scene for pair in held}) == 1
    assert held[0].scene not in {pair.scene for pair in rest}


def test_holding_out_more_than_there_is() -> None:
    with pytest.raises(PairError, match="VAL_COUNT"):
        split_by_scene(pairs_of("a", "b", "c"), unlike(3), 3, seed=0)
    with pytest.raises(PairError, match=r"all 3 pairs are held out.*VAL_DIR"):
        split_by_scene(pairs_of("x_patch1", "x_patch2", "x_patch3"), unlike(3), 1, seed=0)
    assert split_by_scene(pairs_of("x_patch1", "x_patch2"), unlike(2), 0, seed=0)[1] == []
