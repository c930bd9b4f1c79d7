"""What is installed: one package, whole, with the released weights, and nothing that only a checkout needs."""
from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from skimage import data

from m3snet.utils.images import read_image, write_image

ROOT = Path(__file__).resolve().parents[1]
INSTALLED = ("models", "utils", "Deblurring", "Deraining", "tools")  # folders, whole
SUFFIXES = {".py", ".yml", ".html"}  # of what is installed from them
# Of the requirements that no line imports: TensorBoard writes what torch.utils.tensorboard is given.
SILENT = {"tensorboard"}
# Of the extra `test`: what runs the tests, or builds the wheel that they look at.
TOOLS = {"pytest-xdist", "setuptools"}


def run(*words: object, cwd: Path) -> str:
    """What a command prints, stderr included; it fails the test if it fails. PYTHONPATH does not reach it."""
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [*map(str, words)], cwd=cwd, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="session")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project in a folder of another name, as someone would clone or unpack it."""
    left_out = shutil.ignore_patterns(
        ".*", "build", "dist", "*.egg-info", "__pycache__", "Datasets", "checkpoints", "results"
    )
    return shutil.copytree(ROOT, tmp_path_factory.mktemp("copy") / "M3SNet-main", ignore=left_out)


@pytest.fixture(scope="session")
def wheel(copy: Path) -> Path:
    """The wheel, built without a network."""
    pip = (sys.executable, "-m", "pip", "-q", "wheel", "--no-deps", "--no-build-isolation", "--no-index")
    run(*pip, copy, "-w", copy.parent / "wheels", cwd=copy.parent)
    (path,) = (copy.parent / "wheels").glob("*.whl")
    return path


@pytest.fixture
def decoys(tmp_path: Path) -> Path:
    """A folder with modules of names that belong to everyone, and a photograph."""
    folder = tmp_path / "somewhere else"
    for name in ("models.py", "utils.py", "tests/__init__.py", "tools/__init__.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("raise SystemExit('another project')\n")
    write_image(folder / "street.png", data.astronaut()[:96, 150:310])
    return folder


def environment(folder: Path) -> Path:
    """The Python of a new environment that has this one's packages, but for m3snet."""
    venv.create(folder, symlinks=os.name != "nt")
    scheme = "nt" if os.name == "nt" else "posix_prefix"
    places = sysconfig.get_paths(scheme, vars={"base": str(folder), "platbase": str(folder)})
    # Path files in those folders, an editable m3snet's for one, have no effect there.
    lines = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    (Path(places["purelib"]) / "packages.pth").write_text("\n".join(lines) + "\n")
    return Path(places["scripts"]) / "python"


def install(python: Path, *what: object) -> None:
    """Install the project there, without a network."""
    pip = (sys.executable, "-m", "pip", "-q", "--python", python, "install", "--no-deps", "--no-index")
    run(*pip, "--no-build-isolation", *what, cwd=python.parent)


RESTORE_BY_NAME = """
import m3snet
from m3snet import load_model, restore_image
from m3snet.utils.images import read_image, write_image
write_image("by_name.png", restore_image(load_model("derain"), read_image("street.png")))
print(m3snet.__file__)
"""


@pytest.mark.slow
def test_the_wheel_restores_a_photograph_by_name_among_decoys(wheel: Path, decoys: Path, tmp_path: Path) -> None:
    python = environment(tmp_path / "fresh")
    install(python, wheel)
    said = run(python.parent / "m3snet-restore", "rain", "street.png", "-o", "restored.png", cwd=decoys)
    assert "street.png  160x96" in said
    found = run(python, "-c", RESTORE_BY_NAME, cwd=decoys)
    assert Path(found.splitlines()[-1]).is_relative_to(tmp_path / "fresh")
    restored, by_name = (read_image(decoys / f"{name}.png").astype(int) for name in ("restored", "by_name"))
    assert abs(restored - by_name).max() <= 1
    assert abs(restored - read_image(decoys / "street.png")).max() > 1
    with pytest.raises(AssertionError, match=r"none\.png") as failed:
        run(python.parent / "m3snet-restore", "rain", "none.png", "-o", "restored.png", cwd=decoys)
    assert "Traceback" not in str(failed.value)


