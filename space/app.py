"""The demo: drag a rainy photograph into a page and see the rain go. It only calls the package.

    python space/app.py [--checkpoint NAME_OR_FOLDER] [--host 127.0.0.1] [--port 7860]

Starts without a network: the checkpoint is bundled with the package. `UNIRAIN_CHECKPOINT` names another one.
"""

import argparse
import getpass
import logging
import math
import os
import secrets
import shutil
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from html import escape
from pathlib import Path


os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
# A cache for each server: Gradio deletes what it knows of, and after a kill it knows nothing. They lie in a folder for each user:
# what another one made cannot be written to.
os.environ.setdefault(
    "GRADIO_TEMP_DIR",
    os.path.join(
        tempfile.gettempdir(), f"unirain-space-{getattr(os, 'getuid', getpass.getuser)()}", secrets.token_hex(8)
    ),
)
if os.environ.get("SPACES_ZERO_GPU"):  # ordinary Spaces have `spaces` too, but no GPU to lend
    import spaces  # ZeroGPU lends a GPU to each call; it must be imported before torch
else:
    spaces = None

import gradio as gr
import numpy as np
from gradio.events import Dependency
from PIL import Image

from modeling_unirain import load_derainer
from modeling_unirain.images import EXTENSIONS, ImageError, Picture, open_image, save_image
from modeling_unirain.metrics import compare_pictures
from modeling_unirain.pipeline_unirain import of_some
from modeling_unirain.rain import MIN_SIDE, render_rain
from modeling_unirain.types import RainType


logger = logging.getLogger(__name__)

HERE = Path(__file__).parent
EXAMPLES = next((folder for folder in (HERE / "examples", HERE.parent / "examples") if folder.is_dir()), HERE)
MAX_MEGAPIXELS = 24
MAX_FILE_SIZE = "32mb"
MAX_FILES = 20
BATCH_MEGAPIXELS = 36
"""What the pictures of a batch have together; those with which it would be more are left out."""
MAX_QUEUE = 20
"""So that on two CPU cores (0.22 megapixels a second) nobody waits for longer than uploads are kept, behind whole batches either."""
PREVIEW_SIDE = 2048
"""The slider shows at most this many pixels a side, without loss; the download always has all of them."""
RENDER_SIDE = 1024
"""Photographs for the rain renderer are scaled down to this side: it draws rain as it looks at that size."""
KEEP_SECONDS = 3600
HEARTBEAT_SECONDS = 60
"""How often a running server touches its cache. One that was not touched ten times over belongs to none."""
RESULTS = "unirain-"
"""What the names of the folders with results begin with."""
PROGRESS = gr.Progress()

TYPE_NAMES = {
    "Streaks, daytime (DRS)": RainType.DRS,
    "Drops on the lens, daytime (DRD)": RainType.DRD,
    "Streaks at night (NRS)": RainType.NRS,
    "Drops on the lens at night (NRD)": RainType.NRD,
}
EXAMPLE_NAMES = {"DRS": "Day, streaks", "DRD": "Day, drops", "NRS": "Night, streaks", "NRD": "Night, drops"}

INTRODUCTION = """# UniRain
Removes rain from a photograph, whether streaks or drops on the lens, by day or by night. One small network for all of
it; nobody tells it which rain it sees. Your pictures stay on this server and are deleted within two hours."""

LIMITS = f"""### What it cannot do
- It repairs what rain covers with what is probable there. **Do not read number plates, faces or text off the result as
  evidence**: under a large drop nothing of the scene is left to restore.
- Large drops near the edge, thick fog, snow, dirt on the lens and puddles on the ground stay, wholly or in part.
- Fine straight texture that looks like rain (wires, fences, fur, grass) can lose some of its contrast.
- The network is small enough for a laptop; larger ones restore more. It was trained mostly on rendered rain.
- Limits of this page: {MAX_MEGAPIXELS} megapixels and {MAX_FILE_SIZE.upper()} a picture, {MAX_FILES} pictures and
  {BATCH_MEGAPIXELS} megapixels at a time. The command line, `unirain derain`, takes more and larger ones.
"""

FIGURES_HEADER = f"""Measured in RGB against the photograph without rain, scaled to at most {RENDER_SIDE} pixels, at night darkened:

| | PSNR (dB) | SSIM |
| --- | --- | --- |"""

