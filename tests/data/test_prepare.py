"""Data preparation: small archives of the shapes that people have, downloads through a stand-in for gdown, patches."""
from __future__ import annotations

import hashlib
import io
import runpy
import sys
import tarfile
import types
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from filelock import FileLock

from m3snet.Deblurring import prepare as deblurring
from m3snet.Deraining import prepare as deraining
from m3snet.utils.data.download import CHECKSUMS, Archive, ArchiveError, check, fetch
from m3snet.utils.data.pairs import PairError, find_pairs
from m3snet.utils.data.prepare import LOCK, cut_patches
from m3snet.utils.data.scenes import perceptual_hash, split_by_scene
from m3snet.utils.images import read_image, write_image


def png(seed: int, size: tuple[int, int] = (12, 16)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8)
    return cv2.imencode(".png", pixels)[1].tobytes()


def write_zip(path: Path, names: Iterable[str]) -> Path:
    """A zip of images, each made from its place in the list."""
    with zipfile.ZipFile(path, "w") as archive:
        for seed, name in enumerate(names):
            archive.writestr(name, png(seed))
    return path


def files(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def pairs_of(folder: str, *names: str) -> list[str]:
    return [f"{folder}/{side}/{name}" for side in ("input", "target") for name in names]


SCENES = ("GOPR0372_07_00", "GOPR0384_11_05")
GOPRO_TREE = [
    f"{split}/{scene}/{kind}/{frame:06d}.png"
    for split in ("train", "test")
    for scene in SCENES
    for kind in ("blur", "blur_gamma", "sharp")
    for frame in (1, 2)
]
GOPRO_FILES = [f"{scene}-{frame:06d}.png" for scene in SCENES for frame in (1, 2)]


@pytest.mark.parametrize("top", ["", "GOPRO_Large/"])
def test_gopros_original_tree_becomes_one_folder_without_blur_gamma(tmp_path, top):
    archive = write_zip(tmp_path / "downloaded.zip", [top + name for name in [*GOPRO_TREE, "readme.txt"]])
    root = tmp_path / "Datasets"
    deblurring.main(["--root", str(root), "--archive", str(archive)])
    expected = [path for split in ("train", "test") for path in pairs_of(f"GoPro/{split}", *GOPRO_FILES)]
    assert files(root) == sorted(expected)
    blur = zipfile.ZipFile(archive).read(f"{top}test/{SCENES[1]}/blur/000002.png")
    assert (root / "GoPro/test/input" / GOPRO_FILES[3]).read_bytes() == blur
    pair = find_pairs(root / "GoPro/train")[0]
    assert pair.name == f"{SCENES[0]}-000001"


@pytest.mark.parametrize(
    ("main", "name", "inside", "folder"),
    [
        (deblurring.main, "train.zip", "train", "GoPro/train"),
        (deblurring.main, "test.zip", "test/HIDE", "HIDE/test"),
        (deblurring.main, "test.zip", "test/RealBlur_J", "RealBlur_J/test"),
        (deblurring.main, "HIDE.zip", "", "HIDE/test"),
        (deblurring.main, "GoPro.zip", "GoPro/train", "GoPro/train"),
        (deraining.main, "train.zip", "train/Rain13K", "Rain13K/train"),
        (deraining.main, "train.zip", "train", "Rain13K/train"),
        (deraining.main, "Rain13K.zip", "Rain13K/train", "Rain13K/train"),
        (deraining.main, "test.zip", "test/Test100", "Rain13K/test/Test100"),
        (deraining.main, "any.zip", "Rain13K/test/Rain100L", "Rain13K/test/Rain100L"),
        (deraining.main, "Rain100H.zip", "", "Rain13K/test/Rain100H"),
    ],
)
def test_where_the_archives_of_the_community_go(tmp_path, main, name, inside, folder):
    names = (
        ["GOPR0384_11_00-000001.png", "GOPR0384_11_00-000002.png"] if folder == "GoPro/train" else ["1.png", "2.jpg"]
    )
    members = [path.lstrip("/") for path in pairs_of(inside, *names)]
    archive = write_zip(tmp_path / name, [*members, "__MACOSX/train/input/._1.png", "train/input/.DS_Store"])
    main(["--root", str(tmp_path / "root"), "--archive", str(archive)])
    assert files(tmp_path / "root") == sorted(pairs_of(folder, *names))


def test_blur_and_sharp_folders_directly_below_a_set_are_no_scenes(tmp_path):
    archive = write_zip(tmp_path / "a.zip", [f"GoPro/test/{kind}/1.png" for kind in ("blur", "sharp")])
    deblurring.main(["--root", str(tmp_path / "root"), "--archive", str(archive)])
    assert files(tmp_path / "root") == pairs_of("GoPro/test", "1.png")


def test_all_rain_tests_in_one_archive_and_a_folder_already_there_stays(tmp_path, capsys):
    names = ("Test100", "Rain100H", "Rain100L", "Test1200", "Test2800")
    archive = write_zip(tmp_path / "test.zip", [path for name in names for path in pairs_of(f"test/{name}", "1.png")])
    mine = tmp_path / "root/Rain13K/test/Rain100L/input/mine.png"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    command = ["--root", str(tmp_path / "root"), "--archive", str(archive)]
    deraining.main(command)
    expected = [path for name in names if name != "Rain100L" for path in pairs_of(f"Rain13K/test/{name}", "1.png")]
    assert files(tmp_path / "root") == sorted([*expected, "Rain13K/test/Rain100L/input/mine.png"])
    assert "Rain13K/test/Test2800: 1 pairs from test.zip" in capsys.readouterr().out
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "root").rglob("*.png")}
    deraining.main(command)
    assert "nothing to unpack" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "root").rglob("*.png")} == before


