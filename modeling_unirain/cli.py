"""The command `unirain`: thin commands over the package, one sentence for whatever is wrong."""

import errno
import glob
import hashlib
import json
import logging
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Annotated

import typer
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm
from transformers.utils import logging as transformers_logging
from typer.core import TyperGroup

from . import evaluation
from .derainer import Derainer, load_derainer
from .images import (
    EXTENSIONS,
    MAX_PIXELS,
    ImageError,
    Picture,
    format_of,
    open_image,
    pictures_below,
    save_image,
    write_atomically,
)
from .pipeline_unirain import is_out_of_memory
from .publishing import RepoKind, publish
from .rain import MIN_SIDE, render_rain
from .sheets import comparison_sheet
from .types import RainType


RUN_RECORD = ".unirain.json"
"""In an output folder: which weights its pictures are made with; those older than this file are of others."""

EXAMPLES = (Path(__file__).parent / "examples", Path(__file__).parents[1] / "examples")
"""Where the example photographs are: in an installed package, in a clone."""

INTERRUPTED = 130
_NOTHING_CAN_BE_WRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class Commands(TyperGroup):
    """Every command's errors as one sentence and an exit code: 1 for bad input, 2 for a bad option, 130 for Ctrl-C."""

    def invoke(self, ctx):
        try:
            return super().invoke(ctx)
        except (ValueError, OSError) as error:
            typer.echo(f"Error: {' '.join(str(error).split())}", err=True)
            raise typer.Exit(1) from error
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            typer.echo("Error: The memory does not suffice for these pictures: give smaller ones.", err=True)
            raise typer.Exit(1) from error
        except KeyboardInterrupt as error:
            typer.echo("Interrupted.", err=True)
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


Checkpoint = Annotated[
    str, typer.Option(parser=named, metavar="NAME", help="A name, a folder, or a repository on the Hub.")
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps, ... [default: the fastest that works]")]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16 or float16. [default: float32]")]
Tile = Annotated[int | None, typer.Option(min=32, help="Side of the tiles in pixels. [default: by memory]")]
SelfEnsemble = Annotated[
    bool, typer.Option("--self-ensemble", help="Average with the mirror image's result: finer, twice the time.")
]


@app.command()
def derain(
    inputs: Annotated[
        list[str],
        typer.Argument(parser=named, metavar="INPUT", help="Pictures, folders (searched recursively) or globs."),
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", parser=placed, metavar="PATH", help="A file for one picture, else a folder."),
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
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace outputs that are there already.")] = False,
    max_megapixels: Annotated[float, typer.Option(min=0, help="Refuse larger pictures.")] = MAX_PIXELS / 1e6,
) -> None:
    """Remove the rain from pictures.

    A result has its input's size, format, depth, transparency, EXIF and colour profile. A folder's tree is kept. Run again after
    having been stopped, it goes on where it was: outputs newer than their input are left as they are.
    """
    jobs = plan(inputs, output, format, compare)
    one_file = len(jobs) == 1 and jobs[0].target == output
    if not overwrite:
        check_inputs_are_kept(jobs)
        for path in jobs[0].outputs if one_file else []:
            if path.exists():
                raise ImageError(f"{path} exists already: --overwrite replaces it.")
    derainer = load_derainer(checkpoint, device, dtype)
    claimed = None if one_file else claim(output, derainer, self_ensemble, overwrite)
    todo = jobs if overwrite else [job for job in jobs if not job.is_finished(claimed)]
    if finished := len(jobs) - len(todo):
        typer.echo(f"Skipped {finished} finished; --overwrite to redo.")
    options = chosen(tile=tile, self_ensemble=self_ensemble)
    run = Run(derainer, claimed, overwrite, options, max_pixels=max_megapixels * 1e6)
    run.work_through(todo, batch_size)


@app.command()
def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", parser=placed, metavar="PATH", help="The folder to write to.")
    ] = Path("unirain-demo"),
    checkpoint: Checkpoint = "unirain",
    device: Device = None,
) -> None:
    """Derain the example photographs; one sheet shows before and after."""
    folder = next((folder for folder in EXAMPLES if folder.is_dir() and pictures_below(folder)), None)
    if folder is None:
        raise ImageError("The example photographs are not installed: run this in a clone of the repository.")
    if output.resolve().is_relative_to(folder.resolve()):
        raise ImageError(f"{output} is where the example photographs are: choose another --output.")
    derainer, rows = load_derainer(checkpoint, device), []
    sources = [path for path in pictures_below(folder) if path.parent == folder]  # not their clean originals
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
    save_image(Picture.from_pil(sheet), output / "comparison.png")
    typer.echo(f"{len(rows)} photographs derained; look at {output / 'comparison.png'}")


