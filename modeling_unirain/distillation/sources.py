"""Where candidates and references come from: folders, Parquet files, `datasets` and the Hub.

Listing reads names only, no pixels, in a fixed order. It holds those of one data set of pairs at a time, or of one whole
folder of references. Every picture comes with its identity (path, size, time of the last change), so that a changed file
is never met by an old result.

Candidates, at any depth below what the user names:

- `<TYPE>/<name>/{input,target}/`: pictures paired by the path below `input` without the suffix;
- `<TYPE>/<name>/pair/`: side-by-side pictures, clean on the left and rainy on the right, as Rain800 publishes them;
- Parquet files, folders written by `Dataset.save_to_disk`, image folders with metadata, and Hub data sets
  (`ORG/NAME`, `ORG/NAME@revision`, `ORG/NAME:split`), with the columns `input`, `target` and, if there is one, `type`. A folder that
  holds Parquet files and folders of pairs is refused: each is named by itself. Of a folder that `distill_dataset.py` wrote, candidates are
  what it kept, and references its real photographs.

References: pictures in folders at any depth (the type from the folder's name), or the same kinds of data sets with a
column `image` or `input`.

A picture's name need not be UTF-8: the records' rows hold it escaped, see `files.as_text`.
"""

import json
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import count, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from modeling_unirain.corpora import is_saved, load_corpus, read_stored, type_of, undecoded
from modeling_unirain.distillation.records import DISTILLED, MARKER, REAL, ImageLocation, RainPair, Reference
from modeling_unirain.distillation.shards import Process, at_work, stage_key, wait_for
from modeling_unirain.files import as_text, folders_below, write_json, written
from modeling_unirain.images import holds_pictures, pictures_below
from modeling_unirain.messages import one_line
from modeling_unirain.types import RainType


logger = logging.getLogger(__name__)

NO_TARGET = "no target"
TYPE_COLUMNS = ("type", "rain_type")
COMMIT = re.compile(r"[0-9a-f]{40}")
HUB_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?(:(?P<split>[\w.-]+))?")
FETCHED_ROWS = 256
"""Rows of a Parquet file that is fetched from the Hub: what a kill can lose."""

Identified = tuple[Any, tuple]
"""A record and the identity of its files."""
Taken = set[tuple[str, str | None]]
"""Names and types of the data sets met so far."""


def list_pairs(candidates: list[str], fetch: Callable[[str], Path | None]) -> Iterator[Identified]:
    """Every candidate pair with its identity, in a fixed order.

    Args:
        candidates (`list[str]`): folders, Parquet files or Hub ids.
        fetch (`Callable`): brings a data set that is not in Parquet on this disk to a folder of Parquet files;
            returns `None` for a plain folder. See `Fetcher`.

    Raises:
        ValueError: a source holds no pairs.
    """
    taken: Taken = set()
    for candidate in candidates:
        listed = 0
        for record in _pairs_of(candidate, fetch, taken):
            listed += 1
            yield record
        if not listed:
            raise ValueError(
                f"{candidate} holds no pairs: give a folder with TYPE/NAME/input and TYPE/NAME/target (or TYPE/NAME/pair), "
                "Parquet files, or a Hub id ORG/NAME"
            )


def list_references(references: list[str], fetch: Callable[[str], Path | None]) -> Iterator[Identified]:
    """Every real rainy photograph with its identity, in a fixed order. Arguments and errors as in `list_pairs`.

    One that several sources hold is listed once, or a pair's nearest neighbours would be the same photograph.
    """
    taken: Taken = set()
    seen: set[ImageLocation] = set()
    for source in references:
        listed = 0
        for reference, identity in _references_of(source, fetch, taken):
            listed += 1
            if reference.image not in seen:
                seen.add(reference.image)
                yield reference, identity
        if not listed:
            raise ValueError(f"{source} holds no pictures to serve as references")


