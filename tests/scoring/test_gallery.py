"""The HTML page: whole in one file, every picture and score in it, nothing in a name can break it."""
from __future__ import annotations

import base64
import json
import math
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from m3snet.utils.scoring.gallery import Picture, write_gallery


def picture(name: str, psnr: float, before: float = 20.0, size: tuple[int, int] = (30, 40)) -> Picture:
    images = [np.full((*size, 3), level, np.uint8) for level in (50, 100, 150)]
    images[1][..., 0] = 200  # red, so that swapped colours show
    scores = {"psnr": psnr, "ssim": 0.9, "input_psnr": before, "input_ssim": 0.5}
    return Picture("Set", name, images[0], images[1], images[2], scores)


def entries(page: str) -> list[dict[str, Any]]:
    return json.loads(re.search(r'type="application/json">(.*?)</script>', page, re.DOTALL)[1])


def test_pictures_and_scores_are_in_the_page(tmp_path: Path) -> None:
    write_gallery([picture("a", 25.123), picture("b", 19.0, size=(60, 1920))], tmp_path / "new/page.html", "A <title>")
    page = (tmp_path / "new/page.html").read_text()
    assert not re.search(r"%[A-Z]+%", page)
    assert "<title>A &lt;title&gt;</title>" in page
    assert not re.search(r"""(src|href)=["']?http""", page)
    first, second = entries(page)
    assert (first["set"], first["name"], first["psnr"], first["ssim"]) == ("Set", "a", "25.12", "0.9000")
    assert (first["gain"], second["gain"]) == ("5.12", "-1.00")
    after = base64.b64decode(first["after"].removeprefix("data:image/jpeg;base64,"))
    colour = cv2.imdecode(np.frombuffer(after, np.uint8), cv2.IMREAD_COLOR).mean((0, 1))[::-1]
    np.testing.assert_allclose(colour, (200, 100, 100), atol=3)
    wide = base64.b64decode(second["target"].split(",")[1])
    assert cv2.imdecode(np.frombuffer(wide, np.uint8), cv2.IMREAD_COLOR).shape == (30, 960, 3)


def test_scores_stand_above_the_pictures_and_their_origin_below(tmp_path: Path) -> None:
    write_gallery([picture("a", 25)], tmp_path / "page.html", "t", "Set <PSNR>", ["code: 1.0", "%DATA%"])
    page = (tmp_path / "page.html").read_text()
    places = [page.index(text) for text in ("Set &lt;PSNR&gt;", "<main>", "code: 1.0\n%DATA%")]
    assert places == sorted(places)
    assert len(entries(page)) == 1


def test_names_and_infinite_scores_do_not_break_the_page(tmp_path: Path) -> None:
    pictures = [
        picture("</script><b>", math.inf),
        picture("Infinity", 20.0, math.inf),
        picture("%TITLE%", math.inf, math.inf),
    ]
    write_gallery(pictures, tmp_path / "page.html", "t")
    text = (tmp_path / "page.html").read_text()
    first, second, third = entries(text)
    assert [entry["name"] for entry in (first, second, third)] == [picture.name for picture in pictures]
    assert (first["psnr"], first["gain"]) == ("Infinity", "Infinity")
    assert (second["input_psnr"], second["gain"]) == ("Infinity", "-Infinity")
    assert third["gain"] == "0.00"


def test_a_page_without_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one picture"):
        write_gallery([], tmp_path / "page.html", "t")
