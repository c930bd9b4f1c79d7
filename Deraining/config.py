"""The configuration of this task: its defaults are the schema of the YAML files in configs/."""
from ..utils.tasks import default_config

DEFAULTS = default_config("Deraining")
# Gray images, each the light that rain added to a photograph. They rain on a share of the photographs of SHARP_DIRS; on
# the rest, rain is drawn.
DEFAULTS.TRAINING.RAIN_LAYERS = ""
DEFAULTS.TRAINING.RAIN_LAYERS_SHARE = 0.5