def _pairs_of(candidate: str, fetch: Callable, taken: Taken) -> Iterator[Identified]:
    name, place, files = _parquet_files(candidate, fetch, DISTILLED)
    if files is not None:
        if os.path.isdir(candidate) and next(_folders_of_pairs(place), None):
            raise ValueError(f"{candidate} holds Parquet files as well as folders of pairs: name them one by one")
        yield from _pairs_of_parquet(name, place, files, taken)
        return
    root = Path(os.path.abspath(candidate))
    for folder, kind in _folders_of_pairs(root):
        read = _pairs_side_by_side if kind == "pair" else _pairs_of_folders
        yield from read(root, folder, taken)


def _folders_of_pairs(root: Path) -> Iterator[tuple[Path, str]]:
    """The folders that hold `input` and `target`, or `pair`, and which of the two."""
    for folder in folders_below(root):
        if {"input", "target", "pair"}.intersection(folder.relative_to(root).parts):
            continue  # what lies in one of them are pictures, in folders or not
        if (folder / "input").is_dir() and (folder / "target").is_dir():
            yield folder, "input"
        if (folder / "pair").is_dir():
            yield folder, "pair"


def _pairs_of_folders(root: Path, folder: Path, taken: Taken) -> Iterator[Identified]:
    source, rain_type = _source_and_type(root, folder, taken)
    targets = {}
    for path in pictures_below(folder / "target"):
        targets.setdefault(_stem(folder / "target", path), path)
    inputs = pictures_below(folder / "input")
    for path, stem in zip(inputs, _unique_stems(folder / "input", inputs), strict=True):
        target = targets.get(_stem(folder / "input", path))
        record = RainPair(
            pair_id=_pair_id(source, rain_type, stem),
            source=source,
            rain_type=rain_type,
            origin=_origin(root, path),
            input=ImageLocation(str(path)),
            target=ImageLocation(str(target)) if target else None,
            problem="" if target else NO_TARGET,
        )
        yield record, (_identity(path), _identity(target) if target else None)


def _pairs_side_by_side(root: Path, folder: Path, taken: Taken) -> Iterator[Identified]:
    source, rain_type = _source_and_type(root, folder, taken)
    pictures = pictures_below(folder / "pair")
    for path, stem in zip(pictures, _unique_stems(folder / "pair", pictures), strict=True):
        record = RainPair(
            pair_id=_pair_id(source, rain_type, stem),
            source=source,
            rain_type=rain_type,
            origin=_origin(root, path),
            input=ImageLocation(str(path), part="right"),
            target=ImageLocation(str(path), part="left"),
        )
        yield record, (_identity(path),)


def _pairs_of_parquet(name: str, place: Path, files: list[Path], taken: Taken) -> Iterator[Identified]:
    source = _unique_source(name, None, taken)
    for file in files:
        schema = _schema_of(file)
        missing = [column for column in ("input", "target") if column not in schema.names]
        if missing:
            raise ValueError(f"{file} has no column '{missing[0]}': a data set of pairs has 'input' and 'target'")
        for column in ("input", "target"):
            _check_holds_pictures(file, schema.field(column))
        for row, rain_type, stem in _parquet_rows(place, file, "input"):
            record = RainPair(
                pair_id=_pair_id(source, rain_type, stem),
                source=source,
                rain_type=rain_type,
                origin=f"{name}/{file.relative_to(place).as_posix()}#{row}",
                input=ImageLocation(str(file), row, "input"),
                target=ImageLocation(str(file), row, "target"),
            )
            yield record, (_identity(file),)


def _references_of(source: str, fetch: Callable, taken: Taken) -> Iterator[Identified]:
    name, place, files = _parquet_files(source, fetch, REAL)
    if files is not None:
        unique = _unique_source(name, None, taken)
        for file in files:
            schema = _schema_of(file)
            column = next((column for column in ("image", "input") if column in schema.names), None)
            if column is None:
                raise ValueError(f"{file} has no column 'image' or 'input' to read references from")
            _check_holds_pictures(file, schema.field(column))
            for row, rain_type, stem in _parquet_rows(place, file, column):
                location = ImageLocation(str(file), row, column)
                origin = f"{name}/{file.relative_to(place).as_posix()}#{row}"
                record = Reference(f"{unique}/{stem}", unique, rain_type, origin, location)
                yield record, (_identity(file),)
        return
    root = Path(os.path.abspath(source))
    unique = _unique_source(root.name, None, taken)
    pictures = pictures_below(root)
    for path, stem in zip(pictures, _unique_stems(root, pictures), strict=True):
        record = Reference(
            f"{unique}/{stem}", unique, _reference_type(root, path), _origin(root, path), ImageLocation(str(path))
        )
        yield record, (_identity(path),)