@pytest.mark.slow
def test_an_editable_install_runs_programs_among_decoys(copy: Path, decoys: Path, tmp_path: Path) -> None:
    python = environment(tmp_path / "fresh")
    install(python, "-e", copy)
    assert run(python, "-c", "import m3snet; print(m3snet.__file__)", cwd=decoys).strip() == str(copy / "__init__.py")
    for program in ("restore.py", "Deraining/train.py"):
        assert "usage:" in run(python, copy / program, "--help", cwd=decoys)
    # The folder's name is no module's name: pytest takes it for a folder, not for a package.
    one_name = (copy / "tests/test_package.py", "-k", "one_name")
    assert "1 passed" in run(python, "-m", "pytest", "-n0", *one_name, cwd=decoys)
    # Here the decoys are first on the path.
    assert "usage:" in run(python, "-m", "m3snet.Deblurring.prepare", "--help", cwd=decoys)


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(copy: Path, wheel: Path) -> None:
    expected = {path.name for path in copy.glob("*.py")} - {"setup.py", "hubconf.py"}
    for folder in INSTALLED:
        files = (path for path in (copy / folder).rglob("*") if path.suffix in SUFFIXES)
        expected |= {path.relative_to(copy).as_posix() for path in files}
    weights = {path.relative_to(copy).as_posix() for path in (copy / "pretrained").glob("*.safetensors")}
    assert weights
    expected |= weights | {"py.typed", "pretrained/models.yml", "pretrained/README.md"}
    found = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    compiled = {name for name in found if re.fullmatch(r"m3snet/models/_kernels\.[\w.-]+", name)}
    assert len(compiled) == (shutil.which("cc") is not None and os.name != "nt")  # kernels.c, where there is a compiler
    assert found - compiled == {f"m3snet/{name}" for name in expected}


@pytest.mark.slow
def test_an_sdist_is_whole_and_gives_the_same_wheel(copy: Path, wheel: Path, tmp_path: Path) -> None:
    build = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    run(sys.executable, "-c", build, tmp_path, cwd=copy)
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as files:
        names = {name.partition("/")[2] for name in files.getnames()}
    tests = {path.relative_to(copy).as_posix() for path in (copy / "tests").rglob("*.*") if path.suffix != ".pyc"}
    assert {"LICENSE", "README.md", "docs/training.md", "benchmarks/cost.py", "pretrained/release.py"} | tests <= names
    run(sys.executable, "-m", "pip", "-q", "wheel", "--no-deps", "--no-build-isolation", sdist, cwd=tmp_path)
    (again,) = tmp_path.glob("*.whl")
    assert sorted(zipfile.ZipFile(again).namelist()) == sorted(zipfile.ZipFile(wheel).namelist())


@pytest.mark.slow
def test_every_dependency_is_declared_and_used(wheel: Path) -> None:
    needed: dict[str, set[str]] = {}  # extra, "" for none -> distributions
    (metadata,) = (name for name in zipfile.ZipFile(wheel).namelist() if name.endswith("/METADATA"))
    for line in zipfile.ZipFile(wheel).read(metadata).decode().splitlines():
        if match := re.match(r"Requires-Dist: ([\w.-]+)(?:.*extra == .(\w+))?", line):
            needed.setdefault(match[2] or "", set()).add(plain(match[1]))
    core, test = needed[""], needed["test"]
    package = [ROOT / name for name in ("__init__.py", "restore.py", "export.py", "app.py")]
    package += [file for name in INSTALLED for file in python_files(name)]
    others = [file for name in ("tests", "benchmarks", "fig", "pretrained") for file in python_files(name)]
    optional = set().union(*(needed[extra] for extra in needed if extra not in ("", "test", "dev", "fig")))
    check_imports(package, allowed=core | optional, used=core - SILENT)
    check_imports(others, allowed=core | test, used=test - TOOLS - optional)


def check_imports(files: list[Path], allowed: set[str], used: set[str]) -> None:
    """All that the files import is of `allowed` distributions, and every one of `used` is among it."""
    distributions = packages_distributions()
    found = {top: {plain(name) for name in distributions.get(top, [top])} for top in imported(files)}
    assert not {top: owners for top, owners in found.items() if not owners & allowed}
    assert used <= set().union(*found.values())


def python_files(folder: str) -> list[Path]:
    """Those in a folder of the project and below."""
    return list((ROOT / folder).rglob("*.py"))


def imported(files: list[Path]) -> set[str]:
    """The top-level packages that the files import or take data from, without Python's own and m3snet."""
    names: set[str] = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module)
            elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("importlib.import_module", "files"):
                names |= {str(word.value) for word in node.args if isinstance(word, ast.Constant)}
    return {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"m3snet"}


def plain(name: str) -> str:
    """A distribution's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def test_each_file_is_imported_under_one_name() -> None:
    names: dict[Path, set[str]] = {}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file and Path(file).is_relative_to(ROOT) and not Path(file).is_relative_to(sys.prefix):
            names.setdefault(Path(file), set()).add(name)
    assert names[ROOT / "__init__.py"] == {"m3snet"}
    assert not {file: found for file, found in names.items() if len(found) > 1}


def test_the_workflow_runs_the_script_that_anyone_can_run() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    (job,) = workflow["jobs"].values()
    assert job["runs-on"] == "ubuntu-latest"
    assert job["strategy"]["matrix"]["python"] == ["3.10", "3.13"]
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    assert os.access(ROOT / ".ci/run", os.X_OK)
