"""The configuration of this task: the schema of the YAML files in configs/."""
from yacs.config import CfgNode

from ..utils.data.rain import SHARES, VEILED
from ..utils.settings import default_config
from ..utils.values import Number, Text

DEFAULTS = default_config("Deraining")
_SHARE = Number(0, 1_000_000)
RAIN = DEFAULTS.TRAINING.RAIN = CfgNode()
for kind, share in SHARES.items():
    RAIN[kind.upper()] = (share, _SHARE, f"share of {kind} rain on the photographs of SHARP_DIRS; the ratio counts")
RAIN.LAYERS = ("", Text(), "folder of gray images, each the light that rain added to a photograph; '': none")
RAIN.LAYERED = (0.5, Number(0, 1), "share of the photographs that get one of the LAYERS instead")
RAIN.VEILED = (VEILED, Number(0, 1), "share of the rain that is drawn, but for retouched, that gets a haze as well")
