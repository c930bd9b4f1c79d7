"""Scoring a set, and what is made of the scores: table, JSON, picture."""
from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from skimage import data

from m3snet.models import M3SNet
from m3snet.utils.data.pairs import Pair, PairError
from m3snet.utils.images import read_image, write_image
from m3snet.utils.restoring.restorer import Restorer
from m3snet.utils.scoring import evaluate as scoring
from m3snet.utils.scoring import test_sets
from m3snet.utils.scoring.metrics import PROTOCOLS
from m3snet.utils.scoring.pictures import comparison_sheet
from m3snet.utils.scoring.tables import format_paper, format_table, write_results
from m3snet.utils.tasks import Benchmark


def noisy(image: np.ndarray, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 15, image.shape)
    return np.clip(np.round(image + noise), 0, 255).astype(np.uint8)


def evaluate(
    restorer: scoring.Restorer | None, name: str, pairs: list[Pair], protocol: str, out_dir: Path | None = None
) -> dict[str, Any]:
    return scoring.evaluate(restorer, test_sets.TestSet(name, pairs, Benchmark("", protocol, {})), out_dir)


@pytest.fixture
def pairs(tmp_path: Path) -> list[Pair]:
    """Three pairs of odd sizes on disk."""
    photograph = data.astronaut()
    made = []
    for i, (height, width) in enumerate(((40, 51), (33, 48), (47, 37))):
        target = photograph[50 * i : 50 * i + height, 160 : 160 + width]
        pair = Pair(f"{i:03}", tmp_path / "set/input" / f"{i:03}.png", tmp_path / "set/target" / f"{i:03}.png")
        assert pair.input
        write_image(pair.input, noisy(target, i))
        write_image(pair.target, target)
        made.append(pair)
    return made


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_scores_are_those_of_the_written_images(protocol: str, pairs: list[Pair], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = M3SNet(width=8, enc_blk_nums=(1, 1, 1, 1)).eval()
    restorer = Restorer(model, "cpu", "float32", "exact", tlc=False, tile=0)
    result = evaluate(restorer, "Odd", pairs, protocol, tmp_path / "out/Odd")
    assert (result["dataset"], result["protocol"], result["images"]) == ("Odd", protocol, 3)
    assert [row["name"] for row in result["per_image"]] == ["000", "001", "002"]
    for pair, row in zip(pairs, result["per_image"], strict=True):
        assert pair.input
        target = read_image(pair.target)
        expected = PROTOCOLS[protocol](read_image(tmp_path / "out/Odd" / f"{pair.name}.png"), target)
        assert {key: row[key] for key in expected} == expected
        before = PROTOCOLS[protocol](read_image(pair.input), target)
        assert (row["input_psnr"], row["input_ssim"]) == (before["psnr"], before["ssim"])
    for key in ("psnr", "ssim", "input_psnr", "input_ssim"):
        assert result[key] == pytest.approx(sum(row[key] for row in result["per_image"]) / 3)
    assert ("ssim_2d" in result) == (protocol == "rgb")


def test_a_pair_of_two_sizes_names_both_files_and_sizes(pairs: list[Pair]) -> None:
    write_image(pairs[1].target, read_image(pairs[1].target)[:30])
    with pytest.raises(PairError, match=r"input.001\.png is 48x33 but .*target.001\.png is 48x30"):
        evaluate(np.copy, "set", pairs, "y")


def test_a_restorer_that_keeps_its_padding_is_named_with_its_image(pairs: list[Pair]) -> None:
    with pytest.raises(ValueError, match="Odd, 000: the restored image is 53x40 but its target is 51x40"):
        evaluate(lambda image: np.pad(image, ((0, 0), (0, 2), (0, 0))), "Odd", pairs, "rgb")


def test_sets_that_cannot_be_scored(pairs: list[Pair]) -> None:
    with pytest.raises(PairError, match="Rain100L: there are no pairs"):
        evaluate(np.copy, "Rain100L", [], "y")
    with pytest.raises(PairError, match="sharp photograph"):
        evaluate(np.copy, "set", [Pair("a", None, pairs[0].target)], "y")


def test_results_file_is_strict_json_with_every_digit(pairs: list[Pair], tmp_path: Path) -> None:
    results = [evaluate(np.copy, "noisy", pairs, "rgb")]
    perfect = [Pair(pair.name, pair.target, pair.target) for pair in pairs]
    results.append(evaluate(np.copy, "perfect", perfect, "rgb"))
    path = tmp_path / "new" / "results.json"
    write_results(results, path.parent)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    loaded = json.loads(path.read_text(), parse_constant=refuse)
    assert loaded[0] == results[0]
    assert loaded[1]["psnr"] == loaded[1]["per_image"][0]["psnr"] == "inf"
    assert math.isinf(float(loaded[1]["psnr"]))
    assert sorted(file.name for file in path.parent.iterdir()) == ["results.csv", "results.json", "results.md"]


def test_csv_and_markdown_say_the_same_and_where_it_comes_from(pairs: list[Pair], tmp_path: Path) -> None:
    result = evaluate(np.copy, "noisy", pairs, "rgb")
    write_results([{**result, "provenance": {"weights_sha256": "abc", "packages": {"torch": "2.6"}}}], tmp_path)
    with (tmp_path / "results.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["name"] for line in lines] == ["000", "001", "002"]
    for line, row in zip(lines, result["per_image"], strict=True):
        assert {key: float(line[key]) for key in row if key != "name"} == {k: v for k, v in row.items() if k != "name"}
        assert (line["dataset"], line["weights_sha256"], line["packages.torch"]) == ("noisy", "abc", "2.6")
    text = (tmp_path / "results.md").read_text()
    header, rule, only = (line.strip("|").split("|") for line in text.splitlines()[:3])
    assert len(header) == len(rule) == len(only)
    assert dict(zip(map(str.strip, header), map(str.strip, only), strict=True))["PSNR"] == f"{result['psnr']:.2f}"
    assert "- weights_sha256: abc" in text


def test_markdown_has_the_papers_table_and_facts_of_each_set(tmp_path: Path) -> None:
    origins = [{"code": "1.0", "protocol": "y", "tiling": None}, {"code": "1.0", "protocol": "rgb", "tiling": None}]
    results = [{**result, "provenance": origin} for result, origin in zip(RAIN, origins, strict=False)]
    results[1]["images"] = 7
    benchmarks = {**PAPER, "Rain100H": replace(PAPER["Rain100H"], images=(100,))}
    write_results(results, tmp_path, benchmarks, "M3SNet-32")
    lines = (tmp_path / "results.md").read_text().splitlines()
    start = lines.index("| Network | Test100 | Rain100H* | mean of 2 |")
    assert lines[start + 1 : start + 5] == [
        "| --- | --: | --: | --: |",
        "| M3SNet-32 | 31.29 / 0.903 | 30.64 / 0.892 | 30.96 / 0.897 |",
        "| this run | 31.29 / 0.903 | 30.50 / 0.892 | 30.90 / 0.898 |",
        "| to M3SNet-32 | +0.00 / +0.000 | -0.14 / +0.000 | -0.07 / +0.000 |",
    ]
    assert lines[start - 1] == lines[start + 5] == ""  # else it would run on into what stands beside it
    assert lines[start + 6].startswith("\\* not the published set")
    assert lines[-3:] == ["- code: 1.0", "- protocol: y (Test100); rgb (Rain100H)", "- tiling: none"]


def test_images_that_equal_their_targets_are_counted(pairs: list[Pair]) -> None:
    write_image(pairs[1].target, read_image(pairs[1].input or ""))
    result = evaluate(np.copy, "noisy", pairs, "rgb")
    others = sum(result["per_image"][i]["input_psnr"] for i in (0, 2)) / 2
    assert math.isinf(result["input_psnr"])
    table = " ".join(format_table([result]).split())
    assert " rgb inf - Input:" in table  # no gain from infinity to infinity
    for what in ("restored images", "inputs"):
        assert (
            f"noisy: 1 of 3 {what} equal their targets under this protocol, so the mean PSNR is infinite; "
            f"without them it is {others:.2f} dB."
        ) in table
    assert "nan" not in table
    assert "infinite" not in format_table([evaluate(np.copy, "noisy", [pairs[0], pairs[2]], "rgb")])


def test_images_made_worse_are_named(pairs: list[Pair]) -> None:
    shaded = iter((1, 0, 20))
    result = evaluate(lambda image: image - np.minimum(image, next(shaded)), "noisy", pairs, "rgb")
    ordered = [(row["name"], row["psnr"] < row["input_psnr"]) for row in result["per_image"]]
    assert result["worse"] == [name for name, worse in ordered if worse]
    assert "002" in result["worse"] and "001" not in result["worse"]
    made = ", ".join(result["worse"])
    assert f"noisy: restoring has made {len(result['worse'])} of 3 worse: {made}." in format_table([result])
    assert "worse" not in format_table([evaluate(np.copy, "noisy", pairs, "rgb")])
    many = {**result, "worse": [f"{i:02}" for i in range(12)], "images": 20}
    assert "made 12 of 20 worse: 00, 01, 02, 03, 04, 05, 06, 07, 08, 09, ..." in " ".join(format_table([many]).split())


def test_files_that_were_converted_are_named_and_counted(pairs: list[Pair], tmp_path: Path) -> None:
    assert "converted" not in evaluate(np.copy, "set", pairs, "y")
    images = [cv2.imread(str(pair.input)) for pair in pairs]
    cv2.imwrite(str(pairs[0].input), images[0].astype(np.uint16) * 257)
    cv2.imwrite(str(pairs[1].input), np.dstack([images[1], np.full(images[1].shape[:2], 254, np.uint8)]))
    cv2.imwrite(str(pairs[2].input), cv2.cvtColor(images[2], cv2.COLOR_BGR2GRAY).astype(np.uint16) * 257)
    cv2.imwrite(str(pairs[2].target), cv2.imread(str(pairs[2].target), cv2.IMREAD_GRAYSCALE))
    result = evaluate(None, "set", pairs, "y")
    assert result["converted"] == (
        "restored 16-bit rounded to 8: 2 of 3, restored alpha dropped: 1 of 3, restored gray repeated to RGB: 1 of 3, "
        "target gray repeated to RGB: 1 of 3"
    )
    assert result["per_image"][1]["converted"] == "restored alpha dropped"
    assert "set, images converted as they were read: restored 16-bit" in " ".join(format_table([result]).split())
    write_results([result], tmp_path / "out")
    with (tmp_path / "out/results.csv").open(newline="") as file:
        assert [line["converted"] for line in csv.DictReader(file)][1] == "restored alpha dropped"
    assert "input 16-bit rounded to 8: 2 of 3" in evaluate(np.copy, "set", pairs, "y")["converted"]


def test_results_that_cannot_be_written_leave_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text("old")
    with pytest.raises(TypeError):
        write_results([{"model": M3SNet}], tmp_path)
    assert path.read_text() == "old"


def result(dataset: str, psnr: float, ssim: float, protocol: str = "y", **extras: float) -> dict[str, Any]:
    scores = {"psnr": psnr, "ssim": ssim, "input_psnr": 22.5, "input_ssim": 0.7, **extras}
    return {"dataset": dataset, "protocol": protocol, "images": 100, **scores, "per_image": []}


RAIN = [result("Test100", 31.291, 0.9031), result("Rain100H", 30.5, 0.8921), result("Rain100L", 39.62, 0.984)]


def published(**scores: tuple[float, float]) -> dict[str, Benchmark]:
    """Sets of which the paper reports these scores of M3SNet-32."""
    return {name: Benchmark(name, "y", {"M3SNet-32": score}) for name, score in scores.items()}


PAPER = published(Test100=(31.29, 0.903), Rain100H=(30.64, 0.892), Rain100L=(39.62, 0.984))


def test_table_of_the_paper() -> None:
    lines = format_table(RAIN, PAPER, "M3SNet-32").splitlines()
    assert " ".join(lines[0].split()) == "Set Images PSNR SSIM Protocol Input Gain Paper"
    assert " ".join(lines[2].split()) == "Test100 100 31.29 0.9031 y 22.50 +8.79 31.29 / 0.903"
    assert " ".join(lines[6].split()) == "mean of 3 300 33.80 0.9264 y 22.50 +11.30 33.85 / 0.926"
    assert "mean of 3 (y): Test100, Rain100H, Rain100L." in lines
    assert len({len(line) for line in lines[:7]}) == 1
    assert "Paper" not in format_table(RAIN, PAPER, "M3SNet-T")


def test_the_papers_own_table_with_this_run_under_it() -> None:
    sets = {
        "Test100": Benchmark("a", "y", {"M3SNet-32": (31.29, 0.903), "M3SNet-64": (31.25, 0.901)}, images=(98, 100)),
        "Rain100H": Benchmark("b", "y", {"M3SNet-32": (30.64, 0.892), "M3SNet-64": (30.54, 0.889)}, images=(98,)),
        "Test2800": Benchmark("c", "y", {}),
    }
    results = [RAIN[0], RAIN[1], result("Test2800", 30, 0.9), result("samples", 30, 0.9)]
    lines = [" ".join(line.split()) for line in format_paper(results, sets, "M3SNet-64").splitlines()]
    assert lines[0] == "Network Test100 Rain100H* mean of 2"
    assert lines[2:] == [
        "M3SNet-32 31.29 / 0.903 30.64 / 0.892 30.96 / 0.897",
        "M3SNet-64 31.25 / 0.901 30.54 / 0.889 30.89 / 0.895",
        "this run 31.29 / 0.903 30.50 / 0.892 30.90 / 0.898",
        "to M3SNet-64 +0.04 / +0.002 -0.04 / +0.003 +0.00 / +0.003",
        "* not the published set, so the difference means nothing: Rain100H 100 of 98",
        "images.",
    ]
    assert "to M3SNet-32" in format_paper(results, sets, "M3SNet-T")
    assert format_paper(results[2:], sets) == ""


def test_table_shows_only_what_there_is() -> None:
    alone = format_table(RAIN[:1])
    assert "Paper" not in alone
    assert "mean of" not in alone
    partly = format_table(RAIN, published(Test100=(31.29, 0.903)), "M3SNet-32").splitlines()
    assert partly[2].endswith("31.29 / 0.903")
    assert partly[6].endswith("+11.30")  # a mean over one of three sets would compare with nothing


def test_table_keeps_protocols_apart_and_stays_narrow() -> None:
    blur = [
        result("GoPro", 32.91, 0.965, "rgb", ssim_2d=0.9412),
        result("HIDE", 30.93, 0.948, "rgb", ssim_2d=0.9301),
        result("RealBlur-J", 28.9, 0.871, "aligned", aligned=1.0),
        result("RealBlur-R", math.inf, 0.951, "aligned", aligned=0.999),
    ]
    paper = {"GoPro": (32.91, 0.965), "HIDE": (30.93, 0.949)}
    table = format_table(blur, published(**paper), "M3SNet-32")
    means = [" ".join(line.split()) for line in table.splitlines() if line.startswith("mean of 2  ")]
    assert means[0] == "mean of 2 200 31.92 0.9565 rgb 22.50 +9.42 31.92 / 0.957"
    assert means[1] == "mean of 2 200 inf 0.9110 aligned 22.50 +inf"
    assert max(map(len, table.splitlines())) <= 80
    assert "mean of 2 (rgb): GoPro, HIDE." in table
    assert "mean of 2 (aligned): RealBlur-J, RealBlur-R." in table
    assert "GoPro 0.9412, HIDE 0.9301" in table


def test_comparison_sheet_shows_each_image_in_its_place(tmp_path: Path) -> None:
    photograph = data.astronaut()
    small, wide = photograph[:200, :300], np.tile(photograph, (1, 3, 1))
    rows = [
        ("small", {"input": small // 2, "restored": small // 4, "target": small}, "input 20.00 dB, restored 25.00 dB"),
        ("wide", {"input": wide // 2, "restored": wide // 4, "target": wide}, ""),
    ]
    comparison_sheet(rows, tmp_path / "fig" / "sheet.png")
    sheet = read_image(tmp_path / "fig" / "sheet.png")
    assert sheet.shape[1] == 3 * 400 + 2 * 10 + 2 * 24
    places = []
    for image in rows[0][1].values():
        # Where the first row of an image stands in the sheet, by its pixels.
        hits = [
            (y, x)
            for y in range(100)
            for x in np.flatnonzero((sheet[y, : -image.shape[1]] == image[0, 0]).all(axis=-1))
            if np.array_equal(sheet[y : y + 200, x : x + 300], image)
        ]
        assert len(hits) == 1
        places.append(hits[0])
    assert len({y for y, _ in places}) == 1
    assert [x for _, x in places] == sorted(x for _, x in places)
    comparison_sheet(rows, tmp_path / "noted.png", "a note")
    noted = read_image(tmp_path / "noted.png")
    below = noted[len(sheet) :]
    np.testing.assert_array_equal(noted[: len(sheet)], sheet)
    assert 0 < len(below) < 60 and (below < 200).any()
    with pytest.raises(ValueError, match="at least one image"):
        comparison_sheet([], tmp_path / "sheet.png")
