"""Ways to run a network: what a `Restorer` may choose between.

A backend makes a function of tensors from a model, with or without TLC, that lies on its device in channels_last
memory: N x 3 x H x W float32 in [0, 1] on that device -> the same shape, type and device.
"""
from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path

import torch

from ...models import M3SNet, fuse
from ..cli import UserError
from .exports import SUFFIXES, Facts, cached_export, open_export

Network = Callable[[torch.Tensor], torch.Tensor]

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class BackendError(UserError):
    """A backend, device or precision that is not to be had here; the message says what is."""


def exact(model: M3SNet, dtype: torch.dtype) -> Network:
    """The network as it was trained, without a copy: what scores are taken with."""
    if dtype != torch.float32:
        raise BackendError(f"backend exact: computes in float32 only; {name_of(dtype)} needs another backend")
    return model


def fused(model: M3SNet, dtype: torch.dtype) -> Network:
    """The inference form, `models.fused`."""
    return fuse(model, dtype)


def compiled(model: M3SNet, dtype: torch.dtype) -> Network:
    """The inference form through torch.compile: minutes for the first image, and again for every other size.

    Not for all sizes at once: the expressions for heights and widths that are padded and cut keep sympy busy for ever.
    """
    return torch.compile(fuse(model, dtype), dynamic=False)


def openvino(model: M3SNet, dtype: torch.dtype) -> Network:
    """OpenVINO, from a file in the cache folder that is made at the first time (`exports.cached_export`)."""
    return open_export(_exported(model, "openvino", dtype), name_of(dtype))[0]


def onnxruntime(model: M3SNet, dtype: torch.dtype) -> Network:
    """ONNX Runtime, from a file in the cache folder likewise; in float32."""
    if dtype != torch.float32:
        raise BackendError(f"backend onnxruntime: computes in float32 only; {name_of(dtype)} needs another backend")
    return open_export(_exported(model, "onnx", dtype))[0]


def _exported(model: M3SNet, kind: str, dtype: torch.dtype) -> Path:
    device = next(model.parameters()).device
    if device.type != "cpu" or dtype == torch.float16:
        raise BackendError(f"backend {kind}: on the CPU, in float32 or bfloat16; found {name_of(dtype)} on {device}")
    return cached_export(model, kind)


BACKENDS: dict[str, Callable[[M3SNet, torch.dtype], Network]] = {
    "exact": exact,
    "torch": fused,
    "compile": compiled,
    "openvino": openvino,
    "onnxruntime": onnxruntime,
}
_BACKEND_OF = {SUFFIXES["openvino"]: "openvino", SUFFIXES["onnx"]: "onnxruntime"}  # a .pt2 could run code
EXPORTED = frozenset(_BACKEND_OF)  # suffixes of files of export.py that are opened
_SHORT = ("torch", "compile", "openvino")  # backends that compute in bfloat16


def open_backend(name: str, model: M3SNet, precision: str) -> tuple[Network, str, str]:
    """A model as a function of tensors, with the backend and the precision that "auto" stands for.

    Raises:
        BackendError: no such backend or precision, or not on the model's device.
    """
    device = next(model.parameters()).device
    if name == "auto":
        name = "torch"
    if name not in BACKENDS:
        raise BackendError(f"backend {name}: expected auto, {', '.join(BACKENDS)}")
    if precision == "auto":
        precision = "bfloat16" if name in _SHORT and has_bfloat16(device) else "float32"
    if precision not in PRECISIONS:
        raise BackendError(f"precision {precision}: expected auto, {', '.join(PRECISIONS)}")
    if precision == "float16" and device.type == "cpu":
        raise BackendError("precision float16: not on a CPU, where it is slower than float32; take bfloat16")
    return BACKENDS[name](model, PRECISIONS[precision]), name, precision


def open_file(path: Path, backend: str, precision: str) -> tuple[Network, Facts, str, str]:
    """A file of export.py as a function of tensors, its facts, and what "auto" stands for; on the CPU.

    Raises:
        ExportError: it is not such a file, or what runs it is not installed.
        BackendError: another backend or precision is asked for than it runs with.
    """
    name = _BACKEND_OF[path.suffix]
    if backend not in ("auto", name):
        raise BackendError(f"{path}: runs with backend {name}, not {backend}")
    computed = {"openvino": ("float32", "bfloat16")}.get(name, ("float32",))
    if precision == "auto":
        precision = computed[-1] if has_bfloat16(torch.device("cpu")) else "float32"
    if precision not in computed:
        raise BackendError(f"{path}: computes as it was exported; {precision} is not to be had")
    network, facts = open_export(path, precision)
    return network, facts, name, precision


def find_device(name: str | torch.device | None = None) -> torch.device:
    """The device of that name; by default the fastest of this machine: CUDA, else MPS, else the CPU.

    Raises:
        BackendError: there is none of that name.
    """
    if name is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch's ways to say that there is none
        raise BackendError(f"device {name}: not to be had here; the best is {find_device()}") from error
    return device


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16; where it does not, that is emulated, and slower than float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    flags = Path("/proc/cpuinfo")
    if device.type != "cpu" or platform.system() != "Linux" or not flags.is_file():
        return False
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(flags.read_text(encoding="utf-8", errors="replace").split())


def name_of(dtype: torch.dtype) -> str:
    """float32 for torch.float32."""
    return str(dtype).removeprefix("torch.")
