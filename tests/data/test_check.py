"""The check of data sets: what it says of sets that were broken on purpose, and its exit code."""
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from skimage import data

from m3snet.Deblurring.dataset import TASK as DEBLURRING
from m3snet.Deraining.dataset import TASK as DERAINING
from m3snet.tools.check_data import TASKS, main
from m3snet.utils.data.check import ERROR, NOTE, examine
from m3snet.utils.data.pairs import PairError
from m3snet.utils.data.scenes import SAME_SCENE_BITS, perceptual_hash
from m3snet.utils.images import write_image
from m3snet.utils.tasks import Task

ROOT = Path(__file__).resolve().parents[2]
TRAIN, TEST = "Rain13K/train", "Rain13K/test/Rain100L"


def photo(seed: int, size: tuple[int, int] = (64, 96)) -> np.ndarray:
    """A smooth random image: its coarse structure is what tells scenes apart."""
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 16, 3)).astype(np.uint8)
    return cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)


def write_pair(folder: Path, name: str, target: np.ndarray, seed: int) -> None:
    noise = np.random.default_rng(seed).integers(0, 40, target.shape)
    write_image(folder / "input" / f"{name}.png", np.clip(target + noise, 0, 255).astype(np.uint8))
    write_image(folder / "target" / f"{name}.png", target)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Six training and three test pairs, no scene in common."""
    for number in range(6):
        write_pair(tmp_path / TRAIN, str(number), photo(number), number)
    for number in range(3):
        write_pair(tmp_path / TEST, f"rain-{number:03d}", photo(100 + number), 100 + number)
    return tmp_path


def errors(root: Path, task: Task = DERAINING) -> list[str]:
    """The errors of a report, each with its files."""
    return [
        f"{finding.place}: {finding.text} {list(finding.files)}"
        for finding in examine(root, task)[1]
        if finding.level == ERROR
    ]


def checked(root: Path, *words: str) -> int:
    """The exit code."""
    try:
        main([str(root), "--task", "Deraining", *words])
    except SystemExit as stopped:
        return stopped.code if isinstance(stopped.code, int) else 1
    return 0


def test_sound_sets_may_be_used_and_small_ones_are_only_noted(root, capsys):
    assert checked(root) == 0
    printed = capsys.readouterr().out
    lines = [" ".join(line.split()) for line in printed.splitlines()]
    assert "Rain13K train 6 13712 or 13711 0 0 0 0" in lines
    assert "Rain100L test 3 100 0 0 0 0" in lines
    assert "note: Rain100L test: 3 pairs where the published set has 100" in printed
    assert printed.endswith("verdict: may be used\n")
    assert max(map(len, printed.splitlines()[1:])) <= 80


def test_published_counts_are_those_of_the_papers():
    counts = {name: benchmark.images for task in (DERAINING, DEBLURRING) for name, benchmark in task.test_sets.items()}
    assert counts == {
        "Test100": (98, 100), "Rain100H": (100,), "Rain100L": (100,), "Test1200": (1200,), "Test2800": (2800,),
        "GoPro": (1111,), "HIDE": (2025,), "RealBlur-J": (980,), "RealBlur-R": (980,), "REDS320": (),
    }  # fmt: skip
    assert DERAINING.train_sets["Rain13K"].images[0] == 11200 + 1800 + 700 + 12
    assert {name: known.images for name, known in DEBLURRING.train_sets.items()} == {
        "GoPro": (2103,), "RealBlur-J": (3758,), "RealBlur-R": (3758,)
    }  # fmt: skip


def test_a_file_without_partner_is_named(root, capsys):
    (root / TRAIN / "target" / "4.png").unlink()
    (root / TEST / "input" / "rain-001.png").unlink()
    assert checked(root) == 1
    printed = capsys.readouterr().out
    assert "error: Rain13K train: 1 file without a partner" in printed
    assert "    input/4.png\n" in printed
    assert "    target/rain-001.png\n" in printed
    assert "verdict: not to be used as it is: 2 errors" in printed


def test_ten_are_named_and_the_rest_counted(root, capsys):
    for number in range(20, 33):
        write_image(root / TRAIN / "input" / f"{number}.png", photo(number))
    checked(root)
    printed = capsys.readouterr().out
    assert "13 files without a partner" in printed
    assert "    input/29.png\n    ... and 3 more\n" in printed


def test_unreadable_and_cut_files_are_named_with_the_reason(root):
    (root / TRAIN / "target" / "2.png").write_bytes(b"")
    broken = root / TRAIN / "input" / "3.png"
    broken.write_bytes(broken.read_bytes()[:-100])
    (error,) = errors(root)
    assert "2 files cannot be read" in error
    assert "'target/2.png: the file is empty" in error
    assert "'input/3.png: the image is cut off" in error


def test_two_sizes_are_an_error_naming_both(root):
    write_image(root / TEST / "target" / "rain-002.png", photo(102, (64, 90)))
    (error,) = errors(root)
    assert "1 pair of two sizes" in error
    assert "input/rain-002.png 96x64, target/rain-002.png 90x64" in error


def test_one_name_with_two_suffixes_is_an_error(root):
    write_image(root / TRAIN / "input" / "1.jpg", photo(1))
    (error,) = errors(root)
    assert "input/1.jpg" in error
    assert "input/1.png" in error


def test_duplicates_inside_a_set_are_noted_by_their_pixels(root):
    write_image(root / TRAIN / "input" / "7.bmp", cv2.imread(str(root / TRAIN / "input" / "5.png"))[..., ::-1])
    write_image(root / TRAIN / "target" / "7.png", photo(7))
    reports, findings = examine(root, DERAINING)
    assert reports[0].counts["repeated"] == 1
    texts = {finding.text: list(finding.files) for finding in findings if finding.place == "Rain13K train"}
    (twice,) = (files for text, files in texts.items() if "equal to the last bit" in text)
    assert twice == ["input/5.png = input/7.bmp"]
    (differ,) = (files for text, files in texts.items() if "ground truths that differ" in text)
    assert differ == ["target/5.png, target/7.png"]
    assert not errors(root)


def test_several_rains_over_one_photograph_are_no_duplicates(root):
    write_pair(root / TRAIN, "8", photo(5), seed=8)
    assert examine(root, DERAINING)[0][0].counts["repeated"] == 0


def test_planted_scenes_shared_by_training_and_test_are_found_and_no_others(root, capsys):
    planted = data.astronaut()[:256, :384]
    write_pair(root / TRAIN, "50", planted, seed=1)
    write_pair(root / TEST, "rain-050", cv2.resize(planted, (300, 200), interpolation=cv2.INTER_AREA), seed=2)
    jpeg = root / TEST / "target" / "norain-051.jpg"  # a photograph of the training set saved again, lossy
    write_image(jpeg, photo(3))
    write_image(root / TEST / "input" / "rain-051.png", photo(3))
    shifted = data.coffee()[:, :560]
    write_pair(root / TRAIN, "60", shifted, seed=3)
    write_pair(root / TEST, "rain-060", data.coffee()[:, 6:566], seed=4)

    found = errors(root)
    assert any("the same photograph" in error and "['3 = 051', '50 = 050']" in natural(error) for error in found)
    assert any("nearly the same view" in error and "['60 ~ 060']" in error for error in found)
    assert len(found) == 2
    assert checked(root) == 1
    assert "error: Rain13K train and Rain100L test" in capsys.readouterr().out
    assert checked(root, "--allow-overlap") == 0
    assert "note: Rain13K train and Rain100L test" in capsys.readouterr().out


def natural(error: str) -> str:
    """The list at the end of an error, sorted."""
    text, _, files = error.partition(" [")
    return f"{text} {sorted(file.strip(chr(39)) for file in files.rstrip(']').split(', '))}"


def test_skies_of_other_scenes_are_not_one_scene(root):
    """Their hashes are close by chance: a gradient from left to right, and what the hash does not see."""
    sky = np.linspace(60, 200, 96)[None, :, None].repeat(64, axis=0).repeat(3, axis=2)
    dusk = sky * 0.2 + np.linspace(150, 0, 64)[:, None, None]
    skies = [image.astype(np.uint8) for image in (sky, dusk)]
    bits = np.bitwise_count(perceptual_hash(skies[0]) ^ perceptual_hash(skies[1])).sum()
    assert bits <= SAME_SCENE_BITS
    write_pair(root / TRAIN, "70", skies[0], seed=1)
    write_pair(root / TEST, "rain-070", skies[1], seed=2)
    assert not errors(root)


def test_ground_truths_that_two_test_sets_share_are_a_note(root):
    for number in range(2):
        write_pair(root / "Rain13K/test/Rain100H", f"rain-{number:03d}", photo(100 + number), 200 + number)
    findings = examine(root, DERAINING)[1]
    (shared,) = (finding for finding in findings if finding.place == "Rain100H test, Rain100L test")
    assert shared.level == NOTE
    assert "share 2 ground truths" in shared.text


@pytest.fixture
def gopro(tmp_path: Path) -> Path:
    """GoPro's original tree: blur averages pixel values, blur_gamma averages light, as in its paper."""
    for scene in ("GOPR0372_07_00", "GOPR0384_11_05"):
        for frame in range(2):
            frames = [np.roll(photo(frame), shift, axis=1).astype(float) / 255 for shift in range(5)]
            folder = tmp_path / "GoPro/train" / scene
            images = {
                "sharp": frames[2],
                "blur": np.mean(frames, axis=0),
                "blur_gamma": np.mean([image**2.2 for image in frames], axis=0) ** (1 / 2.2),
            }
            for kind, image in images.items():
                levels = (image * 255).round() - scene.count("5")  # no two scenes alike
                write_image(folder / kind / f"{frame:06d}.png", levels.clip(0).astype(np.uint8))
    return tmp_path


