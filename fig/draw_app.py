"""Photograph the web page: `python fig/draw_app.py -o fig/app.jpg`.

It starts app.py, restores a sample, and shows the page on a laptop and a telephone. It needs Chromium and chromedriver
(Debian: chromium, chromium-driver), Gradio and Selenium (pip install -e '.[test]').
"""
from __future__ import annotations

import argparse
import io
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from m3snet.utils.cli import UserError, run_program
from m3snet.utils.images import write_image

APP = Path(__file__).resolve().parents[1] / "app.py"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
LAPTOP, TELEPHONE = (1280, 800), (390, 844)
PATIENCE = 300  # seconds; nothing takes so long on a machine that has little else to do
GAP = 24  # pixels, between and around the two
PAPER = (226, 232, 240)


@contextmanager
def serve(temporary: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run app.py, with a folder for its temporary files; its address and process.

    Raises:
        UserError: it ends instead of serving; what it said has been printed.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}/"
    command = [sys.executable, str(APP), "--port", str(port)]
    environ = {**os.environ, "TMPDIR": str(temporary)}
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            if not any(address in line for line in process.stdout):
                raise UserError("app.py did not start")
            yield address, process
        finally:
            process.terminate()
            process.wait(PATIENCE)


def find_browser() -> tuple[str, str] | None:
    """Chromium and its driver, where both are installed."""
    browser, driver = next(filter(None, map(shutil.which, BROWSERS)), None), shutil.which("chromedriver")
    return (browser, driver) if browser and driver else None


@contextmanager
def browse(address: str, size: tuple[int, int], downloads: Path) -> Iterator[Any]:
    """A page in headless Chromium, as Selenium's driver, in a window of width x height pixels.

    Raises:
        UserError: there is no Chromium.
    """
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    found = find_browser()
    if found is None:
        raise UserError("needs Chromium and chromedriver; on Debian: apt install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = found[0]
    options.enable_bidi = True
    for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(word)
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options, Service(found[1]))
    try:
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size == TELEPHONE}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        driver.get(address)
        wait(lambda: samples(driver))
        yield driver
    finally:
        driver.quit()


def wait(ready: Callable[[], Any]) -> Any:
    """What `ready` gives, as soon as that is true.

    Raises:
        TimeoutError: it does not become true.
    """
    end = time.monotonic() + PATIENCE
    while not (found := ready()):
        if time.monotonic() > end:
            raise TimeoutError(f"the page does not change for {PATIENCE} seconds")
        time.sleep(0.1)
    return found


def samples(driver: Any) -> list[Any]:
    """The buttons with the sample photographs."""
    return driver.find_elements("css selector", "button.gallery-item")


def is_restored(driver: Any) -> bool:
    """Whether there is something to download."""
    buttons = "[...document.querySelectorAll('button')]"
    return driver.execute_script(f"return {buttons}.some(one => one.innerText === 'Download' && !one.disabled)")


def main(argv: Sequence[str] | None = None) -> None:
    """Draw the picture that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", metavar="FILE", type=Path, required=True)
    arguments = parser.parse_args(argv)
    views = []
    with tempfile.TemporaryDirectory() as folder, serve(Path(folder)) as (address, _):
        for size in (LAPTOP, TELEPHONE):
            with browse(address, size, Path(folder)) as driver:
                samples(driver)[0].click()
                wait(lambda driver=driver: is_restored(driver))  # type: ignore[misc]
                time.sleep(2)  # what moves comes to rest
                views.append(np.asarray(Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")))
    write_image(arguments.out, side_by_side(views))
    print(arguments.out)


def side_by_side(views: Sequence[np.ndarray]) -> np.ndarray:
    """H x W x 3 uint8 pictures beside each other, with paper between and around them; their middles at one height."""
    height = max(len(view) for view in views) + 2 * GAP
    sheet = np.full((height, sum(view.shape[1] + GAP for view in views) + GAP, 3), PAPER, np.uint8)
    left = GAP
    for view in views:
        top = (height - len(view)) // 2
        sheet[top : top + len(view), left : left + view.shape[1]] = view
        left += view.shape[1] + GAP
    return sheet


if __name__ == "__main__":
    run_program(main)