@app.command()
def evaluate(
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
    pairs = [pair for place in data for pair in evaluation.find_pairs(place, split, leave_out=output)]
    perceptual = evaluation.load_lpips() if lpips else None
    settings = {"data": ", ".join(data)} | ({"split": split} if split else {})
    derain = None
    if not inputs_only:
        derainer = load_derainer(checkpoint, device, dtype)
        options = chosen(tile=tile, self_ensemble=self_ensemble)
        derain = partial(derainer, **options)
        settings |= {"checkpoint": checkpoint, "weights": weights_digest(derainer), "dtype": str(derainer.model.dtype)}
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
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace outputs that are there already.")] = False,
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
    for path, pixels in ((output, rendered.rainy), (clean, rendered.clean)):
        if path is not None:
            rendered_picture = Picture((pixels * 255).round().astype("uint8"), icc_profile=picture.rgb_icc_profile)
            save_image(rendered_picture, path)


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


# What is to be done


def chosen(**options) -> dict:
    """The pipeline's options that were given."""
    return {name: value for name, value in options.items() if value}


@dataclass(frozen=True)
class Claim:
    """What an output folder's record says.

    Attributes:
        since (`int`): When the record was written, in nanoseconds. Older files are not made with its weights.
        replaces (`bool`): Whether those may be replaced: the run that wrote the record was told so.
    """

    since: int
    replaces: bool


@dataclass(frozen=True)
class Job:
    """One picture to derain, where the result goes, where before beside after goes if it is wanted, and the result's format
    if one was asked for: a picture's own need not be the one that its name ends in."""

    source: Path
    target: Path
    sheet: Path | None = None
    format: str | None = None

    @property
    def outputs(self) -> list[Path]:
        return [self.target] if self.sheet is None else [self.target, self.sheet]

    def has(self, output: Path, claimed: Claim | None) -> bool:
        """Outputs are complete or absent, so one newer than its input and the folder's record needs no second look."""
        newest = max(self.source.stat().st_mtime_ns, claimed.since if claimed else 0)
        return output.exists() and output.stat().st_mtime_ns >= newest

    def is_finished(self, claimed: Claim | None) -> bool:
        return all(self.has(output, claimed) for output in self.outputs)

    def date_outputs(self) -> None:
        """Make none of them older than the input: cameras whose clock is ahead write pictures from the future."""
        date = self.source.stat().st_mtime_ns
        for output in self.outputs:
            if output.stat().st_mtime_ns < date:
                os.utime(output, ns=(date, date))


def plan(inputs: Sequence[str], output: Path, format: str | None, compare: bool) -> list[Job]:
    """Everything to be done, in order; raises before any of it is if the inputs or the output make no sense."""
    suffix = None
    if format is not None:
        suffix = f".{format.lower().lstrip('.')}"
        if suffix not in EXTENSIONS:
            raise ImageError(f"There is no format '{format}' to write: png, jpg, webp, tiff or bmp.")
    paths = [path for text in inputs for path in expand(text, output)]
    if len(paths) == 1 and paths[0].is_file() and output.suffix and not output.is_dir():
        if suffix is None:
            format_of(output)
        elif EXTENSIONS.get(output.suffix.lower()) != EXTENSIONS[suffix]:
            raise ImageError(f"{output} does not end in {suffix}, as --format {format} asks for.")
        return [Job(paths[0], output, sheet_beside(output) if compare else None, format_of(output))]
    if output.exists() and not output.is_dir():
        raise ImageError(f"{output} is a file, but several pictures need a folder: give --output a folder.")
    jobs = []
    for path in paths:
        if (suffix or compare) and path.is_dir() and output.is_dir() and output.samefile(path):
            raise ImageError(
                f"{output} is where the pictures are, and what is written there {'in another format' if suffix else 'to compare'} "
                "would be taken for more of them: choose another --output."
            )
        sources = pictures_below(path, leave_out=output) if path.is_dir() else [path]
        if not sources:
            raise ImageError(f"{path} contains no pictures: {', '.join(EXTENSIONS)} are looked for.")
        for source in sources:
            target = output / (source.relative_to(path) if path.is_dir() else source.name)
            target = target.with_suffix(suffix) if suffix else target
            sheet = sheet_beside(target) if compare else None
            jobs.append(Job(source, target, sheet, EXTENSIONS[suffix] if suffix else None))
    jobs = list({(job.source.resolve(), job.target): job for job in jobs}.values())  # one given twice is done once
    by_output: dict[Path, Job] = {}
    for job in jobs:
        for path in job.outputs:
            other = by_output.setdefault(path, job)
            if other is not job:
                raise ImageError(
                    f"{other.source} and {job.source} would both be written to {path}: do one of them apart."
                )
    return jobs


def sheet_beside(target: Path) -> Path:
    """The whole name is kept, so that a.png and a.jpg do not share a sheet."""
    return target.with_name(f"{target.name}-compare.jpg")


def expand(text: str, output: Path) -> list[Path]:
    """What one INPUT stands for: itself, or the matches of a glob that the shell did not expand: pictures, and folders that hold some.

    An output folder among what the glob searches is passed over, since an earlier run's results lie in it.
    """
    path = Path(text)
    if path.exists():
        return [path]
    if not glob.has_magic(text):
        raise ImageError(f"{text} does not exist.")
    matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=True)) if os.path.exists(match)]
    searched, results = Path(*takewhile(lambda part: not glob.has_magic(part), path.parts)).resolve(), output.resolve()
    if searched in results.parents:
        matches = [match for match in matches if not match.resolve().is_relative_to(results)]
    pictures = [
        match
        for match in matches
        if (pictures_below(match, leave_out=output) if match.is_dir() else match.suffix.lower() in EXTENSIONS)
    ]
    if not pictures:
        raise ImageError(f"{text} matches no picture.")
    # `**` matches folders as well as what is in them
    return [path for path in pictures if not (path.is_dir() and any(path in other.parents for other in pictures))]


