"""The figures: what is drawn is what the network does, and the restored samples are those of the given weights."""
from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from m3snet.fig import draw_command_line, draw_network, draw_samples, draw_synthesis
from m3snet.models import M3SNet, save_weights
from m3snet.models.weights import WeightsError
from m3snet.utils.cli import UserError
from m3snet.utils.data.pairs import PairError
from m3snet.utils.data.rain import RAINS, rain_of_kind
from m3snet.utils.data.samples import photographs
from m3snet.utils.images import read_image, write_image
from m3snet.utils.tasks import Degradation

INTRO = [("input", "intro"), ("intro", "encoders.0")]
CLIMB = [("encoders.0", "encoders.1"), ("encoders.1", "encoders.2"), ("encoders.2", "encoders.3")]
BRIDGE = [("encoders.3", "middle_blks"), ("middle_blks", "decoders.0")]
DESCENT = [("decoders.0", "decoders.1"), ("decoders.1", "decoders.2"), ("decoders.2", "decoders.3")]
ENDING = [("decoders.3", "ending"), ("ending", "output"), ("input", "output")]
U_NET = {*INTRO, *CLIMB, *BRIDGE, *DESCENT, *ENDING}
ROW_1 = {(f"encoders.{level + step}", f"ffms.{level}") for level in (0, 1, 2) for step in (0, 1)}
ROW_2 = {(f"ffms.{level + step}", f"ffms.{3 + level}") for level in (0, 1) for step in (0, 1)}
FUSED = ("ffms.3", "ffms.4", "ffms.2", "encoders.3")  # g_0, g_1, f_2, e_3
FUSED_SKIPS = {(source, f"decoders.{3 - level}") for level, source in enumerate(FUSED)}
PLAIN_SKIPS = {(f"encoders.{level}", f"decoders.{3 - level}") for level in range(4)}


def tiny(**changes: Any) -> M3SNet:
    return M3SNet(**{"width": 8, "enc_blk_nums": (1, 1, 1, 2), **changes})


def test_the_wiring_is_the_papers() -> None:
    found = draw_network.wiring(tiny()).edges
    assert len(found) == len(set(found))
    assert set(found) == U_NET | ROW_1 | ROW_2 | FUSED_SKIPS


def test_without_ffm_the_skips_are_plain() -> None:
    assert set(draw_network.wiring(tiny(ffm=False)).edges) == U_NET | PLAIN_SKIPS


def test_nodes_tell_kind_channels_level_and_blocks() -> None:
    nodes = draw_network.wiring(tiny()).nodes
    assert len(nodes) == 18
    assert nodes["encoders.3"] == draw_network.Node("NAFBlock", 64, 3, 2)
    assert nodes["middle_blks"] == draw_network.Node("MHAMB", 128, 4)
    assert nodes["ffms.4"] == draw_network.Node("FFM", 16, 1)
    assert nodes["decoders.0"] == draw_network.Node("NAFBlock", 64, 3)
    assert nodes["ending"] == draw_network.Node("Conv2d", 3, 0)
    plain = draw_network.wiring(tiny(mhamb=False, middle_blk_num=3)).nodes
    assert plain["middle_blks"] == draw_network.Node("NAFBlock", 128, 4, 3)


def test_another_forward_is_another_wiring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(M3SNet, "_fuse", lambda self, skips: skips)  # the FFMs are there, but nothing runs them
    assert set(draw_network.wiring(tiny()).edges) == U_NET | PLAIN_SKIPS


def test_other_depths_are_other_mountains() -> None:
    graph = draw_network.wiring(tiny(enc_blk_nums=(1, 0, 2), dec_blk_nums=(1, 1, 1)))
    assert graph.nodes["middle_blks"].level == 3 and graph.nodes["encoders.1"].blocks == 0
    assert ("encoders.1", "encoders.2") in graph.edges and ("ffms.2", "decoders.2") in graph.edges


def test_blocks_are_named_as_in_the_paper() -> None:
    names = draw_network.symbols(draw_network.wiring(tiny()))
    assert [names[f"ffms.{index}"] for index in range(5)] == ["f_0", "f_1", "f_2", "g_0", "g_1"]
    assert [names[f"encoders.{index}"] for index in range(4)] == ["e_0", "e_1", "e_2", "e_3"]
    assert [names[f"decoders.{index}"] for index in range(4)] == ["d_3", "d_2", "d_1", "d_0"]
    assert "middle_blks" not in names


def test_boxes_keep_apart_and_rise_with_the_level() -> None:
    graph = draw_network.wiring(tiny())
    places = draw_network.layout(graph)
    assert max(places, key=lambda name: places[name][1]) == "middle_blks"
    for name, (x, y) in places.items():
        for other, (x_other, y_other) in places.items():
            apart = abs(x - x_other) > draw_network.BOX or abs(y - y_other) > draw_network.HEIGHT
            assert apart or name == other, (name, other)
    for source, target in graph.edges:  # nothing flows back
        assert places[source][0] < places[target][0], (source, target)


