"""The command `unirain`: thin commands over the package, one sentence for whatever is wrong."""

import logging
import os
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from tqdm import tqdm
from transformers.utils import logging as transformers_logging
from typer.core import TyperGroup

from . import evaluation
from .batch import Run, check_inputs_are_kept, claim, plan
from .derainer import load_derainer
from .files import write_together
from .images import MAX_PIXELS, ImageError, Picture, encode, format_of, open_image, pictures_below, save_image
from .messages import one_line
from .pipeline_unirain import is_out_of_memory
from .publishing import RepoKind, publish
from .rain import MIN_SIDE, render_rain
from .sheets import comparison_sheet
from .types import RainType


EXAMPLES = (Path(__file__).parent / "examples", Path(__file__).parents[1] / "examples")
"""Where the example photographs are: in an installed package, in a clone."""

INTERRUPTED = 130


class Commands(TyperGroup):
    """Every command's errors as one sentence and an exit code: 1 for bad input, 2 for a bad option, 130 for Ctrl-C."""

    def invoke(self, ctx):
        try:
            return super().invoke(ctx)
        except (ValueError, OSError) as error:
            typer.echo(f"Error: {one_line(error)}", err=True)
            raise typer.Exit(1) from error
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            typer.echo("Error: The memory does not suffice for these pictures: give smaller ones.", err=True)
            raise typer.Exit(1) from error
        except KeyboardInterrupt as error:
            typer.echo(str(error) or "Interrupted.", err=True)
            raise typer.Exit(INTERRUPTED) from error


app = typer.Typer(
    cls=Commands,
    help="Remove rain from photographs: streaks or drops, by day or by night.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback()
def prepare() -> None:
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    warnings.filterwarnings("ignore", module="PIL")  # it comments on damaged metadata; damaged pictures are errors
    transformers_logging.disable_progress_bar()


def named(text: str) -> str:
    """An argument that names something; `~` is the home folder. What a shell makes of an unset variable names nothing, while
    as a path it would be the folder that one is in."""
    if not text:
        raise typer.BadParameter("it is empty, a name or a place is needed.")
    return os.path.expanduser(text)


def placed(text: str) -> Path:
    return Path(named(text))


def chosen(**options) -> dict:
    """The pipeline's options that were given."""
    return {name: value for name, value in options.items() if value}


def was_given(context: typer.Context, name: str) -> bool:
    """Whether an option was, be it with its default."""
    return context.get_parameter_source(name).name != "DEFAULT"  # by name: newer typer has a class of its own


Checkpoint = Annotated[
    str, typer.Option(parser=named, metavar="NAME", help="A name, a folder, or a repository on the Hub.")
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps, ... [default: the fastest that works]")]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16 or float16. [default: float32]")]
Tile = Annotated[int | None, typer.Option(min=32, help="Side of the tiles in pixels. [default: by memory]")]
SelfEnsemble = Annotated[
    bool, typer.Option("--self-ensemble", help="Average with the mirror image's result: finer, twice the time.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace outputs that are there already.")]


@app.command()
def derain(
    inputs: Annotated[
        list[str],
        typer.Argument(parser=named, metavar="INPUT", help="Pictures, folders (searched recursively) or globs."),
    ],
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            parser=named,
            metavar="PATH",
            help="A file for one picture, else a folder; a folder too if it ends in /.",
        ),
    ],
    checkpoint: Checkpoint = "unirain",
    device: Device = None,
    dtype: Dtype = None,
    tile: Tile = None,
    self_ensemble: SelfEnsemble = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures of equal size that are worked on together.")] = 1,
    format: Annotated[
        str | None, typer.Option(help="png, jpg, webp, tiff or bmp. [default: each input's own]")
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Also write NAME-compare.jpg (a.png-compare.jpg), before beside after.")
    ] = False,
    overwrite: Overwrite = False,
    max_megapixels: Annotated[float, typer.Option(min=0, help="Refuse larger pictures.")] = MAX_PIXELS / 1e6,
) -> None:
    """Remove the rain from pictures.

    A result has its input's size, format, depth, transparency, EXIF and colour profile. A folder's tree is kept. Run again after
    having been stopped, it goes on where it was: outputs newer than their input are left as they are.
    """
    place = Path(output)
    jobs = plan(inputs, place, format, compare, into_folder=output.endswith(("/", os.sep)))
    one_file = len(jobs) == 1 and jobs[0].target == place
    if not overwrite:
        check_inputs_are_kept(jobs)
        for path in jobs[0].outputs if one_file else []:
            if os.path.exists(path):  # one longer than names can be does not
                raise ImageError(f"{path} exists already: --overwrite replaces it.")
    derainer = load_derainer(checkpoint, device, dtype)
    claimed = None if one_file else claim(place, derainer, self_ensemble, overwrite)
    todo = jobs if overwrite else [job for job in jobs if not job.is_finished(claimed)]
    if finished := len(jobs) - len(todo):
        typer.echo(f"Skipped {finished} finished; --overwrite to redo.")
    options = chosen(tile=tile, self_ensemble=self_ensemble)
    run = Run(derainer, claimed, overwrite, options, max_pixels=max_megapixels * 1e6)
    run.work_through(todo, batch_size)
    if todo:
        typer.echo(f"Derained {len(run.done)} of {len(todo)}." + (f" {run.failed} failed." if run.failed else ""))
    if run.failed:
        raise typer.Exit(1)