CSS = """
#examples .grid-wrap, #clean-examples .grid-wrap { overflow: visible; height: auto; max-height: none; }
.routing { display: flex; flex-wrap: wrap; gap: 12px 24px; overflow-x: auto; }
.routing text { fill: currentColor; font-size: 11px; }
.outer[role=slider]:focus-visible { outline: 3px solid var(--color-accent); }
@media (max-width: 640px) { .gradio-container .fillable { padding: 8px !important; } }
"""


@dataclass(frozen=True)
class Restored:
    """One derained file: both pictures, where the result lies, what the routers chose, and how long it took."""

    before: Picture
    after: Picture
    file: Path
    routes: list[list[float]]
    seconds: float

    @property
    def remark(self) -> str:
        """What to say after the time of an animation or a document of several pages."""
        return f"; only the first of its {self.before.others + 1} pictures" if self.before.others else ""


@dataclass(eq=False)
class Job:
    """What a visitor has running. Gradio lets go of it at Cancel, but its thread works on until it sees the mark."""

    work: Callable
    visitor: str
    cancelled: bool = False


class Cancelled(Exception):
    """The visitor pressed Cancel."""


class Demo:
    """The loaded network and everything the page calls: files in, what the components show out."""

    def __init__(self, checkpoint: str):
        self.derainer = load_derainer(checkpoint)
        self.jobs: set[Job] = set()
        self.shown: dict[str, str | None] = {}  # by visitor: the file to derain that their page shows
        # What runs on a lent GPU is another process: pictures go there and back, progress and Cancel do not.
        self.restore_on_lent_gpu = spaces.GPU(lambda picture: self.derainer.restore(picture)) if spaces else None

    def remove_rain(
        self, picture: Picture, on_progress: Callable[[int, int], None] | None
    ) -> tuple[Picture, list[list[float]]]:
        if self.restore_on_lent_gpu is not None:
            return self.restore_on_lent_gpu(picture)
        return self.derainer.restore(picture, on_progress)

    def restore(
        self,
        path: str | Path,
        on_progress: Callable[[int, int], None] | None = None,
        pixels_left: float = MAX_MEGAPIXELS * 1e6,
    ) -> Restored:
        """Derain one file as the command line does: in its own format and depth, with its alpha, EXIF and colour profile."""
        started = time.perf_counter()
        path = Path(path)
        picture = open_image(path, max_pixels=MAX_MEGAPIXELS * 1_000_000)
        if math.prod(picture.size) > pixels_left:
            raise ImageError(f"{path} is left out: with those before it, it is more than this page takes at a time.")
        after, routes = self.remove_rain(picture, on_progress)
        target = new_folder() / f"{path.stem}-derained{path.suffix}"
        save_image(after, target, picture.format)
        return Restored(picture, after, target, routes, time.perf_counter() - started)

    @contextmanager
    def watch(
        self, work: Callable, request: gr.Request, progress: gr.Progress
    ) -> Iterator[Callable[[int, int], None]]:
        """Give a job what it calls after every part of its work: that moves the progress bar, and stops it at Cancel."""
        job = Job(work, request.session_hash)

        def on_progress(done: int, total: int) -> None:
            progress(done / total, desc="Removing the rain")
            if job.cancelled:
                raise Cancelled

        self.jobs.add(job)
        try:
            yield on_progress
        finally:
            self.jobs.remove(job)

    def stop(self, work: Callable) -> Callable[[gr.Request], None]:
        """What the Cancel button beside `work` does: it stops the visitor's jobs there, but none begun later."""

        def cancel(request: gr.Request) -> None:
            for job in tuple(self.jobs):
                if (job.work, job.visitor) == (work, request.session_hash):
                    job.cancelled = True

        return cancel

    def is_shown(self, path: str, request: gr.Request) -> bool:
        """Whether the visitor's page still shows this file; one that nothing is known of, as after a lost connection, does."""
        return self.shown.get(request.session_hash, path) == path

    # One function an event

    def show(self, path: str | None, request: gr.Request):
        """Another file is chosen, or none: the result of the one before goes, and so does the work on it."""
        self.shown[request.session_hash] = path
        self.stop(self.derain_for_page)(request)
        return None, None, "", ""

    def leave(self, request: gr.Request) -> None:
        """The page was closed: nobody waits for its jobs."""
        self.shown.pop(request.session_hash, None)
        for job in tuple(self.jobs):
            if job.visitor == request.session_hash:
                job.cancelled = True

    def derain_for_page(self, path: str | None, request: gr.Request, progress=PROGRESS):
        if path is None:
            raise gr.Error("Choose a photograph first.", title="No photograph", print_exception=False)
        result = None
        with clear_errors(path), self.watch(self.derain_for_page, request, progress) as watch, suppress(Cancelled):
            if self.is_shown(path, request):  # not if another was chosen while this one waited
                result = self.restore(path, watch)
        if result is None or not self.is_shown(path, request):  # a lent GPU does not see that it is cancelled
            return gr.skip()
        height, width = result.before.size
        summary = (
            f"{width} × {height} pixels ({width * height / 1e6:.2g} megapixels) in {result.seconds:.1f} s "
            f"on the {self.derainer.device.type.upper()}, reading and writing the file included{result.remark}."
        )
        return (preview(result.before), preview(result.after)), str(result.file), summary, self.chart(result.routes)

    def derain_for_api(self, file: str | None) -> str:
        """Removes the rain from a picture (PNG, JPEG, WebP, TIFF or BMP). Returns it in its own format and size."""
        if file is None:
            raise gr.Error("Send a photograph.", title="No photograph", print_exception=False)
        with clear_errors(file):
            return str(self.restore(file).file)

    def rain_and_derain(self, path: str | None, kind: str, severity: float, seed: int | None, request: gr.Request, progress=PROGRESS):  # fmt: skip
        if path is None:
            raise gr.Error("Choose a photograph without rain first.", title="No photograph", print_exception=False)
        with clear_errors(path), self.watch(self.rain_and_derain, request, progress) as watch:
            photograph = open_image(path, max_pixels=MAX_MEGAPIXELS * 1_000_000)
            image = photograph.to_pil().convert("RGB")
            image.thumbnail((RENDER_SIDE, RENDER_SIDE), Image.Resampling.LANCZOS)
            if min(image.size) < MIN_SIDE:
                raise ImageError(f"{path} is too narrow for rain.")
            rendered = render_rain(np.asarray(image), TYPE_NAMES[kind], int(seed or 0), severity=severity)
            rainy = Picture(to_8_bit(rendered.rainy), icc_profile=photograph.rgb_icc_profile)
            clean = Picture(to_8_bit(rendered.clean))
            derained, routes = self.remove_rain(rainy, watch)
            folder = new_folder()
            save_image(rainy, folder / f"{Path(path).stem}-rain.png")
            save_image(derained, folder / f"{Path(path).stem}-derained.png")
        figures = [compare_pictures(picture.rgb, clean.rgb) for picture in (rainy, derained)]
        lines = [
            f"| {name} | {psnr:.2f} | {ssim:.4f} |"
            for name, (psnr, ssim) in zip(("With rain", "Rain removed"), figures, strict=True)
        ]
        table = "\n".join([FIGURES_HEADER, *lines])
        files = sorted(str(file) for file in folder.iterdir())
        return (rainy.to_pil(), derained.to_pil()), table, files, self.chart(routes)

    def derain_several(self, paths: list[str] | None, request: gr.Request, progress=PROGRESS) -> Iterator:
        """One after another; a file that cannot be read is reported and does not stop the others."""
        if not paths:
            raise gr.Error("Choose some photographs first.", title="No photographs", print_exception=False)
        if len(paths) > MAX_FILES:
            message = f"{len(paths)} files are more than the {MAX_FILES} this page takes at a time."
            raise gr.Error(message, title="Too many files", print_exception=False)
        rows, results, pixels = [], [], 0
        with self.watch(self.derain_several, request, progress) as watch:
            for number, path in enumerate(paths):
                progress((number, len(paths)), desc=Path(path).name, unit="files")
                try:
                    result = self.restore(path, of_some(watch, number, 1, len(paths)), BATCH_MEGAPIXELS * 1e6 - pixels)
                except Cancelled:
                    return  # what is done stays on the page
                except (ImageError, OSError) as error:
                    rows.append([Path(path).name, said_to_visitors(error, path)])
                else:
                    pixels += math.prod(result.before.size)
                    results.append(str(result.file))
                    rows.append([Path(path).name, f"done in {result.seconds:.1f} s{result.remark}"])
                yield rows, results
        if results:
            archive = new_folder() / "derained.zip"
            with zipfile.ZipFile(archive, "w") as bundle:  # pictures are compressed already
                for name, file in zip(distinct_names(results), results, strict=True):
                    bundle.write(file, name)
            yield rows, [str(archive), *results]

    def chart(self, routes: list[list[float]]) -> str:
        config = self.derainer.model.config
        return routing_chart(routes, list(config.expert_types), sum(config.encoder_depths))


