"""The scripts that measure: what the networks cost, beside the published numbers, and the tables of benchmarks/."""
from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean

import cv2
import numpy as np
import pytest
import torch
from skimage import data

from m3snet.benchmarks import ablation, complexity, cost, latency, loader, protocols, scoring, train_step
from m3snet.Deraining.config import DEFAULTS
from m3snet.models import SIZES, create_model
from m3snet.utils.cli import UserError
from m3snet.utils.config import load_config, save_config
from m3snet.utils.images import write_image
from m3snet.utils.scoring.metrics import score_rgb, score_y
from m3snet.utils.settings import CACHES

ROOT = Path(__file__).resolve().parents[2]

# (FFM, MHAMB) -> parameters. M3SNet-32 and -64 whole are those of the published checkpoints, NAFNet-32 and -64 are what
# is left of them without both.
PARAMETERS = {
    "M3SNet-32": {
        (True, True): 16_732_331,
        (False, True): 16_322_411,
        (True, False): 17_521_827,
        (False, False): 17_111_907,
    },
    "M3SNet-64": {
        (True, True): 66_355_531,
        (False, True): 64_736_971,
        (True, False): 69_507_395,
        (False, False): 67_888_835,
    },
    "M3SNet-S": {
        (True, True): 4_254_811,
        (False, True): 4_149_691,
        (True, False): 4_452_947,
        (False, False): 4_347_827,
    },
    "M3SNet-T": {
        (True, True): 1_099_571,
        (False, True): 1_071_971,
        (True, False): 1_149_483,
        (False, False): 1_121_883,
    },
}
# At 256x256, of the published code.
GMACS = {
    ("M3SNet-32", True, True): 18.65,
    ("M3SNet-64", True, True): 73.57,
    ("M3SNet-32", False, False): 15.96,
    ("M3SNet-64", False, False): 63.05,
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two small pairs in each set that protocols.py reads."""
    photograph = data.astronaut()
    sets = [f"Rain13K/test/{name}" for name in ("Rain100L", "Rain100H", "Test100")] + ["GoPro/test", "REDS320/test"]
    for number, name in enumerate(sets):
        for i in range(2):
            target = photograph[70 * i : 70 * i + 64, 40 * number : 40 * number + 80]
            noise = np.random.default_rng(number + i).normal(0, 12, target.shape)
            write_image(tmp_path / name / "target" / f"{i}.png", target)
            write_image(tmp_path / name / "input" / f"{i}.png", np.clip(target + noise, 0, 255).astype(np.uint8))
    return tmp_path


def test_parameters_of_every_size_and_ablation() -> None:
    assert set(PARAMETERS) == set(SIZES)
    for name, variants in PARAMETERS.items():
        for (ffm, mhamb), expected in variants.items():
            with torch.device("meta"):
                model = create_model(name, ffm, mhamb)
            assert cost.count_parameters(model) == expected, (name, ffm, mhamb)


@pytest.mark.parametrize("variant", GMACS)
def test_multiplications_of_the_published_networks(variant: tuple[str, bool, bool]) -> None:
    with torch.device("meta"):
        model = create_model(*variant).eval()
    assert cost.count_macs(model, 256, 256) / 1e9 == pytest.approx(GMACS[variant], rel=0.01)
    published = complexity.PUBLISHED[variant]
    assert published.gmacs == GMACS[variant]
    assert published.parameters == round(PARAMETERS[variant[0]][variant[1:]] / 1e6, 2)


def test_multiplications_of_one_convolution() -> None:
    convolution = torch.nn.Conv2d(3, 8, 3, padding=1)
    assert cost.count_macs(convolution, 10, 20) == 3 * 8 * 9 * 10 * 20


def test_bytes_of_one_convolution() -> None:
    convolution = torch.nn.Conv2d(3, 8, 3, padding=1)
    moved = 3 * 10 * 20 + 8 * 10 * 20 + 3 * 8 * 9 + 8
    assert cost.convolution_bytes(torch.nn.Sequential(convolution), 10, 20, torch.bfloat16) == 2 * moved
    assert not convolution._forward_hooks


def test_the_table_of_latencies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "latency.json"
    options = ["--sizes", "M3SNet-T", "--image", "64x48", "--runs", "3", "--device", "cpu", "--precision", "float32"]
    latency.main([*options, "--json", str(file)])
    title, line = capsys.readouterr().out.splitlines()[3:5]
    assert len(title) == len(line)
    assert line.split()[:3] == ["M3SNet-T", "torch", "float32"]
    content = json.loads(file.read_text())
    (row,) = content["rows"]
    assert len(row["seconds"]) == 3 and row["image"] == [48, 64]
    expected = np.median(row["seconds"])
    assert f"{1000 * expected:.1f}" == line.split()[4] and f"{1 / expected:.2f}" == line.split()[6]
    with torch.device("meta"):
        macs = cost.count_macs(create_model("M3SNet-T"), 48, 64)
    assert row["matrix_share"] == pytest.approx(macs / expected / content["rates"]["float32"]["macs"])


def test_95_percent_of_the_times_stay_under_the_percentile() -> None:
    assert latency.percentile_95([*range(1, 101)]) == pytest.approx(95.05)
    assert latency.percentile_95([3.0]) == 3.0


def test_the_table_of_complexity(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "complexity.json"
    complexity.main(["--sizes", "M3SNet-T", "--json", str(file)])
    printed = capsys.readouterr().out
    head, table = printed.split("\n\n")[:2]
    assert "parameters and GMACs measured on it" in head
    title, rule, *lines = table.splitlines()
    assert len(title) == len(rule)
    names = ["M3SNet-T", "  no FFM", "  no MHAMB", "  no FFM, MHAMB"]
    variants = [(True, True), (False, True), (True, False), (False, False)]
    for name, line, variant in zip(names, lines, variants, strict=True):
        found = re.fullmatch(r"(.*?)  +([\d,]+)  +([\d.]+)  +([\d.]+)", line)
        assert found, line
        assert found[1] == name
        assert int(found[2].replace(",", "")) == PARAMETERS["M3SNet-T"][variant]
        for column, heading in enumerate(("Parameters", "GMACs", "at 720p"), start=2):
            assert found.end(column) == title.index(heading) + len(heading), line  # numbers end where their titles end
    rows = json.loads(file.read_text())["rows"]
    assert [row["parameters"] for row in rows] == list(PARAMETERS["M3SNet-T"].values())


def test_published_numbers_stand_behind_the_networks_they_are_of(capsys: pytest.CaptureFixture[str]) -> None:
    complexity.main(["--sizes", "M3SNet-32"])
    lines = capsys.readouterr().out.splitlines()[-4:]
    assert lines[0].endswith("  M3SNet-32: 16.73, 18.65; 32.91")
    assert lines[3].endswith("  NAFNet-32: 17.11, 15.96; 32.87")


@pytest.fixture
def threads() -> Iterator[None]:
    """OpenCV has as many threads afterwards as before."""
    before = cv2.getNumThreads()
    yield
    cv2.setNumThreads(before)


@pytest.mark.usefixtures("threads")
def test_scoring_times_both_and_finds_the_same_scores(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = root / "Rain13K/test/Rain100L"
    scoring.main([str(folder), "--rounds", "2", "--threads", "1"])
    printed = capsys.readouterr().out
    assert printed.startswith(f"2 pairs of {folder}, 2 rounds, 1 thread(s)")
    assert len(re.findall(r"^(?:scoring\.metrics|scikit-image) +\d+\.\d\d ms a pair$", printed, re.MULTILINE)) == 2
    found = re.search(r"largest difference: PSNR (\S+) dB, SSIM (\S+)", printed)
    assert found
    assert max(map(float, found.groups())) < 1e-6


def test_scoring_names_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        scoring.main([str(tmp_path / "none")])


def test_protocols_prints_its_tables(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    protocols.main(["--root", str(root)])
    tables = capsys.readouterr().out.split("\n\n")
    cells = [[line.strip("| ").split(" | ") for line in table.strip().splitlines()] for table in tables]
    assert [table[0][0] for table in cells] == [
        "Rain: PSNR, dB",
        "Rain: SSIM",
        "Blur: PSNR, dB",
        "Blur: SSIM",
        "Rounding: luma PSNR, dB",
        "Rounding: RGB PSNR, dB",
    ]
    assert cells[0][0][1:] == ["Rain100L (2)", "Rain100H (2)", "Test100 (2)"]
    for table in cells:
        assert {len(line) for line in table} == {len(table[0])}
        assert all(np.isfinite(float(number)) for line in table[2:] for number in line[1:])
    for table, folder, score in ((cells[0], "Rain13K/test/Rain100L", score_y), (cells[2], "GoPro/test", score_rgb)):
        assert float(table[2][1]) == pytest.approx(mean_psnr(root / folder, score), abs=6e-4)


def mean_psnr(folder: Path, score: Callable[[np.ndarray, np.ndarray], dict[str, float]]) -> float:
    pairs = ((cv2.imread(str(folder / side / f"{i}.png"))[..., ::-1] for side in ("input", "target")) for i in range(2))
    return fmean(score(*pair)["psnr"] for pair in pairs)


def test_ablation_compares_seed_by_seed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "Deraining"

    def run(name: str, seed: int, psnr: float) -> None:
        config = load_config(DEFAULTS, ROOT / "Deraining/configs/ablation" / f"{name}.yml")
        save_config(config, folder / f"ablation_{name}_{seed}" / "config.yml")
        lines = f"step,epoch,psnr\n1,1,99\n2,2,{psnr}\n"
        (folder / f"ablation_{name}_{seed}" / "validation.csv").write_text(lines)

    for seed, base in ((1, 20.0), (2, 24.0)):
        for name, gain in (("full", 0.0), ("no_ffm", -0.1 * seed), ("nafnet", 0.25)):
            run(name, seed, base + gain)
        with pytest.raises(UserError, match=r"missing: ablation_no_mhamb_1"):
            ablation.main([str(folder)])
    run("no_mhamb", 1, 21.0)
    run("no_mhamb", 2, 24.0)
    ablation.main([str(folder)])
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in capsys.readouterr().out.splitlines()]
    assert rows[2] == ["M3SNet", "1,099,571", "1.26 G", "20.00", "24.00", "22.00 ± 2.83", ""]
    assert [row[-1] for row in rows[3:]] == ["-0.15 ± 0.07", "+0.50 ± 0.71", "+0.25 ± 0.00"]


@pytest.mark.skipif(sys.platform != "linux", reason="the script's workers are forked here")
def test_the_loader_is_measured_with_every_kind_of_cache(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i, side in enumerate((30, 40, 10)):  # the last one is smaller than a crop
        for folder in ("input", "target"):
            write_image(tmp_path / folder / f"{i}.png", np.zeros((side, 50, 3), np.uint8))
    loader.main(["--data", str(tmp_path), "--patch", "16", "--batch", "2", "--rounds", "1", "--seconds", "0.01"])
    printed = capsys.readouterr().out
    assert f"2 pairs of {tmp_path}, crops of 16x16, batches of 2" in printed
    line = r"^(PNG|CACHE \w+).*?(\d)(?: workers)? +([\d,]+) +[\d,]+ +[\d,]+ +[\d,.]+ +[\d.]+$"
    rows = re.findall(line, printed, re.MULTILINE)
    assert [row[:2] for row in rows] == [("PNG", "2"), *((f"CACHE {kind}", n) for kind in CACHES for n in ("0", "2"))]
    assert all(int(row[2].replace(",", "")) > 0 for row in rows)
    with pytest.raises(UserError, match="no image has 60 x 60 pixels"):
        loader.main(["--data", str(tmp_path), "--patch", "60"])


@pytest.mark.slow
def test_a_training_step_is_measured_beside_the_published_network(capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--sizes", "M3SNet-T", "--batch", "1", "--patch", "32", "--steps", "1"]
    train_step.main([*small, "--device", "cpu", "--threads", "1"])
    printed = capsys.readouterr().out
    for side in train_step.SIDES:
        assert re.search(rf"{side}, fp32 +\d+\.\d\d +\d+\.\d{{3}} +\d+$", printed, re.MULTILINE), printed
    assert re.search(r"^ +ratio \(quartiles .*\) +\d+\.\d\d +\d+\.\d\d$", printed, re.MULTILINE), printed
