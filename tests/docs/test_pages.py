"""What the pages say is true: links resolve, commands are understood by their programs, figures are those measured."""
from __future__ import annotations

import argparse
import ast
import importlib
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from yacs.config import CfgNode

import m3snet.Deblurring.config
import m3snet.Deblurring.dataset
import m3snet.Deraining.config
import m3snet.Deraining.dataset
from m3snet.models import create_model
from m3snet.models.weights import released
from m3snet.utils.config import load_task_config
from m3snet.utils.data.blur import BLURS
from m3snet.utils.data.rain import SHARES

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("docs", "Deblurring", "Deraining", "pretrained", "benchmarks", "tools", "fig")
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted([ROOT / "README.md", *(page for room in ROOMS for page in (ROOT / room).rglob("*.md"))])
DEFAULTS = {"Deblurring": m3snet.Deblurring.config.DEFAULTS, "Deraining": m3snet.Deraining.config.DEFAULTS}
TEST_SETS = {**m3snet.Deblurring.dataset.TASK.test_sets, **m3snet.Deraining.dataset.TASK.test_sets}


def names(files: list[Path]) -> list[str]:
    return [str(file.relative_to(ROOT)) for file in files]


# Links


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_links_resolve(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"https?://", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link}: no such file"
        assert target.is_relative_to(ROOT), f"{link}: outside the repository"
        assert not anchor or anchor in anchors(target), f"{link}: no such heading"


# Commands


