"""The configuration of this task: its defaults are the schema of the YAML files in configs/."""
from ..utils.tasks import default_config

DEFAULTS = default_config("Deblurring")