def check_inputs_are_kept(jobs: Iterable[Job]) -> None:
    for job in jobs:
        for path in job.outputs:
            if path.exists() and path.samefile(job.source):
                raise ImageError(f"{path} would overwrite its own input: choose another --output, or say --overwrite.")


def claim(folder: Path, derainer: Derainer, self_ensemble: bool, overwrite: bool) -> Claim:
    """Note in the output folder what its pictures are made with, so that none of other weights or another way are taken as done.

    The record is written when either changes and before any picture is: after a kill, what is older is still to do.
    """
    record = folder / RUN_RECORD
    dtype = str(derainer.model.dtype).removeprefix("torch.")
    made = {"weights": weights_digest(derainer), "self_ensemble": self_ensemble, "dtype": dtype}
    try:
        noted = {"self_ensemble": False} | json.loads(record.read_text(encoding="utf-8"))  # older versions note less
        noted.setdefault("dtype", dtype if noted["weights"] == made["weights"] else "float32")
        theirs = {key: noted[key] for key in made}
        name, replaces = noted["checkpoint"], noted["replaces"]
    except FileNotFoundError:
        theirs = None
    except (ValueError, KeyError, TypeError) as error:
        raise ImageError(f"{record} is damaged: delete it, or choose another --output.") from error
    if theirs not in (None, made) and not overwrite:
        way = f"with another checkpoint ({name})"
        if theirs["dtype"] != made["dtype"]:  # which rounds the weights too
            way = f"with --dtype {theirs['dtype']}"
        elif theirs["weights"] == made["weights"]:
            way = f"{'with' if theirs['self_ensemble'] else 'without'} --self-ensemble"
        raise ImageError(
            f"{folder} holds pictures made {way}: choose another --output, or replace them with --overwrite."
        )
    if theirs != made:
        replaces = overwrite
        write_atomically(record, json.dumps({"checkpoint": derainer.name, **made, "replaces": replaces}).encode())
    return Claim(record.stat().st_mtime_ns, replaces)


def weights_digest(derainer: Derainer) -> str:
    """SHA-256 of the weights: a checkpoint's name does not tell whether it was trained on."""
    digest = hashlib.sha256()
    for name, values in sorted(derainer.model.state_dict().items()):
        digest.update(name.encode() + values.float().cpu().numpy().tobytes())
    return digest.hexdigest()


# Doing it


