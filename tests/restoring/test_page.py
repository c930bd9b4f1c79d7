"""The web page as visitors see it: `python app.py`, and headless Chromium driven through Selenium."""
from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from signal import SIGTERM
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import urlopen

import pytest
from PIL import Image
from skimage import data

from m3snet import restore
from m3snet.fig.draw_app import (
    APP,
    LAPTOP,
    PATIENCE,
    TELEPHONE,
    browse,
    find_browser,
    is_restored,
    samples,
    serve,
    wait,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not find_browser(), reason="needs Chromium and chromedriver"),
    pytest.mark.skipif(not find_spec("selenium") or not find_spec("gradio"), reason="needs gradio and selenium"),
]


class Server(NamedTuple):
    """app.py as it runs, and its folder for temporary files."""

    address: str
    process: subprocess.Popen[str]
    temporary: Path
    connections: Path  # a line for each: where to

    def photographs(self) -> set[str]:
        """Names of the files that visitors have there."""
        return {path.name for path in self.temporary.glob("*/page/**/*.jpg")}


# Python runs it first, and it notes where the program connects to.
LISTENER = """
import sys

def listen(event, arguments):
    if event == "socket.getaddrinfo" or event == "socket.connect" and isinstance(arguments[1], tuple):
        with open(__file__ + ".log", "a") as file:
            print(arguments[0] if event == "socket.getaddrinfo" else arguments[1][0], file=file)

sys.addaudithook(listen)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    temporary, listener = tmp_path_factory.mktemp("temporary"), tmp_path_factory.mktemp("listener") / "sitecustomize.py"
    listener.write_text(LISTENER)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(listener.parent), prepend=os.pathsep)
        with serve(temporary) as (address, process):
            yield Server(address, process, temporary, Path(f"{listener}.log"))


@pytest.fixture
def visit(server: Server, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Opens the page in a browser of its own, in a window of some size."""
    with ExitStack() as stack:
        yield lambda size=LAPTOP: stack.enter_context(browse(server.address, size, tmp_path / "downloads"))


def find(driver: Any, selector: str) -> list[Any]:
    return driver.find_elements("css selector", selector)


BUTTON = "[...document.querySelectorAll('button, label')].find(found => found.innerText.trim() === arguments[0])"


def press(driver: Any, text: str) -> None:
    """Scripts do it at once: the page may replace an element that was found."""
    driver.execute_script(f"{BUTTON}.click()", text)


def text_of(driver: Any) -> str:
    return driver.execute_script("return document.body.innerText")


def told(driver: Any) -> str:
    """The errors that are shown."""
    script = "return [...document.querySelectorAll('[data-testid=toast-text]')].map(found => found.innerText).join()"
    return driver.execute_script(script)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "my street.jpg"
    exif = Image.Exif()
    exif[0x0110] = "Camera 7"
    Image.fromarray(data.astronaut()[:200, 100:400]).save(path, quality=91, exif=exif)
    return path


def test_a_photograph_is_restored_and_downloaded(visit: Callable[..., Any], photo: Path, tmp_path: Path) -> None:
    driver = visit()
    find(driver, "input[type=file]")[0].send_keys(str(photo))
    wait(lambda: "Your photograph" in text_of(driver) and photo.stem in text_of(driver))
    press(driver, "Motion blur")
    press(driver, "Restore")
    wait(lambda: is_restored(driver))
    assert "300 x 200 pixels" in text_of(driver)
    press(driver, "Download")
    download = tmp_path / "downloads/my street_sharp.jpg"
    wait(download.exists)
    restore.main(["blur", str(photo), "-o", str(tmp_path / "expected.jpg")])
    assert download.read_bytes() == (tmp_path / "expected.jpg").read_bytes()


def test_the_slider_moves_from_before_to_after(visit: Callable[..., Any]) -> None:
    from selenium.webdriver import ActionChains

    def hidden() -> float:
        """How much of the restored photograph the one before covers, in percent; -1: it is not there yet."""
        script = """
            const [before, after] = document.querySelectorAll("[data-testid=imageslider-image]");
            return before?.naturalWidth && after?.naturalWidth ? after.style.clipPath : "";
        """
        return float((re.findall(r"[\d.]+(?=%)", driver.execute_script(script)) or [-1])[0])

    def moves(pixels: int) -> bool:
        before = hidden()
        ActionChains(driver).drag_and_drop_by_offset(find(driver, "[data-testid=slider]")[0], pixels, 0).perform()
        return (hidden() - before) * pixels > 1500

    driver = visit()
    wait(lambda: hidden() == 50)
    wait(lambda: moves(-150))
    wait(lambda: moves(300))


