"""Pairs: found by name, refused when broken."""
from __future__ import annotations

import unicodedata
from pathlib import Path

import cv2
import numpy as np
import pytest

from m3snet.utils.data.pairs import PairError, check_pairs, find_pairs, find_photographs, match_names
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


def names(*files: str) -> list[Path]:
    return [Path(file) for file in files]


@pytest.mark.parametrize(
    ("inputs", "targets", "found"),
    [
        (["rain-001.png", "rain-002.png"], ["norain-001.png", "norain-002.png"], ["001", "002"]),
        (["1x2.png", "2x2.png"], ["1.png", "2.png"], ["1", "2"]),
        # Where two files of a folder would have one name, it is the whole name that counts.
        (["1.png", "1x2.png"], ["1.png", "1x2.png"], ["1", "1x2"]),
        (["norain5.png", "rain-5.png"], ["norain5.jpg", "rain-5.jpg"], ["norain5", "rain-5"]),
        (["rain-5.png", "rain-6.png"], ["rain-5.png", "6.png"], ["5", "6"]),
        (["Rain-7.PNG"], ["7.jpg"], ["7"]),
        (["rainy.png", "x2.png"], ["rainy.png", "x2.png"], ["rainy", "x2"]),
    ],
)
def test_affixes_are_no_part_of_a_name_unless_two_files_would_have_one(inputs, targets, found) -> None:
    match = match_names(names(*inputs), names(*targets))
    assert [pair.name for pair in match.pairs] == found
    assert [pair.input for pair in match.pairs] == names(*inputs)
    assert [pair.target for pair in match.pairs] == names(*targets)
    assert not match.lonely and not match.repeated


def test_what_would_be_one_name_is_never_guessed() -> None:
    match = match_names(names("1.png", "1x2.png"), names("rain-1.png"))
    assert not match.pairs
    assert match.lonely == names("1.png", "1x2.png", "rain-1.png")


def test_accents_are_compared_as_people_see_them(tmp_path) -> None:
    name = unicodedata.normalize("NFC", "Köln-é")
    write_image(tmp_path / "input" / f"{unicodedata.normalize('NFD', name)}.png", photo(1))
    write_image(tmp_path / "target" / f"{name}.png", photo(1))
    assert [pair.name for pair in find_pairs(tmp_path)] == [name]
    (photograph,) = find_photographs([tmp_path / "input"])
    assert photograph.name == name  # the same draws on every system


def test_what_is_left_out_is_counted_and_said(folder, capsys) -> None:
    said: list[str] = []
    for name in ("1.xcf", "2.xcf", "3.xcf", "notes.txt", ".hidden"):
        (folder / "input" / name).write_bytes(b"")
    assert len(find_pairs(folder, said.append)) == 3
    assert said == [
        f"{folder / 'input'}: 4 file(s) left out, not images of a known kind: 1.xcf, 2.xcf, 3.xcf, ..."
    ]
    find_photographs([folder / "input"])
    assert "warning: " in (printed := capsys.readouterr().err) and "4 file(s) left out" in printed
    for path in (folder / "target").iterdir():
        path.rename(path.with_suffix(".xcf"))
    with pytest.raises(PairError, match=r"holds no images, but 1\.xcf, 2\.xcf, 10\.xcf"):
        find_pairs(folder)


def test_gopros_original_tree(tmp_path):
    for scene in ("GOPR0372_07_00", "GOPR0385_11_01"):
        for side in ("blur", "sharp", "blur_gamma"):
            write_image(tmp_path / scene / side / "000001.png", photo(1))
    pairs = find_pairs(tmp_path)
    assert [pair.name for pair in pairs] == ["GOPR0372_07_00-000001", "GOPR0385_11_01-000001"]
    assert all(pair.input.parent.name == "blur" for pair in pairs)
    assert [pair.scene for pair in pairs] == ["GOPR0372_07_00", "GOPR0385_11_01"]
    (tmp_path / "third" / "blur").mkdir(parents=True)
    with pytest.raises(PairError, match=r"third.blur: holds no images"):
        find_pairs(tmp_path)


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
    for find in (find_pairs, lambda folder: find_photographs([folder / "input"])):
        with pytest.raises(PairError, match=r"1\.jpg and 1\.png are one name"):
            find(folder)


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


def test_an_image_survives_writing(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (7, 5, 3), np.uint8)
    write_image(tmp_path / "ünï" / "a.png", image)
    np.testing.assert_array_equal(read_image(tmp_path / "ünï" / "a.png"), image)