def test_blur_beside_blur_gamma_is_noted(gopro):
    reports, findings = examine(gopro, DEBLURRING)
    assert reports[0].counts["pairs"] == 4
    assert not errors(gopro, DEBLURRING)
    assert any("blur_gamma is there too (4 images) and is not used" in finding.text for finding in findings)


def test_blur_exchanged_with_blur_gamma_is_an_error(gopro):
    for scene in (gopro / "GoPro/train").iterdir():
        (scene / "blur").rename(scene / "other")
        (scene / "blur_gamma").rename(scene / "blur")
        (scene / "other").rename(scene / "blur_gamma")
    (error,) = errors(gopro, DEBLURRING)
    assert "seem to be exchanged" in error


def test_blur_that_is_blur_gamma_is_an_error(gopro):
    for path in (gopro / "GoPro/train").glob("*/blur_gamma/*.png"):
        (path.parents[1] / "blur" / path.name).write_bytes(path.read_bytes())
    (error,) = errors(gopro, DEBLURRING)
    assert "4 of 4 degraded images are those of blur_gamma" in error


def test_nothing_to_examine_says_what_was_looked_for(tmp_path):
    with pytest.raises(PairError, match="RealBlur_J/test"):
        main([str(tmp_path), "--task", "Deblurring"])
    with pytest.raises(PairError, match="missing: holds no deraining set"):
        main([str(tmp_path / "missing"), "--task", "Deraining"])
    (tmp_path / TEST).mkdir(parents=True)
    assert "expected the folders input/ and target/" in errors(tmp_path)[0]


