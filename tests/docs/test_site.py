"""The site that MkDocs builds, from a folder of any name, without importing what it documents."""
from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mkdocs", reason="needs the extra docs")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    left_out = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__", "Datasets", "checkpoints", "results")
    folder = tmp_path_factory.mktemp("site")
    copy = shutil.copytree(ROOT, folder / "M3SNet-main", ignore=left_out)
    (folder / "torch.py").write_text("raise SystemExit('torch was imported')\n")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", f"{copy}/mkdocs.yml", "-d", f"{folder}/site"]
    environ = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder)
    assert done.returncode == 0, done.stdout
    return folder / "site"


def test_a_page_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        tags = re.findall(r"<(?:script|link|img|iframe|source)\b[^>]*>", page.read_text(encoding="utf-8"))
        assert not [tag for tag in tags if re.search(r"(?:src|href)=[\"']?(?:https?:)?//", tag)], page


def test_pages_outside_of_docs_and_what_they_show_are_there(site: Path) -> None:
    for name in ("index.html", "Deraining/index.html", "pretrained/index.html", "fig/samples.jpg", "LICENSE"):
        assert (site / name).is_file(), name
    assert not list(site.rglob("hooks.py"))


def test_formulas_become_mathml(site: Path) -> None:
    page = (site / "docs/evaluation/index.html").read_text(encoding="utf-8")
    assert page.count("<math") > 10
    assert "arithmatex" not in page and "\\mathrm" not in page


def test_the_reference_shows_functions_and_the_comments_behind_fields(site: Path) -> None:
    page = (site / "docs/api/restoring/index.html").read_text(encoding="utf-8")
    for name in ("m3snet.load_model", "m3snet.restore_image", "m3snet.Restorer", "m3snet.Restorer.__call__"):
        assert f'id="{name}"' in page
    assert "upright, in the colours of" in page  # of Photograph.pixels
