"""The network: M3SNet and its parts. Nothing in here knows of training."""
from .blocks import SCA, LayerNorm2d, NAFBlock, SimpleGate
from .fused import FusedM3SNet, fuse
from .m3snet import FFM, MHAMB, SIZES, M3SNet, create_model, size_name
from .tlc import apply_tlc, tlc_window
from .weights import WeightsError, load_model, save_weights
from .widen import widen

__all__ = [
    "FFM",
    "MHAMB",
    "SCA",
    "SIZES",
    "FusedM3SNet",
    "LayerNorm2d",
    "M3SNet",
    "NAFBlock",
    "SimpleGate",
    "WeightsError",
    "apply_tlc",
    "create_model",
    "fuse",
    "load_model",
    "save_weights",
    "size_name",
    "tlc_window",
    "widen",
]