def new_folder() -> Path:
    """A folder for results inside Gradio's cache: served from there without a copy."""
    cache = Path(os.environ["GRADIO_TEMP_DIR"])
    cache.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=RESULTS, dir=cache))


def delete_what_is_old(cache: Path, others: bool = True) -> None:
    """Gradio deletes what it has shown; this also results that nobody was shown, since Cancel was faster, and, with `others`,
    the caches of servers that were killed, uploads and all."""
    with suppress(OSError):
        cache.mkdir(parents=True, exist_ok=True)
        os.utime(cache)
    old = [(folder, KEEP_SECONDS) for folder in cache.glob(f"{RESULTS}*")]
    if others and cache.parent.name.startswith("unirain-space-"):  # not what somebody else set
        old += [(folder, 10 * HEARTBEAT_SECONDS) for folder in cache.parent.glob("*") if folder != cache]
    for folder, seconds in old:
        with suppress(OSError):  # another server may be deleting it
            if time.time() - folder.stat().st_mtime > seconds:
                shutil.rmtree(folder)


def keep_deleting(cache: Path) -> None:
    before = time.time()
    while True:
        # After the machine was suspended the other servers have not touched their caches either.
        delete_what_is_old(cache, others=time.time() - before < 2 * HEARTBEAT_SECONDS)
        before = time.time()
        time.sleep(HEARTBEAT_SECONDS)


