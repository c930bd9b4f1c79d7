"""The web page: app.py, without a browser, and in Chromium where there is one."""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from m3snet import app
from m3snet.app import Visits, main, restore
from m3snet.models import M3SNet
from m3snet.utils.cli import UserError
from m3snet.utils.images import read_image, read_photograph, write_image
from m3snet.utils.restoring.restorer import Restorer
from m3snet.utils.scoring.metrics import score_rgb, score_y

CASES = Path(__file__).parents[1] / "cases"


@pytest.fixture(scope="module")
def restorer() -> Restorer:
    """A network that adds 0.1 to red."""
    model = M3SNet(width=8, enc_blk_nums=(1, 1, 1, 1))
    torch.nn.init.zeros_(model.ending.weight)
    model.ending.bias = torch.nn.Parameter(torch.tensor([0.1, 0, 0]))
    return Restorer(model.eval(), "cpu", "float32", "exact", tile=0)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A JPEG with a camera's name."""
    path = tmp_path / "street.jpg"
    exif = Image.Exif()
    exif[0x0110] = "Camera 7"
    Image.fromarray(data.astronaut()[:50, 150:221]).save(path, quality=91, exif=exif)
    return path


def test_the_download_has_size_format_and_metadata(restorer: Restorer, photo: Path, tmp_path: Path) -> None:
    done = restore(restorer, "rain", photo, None, tmp_path / "out")
    assert done.file.name == "street_dry.jpg"
    with Image.open(photo) as before, Image.open(done.file) as after:
        assert (after.format, after.size) == ("JPEG", before.size)
        assert after.getexif()[0x0110] == "Camera 7"
        assert after.quantization == before.quantization  # type: ignore[attr-defined]
    redder = (read_image(done.file).astype(int) - read_image(photo)).mean((0, 1))
    np.testing.assert_allclose(redder, [25, 0, 0], atol=3)
    assert "71 x 50 pixels" in done.facts and "PSNR" not in done.facts


@pytest.mark.parametrize(
    ("name", "kept"),
    [("a.tif", "a_sharp.tif"), ("b.webp", "b_sharp.webp"), ("c.gif", "c_sharp.png")],
)
def test_a_format_that_is_not_written_becomes_png(restorer: Restorer, tmp_path: Path, name: str, kept: str) -> None:
    kind = {".tif": "TIFF", ".webp": "WEBP", ".gif": "GIF"}[Path(name).suffix]
    Image.fromarray(data.astronaut()[:40, :40]).save(tmp_path / name, kind)
    assert restore(restorer, "blur", tmp_path / name, None, tmp_path / "out").file.name == kept


def test_what_is_shown_is_small_and_in_srgb(
    restorer: Restorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "SHOWN", 32)
    done = restore(restorer, "rain", CASES / "photo-display-p3.jpg", None, tmp_path)
    expected = read_image(CASES / "photo-display-p3.jpg")  # converted
    shown = read_image(done.before)
    assert max(shown.shape) == 32
    assert np.abs(shown.mean((0, 1)) - expected.mean((0, 1))).max() < 2
    assert read_photograph(done.file).pixels.shape == expected.shape


@pytest.mark.parametrize(("task", "score"), [("rain", score_y), ("blur", score_rgb)])
def test_scores_are_those_of_the_task(restorer: Restorer, photo: Path, tmp_path: Path, task: str, score: Any) -> None:
    target = tmp_path / "target.png"
    write_image(target, data.astronaut()[:50, 150:221])
    done = restore(restorer, task, photo, target, tmp_path / "out")
    truth = read_image(target)
    before, after = score(read_image(photo), truth), score(restorer(read_image(photo)), truth)
    assert f"**PSNR** {before['psnr']:.2f} → {after['psnr']:.2f} dB" in done.facts
    assert f"**SSIM** {before['ssim']:.4f} → {after['ssim']:.4f}" in done.facts


def test_a_target_that_does_not_fit_is_refused_before_the_work(photo: Path, tmp_path: Path) -> None:
    def never(*_: object) -> None:
        pytest.fail("restored")

    write_image(tmp_path / "target.png", data.astronaut()[:40, :40])
    with pytest.raises(UserError, match=r"street\.jpg is 71x50 but .*target\.png is 40x40"):
        restore(never, "rain", photo, tmp_path / "target.png", tmp_path)  # type: ignore[arg-type]
    write_image(tmp_path / "dot.png", data.astronaut()[:8, :40])
    with pytest.raises(UserError, match=r"scores need 11 a side"):
        restore(never, "rain", tmp_path / "dot.png", tmp_path / "dot.png", tmp_path)  # type: ignore[arg-type]


