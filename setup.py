"""Installs one package, m3snet, whose root is this folder: `pip install -e .`, or `pip install .`."""
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent
REQUIREMENTS = [
    line for line in (HERE / "requirements.txt").read_text().splitlines() if line and not line.startswith("#")
]
FOLDERS = (
    "models",
    "utils",
    "utils.images",
    "utils.data",
    "utils.training",
    "utils.scoring",
    "utils.restoring",
    "Deblurring",
    "Deraining",
    "tools",
)
NOT_INSTALLED = ("setup", "hubconf")  # of the modules beside this one
HUB = ["huggingface_hub>=0.25"]
HEIC = ["pillow-heif>=0.22"]
EXPORT = ["onnx>=1.17", "onnxscript>=0.5", "onnxruntime>=1.20"]
FAST = ["openvino>=2025.0"]
FIG = ["matplotlib>=3.8"]
VIDEO = ["av>=18; python_version >= '3.11'"]  # those for older Pythons cannot write how a video is rotated
APP = ["gradio>=6.31,<7", *HEIC]  # telephones send HEIC
# Loaded by models/kernels.py. Sums may be taken in any order. Compiled for OpenMP, but not linked to it: torch has
# loaded its own, and threads of a second one would keep those of the first from the processor. Without a compiler
# torch does what it does.
KERNELS = Extension(
    "m3snet.models._kernels",
    ["models/kernels.c"],
    depends=["models/kernels.h"],
    extra_compile_args=[
        "-O3",
        *(["-fopenmp"] if sys.platform == "linux" else []),
        "-fassociative-math",
        "-fno-signed-zeros",
        "-fno-trapping-math",
        "-fno-math-errno",
    ],
    optional=True,
)


class Build(build_py):
    """Leaves out what only a checkout can use."""

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        """(package, module, file) of each module of a package."""
        found = super().find_package_modules(package, package_dir)
        return [entry for entry in found if package != "m3snet" or entry[1] not in NOT_INSTALLED]


setup(
    name="m3snet",
    version="0.1.0",
    description="M3SNet: a mountain-shaped single-stage network for image restoration, trained, tested and compared",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    cmdclass={"build_py": Build},
    package_dir={"m3snet": "."},
    packages=["m3snet", *(f"m3snet.{folder}" for folder in FOLDERS)],
    package_data={
        "m3snet": [
            "py.typed",
            "pretrained/*.safetensors",
            "pretrained/models.yml",
            "pretrained/README.md",
            "De*ing/configs/*.yml",
            "De*ing/configs/*/*.yml",
            "utils/scoring/*.html",
        ],
    },
    ext_modules=[] if sys.platform == "win32" else [KERNELS],
    entry_points={
        "console_scripts": [
            "m3snet-restore=m3snet.restore:run",
            "m3snet-export=m3snet.export:run",
            "m3snet-app=m3snet.app:run",
        ]
    },
    install_requires=REQUIREMENTS,
    extras_require={
        "test": [
            "pytest>=8",
            "pytest-xdist>=3.5",
            # They judge, as black boxes, that files written here are M3SNet files.
            "spandrel>=0.4",
            "spandrel_extra_arches>=0.2",
            # builds the wheel that is tested, without a network
            "setuptools>=70.1",
            # the web page in Chromium; without a browser those tests are skipped
            "selenium>=4.20",
            *APP,
            *EXPORT,
            *FAST,
            *FIG,
            *HEIC,
            *HUB,
            *VIDEO,
        ],
        "dev": ["ruff>=0.6", "mypy>=1.11"],
        # TRAINING.WANDB
        "wandb": ["wandb>=0.17"],
        # prepare.py fetches data sets from Google Drive with it.
        "download": ["gdown>=5"],
        # TEST.PERCEPTUAL: LPIPS, DISTS, NIQE; pyiqa's licence is non-commercial, and it downloads its networks.
        "perceptual": ["pyiqa>=0.1.13"],
        # export.py --format onnx, and the backend onnxruntime
        "export": EXPORT,
        # export.py --format openvino, and the backend openvino
        "fast": FAST,
        # models/hub.py
        "hub": HUB,
        # photographs of telephones
        "heic": HEIC,
        # restore.py reads and writes videos with it.
        "video": VIDEO,
        # app.py, the web page
        "app": APP,
        # fig/*.py
        "fig": FIG,
        # mkdocs.yml: the pages as a site
        "docs": [
            "mkdocs-material>=9.6",
            "mkdocstrings[python]>=1.0",
            # the last that mkdocstrings' last for Python 3.10 works with
            "pymdown-extensions<11; python_version < '3.11'",
            # formulas
            "latex2mathml>=3.77",
            # breaks long signatures into lines
            "ruff>=0.6",
        ],
    },
)
