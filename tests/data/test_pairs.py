"""Pairs: found by name, refused when broken, split by scene."""
import cv2
import numpy as np
import pytest

from m3snet.utils.data.pairs import (
    Pair,
    PairError,
    check_pairs,
    find_pairs,
    find_photographs,
    scenes_of,
    split_by_scene,
)
from m3snet.utils.images import read_image, write_image


def photo(seed: int, size: tuple[int, int] = (40, 60)) -> np.ndarray:
    """A smooth random image: its coarse structure is what tells scenes apart."""
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 16, 3)).astype(np.uint8)
    return cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)


@pytest.fixture
def folder(tmp_path):
    for number in (1, 2, 10):
        for side in ("input", "target"):
            write_image(tmp_path / side / f"{number}.png", photo(number))
    return tmp_path


def test_natural_order_and_other_suffixes(folder):
    (folder / "input" / ".hidden.png").write_bytes(b"")
    (folder / "input" / "notes.txt").write_text("not an image")
    write_image(folder / "target" / "3.png", photo(3))
    write_image(folder / "input" / "3.jpg", photo(3))
    assert [pair.name for pair in find_pairs(folder)] == ["1", "2", "3", "10"]


def test_rain100_names(tmp_path):
    write_image(tmp_path / "input" / "rain-001.png", photo(1))
    write_image(tmp_path / "target" / "norain-001.png", photo(1))
    (pair,) = find_pairs(tmp_path)
    assert (pair.name, pair.input.name, pair.target.name) == ("001", "rain-001.png", "norain-001.png")


def test_gopros_original_tree(tmp_path):
    for scene in ("GOPR0372_07_00", "GOPR0385_11_01"):
        for side in ("blur", "sharp", "blur_gamma"):
            write_image(tmp_path / scene / side / "000001.png", photo(1))
    pairs = find_pairs(tmp_path)
    assert [pair.name for pair in pairs] == ["GOPR0372_07_00-000001", "GOPR0385_11_01-000001"]
    assert all(pair.input.parent.name == "blur" for pair in pairs)


def test_a_missing_partner_is_named_and_does_not_shift_the_rest(folder):
    (folder / "target" / "2.png").unlink()
    with pytest.raises(PairError, match=r"1 file\(s\) have no partner(.|\n)*input.2\.png"):
        find_pairs(folder)


def test_ten_are_named_and_the_rest_counted(folder):
    for number in range(100, 113):
        write_image(folder / "input" / f"{number}.png", photo(0))
    with pytest.raises(PairError) as error:
        find_pairs(folder)
    assert "13 file(s)" in str(error.value)
    assert "and 3 more" in str(error.value)
    assert str(error.value).count(".png") == 10


@pytest.mark.parametrize("missing", ["input", "target"])
def test_an_empty_or_missing_folder(folder, missing):
    for path in (folder / missing).iterdir():
        path.unlink()
    with pytest.raises(PairError, match="holds no images"):
        find_pairs(folder)
    (folder / missing).rmdir()
    with pytest.raises(PairError, match="no such folder"):
        find_pairs(folder)
    with pytest.raises(PairError, match="no such folder"):
        find_pairs(folder / "nowhere")


def test_a_photograph_where_its_folder_is_expected(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(PairError, match=r"a\.png: is a file; name the folder it is in"):
        find_photographs([tmp_path / "a.png"])


def test_two_files_of_one_name(folder):
    write_image(folder / "input" / "1.jpg", photo(1))
    with pytest.raises(PairError, match=r"1\.jpg and 1\.png"):
        find_pairs(folder)


def test_broken_files_are_listed_together(folder):
    write_image(folder / "input" / "1.png", photo(1, (40, 50)))
    (folder / "input" / "2.png").write_bytes(b"")
    (folder / "target" / "10.png").write_bytes(b"not a PNG")
    with pytest.raises(PairError, match=r"3 file\(s\)") as error:
        check_pairs(find_pairs(folder))
    for part in ("50x40", "60x40", "0 bytes", "10.png"):
        assert part in str(error.value)


def test_photographs_have_no_input(folder):
    pairs = find_photographs([folder / "target"])
    assert [(pair.name, pair.input) for pair in pairs] == [("1", None), ("2", None), ("10", None)]
    check_pairs(pairs)


def test_scenes_stay_on_one_side(tmp_path):
    pairs = []
    for scene in range(12):
        for shot in range(3):
            path = tmp_path / f"{scene}_{shot}.png"
            brighter = np.clip(photo(scene).astype(int) + 3 * shot, 0, 255).astype(np.uint8)
            write_image(path, brighter)
            pairs.append(Pair(path.stem, None, path))
    assert [len(scene) for scene in scenes_of(pairs)] == [3] * 12
    rest, held = split_by_scene(pairs, 4, seed=1)
    assert len(held) == 6  # two whole scenes
    assert not {p.name.split("_")[0] for p in rest} & {p.name.split("_")[0] for p in held}
    assert split_by_scene(pairs, 4, seed=1) == (rest, held)
    assert split_by_scene(pairs, 4, seed=2)[1] != held


def test_frames_of_one_video_are_one_scene(tmp_path):
    names = ["GOPR0372_07_00-000047", "GOPR0372_07_00-000900", "GOPR0372_07_01-000047"]
    pairs = []
    for seed, name in enumerate(names):
        write_image(tmp_path / f"{name}.png", photo(seed))
        pairs.append(Pair(name, None, tmp_path / f"{name}.png"))
    assert scenes_of(pairs) == [[0, 1], [2]]


def test_holding_out_more_than_there_is(folder):
    with pytest.raises(PairError, match="VAL_COUNT"):
        split_by_scene(find_pairs(folder), 3, seed=0)


def test_an_image_survives_writing(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (7, 5, 3), np.uint8)
    write_image(tmp_path / "ünï" / "a.png", image)
    np.testing.assert_array_equal(read_image(tmp_path / "ünï" / "a.png"), image)
