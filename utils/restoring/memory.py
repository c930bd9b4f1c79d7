"""How much memory there is for a network, and how large a tile fits into it."""
from __future__ import annotations

import sys
from math import ceil, isqrt
from pathlib import Path

import psutil
import torch

from ..allocator import kept_memory

MOST = 3 << 29  # bytes for one pass on a CPU, however much is free: restore.py stays below 4 GiB at 100 megapixels
_SHARE = 0.75  # of what is free: other programs want some, too
# Bytes at the peak of a pass per pixel of the image, by the width of the network: what benchmarks/memory.py prints, and
# a tenth more, because one process takes more than another. A pair that is not here was not measured.
BYTES_PER_PIXEL = {
    ("exact", "float32"): {8: 780, 16: 1550},
    ("torch", "float32"): {8: 440, 16: 660, 32: 1400},
    ("torch", "bfloat16"): {8: 280, 16: 430, 32: 840},
}


def largest_tile(width: int, backend: str, precision: str, device: torch.device) -> int:
    """The side in pixels of the largest tile that fits into the memory that is free now, for an M3SNet of `width`."""
    most = sys.maxsize if device.type != "cpu" else MOST
    return isqrt(min(most, int(_SHARE * free_memory(device))) // bytes_per_pixel(width, backend, precision))


def bytes_per_pixel(width: int, backend: str, precision: str) -> int:
    """What one pass takes; what was not measured takes no more than the next wider network, or `exact`."""
    pair = (backend, precision if precision == "float32" else "bfloat16")  # float16 is as wide
    measured = BYTES_PER_PIXEL.get(pair, BYTES_PER_PIXEL["exact", "float32"])
    above = min((known for known in measured if known >= width), default=max(measured))
    return ceil(measured[above] * max(1, width / above))


def free_memory(device: torch.device) -> int:
    """The bytes that this process can still take on a device."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    if device.type == "mps":
        return max(0, torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    limits = [psutil.virtual_memory().available, *left_to_group(), *left_to_process()]
    return max(0, min(limits)) + kept_memory()


def left_to_process() -> list[int]:
    """What RLIMIT_AS (`ulimit -v`) leaves, where it is set."""
    if sys.platform == "win32":
        return []
    import resource  # not on Windows

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return [] if limit == resource.RLIM_INFINITY else [limit - psutil.Process().memory_info().vms]


def left_to_group(
    groups: Path = Path("/proc/self/cgroup"), mounted: Path = Path("/sys/fs/cgroup")
) -> list[int]:
    """What the control groups of this process leave (containers, systemd, Slurm), where they have a limit."""
    left = []
    for line in groups.read_text(encoding="utf-8").splitlines() if groups.is_file() else []:
        _, controllers, name = line.split(":", 2)
        if controllers == "":  # version 2
            top, most, used, cached = mounted, "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            top, most, used = mounted / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            cached = "total_inactive_file"
        else:
            continue
        group = top / name.lstrip("/")  # in a container there may be no such folder: `top` is its own group
        for folder in (group, *group.parents):
            if folder.is_relative_to(top) and (folder / most).is_file() and _text(folder / most) != "max":
                stat = dict(line.split() for line in _text(folder / "memory.stat").splitlines())
                left.append(int(_text(folder / most)) - int(_text(folder / used)) + int(stat.get(cached, 0)))
    return left


def _text(path: Path) -> str:
    return path.read_text(encoding="ascii").strip()
