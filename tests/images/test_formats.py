"""Which files are read, by their contents, and what is said of the others."""
from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps
from skimage import data

from m3snet.utils.images import (
    IMAGE_SUFFIXES,
    ImageError,
    is_image,
    look_at,
    read_image,
    read_photograph,
    write_image,
    write_photograph,
)

CASES = Path(__file__).parents[1] / "cases"
PHOTO = data.astronaut()[100:160, 150:230]


def encoded(kind: str, image: np.ndarray = PHOTO, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("suffix", "kind", "options"),
    [
        (".jfif", "JPEG", {}),
        (".jpe", "JPEG", {}),
        (".JPG", "JPEG", {}),
        (".avif", "AVIF", {"quality": 90}),
        (".GIF", "GIF", {}),
        (".Tif", "TIFF", {}),
        (".pnm", "PPM", {}),
        (".png", "JPEG", {}),  # whatever it is called
        (".jpg", "WEBP", {}),
    ],
)
def test_what_is_readable_is_accepted(suffix: str, kind: str, options: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / f"photo{suffix}"
    path.write_bytes(encoded(kind, **options))
    assert is_image(path)
    image = read_image(path)
    assert np.abs(image.astype(int) - PHOTO).mean() < 8
    assert image.flags.writeable and image.flags.c_contiguous


def test_is_image_goes_by_the_suffix(tmp_path: Path) -> None:
    for suffix in IMAGE_SUFFIXES:
        (tmp_path / f"a{suffix}").touch()
        (tmp_path / f".b{suffix}").touch()
    (tmp_path / "c.txt").touch()
    (tmp_path / "d.png").mkdir()
    assert {path.suffix for path in tmp_path.iterdir() if is_image(path)} == IMAGE_SUFFIXES
    assert not any(is_image(path) for path in tmp_path.iterdir() if path.name[0] in ".cd")


ANIMATION = [Image.fromarray(PHOTO), Image.fromarray(PHOTO[::-1])]


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "AVIF"])
def test_animations_are_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "film"
    ANIMATION[0].save(path, kind, save_all=True, append_images=ANIMATION[1:], duration=80)
    with pytest.raises(ImageError, match="film: an animation of 2 pictures; save one of them as a file of its own"):
        read_image(path)


