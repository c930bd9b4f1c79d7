"""Where a number comes from: code, packages and machine, and the hash of a file."""
from __future__ import annotations

import hashlib
import platform
import re
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

_PACKAGES = (
    "torch",
    "torchvision",
    "numpy",
    "opencv-python-headless",
    "opencv-python",
    "scikit-image",
    "scipy",
    "pyiqa",
)


def provenance(device: torch.device | None = None) -> dict[str, Any]:
    """{"code", "python", "packages", "device", "threads"} of this process, for people who compare scores."""
    return {
        "code": code_version(),
        "python": platform.python_version(),
        "packages": {name: found for name in _PACKAGES if (found := _version(name))},
        "device": _device_name(device),
        "threads": torch.get_num_threads(),
    }


@cache  # what is edited while a program runs is not the code that runs
def code_version() -> str:
    """The project's version, and the commit where it runs from a git checkout; '+' marks changes since."""
    project = _version("m3snet") or "unknown"
    command = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return project  # no git, or no checkout
    return f"{project} ({done.stdout.strip()})"


def machine(device: torch.device | None = None) -> str:
    """The name of the GPU, or of the processor."""
    if device is not None and device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.+)", info.read_text(encoding="utf-8")) if info.is_file() else []
    return names[0] if names else platform.processor() or platform.machine()


def sha256(path: Path) -> str:
    """The hash of a file, in hexadecimal."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _device_name(device: torch.device | None) -> str | None:
    if device is None:
        return None
    return machine(device) if device.type == "cuda" else device.type