def _parquet_files(source: str, fetch: Callable, level: str) -> tuple[str, Path, list[Path] | None]:
    """Name of the data set, the folder it lies in and its Parquet files, of a distilled corpus those of one level; no list at all
    for a plain folder of pictures."""
    path = Path(os.path.abspath(source))
    if path.is_file() and path.suffix == ".parquet":
        return path.stem, path.parent, _openable([path])
    fetched = fetch(source)
    if fetched is not None:
        return source.rstrip("/").split("/")[-1], fetched, sorted(fetched.glob("*.parquet"))
    if not path.is_dir():
        raise ValueError(f"{source} is neither a folder nor a Parquet file")
    wanted = f"data/{level}-*.parquet" if (path / MARKER).is_file() else "**/*.parquet"
    return path.name, path, _openable(sorted(path.glob(wanted))) or None


def _openable(files: list[Path]) -> list[Path]:
    for file in map(str, files):
        if file != as_text(file):
            raise ValueError(f"{as_text(file)} cannot be opened, a Parquet file needs a path in UTF-8: rename it")
    return files


def _schema_of(file: Path) -> pa.Schema:
    try:
        return pq.read_schema(file)
    except (pa.ArrowInvalid, OSError) as error:
        if getattr(error, "errno", None):  # the machine's fault
            raise
        raise ValueError(f"{file} is damaged or no Parquet file: {error}") from error


def _check_holds_pictures(file: Path, field: pa.Field) -> None:
    """As encoded files: bytes alone, or as `datasets` writes them, a struct of bytes and path; or nothing in every row."""
    kind = field.type
    if pa.types.is_struct(kind) and (number := kind.get_field_index("bytes")) >= 0:
        kind = kind.field(number).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    encoded = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_null)
    if not any(is_one(kind) for is_one in encoded):
        raise ValueError(f"{file} holds no encoded pictures in column '{field.name}', but {field.type}")


def _parquet_rows(place: Path, file: Path, column: str) -> Iterator[tuple[int, str | None, str]]:
    """Row number, type and stem of every row, without reading a picture. Files of one name lie in different folders of a data set."""
    with pq.ParquetFile(file) as parquet:
        schema = parquet.schema_arrow
        type_column = next((name for name in TYPE_COLUMNS if name in schema.names), None)
        names = _class_names(schema, type_column)
        kind = schema.field(column).type
        has_path = pa.types.is_struct(kind) and kind.get_field_index("path") >= 0
        columns = [f"{column}.path"] * has_path + [type_column] * (type_column is not None)
        row = 0
        for batch in parquet.iter_batches(batch_size=4096, columns=columns):
            types = batch.column(type_column).to_pylist() if type_column else [None] * batch.num_rows
            pictures = batch.column(column).to_pylist() if has_path else [None] * batch.num_rows
            for value, picture in zip(types, pictures, strict=True):
                rain_type = type_of(value, names, f"row {row} of {file}")
                stem = f"{_stem(place, file)}-{row:06d}"
                if picture and picture["path"]:
                    stem += "-" + Path(picture["path"]).stem
                yield row, rain_type, stem
                row += 1


def _class_names(schema: pa.Schema, column: str | None) -> list[str] | None:
    """Names of a ClassLabel, which `datasets` keeps in the schema's metadata."""
    try:
        return json.loads(schema.metadata[b"huggingface"])["info"]["features"][column]["names"]
    except (ValueError, KeyError, TypeError):  # none, or what another program wrote there
        return None