@app.command()
def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", parser=placed, metavar="PATH", help="The folder to write to.")
    ] = Path("unirain-demo"),
    checkpoint: Checkpoint = "unirain",
    device: Device = None,
    overwrite: Overwrite = False,
) -> None:
    """Derain the example photographs; one sheet shows before and after."""
    folder = next((folder for folder in EXAMPLES if folder.is_dir() and pictures_below(folder)), None)
    if folder is None:
        raise ImageError("The example photographs are not installed: run this in a clone of the repository.")
    if output.resolve().is_relative_to(folder.resolve()):
        raise ImageError(f"{output} is where the example photographs are: choose another --output.")
    sources = [path for path in pictures_below(folder) if path.parent == folder]  # not their clean originals
    sheet_file = output / "comparison.png"
    targets = [*(output / source.name for source in sources), sheet_file]
    there = [path for path in targets if path.exists()]
    if 0 < len(there) < len(targets) and not overwrite:  # all of them are an earlier demo's
        raise ImageError(f"{there[0]} exists already: --overwrite replaces it.")
    derainer, rows = load_derainer(checkpoint, device), []
    for source in tqdm(sources, unit="picture", disable=None):
        picture = open_image(source)
        derained, _ = derainer.restore(picture)
        save_image(derained, output / source.name)
        clean = folder / "clean" / source.name
        rows.append([picture.to_pil(), derained.to_pil(), *([open_image(clean).to_pil()] if clean.exists() else [])])
    sheet = comparison_sheet(
        rows,
        ["Rainy", "Derained", "Without rain"][: max(map(len, rows))],
        [source.stem for source in sources],
        cell_width=640,
    )
    save_image(Picture.from_pil(sheet), sheet_file)
    typer.echo(f"{len(rows)} photographs derained; look at {sheet_file}")


