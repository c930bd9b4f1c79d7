"""Tests run in as many processes as there are cores (pytest-xdist), each with one thread."""
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported
