"""torch.hub: the network from a folder of any name, without an installation."""
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

LOAD = """
import sys, torch
model = torch.hub.load(sys.argv[1], "m3snet", weights="derain", source="local")
print(type(model).__module__, tuple(model(torch.zeros(1, 3, 17, 20)).shape))
"""
# What the package imports, anywhere in the modules that loading a network loads.
IMPORTS = """
import ast, sys
from pathlib import Path
import m3snet, hubconf
names = set()
for name, module in list(sys.modules.items()):
    if name.partition(".")[0] == "m3snet":
        for node in ast.walk(ast.parse(Path(module.__file__).read_text(encoding="utf-8"))):
            names |= {alias.name for alias in node.names} if isinstance(node, ast.Import) else set()
            names |= {node.module} if isinstance(node, ast.ImportFrom) and not node.level else set()
names = {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names) - {"m3snet"}
names -= {"onnxruntime", "onnxscript", "openvino", "pillow_heif"}  # of extras, and imported where they are asked for
assert names == set(hubconf.dependencies), names ^ set(hubconf.dependencies)
"""


def run(code: str, *arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**{key: value for key, value in os.environ.items() if key != "PYTHONPATH"}, **environment},
        cwd=arguments[1] if len(arguments) > 1 else ROOT,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_torch_hub_loads_the_network_by_the_name_of_its_weights(tmp_path: Path) -> None:
    link = tmp_path / "Somebody_M3SNet_main"  # as torch.hub calls what it downloads
    link.symlink_to(ROOT)
    for name in ("models", "utils"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('not this one')")
    assert run(LOAD, str(link), str(tmp_path)) == "m3snet.models.m3snet (1, 3, 17, 20)\n"


def test_the_dependencies_are_all_that_is_imported() -> None:
    run(IMPORTS, PYTHONPATH=os.pathsep.join([str(ROOT), *filter(None, sys.path)]))