@app.command()
def evaluate(
    context: typer.Context,
    data: Annotated[
        list[str],
        typer.Argument(
            parser=named,
            metavar="DATA...",
            help="Folders TYPE/NAME/input and target, real photographs TYPE/*, or a corpus on disk or the Hub.",
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", parser=placed, metavar="PATH", help="The folder for tables and sheets.")
    ],
    checkpoint: Checkpoint = "unirain",
    split: Annotated[str | None, typer.Option(help="Of a corpus. [default: test, validation or the only one]")] = None,
    device: Device = None,
    dtype: Dtype = None,
    tile: Tile = None,
    self_ensemble: SelfEnsemble = False,
    lpips: Annotated[bool, typer.Option("--lpips", help="Measure LPIPS too; needs the package `lpips`.")] = False,
    inputs_only: Annotated[
        bool, typer.Option("--inputs-only", help="Measure the rainy pictures alone, without a network.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier report in --output.")] = False,
) -> None:
    """Measure a checkpoint: PSNR and SSIM in RGB and on Y against clean twins, NIQE where there are none.

    Writes report.md, report.json, images.csv and a sheet of the best, median and worst picture of every dataset. Run again
    after having been stopped, it goes on where it was.
    """
    if inputs_only:
        of_the_network = ("checkpoint", "device", "dtype", "tile", "self_ensemble")
        if given := [name for name in of_the_network if was_given(context, name)]:
            raise ImageError(f"--inputs-only asks no network: leave --{given[0].replace('_', '-')} out.")
    pairs = [pair for place in data for pair in evaluation.find_pairs(place, split, leave_out=output)]
    perceptual = evaluation.load_lpips() if lpips else None
    settings = {"data": ", ".join(data)} | ({"split": split} if split else {})
    derain = None
    if not inputs_only:
        derainer = load_derainer(checkpoint, device, dtype)
        options = chosen(tile=tile, self_ensemble=self_ensemble)
        derain = partial(derainer, **options)
        settings |= {
            "checkpoint": checkpoint,
            "weights": derainer.weights_digest(),
            "dtype": str(derainer.model.dtype),
        }
        settings |= options
    report = evaluation.evaluate(derain, pairs, output, perceptual, settings, overwrite)
    typer.echo(report.to_markdown())


@app.command()
def rain(
    photograph: Annotated[Path, typer.Argument(parser=placed, metavar="PHOTO", help="A picture without rain.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", parser=placed, metavar="PATH", help="The rainy picture to write.")
    ],
    rain_type: Annotated[
        RainType, typer.Option("--type", help="D or N: day or night; RS or RD: streaks or drops.")
    ] = RainType.DRS,
    seed: Annotated[int, typer.Option(min=0, help="Another number, other rain.")] = 0,
    severity: Annotated[
        float | None, typer.Option(min=0, max=1, help="0 is none, 1 the heaviest. [default: drawn]")
    ] = None,
    clean: Annotated[
        Path | None,
        typer.Option(
            parser=placed,
            metavar="PATH",
            help="Also write what a perfect derainer would return: by night not the photograph itself.",
        ),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Render rain over a photograph, for test pictures."""
    picture = open_image(photograph).as_8_bit()
    if min(picture.size) < MIN_SIDE:
        raise ImageError(f"{photograph} is too small to rain on: at least {MIN_SIDE} pixels a side are needed.")
    if clean and output.resolve() == clean.resolve():
        raise ImageError(f"The rainy and the clean picture cannot both be {output}.")
    for path in filter(None, (output, clean)):
        format_of(path)
        if path.exists() and (not overwrite or path.samefile(photograph)):
            raise ImageError(f"{path} exists already: --overwrite replaces it, unless it is the photograph.")
    rendered = render_rain(picture.rgb, rain_type, seed, severity=severity)
    files = {}
    for path, pixels in ((output, rendered.rainy), (clean, rendered.clean)):
        if path is not None:
            rendered_picture = Picture(
                (pixels * 255).round().astype("uint8"), exif=picture.exif, icc_profile=picture.rgb_icc_profile
            )
            files[path] = encode(rendered_picture, path)
    write_together(files)


@app.command("publish")
def publish_command(
    kind: Annotated[RepoKind, typer.Argument(help="What SOURCE is.")],
    source: Annotated[
        Path,
        typer.Argument(
            parser=placed, metavar="SOURCE", help="A checkpoint, a distilled corpus, or the folder space/ of a clone."
        ),
    ],
    repo_id: Annotated[str, typer.Argument(help="owner/name on the Hub.")],
    public: Annotated[bool, typer.Option("--public", help="Everyone may see it. [default: only you]")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be uploaded, and upload nothing.")
    ] = False,
) -> None:
    """Upload a model, a dataset or the demo to the Hugging Face Hub.

    Private unless told otherwise. Log in with `hf auth login` first. After an interruption, run it again: what has
    arrived is not sent twice.
    """
    done = publish(kind, source, repo_id, private=not public, dry_run=dry_run)
    for name, size in done.files.items():
        typer.echo(f"{tqdm.format_sizeof(size, 'B'):>8}  {name}")
    total = f"{len(done.files)} files, {tqdm.format_sizeof(sum(done.files.values()), 'B')}"
    visibility = "private" if done.private else "public"
    if done.url is None:
        typer.echo(f"{total}, would go to the {visibility} {kind} {repo_id}. Nothing was sent.")
    else:
        typer.echo(f"{total}, published: {done.url} ({visibility})")


def main() -> None:
    for stream in (sys.stdout, sys.stderr):  # names of files need not be text
        if hasattr(stream, "reconfigure"):  # a closed one is None
            stream.reconfigure(errors="backslashreplace")
    app()


if __name__ == "__main__":
    main()
