"""Small trainings for the tests that look at what a training does and leaves."""
from __future__ import annotations

import csv
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from yacs.config import CfgNode

import m3snet.Deraining.train
from m3snet.utils.config import load_task_config

PROGRAM = Path(__file__).resolve().parents[1] / "Deraining/train.py"


def options(folder: Path, out: Path, **keys: Any) -> list[str]:
    """The command line of a small training on `folder`; KEY__SUBKEY=value sets single keys."""
    settings: dict[str, Any] = {
        "MODEL.NAME": "tiny",
        "MODEL.SESSION": "run",
        "OPTIM.BATCH_SIZE": 4,
        "OPTIM.NUM_EPOCHS": 4,
        "OPTIM.WARMUP_EPOCHS": 1,
        "TRAINING.TRAIN_DIR": folder,
        "TRAINING.SAVE_DIR": out,
        "TRAINING.TRAIN_PS": 32,
        "TRAINING.VAL_PS": 32,
        "TRAINING.VAL_COUNT": 2,
        "TRAINING.VAL_AFTER_EVERY": 2,
        "TRAINING.NUM_WORKERS": 0,
        "TRAINING.LOG_EVERY": 1,
        **{key.replace("__", "."): value for key, value in keys.items()},
    }
    return ["--opts", *(str(word) for pair in settings.items() for word in pair)]


def configuration(folder: Path, out: Path, **keys: Any) -> CfgNode:
    """What `options` amount to."""
    return load_task_config(m3snet.Deraining.train.DEFAULTS, None, options(folder, out, **keys)[1:])


def train(folder: Path, out: Path, **keys: Any) -> Path:
    """Train in this process; returns the run's folder."""
    m3snet.Deraining.train.main(options(folder, out, **keys))
    return out / "Deraining/run"


def start(folder: Path, out: Path, launcher: tuple[str, ...] = (), **keys: Any) -> subprocess.Popen[str]:
    """Start the program in a process of its own, as a person would; `launcher` are Python's arguments before it."""
    words = [*launcher, str(PROGRAM), *options(folder, out, **{"MODEL__NAME": "M3SNet-T", **keys})]
    return subprocess.Popen(
        [sys.executable, *words],
        cwd=out,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
    )


class Forked:
    """The same in a process forked from one that has imported everything, which is most of what a start takes."""

    def __init__(self, folder: Path, out: Path, **keys: Any) -> None:
        pipe = out / f"output of {len(list(out.glob('output of *')))}"
        os.mkfifo(pipe)
        server = multiprocessing.get_context("forkserver")
        server.set_forkserver_preload(["m3snet.Deraining.train", "torch._dynamo"])
        self.process = server.Process(target=_print_into, args=(pipe, options(folder, out, **keys)))
        self.process.start()
        self.stdout = pipe.open(encoding="utf-8")

    def kill(self) -> int | None:
        """Kill it as nothing can be caught; returns its exit code."""
        self.process.kill()
        return self.wait()

    def wait(self) -> int | None:
        """Its exit code, once it has ended."""
        self.process.join()
        self.stdout.close()
        return self.process.exitcode


def _print_into(pipe: Path, words: list[str]) -> None:
    sys.stdout = sys.stderr = pipe.open("w", encoding="utf-8", buffering=1)
    m3snet.Deraining.train.main(words)


def torchrun(*options: str) -> tuple[str, ...]:
    """Python's arguments for two processes that find each other by themselves."""
    return ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *options)


def metrics(run: Path) -> list[dict[str, float]]:
    """The rows of a run's metrics.csv."""
    with (run / "metrics.csv").open(newline="") as file:
        return [{key: float(value) for key, value in line.items()} for line in csv.DictReader(file)]


def assert_same(a: Any, b: Any, path: str = "") -> None:
    """Bit for bit, through nested dictionaries and lists."""
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), path
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            assert_same(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), path
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{path}.{i}")
    else:
        assert a == b, path
