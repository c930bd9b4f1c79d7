"""The configuration of this task: the schema of the YAML files in configs/."""
from ..utils.settings import default_config

DEFAULTS = default_config("Deblurring")
