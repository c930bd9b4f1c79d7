"""Who may import whom: imports go down the floors of the house, and nothing goes round in a circle."""
from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("models", "utils", "Deblurring", "Deraining", "tools", "benchmarks", "fig", "pretrained", "tests")
TASKS = ("Deblurring", "Deraining")
# The longest name that a module's own begins with says its floor.
FLOORS = {
    "m3snet.models": 1,
    "m3snet.utils": 1,
    "m3snet.utils.data": 2,
    "m3snet.utils.restoring": 2,
    "m3snet.utils.scoring": 3,
    "m3snet.utils.training": 4,
    "m3snet": 5,  # the programs, and the facade
    "m3snet.tests": 6,
}
Modules = dict[str, ast.Module]


def modules(root: Path) -> Modules:
    """Every Python file of the project, by its module's name."""
    files = [*root.glob("*.py"), *(file for room in ROOMS for file in (root / room).rglob("*.py"))]
    found = {}
    for file in sorted(files):
        parts = ["m3snet", *file.relative_to(root).with_suffix("").parts]
        if parts[-1] == "__init__":
            parts.pop()
        found[".".join(parts)] = ast.parse(file.read_text(encoding="utf-8"))
    return found


def faults(root: Path) -> list[str]:
    """Everything that is against the rules, one line each."""
    found = modules(root)
    packages = {name for name in found if any(other.startswith(f"{name}.") for other in found)}
    imports = {name: sorted(set(imported(name, found, packages))) for name in found}
    return [
        *(f"{name} imports {other}, a floor up" for name, other in edges(imports) if floor(other) > floor(name)),
        *(f"{name} imports {other}: a task knows another" for name, other in edges(imports) if tasks(name, other)),
        *(f"in a circle: {' -> '.join(circle)}" for circle in circles(imports)),
        *(f"rooms in a circle: {' -> '.join(circle)}" for circle in circles(by_room(imports))),
        *(fault for name, tree in found.items() for fault in misnamed(name, tree)),
        *(f"{name}: an __init__ with code" for name in packages if name in found and has_code(found[name])),
    ]


def imported(name: str, found: Modules, packages: set[str]) -> Iterator[str]:
    """The project's modules that a module imports, wherever in it the import stands."""
    for node in ast.walk(found[name]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in found)
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                here = name.split(".") if name in packages else name.split(".")[:-1]
                source = ".".join([*here[: len(here) - node.level + 1], *([source] if source else [])])
            for alias in node.names:
                target = f"{source}.{alias.name}"
                if target in found:
                    yield target
                elif source in found:
                    yield source


def edges(imports: dict[str, list[str]]) -> Iterator[tuple[str, str]]:
    return ((name, other) for name, others in imports.items() for other in others)


def floor(name: str) -> int:
    while name not in FLOORS:
        name = name.rpartition(".")[0]
    return FLOORS[name]


def tasks(name: str, other: str) -> bool:
    mine, others = (module.split(".")[1:2] for module in (name, other))
    return mine != others and {*mine, *others} == set(TASKS)


def by_room(imports: dict[str, list[str]]) -> dict[str, list[str]]:
    """The same between rooms; a module that stands in utils itself is a room."""
    rooms: dict[str, set[str]] = {}
    for name, other in edges(imports):
        if room(name) != room(other):
            rooms.setdefault(room(name), set()).add(room(other))
    return {name: sorted(others) for name, others in rooms.items()}


def room(name: str) -> str:
    depth = 3 if name.startswith("m3snet.utils.") else 2
    return ".".join(name.split(".")[:depth])


def circles(imports: dict[str, list[str]]) -> list[list[str]]:
    """One circle for each import that closes one."""
    found, done = [], set()

    def visit(name: str, path: list[str]) -> None:
        if name in path:
            found.append([*path[path.index(name) :], name])
        elif name not in done:
            for other in imports.get(name, []):
                visit(other, [*path, name])
            done.add(name)

    for name in imports:
        visit(name, [])
    return found


