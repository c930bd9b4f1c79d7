"""A web page that removes rain or motion blur from photographs: `python app.py`, then open the address it prints."""
# Without postponed annotations: Gradio reads those of the functions that it calls, and is imported late.
import argparse
import html
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from m3snet.Deblurring.dataset import TASK as DEBLURRING
from m3snet.Deraining.dataset import TASK as DERAINING
from m3snet.utils.cli import UserError, run_program
from m3snet.utils.data.pairs import Pair, check_sizes
from m3snet.utils.data.samples import sample_pairs
from m3snet.utils.images import (
    IMAGE_SUFFIXES,
    Photograph,
    check_can_hold,
    look_at,
    read_photograph,
    write_image,
    write_photograph,
)
from m3snet.utils.restoring.backends import BACKENDS, PRECISIONS
from m3snet.utils.restoring.jobs import Found, plan
from m3snet.utils.restoring.photographs import restore_photograph
from m3snet.utils.restoring.restorer import Restorer
from m3snet.utils.restoring.tiling import Progress
from m3snet.utils.scoring.metrics import PROTOCOLS, SMALLEST_SIDE
from m3snet.utils.scoring.pictures import fit

TASKS = {task.degradation.name: task for task in (DERAINING, DEBLURRING)}
ENDINGS = {"rain": "dry", "blur": "sharp"}  # of the names of restored photographs
MEGABYTES = 100  # of an upload, at most
MAX_PIXELS = 50_000_000  # of an upload, where M3SNET_MAX_PIXELS does not say otherwise
SHOWN = 1600  # pixels, at most, of the longer side of what the page shows
HOUR = 3600  # seconds

INTRO = """# M3SNet
Removes rain or motion blur from a photograph. Rain becomes much fainter. Edges become crisper, but long blur stays."""
NOTES = f"""JPEG, PNG, TIFF, WebP, AVIF, HEIC and others, up to {MEGABYTES} MB. The download keeps the size, format and
metadata of the photograph. Photographs stay on the computer that runs this page, and are deleted when you close it."""
CSS = """
.gradio-container { max-width: 1200px !important; margin: 0 auto !important; }
.intro h1 { margin-bottom: 0; }
.intro p, .notes p, .facts p { color: var(--body-text-color-subdued); }
.notes p { font-size: var(--text-sm); }
fieldset .wrap label { flex: 1; }
.gallery:has(button) { display: grid; grid-template-columns: repeat(3, 1fr); gap: 8px; }
.gallery button :is(span, div, img) { display: block; width: 100%; max-width: none; height: 80px; }
.gallery button img { object-fit: cover; }
"""
# On a telephone the result is below the samples.
SCROLL = """(...inputs) => {
    document.querySelector("#stage").scrollIntoView({block: "nearest", behavior: "smooth"});
    return inputs;
}"""


class Restored(NamedTuple):
    """The files of a restored photograph, and what the page says of it."""

    file: Path  # of full size, in the photograph's format
    before: Path
    after: Path
    facts: str


def restore(
    restorer: Restorer, task: str, photo: Path, target: Path | None, folder: Path, progress: Progress | None = None
) -> Restored:
    """Restore a photograph into a folder, and score it where there is a target.

    Raises:
        UserError, OSError: a file cannot be read, the two do not fit, or the result cannot be written.
    """
    photograph = read_photograph(photo)
    height, width = photograph.pixels.shape[:2]
    (job,) = plan(Found({photo: Path(f"{photo.stem}_{ENDINGS[task]}{photo.suffix}")}), folder)
    lost = [*photograph.notes, *check_can_hold(job.out, photograph)]
    truth = read_photograph(target).rgb() if target else None
    if target and truth is not None:
        check_sizes(Pair(photo.stem, photo, target), photograph.pixels, truth)
        if min(height, width) < SMALLEST_SIDE:
            raise UserError(f"{photo}: {width} x {height} pixels; scores need {SMALLEST_SIDE} a side")
    restored = restore_photograph(restorer, photograph, progress)
    write_photograph(job.out, restored)
    facts = [f"{width} x {height} pixels"]
    if truth is not None:  # the scores that test.py gives
        before, after = (PROTOCOLS[TASKS[task].protocol](image.rgb(), truth) for image in (photograph, restored))
        facts.append(
            f"**PSNR** {before['psnr']:.2f} → {after['psnr']:.2f} dB · "
            f"**SSIM** {before['ssim']:.4f} → {after['ssim']:.4f}"
        )
    facts += [", ".join(lost)] * bool(lost)
    shown = show(photograph, folder / "before.jpg"), show(restored, folder / "after.jpg")
    return Restored(job.out, *shown, "  \n".join(facts))


