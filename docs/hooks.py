"""What MkDocs is told before it builds the site: where the pages lie, and where the package is.

The site has the folders of the repository. A link between two pages, in docs/ or elsewhere, so serves GitHub and the
site as it stands.
"""
from __future__ import annotations

import html
import re
from pathlib import Path
from tempfile import TemporaryDirectory

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.+?)\\[)\]]</\1>', re.DOTALL)
ROOMS = ("docs", "Deraining", "Deblurring", "pretrained")  # that hold pages, beside README.md
_package = TemporaryDirectory(prefix="m3snet-docs-")  # holds a folder m3snet, whatever this one is called


@event_priority(100)  # before mkdocstrings reads it
def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Show mkdocstrings the package under its name. Links to its parts: not to all that lies here, such as .venv."""
    package = Path(_package.name, "m3snet")
    package.mkdir(exist_ok=True)
    for part in (*ROOT.glob("*.py"), *(file.parent for file in ROOT.glob("*/__init__.py")), ROOT / "tools"):
        if not (package / part.name).exists():
            (package / part.name).symlink_to(part)
    config.plugins["mkdocstrings"].config["handlers"]["python"]["paths"] = [_package.name]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The site's files: the theme's, all pages, and what they link to or show."""
    for file in (*files.documentation_pages(), *files.media_files()):
        if file.abs_src_path and Path(file.abs_src_path).is_relative_to(ROOT / "docs"):
            files.remove(file)
    pages = [ROOT / "README.md", *(page for room in ROOMS for page in (ROOT / room).rglob("*.md"))]
    style = ROOT / "docs/site.css"
    for path in sorted({style, *pages, *(file for page in pages for file in linked(page))}):
        files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


def on_page_content(content: str, **_: object) -> str:
    """Formulas as MathML, which browsers draw by themselves."""
    return FORMULA.sub(
        lambda found: convert(html.unescape(found[2]), display="block" if found[1] == "div" else "inline"), content
    )


def linked(page: Path) -> list[Path]:
    """The files of the repository that a page links to or shows."""
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    paths = ((page.parent / link).resolve() for link in links if "://" not in link)
    return [path for path in paths if path.is_file() and path.is_relative_to(ROOT)]
