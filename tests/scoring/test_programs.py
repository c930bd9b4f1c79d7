"""test.py of both tasks: which sets it finds, what it prints and writes, and that nothing computed is lost."""
from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock
from skimage import data

import m3snet.Deblurring.test
import m3snet.Deraining.test
from m3snet.Deraining.config import DEFAULTS
from m3snet.Deraining.dataset import TASK
from m3snet.models import M3SNet, save_weights
from m3snet.models.weights import PRETRAINED, released
from m3snet.tests.runs import torchrun
from m3snet.utils.config import ConfigError, load_task_config
from m3snet.utils.data.blur import BLUR
from m3snet.utils.data.pairs import PairError
from m3snet.utils.data.samples import photographs
from m3snet.utils.files import TEMPORARY
from m3snet.utils.images import read_image, write_image
from m3snet.utils.scoring import pictures
from m3snet.utils.scoring import run as evaluator
from m3snet.utils.scoring.metrics import PROTOCOLS, psnr, rgb_to_y
from m3snet.utils.scoring.results import LOCK, ResultsError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A network that changes every image a little."""
    torch.manual_seed(0)
    model = M3SNet(width=8, enc_blk_nums=(1, 1, 1, 1))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    for name, parameter in model.named_parameters():
        if ".sca." in name:
            torch.nn.init.normal_(parameter, std=2)  # so that it matters where means are taken
    model.patch_size = 16
    save_weights(model, tmp_path / "tiny.safetensors")
    return tmp_path / "tiny.safetensors"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Rain100L with five pairs, below a folder like Datasets."""
    photograph = data.astronaut()
    for i in range(5):
        target = photograph[60 * i : 60 * i + 40, 150:213]
        noise = np.random.default_rng(i).normal(0, 15, target.shape)
        folder = tmp_path / "Datasets/Rain13K/test/Rain100L"
        write_image(folder / "target" / f"norain-{i}.png", target)
        write_image(folder / "input" / f"rain-{i}.png", np.clip(target + noise, 0, 255).astype(np.uint8))
    return tmp_path / "Datasets"


def run(root: Path, weights: Path, out: Path, *opts: str) -> list[dict[str, Any]]:
    words = ["--weights", str(weights), "--results", str(out), "--opts", "DATA.ROOT", str(root), *opts]
    m3snet.Deraining.test.main(words)
    return json.loads((out / "results.json").read_text())


def score(restored: Path, target: Path, out: Path, *opts: str) -> dict[str, Any]:
    arguments = ["--score", str(restored), "--target", str(target), "--results", str(out), "--opts", *opts]
    m3snet.Deraining.test.main(arguments)
    (result,) = json.loads((out / "results.json").read_text())
    return result


@pytest.mark.parametrize(("program", "protocol"), [(m3snet.Deraining.test, "y"), (m3snet.Deblurring.test, "rgb")])
def test_bundled_samples_where_no_set_is(
    program: Any,
    protocol: str,
    weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)  # where there is no Datasets
    out = tmp_path / "out"
    program.main(["--weights", str(weights), "--results", str(out)])
    printed = capsys.readouterr().out
    assert "no test set below Datasets: restoring the bundled samples" in printed
    assert f"side by side:  {out / 'samples.png'}" in printed
    assert max(len(line) for line in printed.splitlines() if str(tmp_path) not in line) <= 80
    (result,) = json.loads((out / "results.json").read_text())
    assert (result["dataset"], result["protocol"], result["images"]) == ("samples", protocol, 3)
    assert read_image(out / "samples.png").shape[1] > 1000
    for row in result["per_image"]:
        restored, target = (read_image(out / "samples" / side / f"{row['name']}.png") for side in ("", "target"))
        space = rgb_to_y if protocol == "y" else np.asarray
        assert row["psnr"] == psnr(space(restored), space(target))
        assert row["name"] in photographs("test")


