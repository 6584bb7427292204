"""Deraining many pictures, resumably: what a command's inputs stand for, what of it is still to do, and doing it.

Nothing is kept of a run but its results: an output is complete or absent, so one newer than its input is finished. Which
weights it is of is said by a record in the output folder, written before any picture."""

import errno
import glob
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from .derainer import Derainer
from .files import write_atomically
from .images import (
    EXTENSIONS,
    ImageError,
    Picture,
    format_of,
    holds_pictures,
    open_image,
    pictures_below,
    save_image,
    tell_of_unread,
)
from .messages import one_line
from .sheets import comparison_sheet


RUN_RECORD = ".unirain.json"
"""In an output folder: which weights its pictures are made with; those older than this file are of others."""

_NOTHING_CAN_BE_WRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


# What is to be done


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
        return os.path.exists(output) and output.stat().st_mtime_ns >= newest

    def is_finished(self, claimed: Claim | None) -> bool:
        return all(self.has(output, claimed) for output in self.outputs)

    def date_outputs(self) -> None:
        """Make none of them older than the input: cameras whose clock is ahead write pictures from the future."""
        date = self.source.stat().st_mtime_ns
        for output in self.outputs:
            if output.stat().st_mtime_ns < date:
                os.utime(output, ns=(date, date))


def plan(inputs: Sequence[str], output: Path, format: str | None, compare: bool, into_folder: bool) -> list[Job]:
    """Everything to be done, in order; raises before any of it is if the inputs or the output make no sense.

    One picture's `output` is its file if it looks like one, and no folder is there or asked for (`into_folder`).
    """
    if output == Path("-"):
        raise ImageError("Pictures are not written to standard output: give --output the name of a file or folder.")
    suffix = None
    if format is not None:
        suffix = f".{format.lower().lstrip('.')}"
        if suffix not in EXTENSIONS:
            raise ImageError(f"There is no format '{format}' to write: png, jpg, webp, tiff or bmp.")
    paths = [path for text in inputs for path in expand(text, output)]
    if len(paths) == 1 and paths[0].is_file() and output.suffix and not (into_folder or output.is_dir()):
        if suffix is None:
            format_of(output)
        elif EXTENSIONS.get(output.suffix.lower()) != EXTENSIONS[suffix]:
            raise ImageError(f"{output} does not end in {suffix}, as --format {format} asks for.")
        return [Job(paths[0], output, sheet_beside(output) if compare else None, format_of(output))]
    if output.exists() and not output.is_dir():
        raise ImageError(f"{output} is a file, but a folder is needed: give --output another.")
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
        if (holds_pictures(match, leave_out=output) if match.is_dir() else match.suffix.lower() in EXTENSIONS)
    ]
    tell_of_unread(text, matches)
    if not pictures:
        raise ImageError(f"{text} matches no picture.")
    # `**` matches folders as well as what is in them
    return [path for path in pictures if not (path.is_dir() and any(path in other.parents for other in pictures))]


def check_inputs_are_kept(jobs: Iterable[Job]) -> None:
    for job in jobs:
        for path in job.outputs:
            if os.path.exists(path) and path.samefile(job.source):
                raise ImageError(f"{path} would overwrite its own input: choose another --output, or say --overwrite.")


def claim(folder: Path, derainer: Derainer, self_ensemble: bool, overwrite: bool) -> Claim:
    """Note in the output folder what its pictures are made with, so that none of other weights or another way are taken as done.

    The record is written when either changes and before any picture is: after a kill, what is older is still to do.
    """
    record = folder / RUN_RECORD
    dtype = str(derainer.model.dtype).removeprefix("torch.")
    made = {"weights": derainer.weights_digest(), "self_ensemble": self_ensemble, "dtype": dtype}
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


# Doing it