def test_files_that_are_no_images_are_noted(root):
    for name in ("8.xcf", "notes.txt"):
        (root / TRAIN / "target" / name).write_text("")
    (note,) = (finding for finding in examine(root, DERAINING)[1] if "left out" in finding.text)
    assert (note.level, list(note.files)) == (NOTE, ["target/8.xcf", "target/notes.txt"])


def test_what_is_converted_is_noted(root):
    write_image(root / TRAIN / "target/1.png", photo(1).astype(np.uint16) * 257)
    (note,) = (finding for finding in examine(root, DERAINING)[1] if "converted" in finding.text)
    assert (note.level, note.text) == (NOTE, "images converted as they were read: 16-bit rounded to 8: 1 of 12")


@pytest.mark.parametrize(
    ("words", "folder", "line"),
    [
        ([ROOT / "tools/check_data.py"], ".", "verdict: not to be used as it is"),
        (["-m", "m3snet.tools.check_data"], "none", "error: "),
    ],
)
def test_the_program_ends_with_a_line_and_an_exit_code(root, words, folder, line):
    (root / TEST / "input" / "rain-001.png").unlink()
    command = [sys.executable, *map(str, words), folder, "--task", "Deraining"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 1
    assert line in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_every_task_has_sets_to_examine():
    assert set(TASKS) == {DERAINING.name, DEBLURRING.name}