def preview(picture: Picture) -> Image.Image:
    image = picture.to_pil()
    image.info.pop("exif", None)  # a preview needs no EXIF, but without the profile its colours are wrong
    image.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE), Image.Resampling.LANCZOS)
    return image


def to_8_bit(image: np.ndarray) -> np.ndarray:
    return np.rint(image * 255).astype(np.uint8)


def distinct_names(files: list[str]) -> list[str]:
    """File names for the archive; a name that comes again gets a number."""
    names: list[str] = []
    for file in map(Path, files):
        name, number = file.name, 2
        while name in names:
            name, number = f"{file.stem}-{number}{file.suffix}", number + 1
        names.append(name)
    return names


def said_to_visitors(error: Exception, path: str | Path) -> str:
    """The package's sentence with the file's name in place of where it lies on the server."""
    return str(error).replace(str(path), Path(path).name)


@contextmanager
def clear_errors(path: str | Path) -> Iterator[None]:
    """What goes wrong with a visitor's file becomes a message on the page and an `AppError` for a client."""
    try:
        yield
    except Cancelled:
        raise gr.Error("Cancelled.", title="Stopped", print_exception=False) from None
    except (ImageError, ValueError, OSError) as error:
        message = said_to_visitors(error, path)
        raise gr.Error(message, title="This file cannot be used", print_exception=False) from error


def routing_chart(routes: list[list[float]], experts: list[str], num_encoder_blocks: int) -> str:
    """How the network read the picture: a column a block, a row an expert, the darker the larger the expert's weight."""
    encoder, decoder = routes[:num_encoder_blocks], routes[num_encoder_blocks:]
    shares = [sum(weights) / len(encoder) for weights in zip(*encoder, strict=True)]
    counts = [sum(weight > 0 for weight in weights) for weights in zip(*decoder, strict=True)]
    blends = ", ".join(f"{name} {share:.0%}" for name, share in zip(experts, shares, strict=True))
    picks = ", ".join(f"{name} {count} of {len(decoder)}" for name, count in zip(experts, counts, strict=True))
    text = f"The encoder blends its experts ({blends} on average); the decoder runs the best in each block ({picks})."
    charts = block_chart("encoder (soft)", encoder, experts) + block_chart("decoder (hard)", decoder, experts)
    return f'<div class="routing" role="img" aria-label="{escape(text)}">{charts}</div><p>{escape(text)}</p>'


