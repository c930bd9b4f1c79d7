"""What an interrupted evaluation is continued from, and what it is not."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from m3snet.utils.scoring.journal import Journal

STAMP = {"weights_sha256": "abc", "threads": 2, "packages": {"torch": "2.6"}}


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """The input, target and restored image of a pair, as far as a journal looks at them."""
    made = [tmp_path / name for name in ("input.png", "target.png", "restored.png")]
    for path in made:
        path.write_text(path.name)
    return made


def row(name: str) -> dict[str, Any]:
    return {"name": name, "psnr": 30.0}


def found(out: Path, files: list[Path], names: str, process: int = 0, **stamp: Any) -> str:
    journal = Journal(out, "Set", {**STAMP, **stamp}, process)
    return "".join(name for name in names if journal.find(name, files) == row(name))


def test_what_any_process_wrote_is_found_by_all(tmp_path: Path, files: list[Path]) -> None:
    out = tmp_path / "new/out"
    for process, name in enumerate("ab"):
        Journal(out, "Set", STAMP, process).add(row(name), files)
    assert found(out, files, "abc") == "ab"
    Journal(out, "Set", STAMP, 0).add(row("c"), files)
    assert found(out, files, "abc", process=7) == "abc"


def test_a_line_cut_short_spoils_no_other(tmp_path: Path, files: list[Path]) -> None:
    journal = Journal(tmp_path, "Set", STAMP)
    for name in "ab":
        journal.add(row(name), files)
    path = tmp_path / ".Set.0.jsonl"
    path.write_text(path.read_text()[:-9])  # killed while it wrote b
    journal = Journal(tmp_path, "Set", STAMP)
    for name in "cd":
        journal.add(row(name), files)
    assert found(tmp_path, files, "abcd") == "acd"


@pytest.mark.parametrize(
    ("right", "wrong"), [("30.0", "31.0"), ("psnr", "psmr"), ('"row"', '"raw"'), ("{", "[" * 9999)]
)
def test_a_line_that_was_changed_does_not_count(tmp_path: Path, files: list[Path], right: str, wrong: str) -> None:
    for name in "ab":
        Journal(tmp_path, "Set", STAMP).add(row(name), files)
    path = tmp_path / ".Set.0.jsonl"
    stamp, a, b = path.read_text().splitlines()
    path.write_text("\n".join((stamp, a.replace(right, wrong, 1), b)))
    assert found(tmp_path, files, "ab") == "b"


def test_a_stamp_cut_short_is_no_stamp(tmp_path: Path, files: list[Path]) -> None:
    (tmp_path / ".Set.0.jsonl").write_text('{"weights_sha256": "a')
    journal = Journal(tmp_path, "Set", STAMP)
    assert not journal.outdated
    journal.add(row("a"), files)
    assert found(tmp_path, files, "a") == "a"


@pytest.mark.parametrize("changed", range(3))
def test_a_file_that_changed_is_done_again(tmp_path: Path, files: list[Path], changed: int) -> None:
    Journal(tmp_path, "Set", STAMP).add(row("a"), files)
    assert found(tmp_path, files, "a") == "a"
    files[changed].write_text("other bytes")
    assert found(tmp_path, files, "a") == ""
    files[changed].unlink()
    assert found(tmp_path, files, "a") == ""


def test_another_stamp_starts_over_and_says_in_what_it_differs(tmp_path: Path, files: list[Path]) -> None:
    Journal(tmp_path, "Set", STAMP).add(row("a"), files)
    journal = Journal(tmp_path, "Set", {**STAMP, "threads": 1, "packages": {"torch": "2.7"}})
    assert journal.outdated == ["packages.torch '2.6' -> '2.7'", "threads 2 -> 1"]
    journal.add(row("b"), files)
    journal.add(row("c"), files)
    assert found(tmp_path, files, "abc", threads=1, packages={"torch": "2.7"}) == "bc"
    assert found(tmp_path, files, "abc") == ""
    assert not Journal(tmp_path, "Set", {**STAMP, "threads": 1, "packages": {"torch": "2.7"}}).outdated


def test_a_second_process_of_old_does_not_vouch_for_images_of_other_weights(
    tmp_path: Path, files: list[Path]
) -> None:
    """Two processes are interrupted; one with other weights comes after; then one with the first weights again."""
    Journal(tmp_path, "Set", STAMP, 1).add(row("a"), files)
    files[2].write_text("by other weights")
    Journal(tmp_path, "Set", {**STAMP, "weights_sha256": "def"}, 0).add(row("a"), files)
    assert found(tmp_path, files, "a", weights_sha256="def") == "a"
    assert found(tmp_path, files, "a") == ""


def test_a_set_keeps_to_its_own_files(tmp_path: Path, files: list[Path]) -> None:
    names = ("Set", "Set.1", "Set[1]")
    journals = {name: Journal(tmp_path, name, STAMP) for name in names}
    for name in names:
        journals[name].add(row(name), files)
    for name in names:
        journal = Journal(tmp_path, name, STAMP)
        assert [other for other in names if journal.find(other, files)] == [name]
    journals["Set"].discard()
    assert [name for name in names if Journal(tmp_path, name, STAMP).find(name, files)] == ["Set.1", "Set[1]"]