def test_the_previews_in_a_telephones_jpeg_are_no_animation(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    ANIMATION[0].save(path, "MPO", save_all=True, append_images=ANIMATION[1:])
    assert np.abs(read_image(path).astype(int) - PHOTO).mean() < 8


@pytest.mark.parametrize("name", ["photo.heic", "photo.jpg", "photo.HEIF"])
def test_heic_is_read_whatever_its_name(name: str, tmp_path: Path) -> None:
    import pillow_heif

    shutil.copy(CASES / "photo.heic", tmp_path / name)
    right = np.asarray(pillow_heif.open_heif(CASES / "photo.heic").to_pillow().convert("RGB"))
    assert np.array_equal(read_image(tmp_path / name), right)
    assert look_at(tmp_path / name) == right.shape[1::-1]
    cut = (CASES / "photo.heic").read_bytes()
    (tmp_path / name).write_bytes(cut[: len(cut) // 2])
    with pytest.raises(ImageError, match=rf"{name}: damaged or cut off"):
        read_image(tmp_path / name)


def test_heic_without_its_package_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ImageError, match=r"photo\.heic: HEIC needs pillow-heif; pip install 'm3snet\[heic\]'$"):
        read_image(CASES / "photo.heic")
    with pytest.raises(ImageError, match="HEIC needs pillow-heif"):
        write_image(tmp_path / "a.heic", PHOTO)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("start", "said"),
    [
        (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", "a video"),
        (b"\x1aE\xdf\xa3", "a video"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "a raw file of a camera"),
        (b"FUJIFILMCCD-RAW 0201", "a raw file of a camera"),
        (b"II*\0\x10\0\0\0CR\2\0", "a raw file of a camera"),
        (b"IIU\0\x08\0\0\0", "a raw file of a camera"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL file"),
        (b"8BPS\0\1", "a Photoshop file"),
        (b"%PDF-1.7", "a PDF"),
        (b"<!DOCTYPE html>", "not an image, or one of an unknown format"),
    ],
)
def test_other_files_are_called_by_their_names(start: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(start + bytes(500))
    with pytest.raises(ImageError, match=rf"photo\.jpg: {said}"):
        read_image(tmp_path / "photo.jpg")


# Orientation


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".avif", ".tif", ".heic"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_upright_and_written_so(
    orientation: int, suffix: str, turned: dict[int, np.ndarray], tmp_path: Path
) -> None:
    """In HEIC and AVIF it is the file that says how it is turned, not its EXIF."""
    import pillow_heif

    pillow_heif.register_heif_opener()
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless = {".webp": {"lossless": True}, ".png": {}, ".tif": {}}
    options = lossless.get(suffix, {"quality": 95, "subsampling": "4:4:4"})
    source, written = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    Image.fromarray(np.ascontiguousarray(turned[orientation])).save(source, exif=exif.tobytes(), **options)
    assert look_at(source) == turned[1].shape[1::-1]
    photograph = read_photograph(source)
    write_photograph(written, photograph)
    with Image.open(written) as picture:  # as programs see it that know orientations, and that do not
        seen = [photograph.pixels, np.asarray(picture), np.asarray(ImageOps.exif_transpose(picture))]
    for image in seen:
        assert image.shape == turned[1].shape
        assert np.abs(image.astype(int) - turned[1]).mean() < 6
        assert suffix not in lossless or np.array_equal(image, turned[1])


def test_an_avif_whose_file_says_how_to_turn_it() -> None:
    image = read_image(CASES / "rotated-90.avif")
    with Image.open(CASES / "rotated-90.avif") as stored:
        assert stored.size == (200, 160)
        as_stored = np.asarray(stored)
    assert image.shape == (200, 160, 3)
    assert any(np.array_equal(image, np.rot90(as_stored, turns)) for turns in (1, -1))


def test_alpha_is_turned_with_the_image(turned: dict[int, np.ndarray], tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = np.ascontiguousarray(turned[6])
    (tmp_path / "photo.png").write_bytes(encoded("PNG", np.dstack([image, image[..., 0]]), exif=exif))
    photograph = read_photograph(tmp_path / "photo.png")
    assert photograph.alpha is not None
    assert np.array_equal(photograph.alpha, turned[1][..., 0])


# Alpha and gray


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "AVIF"])
def test_alpha_is_read_where_something_is_transparent(kind: str, tmp_path: Path) -> None:
    alpha = PHOTO[..., 0].copy()
    alpha[0, 0] = 0
    options = {"quality": 95} if kind == "AVIF" else {"lossless": True, "exact": True} if kind == "WEBP" else {}
    (tmp_path / "photo").write_bytes(encoded(kind, np.dstack([PHOTO, alpha]), **options))
    photograph = read_photograph(tmp_path / "photo")
    assert photograph.alpha is not None
    assert np.abs(photograph.alpha.astype(int) - alpha).mean() < 3
    assert photograph.changes() == ["alpha dropped"]
    (tmp_path / "photo").write_bytes(encoded(kind, np.dstack([PHOTO, np.full_like(alpha, 255)]), **options))
    assert read_photograph(tmp_path / "photo").alpha is None


def test_a_palette_with_a_transparent_colour(tmp_path: Path) -> None:
    for kind in ("PNG", "GIF"):
        Image.fromarray(PHOTO).quantize(16).save(tmp_path / "photo", kind, transparency=0)
        photograph = read_photograph(tmp_path / "photo")
        assert photograph.alpha is not None
        assert set(np.unique(photograph.alpha)) == {0, 255}


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP", "PPM"])
def test_a_file_of_one_channel_is_gray(kind: str, tmp_path: Path) -> None:
    (tmp_path / "photo").write_bytes(encoded(kind, PHOTO[..., 1]))
    assert read_photograph(tmp_path / "photo").gray
    (tmp_path / "photo").write_bytes(encoded(kind, PHOTO))
    assert not read_photograph(tmp_path / "photo").gray


@pytest.mark.parametrize("most", [100, 255, 1023, 65535])
def test_white_in_a_pgm_is_white(most: int, tmp_path: Path) -> None:
    values = np.linspace(0, most, 80 * 60).astype(np.uint8 if most < 256 else ">u2")
    (tmp_path / "a.pgm").write_bytes(b"P5 80 60 %d\n" % most + values.tobytes())
    found = read_image(tmp_path / "a.pgm")[..., 0].astype(float)
    assert np.abs(found.ravel() - values / most * 255).max() < 2
    assert found.max() == 255


# Size


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP", "PPM", "WEBP", "GIF", "AVIF"])
def test_more_pixels_than_the_limit_are_refused_before_they_are_decoded(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photo").write_bytes(encoded(kind))
    monkeypatch.setenv("M3SNET_MAX_PIXELS", str(PHOTO[..., 0].size))
    read_image(tmp_path / "photo")
    monkeypatch.setenv("M3SNET_MAX_PIXELS", str(PHOTO[..., 0].size - 1))
    monkeypatch.setattr("cv2.imdecode", None)
    message = r"photo: 80 x 60 pixels are more than the limit of 4,799; to raise it, set M3SNET_MAX_PIXELS in the"
    with pytest.raises(ImageError, match=message):
        read_image(tmp_path / "photo")


def test_a_limit_that_is_no_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("M3SNET_MAX_PIXELS", "1e9")
    (tmp_path / "photo.png").write_bytes(encoded("PNG"))
    with pytest.raises(ImageError, match="M3SNET_MAX_PIXELS=1e9: expected a number of pixels, such as 250000000"):
        read_image(tmp_path / "photo.png")


def test_a_jpeg_that_claims_to_be_huge(tmp_path: Path) -> None:
    content = bytearray(encoded("JPEG", progressive=True))
    frame = content.index(b"\xff\xc2")
    content[frame + 5 : frame + 9] = (30_000).to_bytes(2, "big") * 2
    (tmp_path / "photo.jpg").write_bytes(content)
    with pytest.raises(ImageError, match=r"30000 x 30000 pixels are more than the limit of 250,000,000"):
        read_image(tmp_path / "photo.jpg")


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    with path.open("wb") as file:
        file.write(encoded("PNG")[:64])
        file.truncate(1 << 40)  # takes no room on the disk
    with pytest.raises(ImageError, match=r"photo\.png: 1,099,511,627,776 bytes are more than an image of"):
        read_image(path)


def test_out_of_memory_is_an_error_that_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("cv2.imdecode", fail)
    (tmp_path / "photo.png").write_bytes(encoded("PNG"))
    with pytest.raises(ImageError, match=r"photo\.png: not enough memory to read it"):
        read_image(tmp_path / "photo.png")