def misnamed(name: str, tree: ast.Module) -> Iterator[str]:
    """What is run as a file, and a test, names the package; what is only imported says where it lies beside itself."""
    absolute = is_program(tree) or name.startswith("m3snet.tests") or name == "m3snet.hubconf"
    for node in ast.walk(tree):
        if not isinstance(node, ast.Import | ast.ImportFrom | ast.Call):
            continue
        named = ""
        if isinstance(node, ast.Import):
            named = " ".join(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level and absolute:
                yield f"{name}:{node.lineno}: a relative import in what is run as a file"
            named = "" if node.level else node.module or ""
        elif ast.unparse(node.func).endswith("import_module"):
            named = ast.unparse(node.args[0])
        if re.search(r"\bm3snet\b", named) and not absolute:
            yield f"{name}:{node.lineno}: imports by the name m3snet in a module of it"


def is_program(tree: ast.Module) -> bool:
    return any(isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'" for node in tree.body)


def has_code(tree: ast.Module) -> bool:
    """Whether there is more than a docstring, imports and __all__."""
    return not all(
        isinstance(node, ast.ImportFrom | ast.Expr)
        or (isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__")
        for node in tree.body
    )


def test_this_house_is_in_order() -> None:
    assert {"m3snet.models.m3snet", "m3snet.utils.cli", "m3snet.Deraining.train"} <= modules(ROOT).keys()
    assert faults(ROOT) == []


RUN = "\nif __name__ == '__main__':\n    pass\n"


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"utils/data/a.py": "from ..scoring import b", "utils/scoring/b.py": ""}, r"data\.a imports .*scoring\.b"),
        ({"models/a.py": "def f():\n    from ..utils.data.b import c", "utils/data/b.py": "c = 1"}, "a floor up"),
        ({"utils/a.py": "from .. import restore", "restore.py": ""}, r"utils\.a imports m3snet\.restore, a floor up"),
        ({"Deraining/a.py": "from ..Deblurring.b import c", "Deblurring/b.py": "c = 1"}, "a task knows another"),
        ({"utils/a.py": "from . import b", "utils/b.py": "from .a import c"}, r"circle: m3snet\.utils\.a -> m3snet"),
        (
            {
                "utils/data/a.py": "from ..restoring import b",
                "utils/restoring/b.py": "",
                "utils/restoring/c.py": "from ..data import d",
                "utils/data/d.py": "",
            },
            r"rooms in a circle: m3snet\.utils\.data -> m3snet\.utils\.restoring -> m3snet\.utils\.data",
        ),
        ({"utils/a.py": "from m3snet.utils import b", "utils/b.py": ""}, r"utils\.a:1: imports by the name m3snet"),
        ({"utils/a.py": "import m3snet.utils.b", "utils/b.py": ""}, r"utils\.a:1: imports by the name m3snet"),
        ({"utils/a.py": "from importlib import import_module\nimport_module(f'm3snet.{1}')"}, r"a:2: imports by the"),
        ({"Deraining/a.py": "from .b import c" + RUN, "Deraining/b.py": "c = 1"}, r"a:1: a relative import in what is"),
        ({"tests/a.py": "from .b import c", "tests/b.py": "c = 1"}, r"a relative import in what is run as a file"),
        ({"utils/__init__.py": '"""Words."""\nx = 1\n', "utils/a.py": ""}, r"m3snet\.utils: an __init__ with code"),
    ],
)
def test_disorder_is_noticed(files: dict[str, str], said: str, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert re.search(said, "\n".join(faults(tmp_path)))


def test_order_is_left_in_peace(tmp_path: Path) -> None:
    files = {
        "models/__init__.py": '"""Words."""\nfrom .a import b\n\n__all__ = ["b"]\n',
        "models/a.py": "import torch\n\nfrom ..utils.cli import c\n\nb = 1",
        "utils/cli.py": "import sys\n\nc = 1",
        "utils/training/d.py": "from ...models import b\nfrom ..scoring.e import f",
        "utils/scoring/e.py": "from ..data.g import h\n\nf = 1",
        "utils/data/g.py": "from ..cli import c\n\nh = 1",
        "Deraining/config.py": "from ..utils.cli import c",
        "Deraining/train.py": "from m3snet.Deraining.config import c\nfrom m3snet.utils.training.d import b" + RUN,
        "tests/data/test_g.py": "from m3snet.utils.data.g import h",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert faults(tmp_path) == []
