"""Colour profiles: kept in a photograph, converted to sRGB where images of several files meet."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo
from skimage import data

from m3snet.utils.images import Photograph, read_image, read_photograph, write_photograph

CASES = Path(__file__).parents[1] / "cases"
PHOTO = data.astronaut()[:64, 100:196]
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def case_profile(name: str) -> bytes:
    with Image.open(CASES / name) as image:
        return image.info["icc_profile"]


P3, ADOBE, GAMMA = map(case_profile, ("photo-display-p3.jpg", "photo-adobe-rgb.jpg", "gray-gamma18.png"))

# By the definitions alone: x and y of the primaries, white D65.
PRIMARIES = {
    "sRGB": ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06)),
    "P3": ((0.68, 0.32), (0.265, 0.69), (0.15, 0.06)),
    "Adobe": ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06)),
}


def to_xyz(name: str) -> np.ndarray:
    x, y = np.array(PRIMARIES[name]).T
    columns = np.stack([x / y, np.ones(3), (1 - x - y) / y])
    return columns * np.linalg.solve(columns, [0.3127 / 0.3290, 1, (1 - 0.3127 - 0.3290) / 0.3290])


def decoded(values: np.ndarray) -> np.ndarray:
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def encoded(light: np.ndarray) -> np.ndarray:
    light = light.clip(0, 1)
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


def expected(pixels: np.ndarray, name: str, decode: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    return 255 * encoded(decode(pixels / 255) @ (np.linalg.inv(to_xyz("sRGB")) @ to_xyz(name)).T)


def adobe_decoded(values: np.ndarray) -> np.ndarray:
    return values ** (563 / 256)


@pytest.mark.parametrize(
    ("name", "primaries", "decode"),
    [("photo-display-p3.jpg", "P3", decoded), ("photo-adobe-rgb.jpg", "Adobe", adobe_decoded)],
)
def test_colours_are_converted_as_their_definitions_say(
    name: str, primaries: str, decode: Callable[[np.ndarray], np.ndarray]
) -> None:
    photograph = read_photograph(CASES / name)
    right = expected(photograph.pixels, primaries, decode)
    image = read_image(CASES / name)
    assert np.abs(image - right).max() <= 1
    assert image.flags.writeable
    assert np.abs(photograph.pixels - right).max() > 10


def test_gray_is_converted_too() -> None:
    photograph = read_photograph(CASES / "gray-gamma18.png")
    assert photograph.gray
    converted = read_image(CASES / "gray-gamma18.png")
    assert np.abs(converted - 255 * encoded((photograph.pixels / 255) ** 1.8)).max() < 1.5
    assert np.ptp(converted, axis=2).max() == 0
    assert photograph.changes() == ["gray repeated to RGB", "Gray Gamma 1.8 converted to sRGB"]


def save(path: Path, image: np.ndarray, profile: bytes, **options: Any) -> None:
    Image.fromarray(image).save(path, icc_profile=profile, **options)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp", ".avif"])
def test_every_format_that_holds_a_profile(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"photo{suffix}"
    save(path, PHOTO, P3, **({"quality": 95, "subsampling": "4:4:4"} if suffix in (".jpg", ".avif") else {}))
    photograph = read_photograph(path)
    assert photograph.profile == P3
    assert photograph.changes() == ["Display P3 converted to sRGB"]
    assert np.abs(photograph.rgb() - expected(photograph.pixels, "P3", decoded)).max() <= 1


def test_16_bits_have_profiles_as_well(tmp_path: Path) -> None:
    import tifffile

    path = tmp_path / "deep.tif"
    tifffile.imwrite(path, PHOTO.astype(np.uint16) * 257, photometric="rgb", iccprofile=ADOBE)
    photograph = read_photograph(path)
    assert np.array_equal(photograph.pixels, PHOTO.astype(np.uint16) * 257)
    assert photograph.profile == ADOBE
    assert photograph.changes() == ["16-bit rounded to 8", "Adobe RGB (1998) converted to sRGB"]


def test_srgb_is_not_touched(tmp_path: Path) -> None:
    save(tmp_path / "photo.png", PHOTO, SRGB)
    assert np.array_equal(read_image(tmp_path / "photo.png"), PHOTO)
    assert read_photograph(tmp_path / "photo.png").changes() == []


@pytest.mark.parametrize("profile", [b"", b"no profile", P3[:200], GAMMA], ids=["empty", "other", "cut", "gray"])
def test_a_profile_that_cannot_be_meant_is_left_out(profile: bytes, tmp_path: Path) -> None:
    save(tmp_path / "photo.png", PHOTO, profile)
    photograph = read_photograph(tmp_path / "photo.png")
    assert photograph.profile is None
    assert np.array_equal(photograph.rgb(), PHOTO)


def test_gray_in_the_colours_of_an_rgb_profile_is_written_as_rgb(tmp_path: Path) -> None:
    save(tmp_path / "photo.jpg", PHOTO[..., 1], ADOBE)
    photograph = read_photograph(tmp_path / "photo.jpg")
    assert (photograph.gray, photograph.profile) == (False, ADOBE)
    write_photograph(tmp_path / "out.png", photograph)
    with Image.open(tmp_path / "out.png") as written:
        assert (written.mode, written.info["icc_profile"]) == ("RGB", ADOBE)


def test_cmyk_is_converted_by_its_profile(tmp_path: Path) -> None:
    cmyk = Image.fromarray(PHOTO).convert("CMYK")
    cmyk.save(tmp_path / "photo.jpg", quality=95)
    photograph = read_photograph(tmp_path / "photo.jpg")
    assert photograph.profile is None
    assert photograph.changes() == ["CMYK converted to RGB"]
    assert np.abs(photograph.pixels.astype(int) - PHOTO).mean() < 4


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp"])
def test_a_profile_is_kept_in_what_is_written(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"out{suffix}"
    write_photograph(path, Photograph(PHOTO, profile=P3))
    again = read_photograph(path)
    assert again.profile == P3
    assert np.abs(again.pixels.astype(int) - PHOTO).mean() < (3 if suffix == ".jpg" else 0.001)


@pytest.mark.parametrize("suffix", [".bmp", ".ppm"])
def test_colours_are_converted_where_a_format_holds_no_profile(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"out{suffix}"
    write_photograph(path, Photograph(PHOTO, profile=P3))
    assert np.array_equal(read_image(path), Photograph(PHOTO, profile=P3).rgb())


def test_gray_and_its_profile_are_kept_or_converted(tmp_path: Path) -> None:
    photograph = read_photograph(CASES / "gray-gamma18.png")
    written_as = {"a.png": ("L", GAMMA), "a.jpg": ("L", GAMMA), "a.bmp": ("L", None), "a.webp": ("RGB", None)}
    for name, kind in written_as.items():
        write_photograph(tmp_path / name, photograph)
        with Image.open(tmp_path / name) as written:
            assert (written.mode, written.info.get("icc_profile")) == kind, name
        assert np.abs(read_image(tmp_path / name).astype(int) - photograph.rgb()).max() <= 2, name


def test_a_name_out_of_a_file_is_fit_for_a_terminal_and_a_table() -> None:
    profile = P3.replace(b"Display P3", b"\x1b[2J;, |P3")
    assert profile != P3
    assert Photograph(PHOTO, profile=profile).changes() == ["2J P3 converted to sRGB"]


# Colours that a file names without a profile


@pytest.mark.parametrize(
    ("primaries", "transfer", "said"),
    [(1, 13, ()), (12, 13, ("Display P3 read as sRGB",)), (9, 16, ("BT.2020 PQ read as sRGB",))],
)
def test_colours_without_a_profile_are_said(
    primaries: int, transfer: int, said: tuple[str, ...], tmp_path: Path
) -> None:
    file = pillow_heif.from_bytes("RGB", PHOTO.shape[1::-1], PHOTO.tobytes())
    file.save(tmp_path / "a.heic", color_primaries=primaries, transfer_characteristics=transfer)
    content = (tmp_path / "a.heic").read_bytes()
    place = content.index(b"colrnclx") + 8
    numbers = primaries.to_bytes(2, "big") + transfer.to_bytes(2, "big")
    (tmp_path / "a.heic").write_bytes(content[:place] + numbers + content[place + 4 :])
    assert read_photograph(tmp_path / "a.heic").notes == said
    texts = PngInfo()
    texts.add(b"cICP", bytes((primaries, transfer, 0, 1)))
    Image.fromarray(PHOTO).save(tmp_path / "a.png", pnginfo=texts)
    assert read_photograph(tmp_path / "a.png").notes == said


def test_another_gamma_of_a_png_is_said(tmp_path: Path) -> None:
    for gamma, said in ((45_455, ()), (100_000, ("gamma 1 read as sRGB",))):
        texts = PngInfo()
        texts.add(b"gAMA", gamma.to_bytes(4, "big"))
        Image.fromarray(PHOTO).save(tmp_path / "a.png", pnginfo=texts)
        assert read_photograph(tmp_path / "a.png").notes == said