class Run:
    """Pictures derained one batch after another; what fails is reported and counted, and the others go on."""

    def __init__(self, derainer: Derainer, claimed: Claim | None, overwrite: bool, options: dict, max_pixels: float):
        self.derainer = derainer
        self.claimed = claimed
        self.overwrite = overwrite
        self.options = options
        self.max_pixels = max_pixels
        self.done = 0
        self.failed = 0

    def work_through(self, jobs: Sequence[Job], batch_size: int) -> None:
        """Do all jobs; exits with 1 if any failed."""
        bar_format = "{percentage:3.0f}%|{bar}| {n:.1f}/{total} pictures [{elapsed}<{remaining}{postfix}]"
        pixels = 0
        with tqdm(total=len(jobs), bar_format=bar_format, disable=None) as bar, logging_redirect_tqdm():
            try:
                for start in range(0, len(jobs), batch_size):
                    batch = jobs[start : start + batch_size]
                    for job, picture, derained in self.derain(self.read(batch), bar):
                        self.write(job, picture, derained)
                        pixels += picture.size[0] * picture.size[1]
                    bar.n = self.done + self.failed
                    if elapsed := bar.format_dict["elapsed"]:
                        bar.set_postfix_str(f"{pixels / 1e6 / elapsed:.2f} megapixels/s")
            except KeyboardInterrupt:
                bar.close()
                typer.echo(f"Interrupted: {self.done} of {len(jobs)} done. {self.how_to_go_on(jobs)}", err=True)
                raise typer.Exit(INTERRUPTED) from None
        if jobs:
            typer.echo(f"Derained {self.done} of {len(jobs)}." + (f" {self.failed} failed." if self.failed else ""))
        if self.failed:
            raise typer.Exit(1)

    def how_to_go_on(self, jobs: Sequence[Job]) -> str:
        if any(job.source.samefile(job.target) for job in jobs if job.target.exists()):
            # Nothing tells a derained picture from a rainy one that is still to be replaced.
            after = jobs[self.done + self.failed - 1].source if self.done + self.failed else None
            return f"Replaced up to {after}: give only the pictures after it." if after else "Nothing was replaced."
        command = "The same command without --overwrite" if self.overwrite else "The same command"
        return f"{command} goes on from there."

    def read(self, jobs: Iterable[Job]) -> list[tuple[Job, Picture]]:
        """The pictures to derain; where only the sheet is missing, it is made from what there is."""
        read = []
        for job in jobs:
            try:
                self.check_nothing_is_lost(job)
                picture = open_image(job.source, self.max_pixels)
                if self.overwrite or not job.has(job.target, self.claimed):
                    read.append((job, picture))
                else:
                    self.write_sheet(job, picture, open_image(job.target, self.max_pixels))
                    job.date_outputs()
                    self.done += 1
            except (ImageError, OSError) as error:
                self.report(error)
        return read

    def check_nothing_is_lost(self, job: Job) -> None:
        for output in job.outputs:
            if self.overwrite or not output.exists() or job.has(output, self.claimed):
                continue
            if not (self.claimed and self.claimed.replaces and output.stat().st_mtime_ns < self.claimed.since):
                raise ImageError(f"{output} is not the result of {job.source} as it is now: --overwrite replaces it.")

    def derain(self, batch: list[tuple[Job, Picture]], bar: tqdm) -> Iterator[tuple[Job, Picture, Picture]]:
        def on_progress(done: int, total: int) -> None:
            bar.n = self.done + self.failed + len(batch) * done / total
            bar.refresh()

        try:
            results = self.derainer.restore_many([picture for _, picture in batch], on_progress, **self.options)
        except (MemoryError, RuntimeError, ValueError) as error:
            if len(batch) > 1:  # one of them need not spoil the others
                for one in batch:
                    yield from self.derain([one], bar)
            for job, _ in batch if len(batch) == 1 else []:
                self.report(ImageError(f"{job.source} could not be derained: {error}"))
            return
        for (job, picture), (derained, _) in zip(batch, results, strict=True):
            yield job, picture, derained

    def write(self, job: Job, picture: Picture, derained: Picture) -> None:
        try:
            save_image(derained, job.target, job.format or derained.format)
            self.write_sheet(job, picture, derained)
            job.date_outputs()
            self.done += 1
        except (ImageError, OSError) as error:
            self.report(error)

    def write_sheet(self, job: Job, picture: Picture, derained: Picture) -> None:
        if job.sheet is not None:
            before_and_after = [[picture.to_pil(), derained.to_pil()]]
            sheet = comparison_sheet(before_and_after, ["Rainy", "Derained"], cell_width=min(960, picture.size[1]))
            save_image(replace(Picture.from_pil(sheet), icc_profile=picture.rgb_icc_profile), job.sheet)

    def report(self, error: Exception) -> None:
        if getattr(error, "errno", None) in _NOTHING_CAN_BE_WRITTEN:
            raise error  # nor could any of the others be
        self.failed += 1
        tqdm.write(f"Failed: {' '.join(str(error).split())}", file=sys.stderr)


def main() -> None:
    for stream in (sys.stdout, sys.stderr):  # names of files need not be text
        if hasattr(stream, "reconfigure"):  # a closed one is None
            stream.reconfigure(errors="backslashreplace")
    app()


if __name__ == "__main__":
    main()
