"""docs/evaluation.md names tests that exist, for every entry of its errata, and no protocol is left out."""
from __future__ import annotations

import ast
import re
from pathlib import Path

from m3snet.utils.scoring.metrics import PROTOCOLS
from m3snet.utils.settings import PERCEPTUAL

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/evaluation.md").read_text(encoding="utf-8")
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def functions(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_test_that_the_page_names_exists() -> None:
    named = set(NAMED.findall(PAGE))
    assert len(named) > 10
    existing = {file: functions(file) for file, _ in named}
    assert not [f"{file}::{name}" for file, name in named if name not in existing[file]]
    assert all(name.startswith("test_") for _, name in named)


def test_every_entry_of_the_errata_is_guarded() -> None:
    rows = PAGE.split("## Errata")[1].split("|---|---|---|\n")[1].strip().splitlines()
    assert len(rows) >= 12
    for row in rows:
        published, here, guards = row.strip("|").split(" | ")
        assert published.strip()
        assert here.strip()
        assert NAMED.findall(guards), row


def test_every_protocol_and_perceptual_metric_is_described() -> None:
    assert re.findall(r"^### `(\w+)`", PAGE, re.MULTILINE) == list(PROTOCOLS)
    assert all(f"`{name}`" in PAGE for name in PERCEPTUAL)
