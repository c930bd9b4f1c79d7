"""`torch.hub.load(REPOSITORY, "m3snet", weights="derain")`: the network, without an installation."""
from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from m3snet import M3SNet

dependencies = ["cv2", "numpy", "PIL", "psutil", "safetensors", "tifffile", "torch", "tqdm", "yaml"]


def m3snet(weights: str = "derain") -> M3SNet:
    """A ready M3SNet in eval mode: N x 3 x H x W in [0, 1] -> the restored images.

    `weights` is the name of released weights or a .pth or .safetensors file; see models.weights.load_model.
    """
    return _package().load_model(weights)


def _package() -> ModuleType:
    """The package m3snet: whatever the folder it lies in is called, installed or not."""
    if "m3snet" not in sys.modules:
        root = Path(__file__).resolve().parent
        spec = importlib.util.spec_from_file_location(
            "m3snet", root / "__init__.py", submodule_search_locations=[str(root)]
        )
        assert spec is not None and spec.loader is not None  # a .py file always has both
        sys.modules["m3snet"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["m3snet"])
    return sys.modules["m3snet"]
