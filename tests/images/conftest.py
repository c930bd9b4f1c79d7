"""What the tests of reading share."""
from __future__ import annotations

import numpy as np
import pytest
from skimage import data


@pytest.fixture
def turned() -> dict[int, np.ndarray]:
    """A photograph as a camera stores it that is held in each of the eight ways: EXIF's orientation -> H x W x 3."""
    image = np.ascontiguousarray(data.astronaut()[100:165, 150:227])
    return {
        1: image,
        2: image[:, ::-1],
        3: np.rot90(image, 2),
        4: image[::-1],
        5: image.swapaxes(0, 1),
        6: np.rot90(image, 1),  # to be shown turned clockwise, so stored turned the other way
        7: np.rot90(image, 2).swapaxes(0, 1),
        8: np.rot90(image, -1),
    }