def test_what_cannot_be_drawn_is_named() -> None:
    model = tiny()
    model.middle_blks = nn.Sequential(nn.Identity())
    with pytest.raises(ValueError, match=r"middle_blks: Identity cannot be drawn"):
        draw_network.wiring(model)


def test_the_drawing_holds_its_boxes_and_arrows(tmp_path: Path) -> None:
    texts = {}
    for name, model in {"full": tiny(), "plain": tiny(ffm=False)}.items():
        draw_network.draw(model, name, tmp_path / "made" / f"{name}.svg")
        texts[name] = (tmp_path / "made" / f"{name}.svg").read_text(encoding="utf-8")
    fill, _ = draw_network.COLOURS["FFM"]
    assert texts["full"].count(fill) == 5 + 1  # and one in the legend
    assert texts["plain"].count(fill) == 0
    draw_network.draw(tiny(), "full", tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_text(encoding="utf-8") == texts["full"]


def test_an_unknown_format_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"network\.xyz: Format 'xyz' is not supported"):
        draw_network.main(["--size", "M3SNet-T", "-o", str(tmp_path / "draw_network.xyz")])


@pytest.fixture
def weights(tmp_path: Path) -> str:
    """A network that adds 0.1 to red, so that restored images can be told from inputs."""
    model = tiny(enc_blk_nums=(1, 1, 1, 1))
    nn.init.zeros_(model.ending.weight)
    model.ending.bias = nn.Parameter(torch.tensor([0.1, 0, 0]))
    save_weights(model, tmp_path / "red.safetensors")
    return str(tmp_path / "red.safetensors")


def small_pairs(degradation: Degradation, folder: Path) -> Path:
    """What utils.data.samples.sample_pairs lays out, but smaller, other in each task, and without the time it takes."""
    rng = np.random.default_rng([*degradation.name.encode()])
    for photograph in photographs("test"):
        for side in ("input", "target"):
            write_image(folder / side / f"{photograph}.png", rng.integers(0, 255, (64, 80, 3), dtype=np.uint8))
    return folder


def test_the_views_lie_inside_the_photographs() -> None:
    for shown in draw_samples.SHOWN:
        image = read_image(photographs("test")[shown.photograph])
        assert image.shape[1] <= 512  # sample_pairs shrinks larger ones
        panel = draw_samples.with_detail(image, shown)
        assert panel.shape[:2] == (shown.view[3], shown.view[2])
        assert max(shown.detail) + draw_samples.DETAIL < min(panel.shape[:2])


def test_samples_are_restored_with_the_given_weights(
    weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sheets = []
    monkeypatch.setattr(draw_samples, "comparison_sheet", lambda rows, path: sheets.append(rows))
    monkeypatch.setattr(draw_samples, "sample_pairs", small_pairs)
    small = tuple(shown._replace(view=(3, 2, 70, 60), detail=(1, 1)) for shown in draw_samples.SHOWN)
    monkeypatch.setattr(draw_samples, "SHOWN", small)
    monkeypatch.setattr(draw_samples, "DETAIL", 20)
    draw_samples.main(["--rain", weights, "--blur", weights, "-o", str(tmp_path / "samples.png")])
    (rows,) = sheets
    assert [name.partition(":")[0] for name, _, _ in rows] == ["Deraining", "Deblurring"]
    for (_, images, caption), shown in zip(rows, draw_samples.SHOWN, strict=True):
        assert list(images) == ["input", "restored", "target"] and "PSNR" in caption
        folder = small_pairs(shown.task.degradation, tmp_path / "expected" / shown.task.degradation.name)
        for side in ("input", "target"):
            expected = draw_samples.with_detail(read_image(folder / side / f"{shown.photograph}.png"), shown)
            np.testing.assert_array_equal(images[side], expected)
        # 0.1 is 25.5 levels, which round to 25 or 26, or to less where 255 is reached
        added = images["restored"].astype(int) - images["input"]
        assert set(np.unique(added[..., 1:])) == {0} and added[..., 0].max() in (25, 26)


def test_the_detail_is_the_framed_square_enlarged() -> None:
    image = np.random.default_rng(0).integers(0, 255, (300, 420, 3), dtype=np.uint8)
    shown = draw_samples.SHOWN[0]._replace(view=(10, 5, 400, 290), detail=(30, 40))
    panel = draw_samples.with_detail(image, shown)
    frame, zoom, side = draw_samples.FRAME, draw_samples.ZOOM, draw_samples.DETAIL
    assert panel.shape == (290, 400, 3)
    inset = panel[-side * zoom - frame : -frame : zoom, -side * zoom - frame : -frame : zoom]
    np.testing.assert_array_equal(inset, image[45 : 45 + side, 40 : 40 + side])


def test_missing_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"nothing\.pth"):
        draw_samples.main(["--rain", str(tmp_path / "nothing.pth"), "-o", str(tmp_path / "samples.png")])


