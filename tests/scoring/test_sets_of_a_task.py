"""make_test_sets of both tasks: what a researcher loops over."""
from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from m3snet.Deblurring import dataset as deblurring
from m3snet.Deraining import dataset as deraining
from m3snet.utils.config import load_config
from m3snet.utils.images import write_image
from m3snet.utils.settings import default_config


@pytest.mark.parametrize(("module", "name"), [(deraining, "Rain100L"), (deblurring, "GoPro")])
def test_the_sets_that_are_there(module: ModuleType, name: str, tmp_path: Path) -> None:
    folder = tmp_path / module.TASK.test_sets[name].folder
    for side in ("input", "target"):
        write_image(folder / side / "7.png", np.zeros((16, 16, 3), np.uint8))
    config = load_config(default_config(module.TASK.name), None, ["DATA.ROOT", str(tmp_path)])
    (found,) = module.make_test_sets(config)
    assert (found.name, [pair.name for pair in found.pairs]) == (name, ["7"])
    assert found.benchmark is module.TASK.test_sets[name]
