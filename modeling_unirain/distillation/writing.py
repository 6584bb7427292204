"""The corpus: `datasets` in Parquet with the pyramid's three levels, its card and the report.

    output_dir/data/{distilled,rejected,real}-00000-of-00012.parquet, README.md, report.html, distillation.json

All of it is built in `output_dir/.building-<key>` and moved into place at the end, `distillation.json` last: it says that
the folder is complete. Pictures keep the bytes of their files. A level without rows has no file: `datasets` opens no split
that is empty.
"""

import hashlib
import json
import logging
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Features, Image, List, Value
from tqdm import tqdm

from modeling_unirain.distillation.arguments import DistillationArguments
from modeling_unirain.distillation.reading import is_the_pictures_fault, read_bytes
from modeling_unirain.distillation.records import BUILDING, DISTILLED, MARKER, REAL, REJECTED, ImageLocation
from modeling_unirain.distillation.reference_index import ReferenceIndex
from modeling_unirain.distillation.report import write_report
from modeling_unirain.distillation.shards import ShardStore, stage_key
from modeling_unirain.files import write_json, written
from modeling_unirain.types import RainType


logger = logging.getLogger(__name__)

ROW_GROUP = 32
"""Pairs of a row group, as `datasets` advises for pictures: what a reader must fetch to see one."""
PROBE = ".writable-"
"""What every process begins the name of a file with that it writes for a moment, to see whether it can."""
UNTYPED = "untyped"
DATA, REPORT, CARD = PARTS = ("data", "report.html", "README.md")
"""What the output folder holds besides its marker, in the order in which it is put in place."""


def corpus_features(types: list[str]) -> Features:
    """Columns of the corpus, the same for its three levels.

    Args:
        types (`list[str]`): names of the degradation types, the paper's four first.
    """
    levels = {name: Value("float64") for name in ("semantic_distance", "feature_similarity", "structural_similarity")}
    return Features(
        {
            "pair_id": Value("string"),
            "input": Image(),
            "target": Image(),
            "type": ClassLabel(names=types),
            "source": Value("string"),
            "origin": Value("string"),
            "reason": Value("string"),
            "detail": Value("string"),
            "caption": Value("string"),
            "references": List({"reference_id": Value("string"), **levels}),
            "votes": List(
                {
                    "judge": Value("string"),
                    "decision": Value("bool"),
                    "raw_answer": Value("string"),
                    "reason": Value("string"),
                    "scores": List({"name": Value("string"), "value": Value("float64")}),
                }
            ),
        }
    )