def test_tar_archives_are_read_too(tmp_path):
    with tarfile.open(tmp_path / "Rain100L.tar.gz", "w:gz") as archive:
        for seed, name in enumerate(pairs_of("Rain100L", "rain-001.png")):
            entry = tarfile.TarInfo(name)
            entry.size = len(png(seed))
            archive.addfile(entry, io.BytesIO(png(seed)))
    deraining.main(["--root", str(tmp_path / "root"), "--archive", str(tmp_path / "Rain100L.tar.gz")])
    assert files(tmp_path / "root") == pairs_of("Rain13K/test/Rain100L", "rain-001.png")


def test_parts_of_one_archive_are_put_together(tmp_path):
    """Drive's web page cuts large folders into several zips."""
    inputs, targets = (
        write_zip(tmp_path / f"{side}.zip", [f"Rain13K/train/{side}/1.png"]) for side in ("input", "target")
    )
    command = ["--root", str(tmp_path / "root"), "--archive"]
    with pytest.raises(ArchiveError, match=r"would get 1 files in input/ and none of their partners"):
        deraining.main([*command, str(inputs)])
    assert files(tmp_path / "root") == []
    deraining.main([*command, str(inputs), str(targets)])
    assert files(tmp_path / "root") == pairs_of("Rain13K/train", "1.png")


def test_an_archive_that_does_not_say_which_set_it_is_needs_the_folder(tmp_path):
    archive = write_zip(tmp_path / "test.zip", pairs_of("test", "1.png"))
    command = ["--root", str(tmp_path / "root"), "--archive", str(archive)]
    with pytest.raises(ArchiveError, match=r"add --folder and one of Rain13K/test/Test100, .*Test2800"):
        deraining.main(command)
    deraining.main([*command, "--folder", "Rain13K/test/Test1200"])
    assert files(tmp_path / "root") == pairs_of("Rain13K/test/Test1200", "1.png")


def test_an_archive_without_pairs_says_what_it_holds(tmp_path):
    archive = write_zip(tmp_path / "a.zip", ["photos/1.png"])
    with pytest.raises(ArchiveError, match=r"a\.zip: holds no images in folders named input.*photos/1\.png"):
        deraining.main(["--root", str(tmp_path / "root"), "--archive", str(archive)])


@pytest.mark.parametrize(
    "name", ["../../train/input/1.png", "/train/input/1.png", "..\\train\\input\\1.png", "C:/t/input/1.png"]
)
def test_paths_that_leave_the_folder_are_refused(tmp_path, name):
    archive = write_zip(tmp_path / "evil.zip", [*pairs_of("train", "1.png"), name])
    with pytest.raises(ArchiveError, match="unsafe path"):
        deraining.main(["--root", str(tmp_path / "deep/root"), "--archive", str(archive)])
    assert files(tmp_path) == ["evil.zip"]


