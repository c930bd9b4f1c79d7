"""The configuration of this task: its defaults are the schema of the YAML files in configs/."""
from yacs.config import CfgNode

from ..utils.data.rain import SHARES
from ..utils.tasks import default_config

DEFAULTS = default_config("Deraining")
# The rain on the photographs of SHARP_DIRS: which share of them gets which kind of drawn rain. Only the ratio matters.
DEFAULTS.TRAINING.RAIN = CfgNode({kind.upper(): share for kind, share in SHARES.items()})
# Gray images, each the light that rain added to a photograph: this share of the photographs gets one of them instead.
DEFAULTS.TRAINING.RAIN.LAYERS = ""
DEFAULTS.TRAINING.RAIN.LAYERED = 0.5
