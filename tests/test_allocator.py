"""Freed memory stays with the process where programs ask for that, and the user has not said otherwise."""
from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")

# The pages that the kernel has to give for one large array, after an equal one was freed.
PROGRAM = """
import resource
import numpy as np
from m3snet.utils.allocator import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(1 << 24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

kept = keep_freed_memory()
faults()
print(kept, faults())
"""


def run(**environment: str) -> tuple[bool, int]:
    others = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env={**others, **environment}, capture_output=True, text=True, check=True
    )
    kept, faults = done.stdout.split()
    return kept == "True", int(faults)


def test_a_large_array_takes_the_memory_that_the_last_one_left() -> None:
    kept, faults = run()
    assert kept and faults < 16


@pytest.mark.parametrize("name", ["MALLOC_ARENA_MAX", "GLIBC_TUNABLES"])
def test_what_the_user_has_set_stays(name: str) -> None:
    kept, faults = run(**{name: "2" if name.startswith("MALLOC") else "glibc.malloc.arena_max=2"})
    assert not kept and faults > 32  # 64 where the kernel gives huge pages, 32,768 where it does not
