"""The mean of eight views, and the blend of an image with what became of it."""
from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage import data

from m3snet.tests.filled import tiny
from m3snet.utils.restoring.ensemble import mean_of_views
from m3snet.utils.restoring.restorer import Restorer, RestoringError


def restorer(**asked: object) -> Restorer:
    return Restorer(tiny(), "cpu", "float32", "torch", **asked)  # type: ignore[arg-type]


def image(dtype: type) -> np.ndarray:
    pixels = data.astronaut()[:41, 100:152]
    return pixels if dtype is np.uint8 else pixels.astype(np.uint16) * 257 + 100


def test_every_view_is_seen_once_and_turned_back() -> None:
    seen = []

    def network(view: torch.Tensor) -> torch.Tensor:
        seen.append(view)
        return view

    picture = torch.rand(1, 3, 5, 7)
    assert torch.allclose(mean_of_views(network, picture), picture)
    assert [tuple(view.shape[2:]) for view in seen] == [(5, 7), (7, 5)] * 4
    assert all(not torch.equal(view, other) for view in seen[::2] for other in seen[::2] if view is not other)
    assert all(not torch.equal(view, other) for view in seen[1::2] for other in seen[1::2] if view is not other)


def test_the_mean_does_not_depend_on_how_an_image_lies() -> None:
    """A network that looks at one neighbour only gives something else for a mirrored image; the mean does not."""

    def network(view: torch.Tensor) -> torch.Tensor:
        return view.roll((1, 2), (-1, -2))

    picture = torch.rand(1, 3, 6, 9)
    for turn in (lambda x: x.flip(-1), lambda x: x.flip(-2), lambda x: x.rot90(1, (-2, -1))):
        assert torch.allclose(mean_of_views(network, turn(picture)), turn(mean_of_views(network, picture)))
        assert not torch.allclose(network(turn(picture)), turn(network(picture)))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_the_ensemble_is_rounded_once(dtype: type) -> None:
    together, single = restorer(ensemble=True, padding="zeros"), restorer()
    levels = np.iinfo(dtype).max
    part = torch.from_numpy(image(dtype) / levels).permute(2, 0, 1)[None].float()
    with torch.inference_mode():
        mean = mean_of_views(single.network, part)[0].permute(1, 2, 0).clamp(0, 1).numpy() * levels
    assert np.abs(together(image(dtype)) - mean).max() <= 0.5 + 1e-3 * levels / 255
    assert not np.array_equal(together(image(dtype)), single(image(dtype)))
    assert str(together) == "M3SNet: float32, torch on cpu, mean of 8 views"


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_strength_goes_from_the_image_to_the_restored_one(dtype: type) -> None:
    came, all_of_it = image(dtype), restorer()(image(dtype)).astype(float)
    assert np.array_equal(restorer(strength=0)(came), came)
    assert np.array_equal(restorer(strength=1)(came), all_of_it)
    quarter = restorer(strength=0.25)
    inside = (all_of_it > 0) & (all_of_it < np.iinfo(dtype).max)  # clipped after the blend, not before it
    assert np.abs(quarter(came) - (0.75 * came + 0.25 * all_of_it))[inside].max() < 0.63
    assert str(quarter).endswith("torch on cpu, strength 0.25")


@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan")])
def test_other_strengths_are_refused(strength: float) -> None:
    with pytest.raises(RestoringError, match="expected 0 to 1"):
        restorer(strength=strength)