def test_a_root_that_one_names_must_hold_a_set(weights: Path, tmp_path: Path) -> None:
    """Else a typing error would end with scores of the samples, and exit code 0."""
    nowhere = tmp_path / "nowhere"
    message = r"DATA\.ROOT .*nowhere: {} \(looked for Rain13K/test/Test100, .*\)\. Set it to .*TEST\.DATASETS samples"
    with pytest.raises(ConfigError, match=message.format("no such folder")):
        run(nowhere, weights, tmp_path / "out")
    nowhere.mkdir()
    with pytest.raises(ConfigError, match=message.format("holds none of Deraining's test sets")):
        run(nowhere, weights, tmp_path / "out")
    (result,) = run(nowhere, weights, tmp_path / "out", "TEST.DATASETS", "samples")
    assert result["dataset"] == "samples"


def test_sets_on_disk_and_where_the_numbers_come_from(
    root: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (result,) = run(root, weights, tmp_path / "out", "TEST.REPORT", "true")
    assert (result["dataset"], result["images"]) == ("Rain100L", 5)
    assert (tmp_path / "out/report.html").read_text().count("data:image/jpeg") == 15
    assert [row["name"] for row in result["per_image"]] == ["0", "1", "2", "3", "4"]
    origin = result["provenance"]
    assert (origin["tlc_patch"], origin["tlc_window"]) == (16, 24)
    assert (origin["protocol"], origin["precision"], origin["rounding"]) == ("y", "float32", "8 bits, to nearest")
    assert origin["tiling"] is origin["converted"] is None
    assert "(" in origin["code"] and "0.1.0" in origin["code"]
    assert origin["weights"] == "tiny.safetensors"
    assert len(origin["weights_sha256"]) == 64
    assert torch.__version__.startswith(origin["packages"]["torch"])
    for file in ("results.csv", "results.md"):
        text = (tmp_path / "out" / file).read_text()
        assert all(fact in text for fact in (*origin, "packages.torch", origin["weights_sha256"], origin["code"]))
    assert "TLC window 24 (patches of 16)" in capsys.readouterr().out
    configuration = load_task_config(DEFAULTS, tmp_path / "out/config.yml", [])
    assert Path(configuration.DATA.ROOT) == root and configuration.TEST.REPORT
    assert not list((tmp_path / "out").glob(".*.jsonl"))


def test_a_missing_set_is_skipped_only_when_others_remain(
    root: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = run(root, weights, tmp_path / "out", "TEST.DATASETS", "['Test100', 'Rain100L']")
    assert [result["dataset"] for result in results] == ["Rain100L"]
    assert "skipped: Test100 (" in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"not found: Test100 .*Set DATA\.ROOT"):
        run(root, weights, tmp_path / "out", "TEST.DATASETS", "Test100")
    with pytest.raises(ConfigError, match=r"Rain100X: neither a folder nor a test set .*Rain100L"):
        run(root, weights, tmp_path / "out", "TEST.DATASETS", "Rain100X")


def test_ones_own_folder_is_a_set(root: Path, weights: Path, tmp_path: Path) -> None:
    folder = root / "Rain13K/test/Rain100L"
    (result,) = run(tmp_path, weights, tmp_path / "out", "TEST.DATASETS", f"['{folder}']")
    assert (result["dataset"], result["protocol"], result["images"]) == ("Rain100L", "y", 5)
    assert "M3SNet-32" not in (tmp_path / "out/results.md").read_text()  # it may hold anything, whatever its name
    with pytest.raises(ConfigError, match="2 sets are called Rain100L"):
        run(root, weights, tmp_path / "out", "TEST.DATASETS", f"['{folder}', 'Rain100L']")


def test_every_pair_is_looked_at_before_the_first_image(
    root: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = root / "Rain13K/test/Rain100L"
    monkeypatch.setattr(evaluator.Restorer, "__call__", lambda *_: pytest.fail("an image was restored"))
    cut = folder / "input/rain-1.png"
    cut.write_bytes(cut.read_bytes()[:-40])
    write_image(folder / "target/norain-4.png", read_image(folder / "target/norain-4.png")[1:])
    message = r"2 file\(s\) cannot be used:\n.*rain-1\.png.*cut off.*\n.*rain-4\.png is 63x40 but .*norain-4\.png is"
    with pytest.raises(PairError, match=message):
        run(root, weights, tmp_path / "out")
    with pytest.raises(PairError, match=message):
        score(folder / "input", folder / "target", tmp_path / "scores")


def test_released_weights_of_the_other_task_are_warned_of(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = load_task_config(DEFAULTS, None, ["DATA.ROOT", str(root)])
    for weights in ("deblur", PRETRAINED / released()["deblur"]["file"]):
        evaluator.evaluate_task(config, TASK, weights, root / f"out{len(str(weights))}")
        (warning,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: "))
        assert "deblur was trained for Deblurring, and this is Deraining" in warning
    evaluator.evaluate_task(config, TASK, "derain", root / "derain")
    assert "warning" not in capsys.readouterr().err


def test_the_sheet_shows_best_median_and_worst(
    root: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sheets: list[Any] = []
    monkeypatch.setattr(pictures, "comparison_sheet", lambda *arguments: sheets.append(arguments))
    folder = root / "Rain13K/test/Rain100L"
    for count, places in ((5, (4, 2, 0)), (2, (1, 0)), (1, (0,))):
        for i in range(count, 5):
            for path in folder.glob(f"*/*rain-{i}.png"):
                path.unlink()
        (result,) = run(root, weights, tmp_path / "out")
        rows, path, note = sheets.pop()
        ranked = [row["name"] for row in sorted(result["per_image"], key=lambda row: row["psnr"])]
        words = ("best", "median", "worst") if count == 5 else ("best", "worst") if count == 2 else ("only image",)
        expected = [f"{word}: {ranked[place]}" for word, place in zip(words, places, strict=True)]
        assert [name for name, _, _ in rows] == expected
        assert path == tmp_path / "out/Rain100L.png"
        assert "64 levels" in note
        for name, images, _ in rows:
            restored = read_image(tmp_path / "out/Rain100L" / f"{name.split(': ')[1]}.png")
            np.testing.assert_array_equal(images["restored"], restored)


def test_tlc_can_be_turned_off(root: Path, weights: Path, tmp_path: Path) -> None:
    with_tlc = run(root, weights, tmp_path / "a")
    without = run(root, weights, tmp_path / "b", "TEST.TLC", "false")
    assert without[0]["provenance"]["tlc_patch"] is without[0]["provenance"]["tlc_window"] is None
    assert with_tlc[0]["psnr"] != without[0]["psnr"]


def test_results_say_how_borders_were_padded(root: Path, weights: Path, tmp_path: Path) -> None:
    reflected = run(root, weights, tmp_path / "out")
    zeros = run(root, weights, tmp_path / "out", "TEST.PADDING", "zeros")
    assert [results[0]["provenance"]["padding"] for results in (reflected, zeros)] == ["reflect", "zeros"]
    assert reflected[0]["psnr"] != zeros[0]["psnr"]  # 40 x 63 pixels


def test_results_say_what_ran_the_network(root: Path, weights: Path, tmp_path: Path) -> None:
    command = ["--weights", str(weights), "--opts", "DATA.ROOT", str(root)]
    scores = []
    for number, (options, taken) in enumerate(
        (([], ["exact", "float32"]), (["--backend", "torch", "--precision", "bfloat16"], ["torch", "bfloat16"]))
    ):
        out = tmp_path / str(number)
        evaluator.run(DEFAULTS, TASK, None, ["--results", str(out), *options, *command])
        (result,) = json.loads((out / "results.json").read_text())
        assert [result["provenance"][key] for key in ("backend", "precision")] == taken
        scores.append(result["psnr"])
    assert scores[0] != scores[1] and abs(scores[0] - scores[1]) < 0.1


def test_an_interrupted_evaluation_goes_on_where_it_stopped(
    root: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = run(root, weights, tmp_path / "whole")
    restore, calls = evaluator.Restorer.__call__, []

    def counted(restorer: evaluator.Restorer, image: np.ndarray) -> np.ndarray:
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return restore(restorer, image)

    monkeypatch.setattr(evaluator.Restorer, "__call__", counted)
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run(root, weights, out)
    done = sum(len(path.read_text().splitlines()) - 1 for path in out.glob(".*.jsonl"))
    assert done >= 1
    (torn,) = out.glob(".*.jsonl")
    torn.write_text(torn.read_text() + '\n{"row": {"name": "3", "ps')  # as a process that is killed leaves it
    # What changed since is done again: here one restored image was deleted.
    first = json.loads(torn.read_text().splitlines()[1])["row"]["name"]
    (out / "Rain100L" / f"{first}.png").unlink()
    capsys.readouterr()
    assert run(root, weights, out) == whole
    assert len(calls) == 5 + 5 - (done - 1)
    assert f"checking {5 - (done - 1)} pairs" in capsys.readouterr().out


def test_scores_of_other_weights_are_not_taken_over(
    root: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(evaluator, "_print_tables", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(root, weights, out)
    assert list(out.glob(".*.jsonl"))
    other = M3SNet(width=8, enc_blk_nums=(1, 1, 1, 1))
    other.patch_size = 16
    save_weights(other, weights)
    fresh = run(root, weights, tmp_path / "fresh")
    assert "not continued" not in capsys.readouterr().out
    assert run(root, weights, out) == fresh
    assert "Rain100L: an interrupted run is not continued: weights_sha256 '" in capsys.readouterr().out


def test_two_processes_share_the_images(root: Path, weights: Path, tmp_path: Path) -> None:
    """Five images, two processes: none is counted twice, the printed table is the same, and so is an error's line."""
    command = [str(ROOT / "Deraining/test.py"), "--weights", str(weights), "--opts", "DATA.ROOT", str(root)]

    def start(launcher: tuple[str, ...], out: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *launcher, *command, "TEST.DATASETS", "Rain100L"],
            cwd=_made(out),
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            check=False,
        )

    tables = []
    for out, launcher in (("one", ()), ("two", torchrun())):
        done = start(launcher, tmp_path / out)
        assert done.returncode == 0, done.stderr
        tables.append(done.stdout)
    assert tables[0] == tables[1]
    files = [next((tmp_path / out / "results/Deraining").glob("*/results.json")) for out in ("one", "two")]
    one, two = (json.loads(file.read_text()) for file in files)
    for results in (one, two):
        del results[0]["provenance"]  # a commit may have been made in between
    assert one == two
    assert len(one[0]["per_image"]) == 5
    (root / "Rain13K/test/Rain100L/input/rain-3.png").write_bytes(b"")
    done = start(torchrun(), tmp_path / "error")
    assert done.returncode == 1
    assert done.stderr.count("error: 1 file(s) cannot be used") == 1
    assert "[rank" not in done.stderr  # no traceback of those that wait for the one that found it


def test_images_of_another_program_are_scored(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each in a folder of its own; what they are compared with is told by where the targets lie."""
    monkeypatch.chdir(tmp_path)
    folder = root / "Rain13K/test/Rain100L"
    m3snet.Deraining.test.main(["--score", str(folder / "input"), "--target", str(folder / "target")])
    printed = " ".join(capsys.readouterr().out.split())
    assert "Gain" not in printed and "side by side" not in printed
    assert "Rain100L 5 of 100 images" in printed
    out = Path("results/Deraining/scores/input")
    (result,) = json.loads((out / "results.json").read_text())
    assert (result["dataset"], result["images"]) == ("Rain100L", 5)
    restored, target = (read_image(folder / side) for side in ("input/rain-0.png", "target/norain-0.png"))
    assert result["per_image"][0]["psnr"] == psnr(rgb_to_y(restored), rgb_to_y(target))
    origin = result["provenance"]
    assert (origin["protocol"], origin["rounding"]) == ("y", "8 bits, to nearest")
    assert "numpy" in origin["packages"]
    for file in ("results.csv", "results.md"):
        assert all(fact in (out / file).read_text() for fact in (*origin, "packages.numpy", origin["code"]))
    assert (out / "config.yml").is_file()
    with pytest.raises(SystemExit):
        m3snet.Deraining.test.main(["--score", str(folder / "input")])


def test_a_folder_that_is_only_called_like_a_set_is_not_that_set(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "theirs").mkdir()
    restored = (root / "Rain13K/test/Rain100L/input").rename(tmp_path / "theirs/Rain100L")
    target = (root / "Rain13K/test/Rain100L/target").rename(tmp_path / "theirs/target")
    result = score(restored, target, tmp_path / "out", "DATA.ROOT", str(root))
    assert result["dataset"] == "Rain100L"
    assert "M3SNet-32" not in capsys.readouterr().out + (tmp_path / "out/results.md").read_text()


def test_scores_of_a_folder_leave_a_networks_results_alone(root: Path, weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    before = run(root, weights, out)
    target = root / "Rain13K/test/Rain100L/target"
    with pytest.raises(ResultsError, match=r"out: holds the results of the weights .*tiny, which those of the images"):
        score(out / "Rain100L", target, out)
    assert json.loads((out / "results.json").read_text()) == before
    for _ in range(2):  # those of a folder may be made anew
        again = score(out / "Rain100L", target, tmp_path / "scores", "DATA.ROOT", str(root))
    assert again["psnr"] == before[0]["psnr"]


def test_an_interrupted_scoring_goes_on_where_it_stopped(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = root / "Rain13K/test/Rain100L"
    whole = score(folder / "input", folder / "target", tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(evaluator, "_print_tables", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            score(folder / "input", folder / "target", tmp_path / "out")
    calls: list[object] = []
    protocol = PROTOCOLS["y"]
    monkeypatch.setitem(PROTOCOLS, "y", lambda *images: calls.append(1) or protocol(*images))
    os.utime(folder / "input/rain-1.png", ns=(0, 0))  # another time, the same content
    changed, stat = folder / "input/rain-2.png", (folder / "input/rain-2.png").stat()
    changed.write_bytes(changed.read_bytes() + b"\0")  # behind the end of the image: the same pixels
    os.utime(changed, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert score(folder / "input", folder / "target", tmp_path / "out") == whole
    assert len(calls) == 1
    assert not list((tmp_path / "out").glob(".*.jsonl"))


def test_each_weights_have_a_folder_of_their_own(
    root: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--opts", "DATA.ROOT", str(root)]
    other = weights.with_name("other.safetensors")
    other.write_bytes(weights.read_bytes())
    for file in (weights, other):
        m3snet.Deraining.test.main(["--weights", str(file), *words])
    made = [Path("results/Deraining") / f"{tmp_path.name}-{name}" for name in ("tiny", "other")]
    first, second = (json.loads((folder / "results.json").read_text()) for folder in made)
    assert first[0]["psnr"] == second[0]["psnr"] and first[0]["provenance"]["weights"] == "tiny.safetensors"
    before = (made[0] / "results.json").read_bytes()
    message = r"holds the results of the weights .*-tiny, which those of the weights .*-other would overwrite"
    with pytest.raises(ResultsError, match=message):
        m3snet.Deraining.test.main(["--weights", str(other), "--results", str(made[0]), *words])
    assert (made[0] / "results.json").read_bytes() == before
    changed = M3SNet(width=8, enc_blk_nums=(1, 1, 1, 1))
    save_weights(changed, weights)
    capsys.readouterr()
    m3snet.Deraining.test.main(["--weights", str(weights), *words])
    assert "-tiny: the results there, of an earlier state of the weights" in capsys.readouterr().out


def test_files_that_are_no_results_are_left_alone(root: Path, weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    (out / "config.yml").write_text("mine")
    (out / "results.json").write_text("{not ours")
    with pytest.raises(ResultsError, match=r"mine: holds files that are no results .*\(config\.yml, results\.json\)"):
        run(root, weights, out)
    assert (out / "config.yml").read_text() == "mine"
    assert sorted(path.name for path in out.iterdir()) == ["config.yml", "results.json"]  # and no lock


def test_a_run_killed_before_it_marked_its_folder_is_in_nobodys_way(
    root: Path, weights: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / TEMPORARY.replace("*", "0")).touch()
    assert run(root, weights, tmp_path / "out")


def test_one_program_at_a_time_writes_results(root: Path, weights: Path, tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "out" / LOCK)
    (tmp_path / "out").mkdir()
    with lock, pytest.raises(ResultsError, match=r"out: another test\.py is writing its results there"):
        run(root, weights, tmp_path / "out")
    assert run(root, weights, tmp_path / "out")


@pytest.mark.parametrize("damage", [b"\xff\xfe{", b"[1]\n[2]\n", b'{"row": 3}\n{"row": {"name": []}}', b""])
def test_a_damaged_journal_stops_nothing(damage: bytes, root: Path, weights: Path, tmp_path: Path) -> None:
    whole = run(root, weights, tmp_path / "whole")
    (tmp_path / "whole/.Rain100L.0.jsonl").write_bytes(damage)
    assert run(root, weights, tmp_path / "whole") == whole


def test_names_that_the_terminal_cannot_show(root: Path, weights: Path, tmp_path: Path) -> None:
    folder = root / "Rain13K/test/Rain100L"
    for side in ("input", "target"):
        (path,) = (folder / side).glob("*-3.png")
        path.rename(path.with_name("\u96e8\udcff.png"))
    done = subprocess.run(
        [sys.executable, str(ROOT / "Deraining/test.py"), "--weights", str(weights), "--results", "\u96e8", "--opts",
         "DATA.ROOT", str(root)],
        cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONIOENCODING": "cp1252"}, check=False,
    )
    assert done.returncode == 0, done.stderr
    (result,) = json.loads((tmp_path / "\u96e8/results.json").read_text())
    assert "\\u96e8" in done.stdout and len(result["per_image"]) == 5


def test_realblur_is_scored_after_alignment(tmp_path: Path) -> None:
    """Input and target a pixel apart, as two cameras see them; the light differs too."""
    folder = tmp_path / "Datasets/RealBlur_J/test"
    photograph = data.astronaut()
    for i in range(2):
        view = photograph[100 * i : 100 * i + 97, 160 : 160 + 121]
        blurred = BLUR.apply(view[:, :-1], np.random.default_rng(i))
        write_image(folder / "input" / f"{i}.png", np.round(0.8 * blurred).astype(np.uint8))
        write_image(folder / "target" / f"{i}.png", view[:, 1:])
    out = tmp_path / "out"
    opts = ["--opts", "DATA.ROOT", str(tmp_path / "Datasets"), "TEST.DATASETS", "RealBlur-J"]
    m3snet.Deblurring.test.main(["--weights", "deblur", "--results", str(out), *opts])
    (result,) = json.loads((out / "results.json").read_text())
    assert (result["dataset"], result["protocol"], result["images"]) == ("RealBlur-J", "aligned", 2)
    assert result["aligned"] == 1
    for row in result["per_image"]:
        restored, target = (read_image(side / f"{row['name']}.png") for side in (out / "RealBlur-J", folder / "target"))
        assert row["psnr"] > psnr(restored, target) + 3
    arguments = ["--score", str(out / "RealBlur-J"), "--target", str(folder / "target")]
    m3snet.Deblurring.test.main([*arguments, "--results", str(tmp_path / "scores"), *opts])
    (again,) = json.loads((tmp_path / "scores/results.json").read_text())
    assert (again["dataset"], again["protocol"], again["psnr"]) == ("RealBlur-J", "aligned", result["psnr"])


def test_errors_are_one_line_without_a_traceback(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "Deblurring/test.py"), "--weights", "nothing.pth"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: nothing.pth: no such file")
    assert "Traceback" not in done.stderr


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