def test_files_of_a_page_go_with_it_but_not_those_of_another(tmp_path: Path) -> None:
    visits = Visits()
    for name in ("mine", "both", "theirs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.jpg").touch()
    visits.keep("me", tmp_path / "mine")
    visits.keep("me", tmp_path / "both/a.jpg")
    visits.keep("they", tmp_path / "both/a.jpg")
    visits.keep("they", tmp_path / "theirs")
    visits.end("me")
    assert {path.name for path in tmp_path.iterdir()} == {"both", "theirs"}
    assert not visits.has("me", tmp_path / "mine") and visits.has("they", tmp_path / "both/a.jpg")
    visits.end("they")
    visits.end("a page that kept nothing")
    assert not [*tmp_path.iterdir()]


def test_without_gradio_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"^the page needs Gradio; pip install 'm3snet\[app\]'$"):
        main([])


# The page itself, without a browser


class Visit:
    """What Gradio says of the page that asks."""

    session_hash = "visit"


@pytest.fixture(scope="module")
def page(restorer: Restorer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    pytest.importorskip("gradio")
    folder = tmp_path_factory.mktemp("page")
    (folder / "cache").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder / "cache"))
        page = app.page_of({"rain": restorer, "blur": restorer}, folder / "cache", folder / "samples")
        page.cache = folder / "cache"
        yield page


def function(page: Any, name: str) -> Any:
    """The function of that name behind the page."""
    return next(fn.fn for fn in page.fns.values() if fn.fn and fn.fn.__name__ == name)


def upload(page: Any, name: str, content: bytes) -> str:
    """A file where Gradio lays uploads."""
    path = page.cache / ("0" * 64) / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return str(path)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("notes.png", "notes.png: not an image, or one of an unknown format"),
        ("bomb.png", "bomb.png: 16000 x 16000 pixels are more than the limit of 250,000,000"),
        ("<b>.png", "&lt;b&gt;.png: the file is empty (0 bytes)"),
    ],
)
def test_errors_name_the_upload_but_no_path(page: Any, tmp_path: Path, name: str, said: str) -> None:
    import gradio

    Image.new("1", (16_000, 16_000)).save(tmp_path / "bomb.png")  # some kilobytes
    contents = {"notes.png": b"Dear diary", "bomb.png": (tmp_path / "bomb.png").read_bytes(), "<b>.png": b""}
    photo = upload(page, name, contents[name])
    for call in (
        lambda: function(page, "on_photo")(photo, Visit),
        lambda: function(page, "on_restore")(photo, "rain", None, Visit, lambda *_, **__: None),
    ):
        with pytest.raises(gradio.Error) as error:
            call()
        assert error.value.message.startswith(said)
        assert "/" not in error.value.message.replace("&lt;/b", "")


def test_closing_the_page_deletes_its_files(page: Any, photo: Path) -> None:
    path = upload(page, "street.jpg", photo.read_bytes())
    function(page, "on_photo")(path, Visit)
    *_, download, facts = function(page, "on_restore")(path, "rain", None, Visit, lambda *_, **__: None)
    assert download["value"].is_file() and "71 x 50 pixels" in facts
    function(page, "on_close")(Visit)
    assert not Path(path).exists() and not download["value"].exists()


def test_closing_the_page_stops_its_work(page: Any, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gradio

    def close(*_: object, **__: object) -> None:
        function(page, "on_close")(Visit)

    path = upload(page, "street.jpg", photo.read_bytes())
    before = {*page.cache.rglob("*.jpg")}
    with pytest.raises(gradio.Error, match="The page was closed"):
        function(page, "on_restore")(path, "rain", None, Visit, close)
    assert {*page.cache.rglob("*.jpg")} == before


@pytest.mark.parametrize("address", ["https://example.com/a.jpg", "http://127.0.0.1/a.jpg"])
def test_what_lies_at_an_address_is_not_fetched(page: Any, address: str) -> None:
    import asyncio

    import gradio

    files = [block for block in page.blocks.values() if isinstance(block, gradio.File)]
    assert len(files) == 2
    for file in files:
        with pytest.raises(gradio.Error, match="found an address"):
            asyncio.run(file.async_move_resource_to_block_cache(address))
