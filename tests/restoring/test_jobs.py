"""Names on a command line become photographs, and each has its place in the folder of results."""
from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from skimage import data

from m3snet.utils.cli import UserError
from m3snet.utils.images import write_image
from m3snet.utils.restoring.jobs import find_photographs, plan


@pytest.fixture
def holiday(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in the current one, with files that a camera, a system and a person leave there."""
    monkeypatch.chdir(tmp_path)
    folder = Path("holiday")
    for name in ("a10.png", "a2.PNG", "day/b.png", ".hidden/c.png", "._a2.png"):
        write_image(folder / name, data.astronaut()[:20, :30])
    (folder / "notes.txt").write_text("rain")
    (folder / "empty").mkdir()
    return folder


def targets(names: list[str], out: str = "out", suffix: str | None = None) -> dict[str, str]:
    jobs = plan(find_photographs([Path(name) for name in names], Path(out)), Path(out), suffix)
    return {job.photo.as_posix(): job.out.as_posix() for job in jobs}


def test_a_folder_is_walked_and_keeps_its_structure(holiday: Path) -> None:
    found = find_photographs([holiday], Path("out"))
    assert [str(photo) for photo in found.photos] == ["holiday/a2.PNG", "holiday/a10.png", "holiday/day/b.png"]
    assert (found.others, found.unread) == (1, [])
    assert targets(["holiday"]) == {
        "holiday/a2.PNG": "out/a2.PNG",
        "holiday/a10.png": "out/a10.png",
        "holiday/day/b.png": "out/day/b.png",
    }


def test_of_several_names_a_folder_keeps_its_own(holiday: Path) -> None:
    shutil.copytree(holiday, "other")
    found = targets(["holiday/a10.png", "holiday", "other/"])
    assert found["holiday/a10.png"] == "out/holiday/a10.png"
    assert found["other/day/b.png"] == "out/other/day/b.png"
    os.chdir("other")
    assert targets([".", "../holiday/day"])["../holiday/day/b.png"] == "out/day/b.png"
    assert targets([".", "../holiday/day"])["a10.png"] == "out/other/a10.png"


def test_results_are_no_photographs(holiday: Path) -> None:
    before = targets(["holiday"], "holiday/dry")
    for photo, out in before.items():
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(photo, out)
    assert targets(["holiday"], "holiday/dry") == before
    assert list(targets(["holiday/[ad]*"], "holiday/dry")) == list(before)
    Path("link").symlink_to(holiday)
    assert targets(["holiday"], "link/dry").keys() == before.keys()
    for out in ("holiday", "link"):
        with pytest.raises(UserError, match=f"^-o {out} is the folder of the photographs: name another"):
            targets(["holiday"], out)


def test_links_to_folders_are_not_followed(holiday: Path) -> None:
    (holiday / "loop").symlink_to(holiday.absolute())
    (holiday / "link.png").symlink_to("a10.png")
    assert list(targets(["holiday"])) == ["holiday/a2.PNG", "holiday/a10.png", "holiday/link.png", "holiday/day/b.png"]


def test_a_folder_that_cannot_be_listed_is_noted(holiday: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def refuse(path: str) -> object:
        if Path(path).name == "day":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = find_photographs([holiday], Path("out"))
    assert found.unread == [f"{holiday / 'day'}: cannot be listed (Permission denied)"]
    assert len(found.photos) == 2


def test_patterns_are_expanded_where_the_shell_has_not(holiday: Path) -> None:
    shutil.copy(holiday / "a10.png", holiday / "[a].png")
    assert list(targets(["holiday/a*.[pP]*"])) == ["holiday/a2.PNG", "holiday/a10.png"]
    assert list(targets(["holiday/[a].png"])) == ["holiday/[a].png"]
    for name in ("holiday/b*.png", "none.png"):
        with pytest.raises(UserError, match="no such file"):
            targets([name])
    with pytest.raises(UserError, match=r"^holiday/empty: no images or videos in this folder$"):
        targets(["holiday/empty"])
    assert list(targets(["holiday/empty", "holiday/a10.png"])) == ["holiday/a10.png"]


def test_formats_stay_where_they_can_be_written(holiday: Path) -> None:
    shutil.copy(holiday / "a10.png", holiday / "b.gif")
    shutil.copy(holiday / "a10.png", holiday / "c.v2.jpeg")
    found = targets(["holiday"])
    assert found["holiday/b.gif"] == "out/b.png"
    assert found["holiday/c.v2.jpeg"] == "out/c.v2.jpeg"
    assert set(targets(["holiday"], suffix=".tif").values()) == {
        "out/a2.tif", "out/a10.tif", "out/b.tif", "out/c.v2.tif", "out/day/b.tif"
    }  # fmt: skip
    shutil.copy(holiday / "a10.png", holiday / "b.png")
    with pytest.raises(UserError, match=r"holiday/b\.gif and holiday/b\.png would both be written to out/b\.png"):
        targets(["holiday"])


def test_a_folder_needs_a_folder(holiday: Path) -> None:
    assert targets(["holiday/day"], "out.v2") == {"holiday/day/b.png": "out.v2/b.png"}
    with pytest.raises(UserError, match=r"^-o out\.jpg is one file; 1 files need a folder"):
        targets(["holiday/day"], "out.jpg")
    with pytest.raises(UserError, match=r"^-o out\.jpg is a file, whose suffix is its format; --format png is for a"):
        targets(["holiday/a10.png"], "out.jpg", ".png")


def test_comparisons_lie_beside_the_results(holiday: Path) -> None:
    (job,) = plan(find_photographs([holiday / "day"], Path("out")), Path("out"), compare=True)
    assert job.outputs == [Path("out/b.png"), Path("out/b-compare.png")]


def test_raw_files_in_a_folder_are_counted(holiday: Path) -> None:
    (holiday / "empty" / "c.CR3").touch()
    found = find_photographs([holiday], Path("out"))
    assert found.raws == 1
    with pytest.raises(UserError, match=r"^holiday/empty: only raw files of cameras; develop them to TIFF, PNG or"):
        targets(["holiday/empty"])


def test_a_name_whose_quotes_were_forgotten_is_told(holiday: Path) -> None:
    shutil.copy(holiday / "a10.png", "my street.png")
    with pytest.raises(UserError, match=r'^my street\.png: a name with spaces needs quotes: "my street\.png"$'):
        targets(["my", "street.png"])


def test_many_names_are_too_long_for_one(holiday: Path) -> None:
    with pytest.raises(UserError, match=r"^x{99}0\.png: no such file"):
        targets([f"{'x' * 99}{number}.png" for number in range(50)])