def lines_of_code(file: Path) -> Iterator[str]:
    """What a page, a docstring or the head of a YAML file shows as commands, continued lines joined."""
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".py":
        text = ast.get_docstring(ast.parse(text)) or ""
    elif file.suffix == ".yml":
        text = "\n".join(line[2:] for line in text.splitlines() if line.startswith("# "))
    text = re.sub(r"^```\w+\n.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    fenced = re.findall(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    indented = re.findall(r"^    .*", text.replace("\\\n", " "), re.MULTILINE)
    inline = re.findall(r"`((?:python|m3snet-restore) [^`]+)`", text) if file.suffix == ".md" else []
    for block in (*fenced, *indented, *inline):
        yield from block.replace("\\\n", " ").splitlines()


def commands(file: Path) -> Iterator[tuple[Path, list[str]]]:
    """(program of this repository, its arguments), of every command in a file that starts one."""
    for line in lines_of_code(file):
        if not re.search(r"\b[\w/]+\.py\b|m3snet-restore", line) or line.lstrip().startswith("#"):
            continue
        words = shlex.split(line, comments=True)
        for part in re.split(" '(?:&&|[|])' ", " ".join(map(shlex.quote, words))):
            words = [word for word in shlex.split(part.split(" '>' ")[0]) if word != "$"]
            if words[:1] == ["m3snet-restore"]:
                yield ROOT / "restore.py", words[1:]
            elif words[:1] and words[0] in ("python", "torchrun", "srun"):
                start = next((i for i, word in enumerate(words) if word.endswith(".py")), None)
                if start is not None:
                    yield ROOT / words[start], words[start + 1 :]


PROGRAMS = [ROOT / "restore.py", ROOT / "app.py"]
PROGRAMS += [file for room in ROOMS for file in sorted((ROOT / room).glob("*.py"))]
CONFIGS = sorted(file for task in DEFAULTS for file in (ROOT / task).rglob("*.yml"))
TELLING = [file for file in (*PAGES, *PROGRAMS, *CONFIGS) if any(commands(file))]


class Parsed(Exception):  # noqa: N818
    """Stops a program as soon as it has understood its command line."""


@pytest.fixture
def understood(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs end once their command line is parsed, and say what they understood."""
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(self: argparse.ArgumentParser, *args: object) -> None:
        raise Parsed(parse(self, *args))  # type: ignore[call-overload]

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    monkeypatch.chdir(ROOT)


def load(program: Path) -> ModuleType:
    return importlib.import_module(".".join(["m3snet", *program.relative_to(ROOT).with_suffix("").parts]))


@pytest.mark.parametrize("file", TELLING, ids=names(TELLING))
def test_commands_are_understood(file: Path, understood: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for program, arguments in commands(file):
        told = f"{program.name} {shlex.join(arguments)}"
        assert program.is_file(), told
        monkeypatch.setattr(sys, "argv", [str(program), *arguments])
        try:
            load(program).main()
        except Parsed as parsed:
            found = parsed.args[0]
        except SystemExit:
            pytest.fail(f"not understood: {told}")
        if hasattr(found, "opts") and "$" not in str(found.config):
            load_task_config(DEFAULTS[program.parent.name], found.config, found.opts)  # an unknown key is an error


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_examples_in_python_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hubconf.py").symlink_to(ROOT / "hubconf.py")  # of the repository that an example loads from
    monkeypatch.chdir(tmp_path)
    image = np.random.default_rng(0).integers(0, 256, (48, 56, 3), dtype=np.uint8)
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    found: dict[str, object] = {"image": image}
    for block in blocks:
        exec(block, found)
    if "restored" in found:
        assert isinstance(found["restored"], np.ndarray)
        assert found["restored"].shape == image.shape


def test_extras_exist_and_are_explained() -> None:
    extras_require = (ROOT / "setup.py").read_text(encoding="utf-8").split("extras_require=")[1]
    known = set(re.findall(r'^        "(\w+)": ', extras_require, re.MULTILINE))
    for page in PAGES:
        for extras in re.findall(r"-e '\.\[([a-z,]+)\]", page.read_text(encoding="utf-8")):
            assert set(extras.split(",")) <= known, page
    table = (ROOT / "docs/install.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == known


@pytest.mark.skipif(not all(map(shutil.which, ("git", "tar", "split", "sha256sum"))), reason="needs git, tar, split")
def test_a_training_travels_as_the_page_says(tmp_path: Path) -> None:
    section = (ROOT / "docs/training.md").read_text(encoding="utf-8").split("## Training on another machine\n")[1]
    pack, unpack = (block.split("pip install")[0] for block in re.findall(r"(?:^    .*\n)+", section, re.MULTILINE)[:2])
    here, there = tmp_path / "here", tmp_path / "there"
    folders = re.findall(r"Datasets/[\w/]+", pack)
    assert len(folders) > 1
    for folder in folders:
        (here / folder).mkdir(parents=True)
        (here / folder / "1.png").write_bytes(folder.encode())
    (here / "train.py").write_text("code")
    there.mkdir()
    git = "git -c user.name=a -c user.email=a@b.c"
    script = f"set -e; git init -q; {git} add train.py; {git} commit -qm code; {pack}"
    subprocess.run(["bash", "-c", script], cwd=here, check=True)
    for file in (here / "code.tar", here / "SHA256SUMS", *here.glob("images.tar.??")):
        shutil.copy(file, there)
    subprocess.run(["bash", "-c", unpack], cwd=there, check=True)
    assert (there / "train.py").read_text() == "code"
    for folder in folders:
        assert (there / folder / "1.png").read_bytes() == folder.encode()


# Figures


def section(title: str) -> str:
    return README.split(f"## {title}\n")[1].split("\n## ")[0]


def test_the_first_lines_quote_measured_scores() -> None:
    measured = {
        (name, f"{scores['input_psnr']:.2f}", f"{scores['psnr']:.2f}")
        for entry in released().values()
        for name, scores in entry["scores"].items()
    }
    intro = " ".join(README.split("## ")[0].split())
    quoted = re.findall(r"(\d+\.\d\d) to (\d+\.\d\d) (?:dB )?on (\w+)", intro)
    assert len(quoted) == 4
    for before, after, name in quoted:
        assert (name, before, after) in measured


def test_the_quoted_output_is_that_of_the_released_weights() -> None:
    s = released()["derain"]["scores"]["samples"]
    gain = s["psnr"] - s["input_psnr"]
    row = ["samples", "3", f"{s['psnr']:.2f}", f"{s['ssim']:.4f}", "y", f"{s['input_psnr']:.2f}", f"{gain:+.2f}"]
    assert row in [line.split() for line in section("Install, and restore your photographs").splitlines()]


def test_the_papers_scores_are_those_that_programs_print() -> None:
    lines = [line for line in section("Reproduce the paper").splitlines() if line.startswith("|")]
    (_, *sets), _, *sizes = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    assert len(sizes) == 2
    for size, *scores in sizes:
        assert scores == [f"{TEST_SETS[name].paper[size][0]:.2f}" for name in sets]


def test_the_sizes_have_as_many_parameters() -> None:
    sizes = re.findall(r"^\| (M3SNet-\w+) \| ([\d,]+) \|", section("The network"), re.MULTILINE)
    assert len(sizes) == 4
    for name, parameters in sizes:
        with torch.device("meta"):
            model = create_model(name)
        assert f"{sum(parameter.numel() for parameter in model.parameters()):,}" == parameters


def test_the_shares_of_rain_and_blur_are_those_that_are_drawn() -> None:
    page = (ROOT / "docs/synthesis.md").read_text(encoding="utf-8")
    told = {kind: int(share) / 100 for kind, share in re.findall(r"^\| ([\w ]+) \| (\d+) % \|", page, re.MULTILINE)}
    drawn = {**SHARES, **{kind: blur.share for kind, blur in BLURS.items()}}
    drawn["none"] = drawn.pop("dry")
    assert told == pytest.approx(drawn)


# Settings


def rows(schema: CfgNode, group: str = "") -> Iterator[str]:
    """A row of docs/settings.md for each key: key, default, the values it takes, what it means."""
    for name, setting in schema.items():
        if isinstance(setting, CfgNode):
            yield from rows(setting, f"{group}{name}.")
        else:
            default, values, meaning = setting
            shown = str(default).lower() if isinstance(default, bool) else str(default) or "''"
            yield f"| `{group}{name}` | `{shown}` | {values} | {meaning} |"


def test_the_settings_are_those_of_the_programs() -> None:
    tables = (ROOT / "docs/settings.md").read_text(encoding="utf-8").split("## Several keys")[0]
    told = [row for row in re.findall(r"^\| `.*", tables, re.MULTILINE) if "`MODEL.MODE`" not in row]
    every = dict.fromkeys(row for schema in DEFAULTS.values() for row in rows(schema) if "`MODEL.MODE`" not in row)
    assert told == [*every], "\n".join(["docs/settings.md should have:", *every])