def _source_and_type(root: Path, folder: Path, taken: Taken) -> tuple[str, str | None]:
    """`<TYPE>/<name>`: the type is the folder above, where the user's folder holds it or its name is a known type."""
    above = folder.parent.name
    known = above in set(RainType)
    below_root = folder != root and folder.parent != root
    rain_type = above if known or below_root else None
    return _unique_source(folder.name, rain_type, taken), rain_type


def _unique_source(name: str, rain_type: str | None, taken: Taken) -> str:
    """Two data sets of one name and type would share pair ids: the second is called `name-2`, or what is free after it."""
    numbered = (name if number == 1 else f"{name}-{number}" for number in count(1))
    unique = next(candidate for candidate in numbered if (candidate, rain_type) not in taken)
    taken.add((unique, rain_type))
    return unique


def _reference_type(root: Path, path: Path) -> str | None:
    folders = path.relative_to(root.parent).parts[:-1]
    known = [name for name in folders if name in set(RainType)]
    if known:
        return known[-1]
    return folders[1] if len(folders) > 1 else None


def _stem(root: Path, path: Path) -> str:
    return path.relative_to(root).with_suffix("").as_posix()


def _unique_stems(root: Path, paths: list[Path]) -> list[str]:
    """The stem of each picture; the whole name where `001.png` and `001.jpg` lie side by side, or `001.png` and `001.png.png`."""
    stems, names = [_stem(root, path) for path in paths], [path.relative_to(root).as_posix() for path in paths]
    times = Counter([*stems, *names])
    return [stem if times[stem] == 1 else name for stem, name in zip(stems, names, strict=True)]


def _pair_id(source: str, rain_type: str | None, stem: str) -> str:
    return f"{source}/{rain_type or 'untyped'}/{stem}"


def _origin(root: Path, path: Path) -> str:
    return path.relative_to(root.parent).as_posix()


def _identity(path: Path) -> tuple:
    return _cached_identity(str(path)) if path.suffix == ".parquet" else _stat(str(path))


def _stat(path: str) -> tuple:
    try:
        status = os.stat(path)
    except OSError:  # gone since it was listed: reading it will say so
        return (path,)
    return path, status.st_size, status.st_mtime_ns


# Hundreds of thousands of rows share a Parquet file; within one listing it does not change.
_cached_identity = lru_cache(maxsize=64)(_stat)


class Fetcher:
    """Streams what `datasets` can open, but is not Parquet on this disk, into Parquet files of the work folder.

    Random access to a stream is impossible, and every stage looks at the pictures again. A killed fetch goes on where
    it stopped; the pictures' bytes are kept as they are.

    Args:
        work_dir (`Path`): the run's work folder.
        process (`Process`): the main process fetches, the others wait.
        timeout (`float`): seconds that the others wait without a sign that the main process is at work.
    """

    def __init__(self, work_dir: Path, process: Process, timeout: float):
        self.work_dir, self.process, self.timeout = work_dir, process, timeout

    def __call__(self, source: str) -> Path | None:
        """Folder of Parquet files with the columns `input` (or `image`), `target` and `type`; `None` if a plain folder."""
        path = Path(source)
        if path.is_dir():
            if not _needs_datasets(path):
                return None
            identity = [_stat(str(file)) for file in sorted(path.rglob("*")) if file.is_file()]
            return self._fetch(source, stage_key("fetch", identity), lambda: _open_folder(path))
        match = HUB_ID.fullmatch(source)
        if match is None or source.startswith("."):
            return None
        repo, revision, split = match["repo"], match["revision"], match["split"]
        named = stage_key("fetch", repo, revision, split)
        if revision and COMMIT.fullmatch(revision) and self._mark(named).exists():
            return self._mark(named).parent  # no network is needed
        commit = _commit_of(repo, revision)
        return self._fetch(source, stage_key("fetch", repo, commit, split), lambda: _open_hub(repo, commit, split))

    def _mark(self, key: str) -> Path:
        """Is in the folder of what has been fetched whole."""
        return self.work_dir / f"fetch-{key}" / "complete.done"

    def _fetch(self, source: str, key: str, open_rows: Callable[[], Iterable[dict]]) -> Path:
        complete = self._mark(key)
        folder = complete.parent
        if self.process.is_main and not complete.exists():
            logger.info("fetching %s into %s", source, folder)
            with at_work(self.work_dir):
                parts = len(list(folder.glob("*.parquet")))
                rows = islice(_by_datasets(source, open_rows), parts * FETCHED_ROWS, None)
                while part := [_with_bytes(row) for row in islice(rows, FETCHED_ROWS)]:
                    with written(folder / f"{parts:06d}.parquet") as temporary:
                        pq.write_table(pa.Table.from_pylist(part), temporary, row_group_size=64)
                    parts += 1
                write_json(complete, {"source": source})
        wait_for(self.work_dir, lambda: int(complete.exists()), 1, f"fetches of {source}", self.timeout)
        return folder


