"""M3SNet, a network that removes rain and motion blur from photographs: trained, tested, compared."""
from .utils import starting  # noqa: F401, isort: skip
from .models import M3SNet, create_model, load_model
from .utils.restoring.images import restore_image
from .utils.restoring.restorer import Restorer

__all__ = ["M3SNet", "Restorer", "create_model", "load_model", "restore_image"]
