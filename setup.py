"""Installs one package, m3snet, whose root is this folder: `pip install -e .`, or `pip install .`."""
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).resolve().parent
REQUIREMENTS = [
    line for line in (HERE / "requirements.txt").read_text().splitlines() if line and not line.startswith("#")
]
FOLDERS = (
    "models",
    "utils",
    "utils.data",
    "utils.training",
    "utils.scoring",
    "utils.restoring",
    "Deblurring",
    "Deraining",
    "tools",
)

setup(
    name="m3snet",
    version="0.1.0",
    description="M3SNet: a mountain-shaped single-stage network for image restoration, trained, tested and compared",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    package_dir={"m3snet": "."},
    packages=["m3snet", *(f"m3snet.{folder}" for folder in FOLDERS)],
    package_data={
        "m3snet": [
            "pretrained/*.safetensors",
            "pretrained/models.yml",
            "pretrained/README.md",
            "De*ing/configs/*.yml",
            "De*ing/configs/*/*.yml",
            "utils/scoring/*.html",
        ],
    },
    entry_points={"console_scripts": ["m3snet-restore=m3snet.restore:main"]},
    install_requires=REQUIREMENTS,
    extras_require={
        # spandrel and spandrel_extra_arches judge, as black boxes, that files written here are M3SNet files.
        "test": ["pytest>=8", "pytest-xdist>=3.5", "spandrel>=0.4", "spandrel_extra_arches>=0.2"],
        "dev": ["ruff>=0.6", "mypy>=1.11"],
        # TRAINING.WANDB
        "wandb": ["wandb>=0.17"],
        # prepare.py fetches data sets from Google Drive with it.
        "download": ["gdown>=5"],
        # TEST.PERCEPTUAL: LPIPS, DISTS, NIQE; pyiqa's licence is non-commercial, and it downloads its networks.
        "perceptual": ["pyiqa>=0.1.13"],
    },
)
