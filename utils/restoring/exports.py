"""M3SNet as a file for other programs: ONNX, OpenVINO, torch.export. Any height and width, with TLC or without."""
from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...models import M3SNet, tlc_window
from ...models.exported import LARGEST_SIDE, SMALLEST_SIDE, exportable
from ..cli import UserError
from ..files import TEMPORARY, remove_abandoned

Network = Callable[[torch.Tensor], torch.Tensor]
SUFFIXES = {"onnx": ".onnx", "openvino": ".xml", "torch-export": ".pt2"}
_KEY = "m3snet"  # of the facts in a file


class ExportError(UserError):
    """A file that cannot be made or read; the message says why, and what to do."""


@dataclass(frozen=True)
class Facts:
    """What a file says of the network in it."""

    weights: str  # their name
    sha256: str  # of their tensors
    width: int
    levels: int
    window: int | None  # pixels at full resolution; None: without TLC
    patch_size: int | None
    precision: str  # of the features


def facts_of(model: M3SNet, weights: str, precision: str) -> Facts:
    """The facts of a network."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    window = tlc_window(model)
    width, levels = model.config["width"], len(model.downs)
    return Facts(weights, digest.hexdigest(), width, levels, window, model.patch_size, precision)


def export(
    model: M3SNet, facts: Facts, kind: str, path: Path, check: Callable[[Path], None] | None = None
) -> None:
    """Write `model` to `path`, whole or not at all; OpenVINO's .bin lies beside its .xml.

    `check` is given the file before it gets its name; what it raises leaves what was there.

    Raises:
        ExportError: a package that this kind needs is not installed.
        OSError: the file cannot be written.
    """
    dtype = {"float32": torch.float32, "float16": torch.float16}[facts.precision]
    network = exportable(model.cpu(), dtype).eval()
    sides = {"min": SMALLEST_SIDE, "max": LARGEST_SIDE}
    dynamic = {2: torch.export.Dim("height", **sides), 3: torch.export.Dim("width", **sides)}
    example = torch.rand(1, 3, 70, 90)
    content = json.dumps(asdict(facts))
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(path.parent)
    prefix, suffix = TEMPORARY.split("*")
    with tempfile.TemporaryDirectory(suffix, prefix, path.parent) as folder:
        made = Path(folder) / path.name
        with _quiet(), torch.no_grad():
            program = torch.export.export(network, (example,), dynamic_shapes={"image": dynamic})
            if kind == "torch-export":
                torch.export.save(program, made, extra_files={_KEY: content})
            elif kind == "onnx":
                with _extra("export"):
                    import onnxscript  # noqa: F401, torch.onnx imports it
                onnx_program: Any = torch.onnx.export(
                    program, (example,), dynamo=True, input_names=["image"], output_names=["restored"], verbose=False
                )
                onnx_program.model.metadata_props[_KEY] = content
                onnx_program.save(made)
            else:
                with _extra("fast"):
                    import openvino
                converted = openvino.convert_model(program, example_input=(example,))
                converted.set_rt_info(content, _KEY)
                openvino.save_model(converted, made, compress_to_fp16=facts.precision == "float16")
        if check:
            check(made)
        for file in sorted(Path(folder).iterdir()):  # the .bin before the .xml that names it
            file.replace(path.parent / file.name)


def open_export(path: Path, precision: str = "float32") -> tuple[Network, Facts]:
    """A file that `export` wrote, as a function of N x 3 x H x W float32 tensors on the CPU; and its facts.

    `precision` is what OpenVINO computes in: float32 or bfloat16. The other kinds compute as they were exported. A .pt2
    can run code of whoever made it, as torch.export.load says: open none but your own.

    Raises:
        ExportError: not such a file, or a package that it needs is not installed.
        OSError: it cannot be opened.
    """
    if not path.is_file():
        raise ExportError(f"{path}: no such file")
    with path.open("rb"):
        pass  # an error that says why, where the packages below do not
    opened = {".onnx": _open_onnx, ".xml": _open_openvino, ".pt2": _open_torch}[path.suffix]
    try:
        network, content = opened(path, precision)
        facts = Facts(**json.loads(content))
    except ExportError:
        raise
    except Exception as error:  # each package has errors of its own
        raise ExportError(f"{path}: not a file that export.py made ({str(error).splitlines()[0][:200]})") from error

    def checked(image: torch.Tensor) -> torch.Tensor:
        if min(image.shape[-2:]) < SMALLEST_SIDE:
            raise ExportError(f"{path.name}: takes images from {SMALLEST_SIDE} pixels a side; take --backend torch")
        return torch.cat([network(one) for one in image.split(1)])

    return checked, facts


def cached_export(model: M3SNet, kind: str) -> Path:
    """The file of `model` for a backend, in the user's cache folder; made there at the first time, in half a minute.

    The folder may be deleted at any time; M3SNET_CACHE names another.
    """
    facts = facts_of(model, "M3SNet", "float32")
    path = cache_folder() / f"{facts.sha256[:16]}-{facts.window or 0}{SUFFIXES[kind]}"
    if not path.is_file():
        export(model, facts, kind, path)
    return path


def cache_folder() -> Path:
    """Where files for backends are kept."""
    if chosen := os.environ.get("M3SNET_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "m3snet"


def _open_onnx(path: Path, precision: str) -> tuple[Network, str]:
    with _extra("export"):
        import onnxruntime
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def network(image: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(session.run(None, {"image": np.ascontiguousarray(image.numpy())})[0])

    return network, session.get_modelmeta().custom_metadata_map[_KEY]


def _open_openvino(path: Path, precision: str) -> tuple[Network, str]:
    with _extra("fast"):
        import openvino
    core = openvino.Core()
    model = core.read_model(path)
    hints = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    if path.parent == cache_folder():
        hints["CACHE_DIR"] = str(path.parent / "compiled")
    compiled = core.compile_model(model, "CPU", hints)

    def network(image: torch.Tensor) -> torch.Tensor:
        request = compiled.create_infer_request()  # one for each call: threads do not share it
        return torch.from_numpy(request.infer([np.ascontiguousarray(image.numpy())])[0].copy())

    return network, model.get_rt_info(_KEY).value


def _open_torch(path: Path, precision: str) -> tuple[Network, str]:
    extra = {_KEY: ""}
    program = torch.export.load(path, extra_files=extra)
    return program.module(), extra[_KEY]


@contextlib.contextmanager
def _extra(name: str) -> Iterator[None]:
    """Says which extra of this project holds a package that is missing."""
    try:
        yield
    except ImportError as error:
        raise ExportError(f"{error.name} is not installed; pip install 'm3snet[{name}]'") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what exporters say of themselves."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(None):
        warnings.simplefilter("ignore")
        yield
