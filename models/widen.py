"""Growing a trained network: twice the channels, the same function (Net2Net, Chen et al., arXiv 1511.05641).

A large network that starts from a trained small one has nothing to learn twice. M3SNet-T, -S, -32 and -64 have the
same blocks and differ in width by factors of two, so that each can be grown from the one before it.
"""
from __future__ import annotations

import torch

from .m3snet import MHAMB, M3SNet

_UNEVEN = 0.25  # by how much at most the shares of two copies differ from a half


def widen(model: M3SNet, seed: int = 0) -> M3SNet:
    """A network of twice the width that computes what `model` does, up to rounding; `model` is left as it is.

    Every channel is there twice, and what read it reads both copies, in shares that add up to one. The shares are
    drawn at random from `seed`, uneven: with equal ones the copies would get equal gradients and never learn to differ.
    """
    wide = M3SNet(**{**model.config, "width": 2 * model.config["width"]})
    wide.patch_size = model.patch_size
    rng = torch.Generator().manual_seed(seed)
    heads = next((module.num_heads for module in model.modules() if isinstance(module, MHAMB)), 1)
    grown = wide.state_dict()
    for name, tensor in model.state_dict().items():
        tensor = tensor.cpu()
        layer = name.removesuffix(".weight").removesuffix(".bias").rpartition(".")[-1]
        if layer in ("beta", "gamma"):
            tensor = _join(tensor, tensor, 1, 1)
        elif tensor.ndim == 4 and grown[name].shape[1] > tensor.shape[1]:  # reads doubled channels
            groups = heads if layer == "project_out" else 1
            share = 0.5 + _UNEVEN * (2 * torch.rand(tensor.shape, generator=rng) - 1)
            tensor = _join(tensor * share, tensor * (1 - share), 1, groups)
        if grown[name].shape[0] > tensor.shape[0]:
            # Gate halves, and each head's queries, keys and values, stay apart from each other.
            groups = {"conv1": 2, "conv2": 2, "conv4": 2, "qkv": 3 * heads, "qkv_dwconv": 3 * heads}.get(layer, 1)
            tensor = _join(tensor, tensor, 0, groups)
        grown[name] = tensor
    wide.load_state_dict(grown)
    return wide.train(model.training)


def _join(a: torch.Tensor, b: torch.Tensor, dim: int, groups: int) -> torch.Tensor:
    """Concatenate along `dim`, within each of `groups` equal runs of it."""
    runs = zip(a.chunk(groups, dim), b.chunk(groups, dim), strict=True)
    return torch.cat([run for pair in runs for run in pair], dim)