def test_rain_is_measured_on_the_pairs_clean_images(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        clean = np.full((70, 90, 3), 60, np.uint8)
        rainy = clean + np.uint8(40) * (rng.random((70, 90, 1)) < 0.25)
        write_image(tmp_path / "target" / f"{name}.png", clean)
        write_image(tmp_path / "input" / f"{name}.png", rainy)
    found = draw_synthesis.measure(tmp_path, 2)  # a and c
    assert set(found) == {"brighter", *RAINS} and {len(measures) for measures in found.values()} == {2}
    assert [round(streaks.brightness) for streaks in found["brighter"]] == [40, 40]
    assert len({streaks.coverage for measures in found.values() for streaks in measures}) == 10  # none is drawn twice
    head, line, *rows = draw_synthesis.table(found).splitlines()
    assert head.startswith("| 5 %, 50 %, 95 % | Rain800 pairs, brighter (2) | edited rain (2) | retouched rain (2) |")
    assert {row.count("|") for row in (head, line, *rows)} == {2 + len(found)}
    (covered,) = (row for row in rows if "added where covered" in row)
    assert "| 40, 40, 40 |" in covered
    (bright,) = (row for row in rows if "224-255" in row)
    assert "nan" in bright  # these scenes have nothing as bright


def test_pairs_that_became_darker_are_taken_by_themselves(tmp_path: Path) -> None:
    clean = np.full((70, 90, 3), 60, np.uint8)
    dots = np.random.default_rng(0).random((70, 90, 1)) < 0.25
    for name, rainy in (("a", clean + np.uint8(40) * dots), ("b", clean - np.uint8(20) + np.uint8(40) * dots)):
        write_image(tmp_path / "target" / f"{name}.png", clean)
        write_image(tmp_path / "input" / f"{name}.png", rainy)
    found = draw_synthesis.measure(tmp_path, 1)
    assert set(found) == {"brighter", "darker", *RAINS}
    assert [round(found[kind][0].dark_to_bright[1]) for kind in ("brighter", "darker")] == [10, -10]


def test_both_pictures_of_the_synthesis_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photograph = read_image(photographs("test")["coffee"])
    write_image(tmp_path / "target" / "a.png", photograph)
    write_image(tmp_path / "input" / "a.png", rain_of_kind("edited", photograph, np.random.default_rng(0)))
    draw_synthesis.main(["--pairs", str(tmp_path), "-o", str(tmp_path / "made")])
    for name in ("rain", "blur"):
        assert read_image(tmp_path / "made" / f"synthesis_{name}.png").shape[1] == 10.4 * draw_synthesis.DPI
    for name, left, top in (draw_synthesis.RAIN_VIEW, draw_synthesis.BLUR_VIEW):
        assert draw_synthesis._view(name, left, top).shape == (draw_synthesis.SIDE, draw_synthesis.SIDE, 3)


def test_pairs_that_cannot_be_measured_are_named(tmp_path: Path) -> None:
    for side in ("input", "target"):
        write_image(tmp_path / side / "small.png", np.zeros((40, 90, 3), np.uint8))
    with pytest.raises(PairError, match=r"small\.png: Rain800 pairs, brighter: expected two"):
        draw_synthesis.main(["--pairs", str(tmp_path), "-o", str(tmp_path)])


def test_what_a_terminal_shows_of_a_run() -> None:
    bar = "\r  0%|  | 0/4\r 50%|# | 2/4\r 75%|# | 3/4\r          \r"
    said = f"derain: float32\r\n{bar}error: a.jpg: cut off\r\n1 failed\r\n"
    shown = ["derain: float32", " 50%|# | 2/4", "error: a.jpg: cut off", "1 failed"]
    assert draw_command_line.lines_shown(said) == shown


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such terminals")
def test_a_command_runs_in_a_terminal_of_80_columns(tmp_path: Path) -> None:
    said = "import os, sys; print(os.getcwd(), sys.stderr.isatty(), os.get_terminal_size().columns)"
    assert draw_command_line.said_in_terminal([sys.executable, "-c", said], tmp_path) == f"{tmp_path} True 80\r\n"


def test_long_lines_are_broken_as_a_terminal_does(tmp_path: Path) -> None:
    heights = []
    for number, lines in enumerate((["x" * 80], ["x" * 81], ["", "x"])):
        draw_command_line.draw(lines, tmp_path / f"{number}.png")
        heights.append(read_image(tmp_path / f"{number}.png").shape[0])
    assert heights[0] < heights[1] == heights[2]
