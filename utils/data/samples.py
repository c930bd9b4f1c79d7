"""The bundled sample sets: freely licensed photographs that are in scikit-image's wheel, so nothing is downloaded.

Only photographs whose terms scikit-image states (documentation of skimage.data) and nobody disputes are used. Left
out: rocket (CC0 when published, but its Flickr page says CC BY-NC now: scikit-image issue 5095), motorcycle (Middlebury
2014, no licence stated), moon and page (no source stated), clock (blurred already), and all that is no photograph.
"""
from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import cv2
import numpy as np

from ..images import read_image, write_image
from ..tasks import Degradation

_WIDTH = 512  # of sample pairs, at most: a CPU restores them while one waits


@dataclass(frozen=True)
class Photograph:
    """A file in skimage/data, the side of the split it is on, and whose it is."""

    file: str
    split: str  # train or test
    source: str
    terms: str


PHOTOGRAPHS = (
    Photograph("astronaut.png", "test", "NASA Great Images, Eileen Collins, flic.kr/p/r9qvLn", "public domain"),
    Photograph("chelsea.png", "test", "Stefan van der Walt", "CC0"),
    Photograph("coffee.png", "test", "Rachel Michetti, Pikolo Espresso Bar", "CC0"),
    Photograph("brick.png", "train", "cc0textures.com, Bricks25", "CC0"),
    Photograph("camera.png", "train", "Lav Varshney", "CC0"),
    Photograph("coins.png", "train", "Brooklyn Museum archives, image 51611", "no known copyright restrictions"),
    Photograph("grass.png", "train", "linolafett, deviantart.com, Grass 01", "CC0"),
    Photograph("gravel.png", "train", "cc0textures.com, Gravel04", "CC0"),
    Photograph("hubble_deep_field.jpg", "train", "NASA, HubbleSite release 2012-37", "public domain"),
    Photograph("retina.jpg", "train", "Mikael Häggström, Wikimedia Commons", "CC0"),
)


def photographs(split: str) -> dict[str, Path]:
    """The photographs of `split`, 'train' or 'test', by name: files inside scikit-image's wheel.

    What test.py scores on was never trained on: the split is by photograph.

    Raises:
        FileNotFoundError: the installed scikit-image does not hold one of them.
    """
    folder = Path(str(files("skimage"))) / "data"
    found = {Path(p.file).stem: folder / p.file for p in PHOTOGRAPHS if p.split == split}
    for path in found.values():
        if not path.is_file():
            raise FileNotFoundError(f"{path}: not in this scikit-image; install its wheel: pip install scikit-image")
    return found


def sample_pairs(degradation: Degradation, folder: str | Path) -> Path:
    """Write the test photographs and their degraded versions to `folder`/{input,target}; the same bytes every time.

    Returns `folder`, which is a data set like any other.
    """
    folder = Path(folder)
    for name, path in photographs("test").items():
        target = _shrink(read_image(path))
        write_image(folder / "target" / f"{name}.png", target)
        write_image(folder / "input" / f"{name}.png", _degrade(degradation, name, target))
    return folder


def _shrink(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    if width <= _WIDTH:
        return image
    return cv2.resize(image, (_WIDTH, round(height * _WIDTH / width)), interpolation=cv2.INTER_AREA)


def _degrade(degradation: Degradation, name: str, target: np.ndarray) -> np.ndarray:
    """Draws from a generator seeded by `name` until the degradation is neither invisible nor extreme."""
    rng = np.random.default_rng([*name.encode()])
    low, high = degradation.visible
    while True:
        degraded = degradation.sample(target, rng)
        if low <= cv2.PSNR(degraded, target) <= high:
            return degraded