class CorpusWriter:
    """Writes the output folder, from tables that are complete.

    Args:
        arguments (`DistillationArguments`): where to and what.
        settings (`dict`): what the card and the report say about the run.
    """

    def __init__(self, arguments: DistillationArguments, settings: dict[str, Any]):
        self.arguments, self.settings = arguments, settings
        self.output_dir = arguments.output_dir

    def check(self) -> None:
        """Raise `ValueError` if the output folder holds something that is not ours to replace."""
        if (self.output_dir / MARKER).exists():
            return
        ours = (BUILDING, PROBE)
        others = [path.name for path in self.output_dir.iterdir() if not path.name.startswith(ours)]
        # a kill between the moves leaves some parts behind
        if others and not (set(others) <= set(PARTS) and any(self.output_dir.glob(f"{BUILDING}*"))):
            raise ValueError(
                f"--output_dir {self.output_dir} holds other files ({sorted(others)[0]}): choose an empty folder"
            )

    def write(self, verdicts: ShardStore, index: ReferenceIndex) -> None:
        """The whole output; what a killed run has finished is not written again."""
        arguments = self.arguments
        options = [arguments.rejected_images, arguments.rows_per_file, arguments.license, self.settings]
        key = stage_key("write 2", verdicts.key, index.key, *options)
        building = self.output_dir / f"{BUILDING}{key}"
        is_complete = self._is_complete(key)
        for stale in self.output_dir.glob(f"{BUILDING}*"):
            if is_complete or stale != building:  # a kill after the last move leaves the complete one's, empty
                shutil.rmtree(stale)
        if is_complete:
            logger.info("%s is complete", self.output_dir)
            return
        types = self._types(verdicts, index)
        features = corpus_features(types)
        counts = self._counts(verdicts)
        sizes = {DISTILLED: counts["kept"].total(), REJECTED: counts["rejected"].total(), REAL: len(index)}
        rows: dict[str, Callable[[], Iterator[dict]]] = {
            DISTILLED: lambda: (row for row in _rows(verdicts) if row["kept"]),
            REJECTED: lambda: (row for row in _rows(verdicts) if not row["kept"]),
            REAL: lambda: (_reference_row(index, row) for row in range(len(index))),
        }
        contents = hashlib.sha256()
        with tqdm(total=sum(sizes.values()), desc="write", unit=" rows") as bar:
            for level, size in sizes.items():
                for path, count in self._write_level(building / DATA, level, size, rows[level](), features):
                    with path.open("rb") as file:
                        contents.update(f"{path.name}:{hashlib.file_digest(file, 'sha256').hexdigest()};".encode())
                    bar.update(count)
        write_report(building / REPORT, verdicts, index, counts, self.settings)
        with written(building / CARD) as temporary:
            card = corpus_card(arguments, self.settings, counts, sizes, contents.hexdigest()[:12])
            temporary.write_text(card, encoding="utf-8")
        write_json(building / MARKER, {"key": key, "settings": self.settings, "rows": sizes})
        self._publish(building)

    def _is_complete(self, key: str) -> bool:
        """Whether the folder holds this very output, none of whose files was removed since."""
        marker = self.output_dir / MARKER
        if not marker.exists():
            return False
        made = json.loads(marker.read_text(encoding="utf-8"))
        if made.get("key") != key:
            return False
        files = [f"{DATA}/{name}" for level, size in made["rows"].items() for name in self._file_names(level, size)]
        return all((self.output_dir / name).exists() for name in (*PARTS, *files))

    def _publish(self, building: Path) -> None:
        """Put the new output in place of the old one. Killed in between, the next run does it again."""
        (self.output_dir / MARKER).unlink(missing_ok=True)
        for name in (*PARTS, MARKER):
            new, old = building / name, self.output_dir / name
            if not new.exists():
                continue
            if old.is_dir():
                shutil.rmtree(old)
            new.replace(old)
        building.rmdir()

    def _write_level(
        self, folder: Path, level: str, size: int, rows: Iterator[dict], features: Features
    ) -> Iterator[tuple[Path, int]]:
        """Gives every file once it is there, and its rows."""
        for name in self._file_names(level, size):
            path, part = folder / name, list(islice(rows, self.arguments.rows_per_file))
            if not path.exists():
                with (
                    written(path) as temporary,
                    pq.ParquetWriter(temporary, features.arrow_schema, compression="zstd") as writer,
                ):
                    for first in range(0, len(part), ROW_GROUP):
                        group = [self._row(level, row, features) for row in part[first : first + ROW_GROUP]]
                        writer.write_table(pa.Table.from_pylist(group, schema=features.arrow_schema))
            yield path, len(part)

    def _file_names(self, level: str, size: int) -> list[str]:
        files = -(-size // self.arguments.rows_per_file)
        return [f"{level}-{number:05d}-of-{files:05d}.parquet" for number in range(files)]

    def _row(self, level: str, row: dict, features: Features) -> dict:
        corpus_row = {name: row[name] for name in features if name in row}
        corpus_row["type"] = None if row["rain_type"] is None else features["type"].str2int(row["rain_type"])
        corpus_row["references"] = [{k: v for k, v in found.items() if k != "row"} for found in row["references"]]
        needed = level != REJECTED
        for name in ("input", "target"):
            wanted = row[name] and (needed or self.arguments.rejected_images)
            corpus_row[name] = _embedded(row[name], row["pair_id"], needed) if wanted else None
        return corpus_row

    def _types(self, verdicts: ShardStore, index: ReferenceIndex) -> list[str]:
        """The paper's four in its order, then whatever else the sources name."""
        found = {reference.rain_type for reference in index.references()}
        for shard in range(verdicts.num_shards):
            found.update(verdicts.read(shard, ["rain_type"]).column("rain_type").to_pylist())
        paper = [str(name) for name in RainType]
        return paper + sorted(found - set(paper) - {None})

    def _counts(self, verdicts: ShardStore) -> dict[str, Counter]:
        """`kept`, `rejected` by (source, type), and `reasons` by (source, type, reason)."""
        counts = {"kept": Counter(), "rejected": Counter(), "reasons": Counter()}
        for shard in range(verdicts.num_shards):
            table = verdicts.read(shard, ["source", "rain_type", "kept", "reason"])
            for source, rain_type, kept, reason in zip(*(column.to_pylist() for column in table.columns), strict=True):
                group = source, rain_type or UNTYPED
                counts["kept" if kept else "rejected"][group] += 1
                if not kept:
                    counts["reasons"][*group, reason] += 1
        return counts


def _rows(verdicts: ShardStore) -> Iterator[dict]:
    for shard in range(verdicts.num_shards):
        yield from verdicts.read(shard).to_pylist()


def _reference_row(index: ReferenceIndex, row: int) -> dict:
    reference = index.reference(row)
    return {
        "pair_id": reference.reference_id,
        "input": vars(reference.image),
        "target": None,
        "rain_type": reference.rain_type,
        "source": reference.source,
        "origin": reference.origin,
        "reason": "",
        "detail": "",
        "caption": index.caption(row),
        "references": [],
        "votes": [],
    }


def _embedded(location: dict, pair_id: str, needed: bool) -> dict | None:
    """The picture as `datasets` stores it; `None` for one that cannot be had, unless it is `needed`: only a rejected pair's
    may be missing.

    Raises:
        OSError, ValueError: a picture that is needed cannot be read, or the machine is at fault (`is_the_pictures_fault`).
    """
    where = ImageLocation(**location)
    suffix = where.file.suffix if where.row < 0 and not where.part else ".png" if where.row < 0 else ""
    try:
        return {"bytes": read_bytes(where), "path": Path(pair_id).name + suffix}
    except (OSError, ValueError) as error:
        if needed or not is_the_pictures_fault(error):
            raise
        return None


def corpus_card(
    arguments: DistillationArguments,
    settings: dict[str, Any],
    counts: dict[str, Counter],
    sizes: dict[str, int],
    contents: str,
) -> str:
    """The dataset card: header for the Hub, settings, counts per source and type.

    The header's description is `contents`, which changes with any byte of the files: `load_dataset` keys its cache by a folder's name and this header, not by
    the files, and would otherwise give the rows of an older corpus of the same name.
    """
    total = sizes[DISTILLED] + sizes[REJECTED]
    share = f"{sizes[DISTILLED] / total:.1%}" if total else "0 %"
    data_files = "".join(
        f"  - split: {level}\n    path: data/{level}-*.parquet\n"
        for level in (DISTILLED, REJECTED, REAL)
        if sizes[level]
    )
    groups = sorted({*counts["kept"], *counts["rejected"]})
    rows = "".join(
        f"| {_cell(source)} | {_cell(rain_type)} | {kept + dropped:,} | {kept:,} | {kept / (kept + dropped):.1%} |\n"
        for source, rain_type in groups
        for kept, dropped in [(counts["kept"][source, rain_type], counts["rejected"][source, rain_type])]
    )
    by_reason: Counter = Counter()
    for (_, _, reason), count in counts["reasons"].items():
        by_reason[reason] += count
    reasons = "".join(f"| {reason} | {count:,} |\n" for reason, count in sorted(by_reason.items())) or "| none | 0 |\n"
    said = "".join(f"| {name} | {_cell(value)} |\n" for name, value in settings.items())
    pictures = "" if arguments.rejected_images else " Their pictures are not included; `origin` says which they were."
    levels = "".join(
        f"| {place} | `{level}` | {sizes[level]:,} | {what} |\n"
        for place, level, what in (
            ("top", REAL, "the real rainy photographs; no target"),
            ("middle", DISTILLED, "the pairs that were kept: train on these"),
            ("bottom", REJECTED, f"the pairs that were not, with the reason.{pictures}"),
        )
        if sizes[level]
    )
    return f"""---
license: {arguments.license}
task_categories:
- image-to-image
tags:
- image-deraining
- image-restoration
- unirain
size_categories:
- {_size_category(sum(sizes.values()))}
configs:
- config_name: default
  description: contents {contents}
  data_files:
{data_files}---

# Distilled deraining corpus

{sizes[DISTILLED]:,} of {total:,} candidate pairs ({share}), kept because their rain looks like real rain: retrieval-augmented
dataset distillation after UniRain (CVPR 2026, arXiv 2603.03967, section 3.2). Every candidate was compared with the most
similar of {sizes[REAL]:,} real rainy photographs and judged.

```python
from datasets import load_dataset

pairs = load_dataset("path/or/ORG/NAME", split="{DISTILLED}")  # columns input, target, type, ...
```

To train on it, name this folder or repository as a `corpus` source with `split: {DISTILLED}` in a recipe of
`train_unirain.py`.

| level | split | rows | what |
| --- | --- | --- | --- |
{levels}
Every row carries its caption, the retrieved references with the scores of the three levels, and every judge's vote, answer,
reason and scores. `report.html` shows counts, histograms and examples.

## Sources

| source | type | candidates | kept | share |
| --- | --- | --- | --- | --- |
{rows}
## Why pairs were rejected

| reason | pairs |
| --- | --- |
{reasons}
## Settings

| setting | value |
| --- | --- |
{said}
## Licence

The pictures keep the licences of the data sets they come from; name and cite these data sets when you use the corpus.
"""


def _cell(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


def _size_category(rows: int) -> str:
    bounds = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M", 10_000_000: "1M<n<10M"}
    return next((name for bound, name in bounds.items() if rows < bound), "n>10M")
