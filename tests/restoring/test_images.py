"""restore_image: what goes in comes out restored, as what it was."""
from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from m3snet import Restorer, restore_image
from m3snet.models import M3SNet
from m3snet.tests.filled import tiny


@pytest.fixture
def model() -> M3SNet:
    return tiny()


def photograph(height: int = 40, width: int = 52) -> np.ndarray:
    return np.ascontiguousarray(data.astronaut()[:height, 100 : 100 + width])


def test_an_array_is_restored_as_a_restorer_does(model: M3SNet) -> None:
    for image in (photograph(), photograph().astype(np.uint16) * 257, (photograph() / 255).astype(np.float32)):
        restored = restore_image(model, image)
        assert (restored.shape, restored.dtype) == (image.shape, image.dtype)
        assert np.array_equal(restored, Restorer(model)(image))
        assert not np.array_equal(restored, image)


def test_floats_are_not_rounded(model: M3SNet) -> None:
    restorer = Restorer(model, precision="float32", padding="zeros")
    image = (photograph() / 255).astype(np.float32)
    restored = restorer(image)
    with torch.inference_mode():
        expected = restorer.network(torch.from_numpy(image).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
    assert np.abs(restored - expected.clip(0, 1)).max() < 1e-5
    assert np.abs(restored * 255 - np.round(restored * 255)).max() > 0.4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_tensors(model: M3SNet, dtype: torch.dtype) -> None:
    images = torch.from_numpy(np.stack([photograph(), photograph()[::-1]]) / 255).permute(0, 3, 1, 2).to(dtype)
    restored = restore_image(model, images.requires_grad_())
    assert (restored.shape, restored.dtype, restored.requires_grad) == (images.shape, dtype, False)
    restorer = Restorer(model)
    for image, one in zip(images, restored, strict=True):
        expected = torch.from_numpy(restorer(image.detach().float().permute(1, 2, 0).numpy())).permute(2, 0, 1)
        assert torch.equal(one, expected.to(dtype))
    assert restore_image(restorer, images[:0]).shape == (0, 3, 40, 52)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "I;16"])
def test_pillows_images_keep_their_mode(model: M3SNet, mode: str) -> None:
    picture = Image.fromarray(photograph())
    if mode == "I;16":
        image = Image.fromarray(photograph()[..., 1].astype(np.uint16) * 257)
    else:
        image = picture.convert(mode)
        if mode.endswith("A"):
            image.putalpha(picture.getchannel("R"))
    image.info["icc_profile"] = b"a profile"
    restored = restore_image(model, image)
    assert (restored.mode, restored.size, restored.info) == (mode, image.size, {"icc_profile": b"a profile"})
    if mode.endswith("A"):
        assert restored.getchannel("A").tobytes() == picture.getchannel("R").tobytes()
    if mode.startswith("RGB"):
        assert np.array_equal(np.asarray(restored)[..., :3], Restorer(model)(photograph()))
    else:
        before, after = (np.atleast_3d(np.asarray(one))[..., 0].astype(float) for one in (image, restored))
        assert after.std() > 0.2 * before.std()
        assert not np.array_equal(after, before)


def test_a_list_gives_a_list(model: M3SNet) -> None:
    images = [photograph(), photograph(30, 20)]
    restored = restore_image(model, images)
    assert isinstance(restored, list)
    for one, image in zip(restored, images, strict=True):
        assert np.array_equal(one, restore_image(model, image))


def test_a_restorer_is_taken_as_it_is(model: M3SNet) -> None:
    image = photograph()
    assert np.array_equal(restore_image(Restorer(model, strength=0), image), image)


def test_the_network_stays_what_it_was(model: M3SNet) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    restore_image(model, photograph())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_threads_do_not_disturb_each_other(model: M3SNet) -> None:
    images = [photograph(30 + number, 40) for number in range(8)]
    expected = [restore_image(model, image) for image in images]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda image: restore_image(model, image), images))
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.zeros((20, 20), np.uint8), r"expected an H x W x 3 uint8, uint16 or float32 image, found \(20, 20\) uint8"),
        (np.full((9, 9, 3), 255, np.float32), r"expected floats in \[0, 1\], found 255 to 255"),
        (np.full((9, 9, 3), np.nan, np.float32), r"expected floats in \[0, 1\], found nan to nan"),
        (torch.zeros(3, 20, 20), r"expected N x 3 x H x W floats, found \(3, 20, 20\) torch\.float32"),
        (torch.zeros(1, 3, 20, 20, dtype=torch.uint8), r"expected N x 3 x H x W floats, found \(1, 3, 20, 20\)"),
        (torch.full((1, 3, 9, 9), 255.0), r"expected floats in \[0, 1\], found 255 to 255"),
        (Image.new("P", (9, 9)), "expected an image of mode RGB, RGBA, L, LA, I;16, found P: convert it first"),
        ("street.jpg", "expected a numpy array, a Pillow image, a tensor, or a list of them, found 'street.jpg'"),
        (None, "a list of them, found None"),
    ],
)
def test_what_is_no_image_is_refused(
    model: M3SNet, image: np.ndarray | torch.Tensor | Image.Image, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        restore_image(model, image)