def test_nothing_is_asked_of_another_computer(visit: Callable[..., Any], server: Server) -> None:
    driver = visit()
    samples(driver)[0].click()
    wait(lambda: is_restored(driver))
    events = (json.loads(entry["message"])["message"] for entry in driver.get_log("performance"))
    asked = {e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"}
    assert any(url.startswith(f"{server.address}gradio_api") for url in asked)
    assert not [url for url in asked if not url.startswith((server.address, "data:", "blob:"))]
    assert not [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]
    assert {*server.connections.read_text().split()} <= {"127.0.0.1", "localhost"}  # Gradio asks its own page


@pytest.mark.parametrize("size", [LAPTOP, TELEPHONE])
def test_a_sample_is_restored_and_scored(visit: Callable[..., Any], size: tuple[int, int]) -> None:
    driver = visit(size)
    press(driver, "Motion blur")
    samples(driver)[1].click()
    wait(lambda: is_restored(driver) and "451 x 300 pixels" in text_of(driver))
    assert "PSNR" in text_of(driver) and "SSIM" in text_of(driver)
    assert find(driver, "input[value=rain]")[0].is_selected()
    assert driver.execute_script("return document.documentElement.scrollWidth") <= size[0]
    # On a telephone the page has scrolled to the result.
    bottom = "return document.querySelector('#stage').getBoundingClientRect().bottom"
    wait(lambda: driver.execute_script(bottom) <= size[1])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("notes.png", "notes.png: not an image, or one of an unknown format"),
        ("bomb.png", "bomb.png: 8000 x 7000 pixels are more than the limit of 50,000,000"),
    ],
)
def test_what_is_no_photograph_is_refused_in_words(
    visit: Callable[..., Any], tmp_path: Path, name: str, said: str
) -> None:
    (tmp_path / "notes.png").write_text("Dear diary")
    Image.new("1", (8000, 7000)).save(tmp_path / "bomb.png")  # some kilobytes
    driver = visit()
    find(driver, "input[type=file]")[0].send_keys(str(tmp_path / name))
    assert wait(lambda: told(driver)).startswith(said)
    assert "/" not in told(driver)
    wait(lambda: "Drop File Here" in text_of(driver))  # for another one


def test_twenty_visitors_at_once(visit: Callable[..., Any], server: Server) -> None:
    driver = visit()
    visitors = [driver.current_window_handle]
    for _ in range(19):
        profile = driver.browser.create_user_context()  # a browser opens few connections for all its tabs
        visitors.append(driver.browsing_context.create(type="tab", user_context=profile))
        driver.switch_to.window(visitors[-1])
        driver.get(server.address)
    for visitor in visitors:
        driver.switch_to.window(visitor)
        wait(lambda: samples(driver))[1].click()
    positions, waiting = set(), set(visitors)
    end = time.monotonic() + 2 * PATIENCE
    while waiting and time.monotonic() < end:
        for visitor in list(waiting):
            driver.switch_to.window(visitor)
            positions |= {word for word in text_of(driver).split() if "/" in word}
            if is_restored(driver):
                assert "451 x 300 pixels" in text_of(driver)
                waiting.remove(visitor)
    assert not waiting
    assert len(positions) > 5


def test_files_go_with_the_page(visit: Callable[..., Any], server: Server, photo: Path) -> None:
    driver = visit()
    find(driver, "input[type=file]")[0].send_keys(str(photo))
    wait(lambda: "Your photograph" in text_of(driver))
    press(driver, "Restore")
    wait(lambda: is_restored(driver))
    assert {"my street.jpg", "my street_dry.jpg"} <= server.photographs()
    driver.get("about:blank")
    wait(lambda: not {"my street.jpg", "my street_dry.jpg"} & server.photographs())


def test_an_upload_that_is_too_large_is_refused(visit: Callable[..., Any], server: Server, tmp_path: Path) -> None:
    with (tmp_path / "large.bmp").open("wb") as file:
        file.truncate(110_000_000)
    driver = visit()
    find(driver, "input[type=file]")[0].send_keys(str(tmp_path / "large.bmp"))
    assert "size of 100.0 Mb" in wait(lambda: told(driver))


@pytest.mark.parametrize(
    ("what", "code"),
    [(APP, 403), ("/etc/passwd", 403), ("https://example.com", 404), ("http://[::1]", 404)],
)
def test_files_of_the_computer_and_addresses_are_not_served(server: Server, what: object, code: int) -> None:
    with pytest.raises(HTTPError) as error:
        urlopen(f"{server.address}gradio_api/file={quote(str(what))}", timeout=PATIENCE)
    assert error.value.code == code


def test_a_port_that_is_in_use_is_named(server: Server) -> None:
    port = server.address.rstrip("/").rpartition(":")[2]
    done = subprocess.run([sys.executable, APP, "--port", port], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"error: --host 127.0.0.1 --port {port}: in use, or no address of this computer; choose another"
    )


def test_a_stopped_program_leaves_nothing(tmp_path: Path) -> None:
    with serve(tmp_path) as (address, process):
        assert urlopen(address, timeout=PATIENCE).status == 200
        process.terminate()
        assert process.wait(PATIENCE) == 128 + SIGTERM
    assert not [*tmp_path.iterdir()]