def show(photograph: Photograph, path: Path) -> Path:
    """Write a photograph as the page shows it: in sRGB, and not too large."""
    write_image(path, fit(photograph.rgb(), SHOWN))
    return path


class Visits:
    """What each open page has on disk, deleted when the page is closed."""

    def __init__(self) -> None:
        self._files: dict[str, set[Path]] = {}
        self._lock = threading.Lock()

    def keep(self, visit: str, path: Path) -> Path:
        """Remember a file or folder of a visit."""
        with self._lock:
            self._files.setdefault(visit, set()).add(path)
        return path

    def has(self, visit: str, path: Path) -> bool:
        """Whether the page that a file belongs to is still open."""
        with self._lock:
            return path in self._files.get(visit, ())

    def end(self, visit: str) -> None:
        """Delete what no other page has: equal uploads are one file."""
        with self._lock:
            mine = self._files.pop(visit, set())
            for path in mine.difference(*self._files.values()):
                shutil.rmtree(path if path.is_dir() else path.parent, ignore_errors=True)


class NoErrands:
    """Keeps Gradio from fetching for a visitor what lies at an address (ASGI middleware)."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if re.search(r"/file[=/]https?:", scope.get("path", "")):
            await send({"type": "http.response.start", "status": 404, "headers": []})
            await send({"type": "http.response.body"})
        else:
            await self._app(scope, receive, send)


def page_of(restorers: dict[str, Restorer], cache: Path, samples: Path) -> Any:
    """The page, as Gradio's Blocks. Uploads and results are written to `cache`, pairs of samples to `samples`."""
    import gradio as gr

    visits = Visits()
    pairs = {
        name: [
            (str(path), name, str(path.parents[1] / "target" / path.name))
            for path in sorted((sample_pairs(task.degradation, samples / name) / "input").iterdir())
        ]
        for name, task in TASKS.items()
    }
    first, name, truth = pairs["rain"][0]
    sample = restore(restorers[name], name, Path(first), Path(truth), samples / "restored")

    @contextmanager
    def told() -> Iterator[None]:
        """Errors that a person can put right, on the page, with the names of files but not their places."""
        try:
            yield
        except (UserError, OSError) as error:
            text = (error.strerror if isinstance(error, OSError) else None) or str(error)
            text = re.sub(rf"{re.escape(str(cache))}/[^/]+/", "", text)
            raise gr.Error(html.escape(text), print_exception=False) from error

    def folder_of(visit: gr.Request) -> Path:
        return visits.keep(str(visit.session_hash), Path(tempfile.mkdtemp(dir=cache)))

    def on_photo(photo: str, visit: gr.Request) -> list[Any]:
        visits.keep(str(visit.session_hash), Path(photo))
        with told():
            small = show(read_photograph(photo), folder_of(visit) / "before.jpg")
        return [gr.update(value=small, visible=True), gr.update(visible=False), gr.update(interactive=False), ""]

    def on_target(target: str, visit: gr.Request) -> None:
        visits.keep(str(visit.session_hash), Path(target))
        with told():
            look_at(target)

    def on_restore(
        photo: str | None,
        task: str,
        target: str | None,
        visit: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008, Gradio looks for it there
    ) -> list[Any]:
        if photo is None:
            raise gr.Error("Choose a photograph first.", print_exception=False)
        folder = folder_of(visit)

        def tell(done: int, count: int) -> None:
            if not visits.has(str(visit.session_hash), folder):
                raise gr.Error("The page was closed.", print_exception=False)
            progress((done, count), desc="Restoring", unit="tiles")

        progress(0, desc="Restoring")
        with told():
            done = restore(restorers[task], task, Path(photo), Path(target) if target else None, folder, tell)
        pair = gr.update(value=(done.before, done.after), visible=True)
        return [gr.update(visible=False), pair, gr.update(value=done.file, interactive=True), done.facts]

    def on_close(visit: gr.Request) -> None:
        visits.end(str(visit.session_hash))

    def upload(label: str, height: int) -> Any:
        made = gr.File(label=label, height=height, file_types=sorted(IMAGE_SUFFIXES))
        take = made.async_move_resource_to_block_cache

        async def take_file(path: str) -> str:
            if re.match("https?:", path):  # Gradio would fetch it
                raise gr.Error("Expected a file, found an address.", print_exception=False)
            return await take(path)

        made.async_move_resource_to_block_cache = take_file
        return made

    static = {"interactive": False, "buttons": ["fullscreen"]}
    with gr.Blocks(title="M3SNet", analytics_enabled=False, delete_cache=(HOUR, 24 * HOUR)) as page:
        gr.Markdown(INTRO, elem_classes="intro")
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                photo = upload("Photograph", 170)
                task = gr.Radio([("Rain", "rain"), ("Motion blur", "blur")], value="rain", label="Remove")
                with gr.Accordion("Score against a target", open=False):
                    target = upload("The same photograph without rain or blur", 140)
                button = gr.Button("Restore", variant="primary", size="lg")
                galleries = {
                    name: gr.Dataset(
                        components=[gr.Image(visible=False)],
                        samples=[[row[0]] for row in rows],
                        type="index",
                        label=f"Samples: {'motion ' * (name == 'blur')}{name}",
                    )
                    for name, rows in pairs.items()
                }
            with gr.Column(scale=4, min_width=320, elem_id="stage"):
                preview = gr.Image(label="Your photograph", visible=False, height=560, **static)
                slider = gr.ImageSlider(
                    (sample.before, sample.after), label="Before and after", max_height=560, **static
                )
                with gr.Row():
                    with gr.Column(min_width=280):
                        facts = gr.Markdown(f"A sample. {sample.facts}", elem_classes="facts")
                    download = gr.DownloadButton("Download", interactive=False, min_width=240)
        gr.Markdown(NOTES, elem_classes="notes")
        inputs, outputs = [photo, task, target], [preview, slider, download, facts]
        work = {"fn": on_restore, "inputs": inputs, "outputs": outputs, "show_progress_on": outputs[:2], "js": SCROLL}
        photo.upload(on_photo, photo, outputs, show_progress="hidden").failure(lambda: None, None, photo)
        target.upload(on_target, target, show_progress="hidden").failure(lambda: None, None, target)
        button.click(**work)
        for name, gallery in galleries.items():
            gallery.click(pairs[name].__getitem__, gallery, inputs, show_progress="hidden").then(**work)
        page.unload(on_close)
    return page


