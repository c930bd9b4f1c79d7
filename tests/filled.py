"""Weights that leave no part of a network idle. A new network is all but the identity, which hides mistakes."""
from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
import torch

from m3snet.models import M3SNet
from m3snet.models.weights import from_published, to_published


def filled(shapes: Mapping[str, Iterable[int]], seed: int) -> dict[str, torch.Tensor]:
    """float32 tensors of the given shapes, by the rule that the outputs in golden/ were made with.

    One normal generator goes through the published names in sorted order. Scales of one value per channel (and
    temperatures) lie about 1, biases and residual scales about 0, other weights keep the size of what they multiply.
    """
    normal = np.random.default_rng(seed).standard_normal
    tensors = {}
    for name in sorted(shapes):
        shape = tuple(shapes[name])
        draw = normal(shape)
        kind = name.split(".")[-1]
        if kind in ("beta", "gamma"):
            draw = 0.3 * draw
        elif kind == "bias":
            draw = 0.1 * draw
        elif kind == "temperature" or len(shape) == 1:
            draw = 1 + 0.1 * draw
        else:
            draw = draw / np.sqrt(math.prod(shape[1:]))
        tensors[name] = torch.from_numpy(draw.astype(np.float32))
    return tensors


def fill(model: M3SNet, seed: int = 0) -> M3SNet:
    """`model` itself, in eval mode, with such weights."""
    shapes = {name: tensor.shape for name, tensor in to_published(model.state_dict()).items()}
    model.load_state_dict(from_published(filled(shapes, seed)))
    return model.eval()


def tiny(seed: int = 0, **config: object) -> M3SNet:
    """The smallest whole network, so filled."""
    return fill(M3SNet(**{"width": 8, "enc_blk_nums": (1, 1, 1, 1), **config}), seed)  # type: ignore[arg-type]
