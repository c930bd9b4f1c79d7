"""glibc's allocator, kept from giving large blocks back to the system after every operation and asking for them again.

Every large tensor would be mapped, zeroed by the kernel page by page, and unmapped: half of the time of a forward pass
on a CPU (measured by benchmarks/inference.py).
"""
from __future__ import annotations

import ctypes
import os
import platform

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h
_NEVER = 2**31 - 1


class _Statistics(ctypes.Structure):
    """struct mallinfo2, malloc.h."""

    _names = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    _fields_ = [(name, ctypes.c_size_t) for name in _names]


def keep_freed_memory() -> bool:
    """Let this process keep what it frees for its next large tensors; returns whether anything was set.

    Linux with glibc only, and not where a MALLOC_ or GLIBC_TUNABLES variable says what the user wants.
    """
    chosen = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    if chosen or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, _NEVER))


def give_back_freed_memory() -> None:
    """Give back what `keep_freed_memory` kept, before work that needs all memory."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def kept_memory() -> int:
    """The bytes that this process holds and does not use: its next large tensors take nothing from the system."""
    try:
        mallinfo = ctypes.CDLL(None).mallinfo2  # glibc from 2.33
    except (AttributeError, OSError, TypeError):  # no glibc; TypeError is Windows
        return 0
    mallinfo.restype = _Statistics
    return mallinfo().fordblks