def block_chart(title: str, blocks: list[list[float]], experts: list[str]) -> str:
    cell, left, top = 21, 76, 20
    marks = [f'<text x="{left}" y="13">{title}</text>']
    for row, name in enumerate(experts):
        marks.append(f'<text x="0" y="{top + row * cell + 14}">{escape(name)}</text>')
        for column, block in enumerate(blocks):
            place = f'x="{left + column * cell}" y="{top + row * cell}" width="{cell - 2}" height="{cell - 2}"'
            style = f'fill="#2563eb" fill-opacity="{block[row]:.2f}" stroke="currentColor" stroke-opacity="0.35"'
            hover = f"<title>block {column + 1}, {escape(name)}: {block[row]:.2f}</title>"
            marks.append(f"<rect {place} {style}>{hover}</rect>")
    width, height = left + len(blocks) * cell, top + len(experts) * cell
    return f'<svg width="{width}" height="{height}" aria-hidden="true">{"".join(marks)}</svg>'


def build_page(demo: Demo) -> gr.Blocks:
    pictures = list(EXTENSIONS)
    heavy = {"concurrency_id": "network", "concurrency_limit": 1, "api_visibility": "private"}
    with gr.Blocks(title="UniRain", analytics_enabled=False, delete_cache=(KEEP_SECONDS, KEEP_SECONDS)) as page:
        gr.Markdown(INTRODUCTION)
        with gr.Tab("Remove rain"):
            with gr.Row():
                with gr.Column(scale=1):
                    file = gr.File(label="Rainy photograph", file_types=pictures, height=140, elem_id="rainy")
                    with gr.Row():
                        run = gr.Button("Remove rain", variant="primary", size="md", min_width=90, elem_id="run")
                        stop = gr.Button("Cancel", size="md", min_width=90, elem_id="stop")
                    chosen = example_gallery(EXAMPLES, file, "examples")
                with gr.Column(scale=2):
                    slider = gr.ImageSlider(
                        label="Before | after",
                        format="png",
                        type="pil",
                        interactive=False,
                        elem_id="slider",
                        buttons=["fullscreen"],
                    )
                    result = gr.File(label="Result, full resolution", interactive=False, elem_id="result")
                    summary = gr.Markdown(elem_id="summary")
                    with gr.Accordion("How the network read it", open=True):
                        chart = gr.HTML(elem_id="chart")
            outputs = [slider, result, summary, chart]
            at_once = {"queue": False, "api_visibility": "private"}
            on_slider = {"show_progress_on": slider, **heavy}
            started = [run.click(demo.derain_for_page, file, outputs, **on_slider)]
            for event in (file.upload, chosen.then):
                # Unless told, Gradio skips an event while another like it runs; here the last file counts.
                shown = event(demo.show, file, outputs, trigger_mode="multiple", **at_once)
                started.append(shown.then(demo.derain_for_page, file, outputs, trigger_mode="multiple", **on_slider))
            file.clear(demo.show, file, outputs, cancels=started, **at_once)
            stop.click(demo.stop(demo.derain_for_page), cancels=started, **at_once)
        with gr.Tab("Add and remove"):
            with gr.Row():
                with gr.Column(scale=1):
                    clean = gr.File(label="Photograph without rain", file_types=pictures, height=140, elem_id="clean")
                    example_gallery(EXAMPLES / "clean", clean, "clean-examples")
                    kind = gr.Radio(list(TYPE_NAMES), value=next(iter(TYPE_NAMES)), label="Rain")
                    severity = gr.Slider(0.1, 1, 0.5, step=0.05, label="Strength")
                    seed = gr.Number(0, precision=0, minimum=0, label="Seed: another number, other rain")
                    with gr.Row():
                        render = gr.Button("Rain, then derain", variant="primary", elem_id="render")
                        stop_render = gr.Button("Cancel")
                with gr.Column(scale=2):
                    pair = gr.ImageSlider(
                        label="With rain | rain removed",
                        format="png",
                        type="pil",
                        interactive=False,
                        elem_id="pair",
                        buttons=["fullscreen"],
                    )
                    table = gr.Markdown(elem_id="figures")
                    rendered = gr.File(label="Both pictures", file_count="multiple", interactive=False)
                    with gr.Accordion("How the network read it", open=False):
                        chart_rendered = gr.HTML()
            rendering = render.click(
                demo.rain_and_derain, [clean, kind, severity, seed], [pair, table, rendered, chart_rendered], **heavy
            )
            stop_render.click(
                demo.stop(demo.rain_and_derain), cancels=[rendering], queue=False, api_visibility="private"
            )
        with gr.Tab("Batch"):
            several = gr.File(label=f"Up to {MAX_FILES} photographs", file_types=pictures, file_count="multiple", elem_id="several")  # fmt: skip
            with gr.Row():
                run_several = gr.Button("Remove the rain from all", variant="primary", elem_id="run-several")
                stop_several = gr.Button("Cancel")
            report = gr.Dataframe(
                headers=["File", "Result"], interactive=False, wrap=True, label="Progress", elem_id="report"
            )
            results = gr.File(
                label="Results; at the end also as one archive",
                file_count="multiple",
                interactive=False,
                elem_id="results",
            )
            batch = run_several.click(demo.derain_several, several, [report, results], **heavy)
            stop_several.click(demo.stop(demo.derain_several), cancels=[batch], queue=False, api_visibility="private")
        gr.Markdown(LIMITS)
        page.unload(demo.leave)
        # The endpoint for programs: one file in, one file out. Its components are not on the page.
        given, returned, call = (
            gr.File(visible=False, file_types=pictures),
            gr.File(visible=False),
            gr.Button(visible=False),
        )
        call.click(demo.derain_for_api, given, returned, api_name="derain", **{**heavy, "api_visibility": "public"})
    return page.queue(max_size=MAX_QUEUE)