def theme() -> Any:
    """Colours with enough contrast, and a font that Gradio brings along."""
    import gradio as gr

    # Its files of weight 600 have few letters.
    font = [gr.themes.LocalFont("IBM Plex Sans", weights=(400, 700)), "system-ui", "sans-serif"]
    return gr.themes.Default(primary_hue="blue", neutral_hue="slate", font=font).set(
        body_text_color_subdued="*neutral_500",
        body_text_color_subdued_dark="*neutral_400",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Serve the page until the program is stopped.

    Raises:
        UserError, OSError: Gradio, weights, or the device asked for are not there; or the port is taken.
    """
    args = parse(argv)
    if find_spec("gradio") is None:
        raise UserError("the page needs Gradio; pip install 'm3snet[app]'")
    os.environ.setdefault("M3SNET_MAX_PIXELS", str(MAX_PIXELS))
    restorers = {name: Restorer(TASKS[name].weights, args.device, args.precision, args.backend) for name in TASKS}
    with tempfile.TemporaryDirectory(prefix="m3snet-") as folder:
        cache = Path(folder).resolve() / "page"
        cache.mkdir()
        os.environ["GRADIO_TEMP_DIR"] = str(cache)
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        page = page_of(restorers, cache, Path(folder) / "samples").queue(default_concurrency_limit=1)
        try:
            page.launch(
                server_name=args.host,
                server_port=args.port,
                share=False,
                ssr_mode=False,
                quiet=True,
                prevent_thread_lock=True,
                max_file_size=MEGABYTES * 2**20,
                run_history=False,
                footer_links=[],
                app_kwargs={"middleware": [(NoErrands, (), {})]},
                css=CSS,
                theme=theme(),
            )
        except OSError as error:
            taken = f"--host {args.host} --port {args.port}: in use, or no address of this computer; choose another"
            raise UserError(taken) from error
        print(*restorers.values(), f"the page: {page.local_url}", sep="\n", flush=True)
        try:
            threading.Event().wait()
        finally:
            page.close(verbose=False)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="A web page that removes rain or motion blur from photographs.")
    parser.add_argument("--host", metavar="ADDRESS", default="127.0.0.1", help="0.0.0.0: for other computers too")
    parser.add_argument("--port", type=int, default=7860, help="default: 7860")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps (default: the fastest that is there)")
    parser.add_argument("--backend", choices=["auto", *BACKENDS], default="auto", help="default: the fastest")
    parser.add_argument("--precision", choices=["auto", *PRECISIONS], default="auto", help="as in restore.py")
    return parser.parse_args(argv)


def run() -> None:
    """The command m3snet-app."""
    run_program(main)


if __name__ == "__main__":
    run()