def test_links_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        link = zipfile.ZipInfo("train/input/1.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    with tarfile.open(tmp_path / "b.tar", "w") as tar:
        entry = tarfile.TarInfo("train/input/1.png")
        entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(entry)
    for name in ("a.zip", "b.tar"):
        with pytest.raises(ArchiveError, match=f"{name}: holds .*link"):
            deraining.main(["--root", str(tmp_path / "root"), "--archive", str(tmp_path / name)])


def damaged(path: Path, how: str) -> Path:
    write_zip(path, pairs_of("train", *(f"{number}.png" for number in range(5))))
    data = bytearray(path.read_bytes())
    if how == "cut":
        path.write_bytes(data[: len(data) // 2])
    else:
        with zipfile.ZipFile(path) as archive:
            info = archive.infolist()[-1]
        data[info.header_offset + 80] ^= 0xFF  # in the last image: its checksum fails after all others were written
        path.write_bytes(data)
    return path


@pytest.mark.parametrize("how", ["cut", "flipped"])
def test_of_a_damaged_archive_nothing_stays(tmp_path, how):
    archive = damaged(tmp_path / "train.zip", how)
    with pytest.raises(ArchiveError, match=r"train\.zip: .*download it again"):
        deraining.main(["--root", str(tmp_path / "root"), "--archive", str(archive)])
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path != archive]


def tar_of(path: Path, count: int = 10) -> bytearray:
    """A tar of pairs, compressed as its name says."""
    mode: Any = "w" if path.suffix == ".tar" else f"w:{path.suffix[1:]}"
    with tarfile.open(path, mode) as archive:
        for seed, name in enumerate(pairs_of("train", *(f"{number}.png" for number in range(count)))):
            entry = tarfile.TarInfo(name)
            entry.size = len(png(seed))
            archive.addfile(entry, io.BytesIO(png(seed)))
    return bytearray(path.read_bytes())


def headers(path: Path) -> list[int]:
    with tarfile.open(path) as archive:
        return [entry.offset for entry in archive]


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tar.bz2", "tar.xz"])
def test_whole_tars_are_unpacked(tmp_path, suffix, capsys):
    tar_of(tmp_path / f"train.{suffix}")
    deraining.main(["--root", str(tmp_path / "root"), "--archive", str(tmp_path / f"train.{suffix}")])
    assert len(find_pairs(tmp_path / "root/Rain13K/train")) == 10
    assert "warning" not in capsys.readouterr().err


@pytest.mark.parametrize("member", [1, 10, 15, 19])
@pytest.mark.parametrize("place", [0, 150, 257, 511])  # of the name, the checksum, the magic word, the padding
def test_a_tar_with_a_damaged_header_is_an_error_and_not_an_end(tmp_path, member, place):
    path = tmp_path / "train.tar"
    data = tar_of(path)
    data[headers(path)[member] + place] ^= 0x55
    path.write_bytes(data)
    with pytest.raises(ArchiveError, match=r"train\.tar: damaged or incomplete \(not readable from byte [\d,]+ on\)"):
        deraining.main(["--root", str(tmp_path / "root"), "--archive", str(path)])
    assert files(tmp_path) == ["train.tar"]


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tar.bz2", "tar.xz"])
@pytest.mark.parametrize("lost", ["half", "end", "few"])
def test_a_tar_that_is_cut_off_is_an_error(tmp_path, suffix, lost):
    path = tmp_path / f"train.{suffix}"
    data = tar_of(path)
    if suffix == "tar":  # between two members, after the last one, inside one
        starts = headers(path)
        length = {"half": starts[11], "end": starts[19] + 1024, "few": starts[19] + 515}[lost]
    else:
        length = len(data) - {"half": len(data) // 2, "end": 8, "few": 1}[lost]
    path.write_bytes(data[:length])
    with pytest.raises(ArchiveError, match=rf"train\.{suffix}: .*(damaged|incomplete|neither a zip nor a tar)"):
        deraining.main(["--root", str(tmp_path / "root"), "--archive", str(path)])
    assert files(tmp_path) == [path.name]


@pytest.mark.parametrize("suffix", ["tar.gz", "tar.bz2", "tar.xz"])
def test_a_flipped_bit_anywhere_in_a_compressed_tar_is_an_error(tmp_path, suffix):
    path = tmp_path / f"train.{suffix}"
    data = tar_of(path, 3)
    for place in range(data.index(b"\0", 10) + 1, len(data), 97):  # after the name that gzip keeps
        damaged = bytearray(data)
        damaged[place] ^= 0x10
        path.write_bytes(damaged)
        with pytest.raises(ArchiveError, match=rf"train\.{suffix}"):
            deraining.main(["--root", str(tmp_path / "root"), "--archive", str(path)])
        assert files(tmp_path) == [path.name]


def test_a_zip_whose_directory_has_a_damaged_name_is_an_error(tmp_path):
    path = write_zip(tmp_path / "train.zip", pairs_of("train", "1.png", "2.png"))
    data = bytearray(path.read_bytes())
    data[data.rindex(b"train/target/2.png") + len("train/target/2.p")] ^= 1  # no image any more
    path.write_bytes(data)
    with pytest.raises(ArchiveError, match=r"train\.zip: damaged or incomplete"):
        deraining.main(["--root", str(tmp_path / "root"), "--archive", str(path)])
    assert files(tmp_path) == ["train.zip"]


def test_files_without_a_partner_are_counted_and_said(tmp_path, capsys):
    names = [*pairs_of("train", "rain-1.png", "2.png"), "train/input/3.png", "train/input/4.png"]
    names[2] = "train/target/norain-1.png"
    archive = write_zip(tmp_path / "train.zip", names)
    deraining.main(["--root", str(tmp_path / "root"), "--archive", str(archive)])
    said = capsys.readouterr()
    assert "Rain13K/train: 2 pairs from train.zip" in said.out
    assert "4 degraded and 2 sharp images; without a partner: input/3.png, input/4.png. " in said.err


def test_what_a_killed_run_left_is_cleared(tmp_path):
    left = tmp_path / "root/.unpacking-train/Rain13K/train/input/old.png"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"old")
    archive = write_zip(tmp_path / "train.zip", pairs_of("train", "1.png"))
    deraining.main(["--root", str(tmp_path / "root"), "--archive", str(archive)])
    assert files(tmp_path / "root") == pairs_of("Rain13K/train", "1.png")


def test_two_at_once_do_not_disturb_each_other(tmp_path):
    archive = write_zip(tmp_path / "train.zip", pairs_of("train", "1.png"))
    (tmp_path / "root").mkdir()
    words = ["--root", str(tmp_path / "root"), "--archive", str(archive)]
    with (
        FileLock(tmp_path / "root" / LOCK),
        pytest.raises(ArchiveError, match=r"root: another prepare\.py is at work there"),
    ):
        deraining.main(words)
    assert not (tmp_path / "root/Rain13K").exists()
    deraining.main(words)
    assert files(tmp_path / "root") == pairs_of("Rain13K/train", "1.png")


# --- Downloads ------------------------------------------------------------------------------------------------------

Drive = dict[str, bytes]


@pytest.fixture
def drive(monkeypatch) -> Drive:
    """A stand-in for gdown: id -> what Drive sends; ids that are not in it raise what a machine offline raises."""
    contents: Drive = {}

    def download(id: str, output: str, resume: bool) -> str:
        assert resume  # what has arrived is used again
        if id not in contents:
            raise OSError("HTTPSConnectionPool: Failed to resolve 'drive.google.com'")  # as requests does: no errno
        Path(output).write_bytes(contents[id])
        return output

    monkeypatch.setitem(sys.modules, "gdown", types.SimpleNamespace(download=download))
    return contents


def zipped(names: Iterable[str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for seed, name in enumerate(names):
            archive.writestr(name, png(seed))
    return buffer.getvalue()


RAIN_TRAIN, GOPRO_TRAIN = "14BidJeG4nSNuFNFDf99K-7eErCq4i47t", "1zgALzrLCC_tcXKu_iHQTHukKUVT1aodI"


def test_everything_is_downloaded_unpacked_and_recorded_once(tmp_path, drive, capsys):
    names = ("Test100", "Rain100H", "Rain100L", "Test1200", "Test2800")
    drive[RAIN_TRAIN] = zipped(pairs_of("train/Rain13K", "1.png", "2.png"))
    drive["1P_-RAvltEoEhfT-9GrWRdpEi6NSswTs8"] = zipped(
        path for name in names for path in pairs_of(f"test/{name}", "1.png")
    )
    deraining.main(["--root", str(tmp_path)])
    for folder in deraining.ARCHIVES[1].folders:
        assert [pair.name for pair in find_pairs(tmp_path / folder)] == ["1"]
    assert len(find_pairs(tmp_path / "Rain13K/train")) == 2
    lines = (tmp_path / "archives" / CHECKSUMS).read_text().splitlines()
    assert lines[0] == f"{hashlib.sha256(drive[RAIN_TRAIN]).hexdigest()}  Rain13K_train.zip"
    assert len(lines) == 2
    drive.clear()  # a second run asks Drive for nothing
    deraining.main(["--root", str(tmp_path)])
    assert "Rain13K/train: is there already and is left as it is" in capsys.readouterr().out


def test_the_ids_and_folders_are_those_of_the_community():
    ids = {archive.drive_id: archive.folders[0] for module in (deblurring, deraining) for archive in module.ARCHIVES}
    assert ids == {
        GOPRO_TRAIN: "GoPro/train",
        "1k6DTSHu4saUgrGTYkkZXTptILyG9RRll": "GoPro/test",
        "1XRomKYJF1H92g1EuD06pCQe4o6HlwB7A": "HIDE/test",
        "1glgeWXCy7Y0qWDc0MXBTUlZYJf8984hS": "RealBlur_R/test",
        "1Rb1DhhXmX7IXfilQ-zL9aGjQfAAvQTrW": "RealBlur_J/test",
        RAIN_TRAIN: "Rain13K/train",
        "1P_-RAvltEoEhfT-9GrWRdpEi6NSswTs8": "Rain13K/test/Test100",
    }
    for module in (deblurring, deraining):
        known = [facts.folder for sets in (module.TASK.train_sets, module.TASK.test_sets) for facts in sets.values()]
        assert all(folder in known for archive in module.ARCHIVES for folder in archive.folders)


def test_another_file_than_the_first_time_is_an_error(tmp_path, drive):
    drive[GOPRO_TRAIN] = zipped(pairs_of("train", "GOPR0384_11_00-000001.png"))
    command = ["--root", str(tmp_path), "--sets", "GoPro_train"]
    deblurring.main(command)
    (tmp_path / "GoPro/train").rename(tmp_path / "away")
    archive = tmp_path / "archives/GoPro_train.zip"
    archive.write_bytes(archive.read_bytes() + b"changed")
    with pytest.raises(ArchiveError, match=r"GoPro_train\.zip: its SHA-256 is .* recorded"):
        deblurring.main(command)
    archive.unlink()  # as the message says
    deblurring.main(command)
    assert len(find_pairs(tmp_path / "GoPro/train")) == 1


def test_checksums_are_compared_by_name(tmp_path):
    for name in ("a.zip", "b.zip"):
        (tmp_path / name).write_bytes(name.encode())
        check(tmp_path / name)
        check(tmp_path / name)
    assert len((tmp_path / CHECKSUMS).read_text().splitlines()) == 2
    (tmp_path / "a.zip").write_bytes(b"b.zip")
    with pytest.raises(ArchiveError, match=r"a\.zip"):
        check(tmp_path / "a.zip")


def test_without_a_network_the_message_says_what_to_do(tmp_path, drive):
    with pytest.raises(ArchiveError) as error:
        deblurring.main(["--root", str(tmp_path)])
    for part in ("Google Drive was not reached", "Failed to resolve", f"file/d/{GOPRO_TRAIN}/view", "--archive FILE"):
        assert part in str(error.value)
    assert files(tmp_path) == []


def test_a_full_disk_is_not_taken_for_a_missing_network(tmp_path, monkeypatch):
    def download(**_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(sys.modules, "gdown", types.SimpleNamespace(download=download))
    with pytest.raises(OSError, match="No space left"):
        fetch(deblurring.ARCHIVES[0], tmp_path)


def test_without_gdown_the_message_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gdown", None)
    with pytest.raises(ArchiveError, match=r"pip install -e '\.\[download\]'"):
        deblurring.main(["--root", str(tmp_path), "--sets", "HIDE_test"])


def test_a_page_instead_of_an_archive_is_not_kept(tmp_path, drive):
    drive["id"] = b"<html>Quota exceeded</html>"
    with pytest.raises(ArchiveError, match="sent a page and no archive"):
        fetch(Archive("a.zip", "id", ("GoPro/train",)), tmp_path)
    assert files(tmp_path) == []


# --- Patches --------------------------------------------------------------------------------------------------------


def write_pair(folder: Path, name: str, size: tuple[int, int]) -> np.ndarray:
    rows, columns = np.mgrid[: size[0], : size[1]]
    target = np.dstack([rows, columns, (rows + columns) % 256]).astype(np.uint8)
    write_image(folder / "target" / f"{name}.png", target)
    write_image(folder / "input" / f"{name}.png", 255 - target)
    return target


def test_patches_cover_every_pixel_and_pairs_stay_pairs(tmp_path):
    target = write_pair(tmp_path / "train", "a", (100, 150))
    assert cut_patches(tmp_path / "train", tmp_path / "out", size=64, stride=32) == 3 * 4
    pairs = find_pairs(tmp_path / "out")
    covered = np.zeros(target.shape[:2], bool)
    corners = []
    for pair in pairs:
        degraded, sharp = read_image(pair.input), read_image(pair.target)
        assert sharp.shape == (64, 64, 3)
        assert np.array_equal(degraded, 255 - sharp)
        top, left = sharp[0, 0, :2]
        assert np.array_equal(sharp, target[top : top + 64, left : left + 64])
        covered[top : top + 64, left : left + 64] = True
        corners.append((int(top), int(left)))
    assert covered.all()
    assert corners == [(top, left) for top in (0, 32, 36) for left in (0, 32, 64, 86)]


def test_gopro_gives_as_many_patches_as_in_the_papers(tmp_path):
    """Restormer and NAFNet train on 16,824 patches of 512: eight from each of the 2103 images."""
    write_pair(tmp_path / "train", "a", (720, 1280))
    assert cut_patches(tmp_path / "train", tmp_path / "out", size=512, stride=256) * 2103 == 16824


def test_an_image_smaller_than_a_patch_stays_whole(tmp_path):
    target = write_pair(tmp_path / "train", "a", (40, 100))
    assert cut_patches(tmp_path / "train", tmp_path / "out", size=64, stride=64) == 2
    assert np.array_equal(read_image(tmp_path / "out/target/a_patch1.png"), target[:, :64])


def test_patches_of_one_image_stay_on_one_side_of_the_validation_split(tmp_path):
    for seed, name in enumerate(("GOPR0372_07_00-000001", "GOPR0372_07_00-000002", "rain-7", "rain-8")):
        for side in ("input", "target"):
            (tmp_path / "train" / side).mkdir(parents=True, exist_ok=True)
            (tmp_path / "train" / side / f"{name}.png").write_bytes(png(seed, (80, 80)))
    cut_patches(tmp_path / "train", tmp_path / "out", size=40, stride=40)
    pairs = find_pairs(tmp_path / "out")
    assert len(pairs) == 16
    hashes = np.stack([perceptual_hash(read_image(pair.target)) for pair in pairs])
    for seed in range(4):
        _, held = split_by_scene(pairs, hashes, 1, seed)
        origins = {pair.name.split("_patch")[0] for pair in held}
        origins = {"GOPR0372_07_00" if origin.startswith("GOPR") else origin for origin in origins}
        assert len(origins) == 1
        assert len(held) == (8 if origins == {"GOPR0372_07_00"} else 4)


def test_patches_are_cut_on_the_command_line_and_only_once(tmp_path, capsys):
    write_pair(tmp_path / "GoPro/train", "a", (96, 96))
    command = ["--root", str(tmp_path), "--patches", "64", "--stride", "32"]
    deblurring.main(command)  # the training set is there: nothing is downloaded
    assert f"{tmp_path / 'GoPro/train_64'}: 4 pairs of patches" in capsys.readouterr().out
    (tmp_path / "GoPro/train_64/input/a_patch1.png").unlink()
    deblurring.main(command)
    assert "train_64: is there already" in capsys.readouterr().out
    assert len(list((tmp_path / "GoPro/train_64/input").iterdir())) == 3


def test_a_pair_of_two_sizes_leaves_no_patches(tmp_path):
    write_pair(tmp_path / "train", "a", (96, 96))
    write_pair(tmp_path / "train", "b", (96, 96))
    write_image(tmp_path / "train/input/b.png", np.zeros((90, 96, 3), np.uint8))
    with pytest.raises(PairError, match=r"b\.png is 96x90 but .*b\.png is 96x96"):
        cut_patches(tmp_path / "train", tmp_path / "out", size=64, stride=32)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train"]


@pytest.mark.parametrize(
    "arguments", [["--folder", "GoPro/test"], ["--stride", "3"], ["--patches", "0"], ["--sets", "x"]]
)
def test_options_that_make_no_sense_are_refused(arguments, capsys):
    with pytest.raises(SystemExit):
        deblurring.main(arguments)
    assert "error:" in capsys.readouterr().err


@pytest.mark.parametrize("module", [deblurring, deraining])
def test_the_program_runs_from_any_folder_and_ends_with_one_line(tmp_path, monkeypatch, module):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["prepare.py", "--archive", "missing.zip"])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(module.__file__), run_name="__main__")
    assert stopped.value.code == "error: missing.zip: no such file"
