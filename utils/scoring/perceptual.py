"""Perceptual scores through pyiqa, for those who ask for them in TEST.PERCEPTUAL.

pyiqa is an extra that nothing else needs: `pip install -e '.[perceptual]'`. Its licence, PolyForm Noncommercial 1.0.0
with parts under the S-Lab License 1.0, allows no commercial use. It downloads the weights of a metric when it is first
used.
"""
from __future__ import annotations

import importlib
from collections.abc import Sequence
from threading import Lock
from typing import Any

import numpy as np
import torch

from ..config import ConfigError
from ..images import to_tensor
from .metrics import Protocol

_TERMS = "its licence is non-commercial (PolyForm Noncommercial), and it downloads a metric's weights at first use"


def perceptual_scores(names: Sequence[str], device: torch.device) -> Protocol | None:
    """What scores two H x W x 3 uint8 images, restored and target, by the metrics of these names: {name: score}.

    None where no name is given. It may be called from several threads: they take turns. It raises ValueError where a
    metric cannot score the images, e.g. because they are too small for it.

    Raises:
        ConfigError: pyiqa is not installed, or a metric's weights could not be had.
    """
    if not names:
        return None
    try:
        pyiqa = importlib.import_module("pyiqa")  # late: it takes seconds, and few ask for it
    except ImportError as error:
        raise ConfigError(
            f"TEST.PERCEPTUAL needs pyiqa ({error}): pip install -e '.[perceptual]'; {_TERMS}"
        ) from error
    # NIQE computes in double precision, which Apple's GPUs lack.
    device = device if device.type == "cuda" else torch.device("cpu")
    metrics = {name: _create(pyiqa, name, device) for name in dict.fromkeys(names)}
    lock = Lock()  # pyiqa changes settings of torch while it computes

    def score(restored: np.ndarray, target: np.ndarray) -> dict[str, float]:
        images = [to_tensor(image).to(device) for image in (restored, target)]
        with lock:
            return {name: _score(name, metric, images) for name, metric in metrics.items()}

    return score


def _create(pyiqa: Any, name: str, device: torch.device) -> Any:
    try:
        return pyiqa.create_metric(name, device=device)
    except Exception as error:  # of the network, the hub or the disk: each has classes of its own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(
            f"TEST.PERCEPTUAL {name}: pyiqa could not load it ({reason}); it downloads the weights at first use: "
            "with a network, run this again"
        ) from error


def _score(name: str, metric: Any, images: Sequence[torch.Tensor]) -> float:
    try:
        return float(metric(*images))  # a metric without reference ignores the second
    except (RuntimeError, ValueError, AssertionError, IndexError) as error:
        raise ValueError(f"{name}: {error}") from error