class Run:
    """Pictures derained one batch after another; what fails is reported and counted, and the others go on."""

    def __init__(self, derainer: Derainer, claimed: Claim | None, overwrite: bool, options: dict, max_pixels: float):
        self.derainer = derainer
        self.claimed = claimed
        self.overwrite = overwrite
        self.options = options
        self.max_pixels = max_pixels
        self.done: list[Path] = []  # the sources, in order
        self.failed = 0

    def work_through(self, jobs: Sequence[Job], batch_size: int) -> None:
        """Do all jobs. Ctrl-C is passed on with how far it came and how to go on."""
        bar_format = "{percentage:3.0f}%|{bar}| {n:.1f}/{total} pictures [{elapsed}<{remaining}{postfix}]"
        pixels = 0
        with tqdm(total=len(jobs), bar_format=bar_format, disable=None) as bar, logging_redirect_tqdm():
            try:
                for start in range(0, len(jobs), batch_size):
                    batch = jobs[start : start + batch_size]
                    for job, picture, derained in self.derain(self.read(batch), bar):
                        self.write(job, picture, derained)
                        pixels += picture.size[0] * picture.size[1]
                    bar.n = len(self.done) + self.failed
                    if elapsed := bar.format_dict["elapsed"]:
                        bar.set_postfix_str(f"{pixels / 1e6 / elapsed:.2f} megapixels/s")
            except KeyboardInterrupt:
                done = f"{len(self.done)} of {len(jobs)} done"
                raise KeyboardInterrupt(f"Interrupted: {done}. {self.how_to_go_on(jobs)}") from None

    def how_to_go_on(self, jobs: Sequence[Job]) -> str:
        if any(job.source.samefile(job.target) for job in jobs if os.path.exists(job.target)):
            # Nothing tells a derained picture from a rainy one that is still to be replaced.
            if not self.done:
                return "Nothing was replaced."
            return f"Replaced up to {self.done[-1]}: give only the pictures after it."
        command = "The same command without --overwrite" if self.overwrite else "The same command"
        return f"{command} goes on from there."

    def read(self, jobs: Iterable[Job]) -> list[tuple[Job, Picture]]:
        """The pictures to derain; where only the sheet is missing, it is made from what there is."""
        read = []
        for job in jobs:
            try:
                self.check_nothing_is_lost(job)
                picture = open_image(job.source, self.max_pixels)
                if picture.others and os.path.exists(job.target) and job.target.samefile(job.source):
                    raise ImageError(
                        f"{job.source} holds {picture.others + 1} pictures, of which only the first would be left: "
                        "choose another --output."
                    )
                if self.overwrite or not job.has(job.target, self.claimed):
                    read.append((job, picture))
                else:
                    self.write_sheet(job, picture, open_image(job.target, self.max_pixels))
                    job.date_outputs()
                    self.done.append(job.source)
            except (ImageError, OSError) as error:
                self.report(error)
        return read

    def check_nothing_is_lost(self, job: Job) -> None:
        for output in job.outputs:
            if self.overwrite or not os.path.exists(output) or job.has(output, self.claimed):
                continue
            if not (self.claimed and self.claimed.replaces and output.stat().st_mtime_ns < self.claimed.since):
                raise ImageError(f"{output} is not the result of {job.source} as it is now: --overwrite replaces it.")

    def derain(self, batch: list[tuple[Job, Picture]], bar: tqdm) -> Iterator[tuple[Job, Picture, Picture]]:
        def on_progress(done: int, total: int) -> None:
            bar.n = len(self.done) + self.failed + len(batch) * done / total
            bar.refresh()

        try:
            results = self.derainer.restore_many([picture for _, picture in batch], on_progress, **self.options)
        except (MemoryError, RuntimeError, ValueError) as error:
            if len(batch) > 1:  # one of them need not spoil the others
                for one in batch:
                    yield from self.derain([one], bar)
            else:
                self.report(ImageError(f"{batch[0][0].source} could not be derained: {error}"))
            return
        for (job, picture), (derained, _) in zip(batch, results, strict=True):
            yield job, picture, derained

    def write(self, job: Job, picture: Picture, derained: Picture) -> None:
        try:
            save_image(derained, job.target, job.format or derained.format)
            self.write_sheet(job, picture, derained)
            job.date_outputs()
            self.done.append(job.source)
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
        tqdm.write(f"Failed: {one_line(error)}", file=sys.stderr)