def _needs_datasets(folder: Path) -> bool:
    has_metadata = any((folder / name).is_file() for name in ("metadata.jsonl", "metadata.csv"))
    if is_saved(folder) or has_metadata:
        return True
    archive = min(folder.glob("*.tar"), default=None)
    if archive is not None and holds_pictures(folder):  # unpacked from them, or more of them
        raise ValueError(
            f"{folder} holds pictures as well as archives ({archive.name}): move either to another folder"
        )
    return archive is not None


def _by_datasets(source: str, open_rows: Callable[[], Iterable[dict]]) -> Iterator[dict]:
    try:
        yield from open_rows()
    except (OSError, MemoryError):  # of the disk or the network, which say what they are about
        raise
    except Exception as error:  # anything, on what is damaged or laid out in another way
        raise ValueError(f"{source} cannot be read by datasets ({one_line(error)})") from error


def _open_folder(folder: Path) -> Iterator[dict]:
    data = load_corpus(folder, streaming=True)
    for split in data.values() if isinstance(data, dict) else [data]:
        yield from _rows(split)


def _open_hub(repo: str, commit: str, split: str | None) -> Iterator[dict]:
    from datasets import load_dataset

    data = load_dataset(repo, revision=commit, split=split, streaming=True)
    for part in [data] if split else data.values():
        yield from _rows(part)


def _rows(data: Any) -> Iterator[dict]:
    """Rows with the pictures as they are stored, read or not, and the type's name."""
    pictures = [name for name in ("input", "target", "image") if name in data.column_names]
    if not {"input", "image"}.intersection(pictures):
        raise ValueError(
            f"pairs need the columns input and target, references image or input, but it has {', '.join(data.column_names)}: "
            "rename them, members of an archive like 0.input.png to 0.input"
        )
    type_column = next((name for name in TYPE_COLUMNS if name in data.column_names), None)
    names = getattr(data.features[type_column], "names", None) if type_column and data.features else None
    for number, row in enumerate(undecoded(data, pictures)):
        rain_type = type_of(row[type_column], names, f"row {number}") if type_column else None
        yield {**{name: row[name] for name in pictures}, "type": rain_type}


def _with_bytes(row: dict) -> dict:
    """A row with its pictures read: only now, so that those of the rows that a killed fetch has are not read again."""
    return {name: value if name == "type" else _embedded(value) for name, value in row.items()}


def _embedded(picture: dict | None) -> dict:
    if picture is None:
        return {"bytes": None, "path": None}
    data = picture["bytes"] if picture["bytes"] is not None else read_stored(picture["path"])
    return {"bytes": data, "path": Path(picture["path"]).name if picture["path"] else None}


def _commit_of(repo: str, revision: str | None) -> str:
    """The commit that a Hub id means today: the identity of a data set that is not on this disk.

    Raises:
        ValueError: there is no such data set, or the Hub cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled

    try:
        return HfApi().dataset_info(repo, revision=revision).sha
    except (HfHubHTTPError, HTTPError, OfflineModeIsEnabled, OSError) as error:
        raise ValueError(
            f"{repo} is no folder or Parquet file here, and no data set of that name can be had from the Hub "
            f"({type(error).__name__})"
        ) from error
