"""Installs the packages of this repository: `pip install -e .`, or `pip install -e '.[test]'` to run its tests."""
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).resolve().parent
REQUIREMENTS = [
    line for line in (HERE / "requirements.txt").read_text().splitlines() if line and not line.startswith("#")
]

setup(
    name="m3snet",
    version="0.1.0",
    description="M3SNet: a mountain-shaped single-stage network for image restoration, trained, tested and compared",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    packages=["models", "utils", "Deblurring", "Deraining"],
    package_data={
        "Deblurring": ["configs/*.yml", "configs/ablation/*.yml"],
        "Deraining": ["configs/*.yml", "configs/ablation/*.yml"],
        "utils": ["gallery.html"],
    },
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