def example_gallery(folder: Path, file: gr.File, elem_id: str) -> Dependency:
    """The pictures of a folder; choosing one, by mouse or keyboard, puts it into `file`. Returns that event."""
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in EXTENSIONS)

    def pick(event: gr.SelectData) -> str:
        return shutil.copy(paths[event.index], new_folder())  # what visitors get lies in the cache, nowhere else

    gr.Markdown("Or choose an example:")
    gallery = gr.Gallery(
        [(str(path), caption_of(path)) for path in paths],
        label="Examples",
        show_label=False,
        columns=2,
        allow_preview=False,
        interactive=False,
        buttons=[],
        elem_id=elem_id,
    )
    return gallery.select(pick, None, file, api_visibility="private")


def caption_of(path: Path) -> str:
    """What shows as a label and is read aloud: `drs_street.jpg` -> `Day, streaks`; `night_street.jpg` -> `Night street`."""
    return EXAMPLE_NAMES.get(path.stem.upper()[:3], path.stem.replace("_", " ").capitalize())


def launch(page: gr.Blocks, host: str | None, port: int | None, **options):
    script = (HERE / "accessibility.js").read_text(encoding="utf-8")
    threading.Thread(target=keep_deleting, args=(Path(os.environ["GRADIO_TEMP_DIR"]),), daemon=True).start()
    return page.launch(
        server_name=host,
        server_port=port,
        max_file_size=MAX_FILE_SIZE,
        # no web fonts
        theme=gr.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        head=f"<style>{CSS}</style><script>{script}</script>",
        ssr_mode=False,
        show_error=False,
        **options,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--checkpoint", default=os.environ.get("UNIRAIN_CHECKPOINT", "unirain"), help="name, folder or Hub id"
    )
    parser.add_argument("--host", help="address to listen on; 127.0.0.1 unless told")
    parser.add_argument("--port", type=int, help="the first free one from 7860 unless told")
    arguments = parser.parse_args()
    try:
        launch(build_page(Demo(arguments.checkpoint)), arguments.host, arguments.port)
    except (OSError, ValueError, OverflowError) as error:  # a port beyond 65535 is the last
        parser.error(str(error))


if __name__ == "__main__":
    main()
