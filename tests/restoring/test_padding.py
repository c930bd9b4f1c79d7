"""What stands beyond the border of an image, and that it is gone in what comes back."""
import numpy as np
import pytest
import torch

from m3snet.models import create_model
from m3snet.tests.filled import fill
from m3snet.utils import settings
from m3snet.utils.restoring.padding import PADDINGS, pad
from m3snet.utils.restoring.restorer import Restorer, RestoringError


@pytest.mark.parametrize("height, width", [(1, 1), (1, 40), (2, 3), (5, 31), (17, 33), (16, 32), (9, 16)])
def test_reflected_as_numpy_does(height, width):
    image = torch.arange(height * width * 3.0).reshape(1, 3, height, width)
    rest = ((0, 0), (0, 0), (0, -height % 16), (0, -width % 16))
    assert np.array_equal(pad(image, 16, "reflect"), np.pad(image.numpy(), rest, mode="reflect"))
    assert pad(image, 16, "zeros") is image


@pytest.fixture(scope="module")
def model():
    return fill(create_model("M3SNet-T")).eval()


@pytest.mark.parametrize("ensemble", [False, True])
def test_a_restorer_reflects_and_cuts_off_what_it_added(model, ensemble):
    image = np.random.default_rng(0).integers(0, 256, (37, 45, 3), dtype=np.uint8)
    larger = np.pad(image, ((0, 11), (0, 3), (0, 0)), mode="reflect")
    reflecting = Restorer(model, "cpu", "float32", "exact", tlc=False, tile=0, ensemble=ensemble)
    assert np.array_equal(reflecting(image), reflecting(larger)[:37, :45])


def test_zeros_are_what_the_network_itself_does(model):
    image = np.random.default_rng(0).integers(0, 256, (37, 45, 3), dtype=np.uint8)
    zeros = Restorer(model, "cpu", "float32", "exact", tlc=False, tile=0, padding="zeros")
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        expected = model(tensor)[0].clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy()
    assert np.array_equal(zeros(image), expected)
    assert not np.array_equal(Restorer(model, "cpu", "float32", "exact", tlc=False, tile=0)(image), expected)


def test_the_settings_know_all_paddings():
    assert settings.PADDINGS == PADDINGS


def test_another_padding_is_an_error(model):
    with pytest.raises(RestoringError, match="padding mirror: expected reflect or zeros"):
        Restorer(model, padding="mirror")
