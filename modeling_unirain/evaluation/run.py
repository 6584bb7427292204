"""Deraining and measuring, picture after picture, so that a killed evaluation goes on where it stopped."""

import io
import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from ..files import as_text, lock_of, write_atomically
from ..sheets import comparison_sheet
from .measures import Perceptual, measure
from .pairs import EvaluationPair
from .report import FILES, EvaluationReport, ImageResult


logger = logging.getLogger(__name__)

JOURNAL = "progress.jsonl"
REPORT = FILES[-1]
CELL_WIDTH = 480

Derain = Callable[[Image.Image], Image.Image]


def evaluate_pairs(
    derain: Derain | None, pairs: Sequence[EvaluationPair], perceptual: Perceptual | None = None
) -> EvaluationReport:
    """Measure a derainer on pictures, keeping nothing on disk.

    Args:
        derain (`Callable` or `None`): takes and gives an 8-bit RGB `Image.Image` of equal size, as `load_derainer` returns;
            None measures the inputs alone.
        pairs (sequence of `EvaluationPair`): from `find_pairs`, or made by hand.
        perceptual (`Callable`, *optional*): LPIPS from `load_lpips`.

    Raises:
        ValueError: a picture that cannot be read, a pair of unequal sizes, an output of another size than its input.
    """
    return EvaluationReport(list(_measure_all(derain, pairs, perceptual)))


def evaluate(
    derain: Derain | None,
    pairs: Sequence[EvaluationPair],
    output: str | Path,
    perceptual: Perceptual | None = None,
    settings: dict | None = None,
    overwrite: bool = False,
) -> EvaluationReport:
    """As `evaluate_pairs`, written to a folder: `report.md`, `report.json`, `images.csv` and `sheets/`.

    Every picture is read once before anything is derained, so that a damaged one costs no time. Finished pictures are noted
    in `progress.jsonl`: called again with the same settings after having been killed, it goes on with the others,
    and with those whose files have changed since.

    Args:
        output (`str` or `Path`): folder to write to.
        settings (`dict`): what the figures depend on; JSON values.
        overwrite (`bool`): replace an earlier report, or an interrupted evaluation with other settings.

    Raises:
        ValueError: as `evaluate_pairs`; two pictures of one name; `output` holds an evaluation, or a file of
            its names, already; another evaluation is at work there.
        OSError: `output` cannot be written.
    """
    output = Path(output)
    # Names of folders need not be text.
    settings = {key: as_text(value) if isinstance(value, str) else value for key, value in (settings or {}).items()}
    by_key = {pair.key: pair for pair in pairs}
    if len(by_key) < len(pairs):
        twice = next(pair for pair in pairs if by_key[pair.key] is not pair)
        raise ValueError(
            f"{' / '.join(twice.key)} was given twice: evaluate folders of the same type and name one by one."
        )
    # Beside a journal, the others are what the interrupted run had written of its report.
    for name in (REPORT,) if (output / JOURNAL).exists() else FILES:
        if (output / name).exists() and not overwrite:
            raise ValueError(f"{output / name} exists already: give another folder, or --overwrite.")
    header = {"settings": settings, "lpips": perceptual is not None, "pairs": sorted(by_key)}
    changed = {key: pair.changed for key, pair in by_key.items()}
    with lock_of(output, is_inherited=True) as is_ours:
        if not is_ours:
            raise ValueError(
                f"Another evaluation is at work in {output}: let it end first, or choose another --output."
            )
        with _Journal(output / JOURNAL, header, changed, overwrite) as journal:
            waiting = [pair for pair in pairs if pair.key not in journal.results]
            for pair in tqdm(waiting, desc="checking pictures", unit="picture", leave=False):
                pair.read()
            for result in _measure_all(derain, waiting, perceptual):
                journal.add(result)
            report = EvaluationReport([journal.results[pair.key] for pair in pairs], settings)
        stale = _sheets_of_an_earlier(output / REPORT)
        if derain is not None:
            stale -= _save_sheets(derain, by_key, report, output / "sheets")
        report.save(output)
        for name in stale:
            (output / "sheets" / name).unlink(missing_ok=True)
        (output / JOURNAL).unlink()
    return report


def _measure_all(
    derain: Derain | None, pairs: Sequence[EvaluationPair], perceptual: Perceptual | None
) -> Iterable[ImageResult]:
    for pair in tqdm(pairs, desc="measuring" if derain is None else "deraining", unit="picture"):
        rainy, clean = pair.read()
        derained = None if derain is None else _apply(derain, rainy, pair)
        output = None if derained is None else measure(derained, clean, perceptual)
        yield ImageResult(*pair.key, measure(rainy, clean, perceptual), output)


def _apply(derain: Derain, rainy: np.ndarray, pair: EvaluationPair) -> np.ndarray:
    derained = np.asarray(derain(Image.fromarray(rainy)).convert("RGB"))
    if derained.shape != rainy.shape:
        raise ValueError(f"{pair.name} of {pair.dataset} came out as {derained.shape}, but went in as {rainy.shape}.")
    return derained


def _save_sheets(derain: Derain, pairs: dict, report: EvaluationReport, folder: Path) -> set[str]:
    """One sheet a dataset: the pictures that gained most, the median and least, derained once more for it. Their names."""
    names = set()
    for paired in (True, False):
        for mean in report.datasets(paired):
            results = [r for r in report.part(paired) if (r.dataset, r.rain_type) == (mean.dataset, mean.rain_type)]
            ranked = sorted(results, key=lambda result: -np.nan_to_num(result.gain, nan=-np.inf))
            places = {len(ranked) // 2: "median", len(ranked) - 1: "worst", 0: "best"}
            rows, titles = [], []
            for place in sorted(places):
                result = ranked[place]
                rainy, clean = pairs[result.key].read()
                pictures = [rainy, _apply(derain, rainy, pairs[result.key]), clean]
                rows.append([Image.fromarray(picture) for picture in pictures if picture is not None])
                unit = "dB PSNR RGB" if paired else "NIQE"
                titles.append(f"{places[place]}: {result.name}, {result.gain if paired else -result.gain:+.2f} {unit}")
            columns = ["input", "output", "target"] if paired else ["input", "output"]
            file = io.BytesIO()
            comparison_sheet(rows, columns, titles, CELL_WIDTH).save(file, "PNG")
            name = _sheet_name(mean.rain_type, mean.dataset)
            write_atomically(folder / name, file.getvalue())
            names.add(name)
    return names


def _sheet_name(rain_type: str, dataset: str) -> str:
    """No two share one: what a file's name may not hold is written as its number."""
    return re.sub(r"[^\w.-]", lambda match: f"~{ord(match[0]):x}~", f"{rain_type}-{dataset}") + ".png"


def _sheets_of_an_earlier(report: Path) -> set[str]:
    """Names of the sheets that belong to a report which is being replaced; none if there is no report, or it is no longer whole."""
    try:
        content = json.loads(report.read_text(encoding="utf-8"))
        parts = [content[part] for part in ("paired", "unpaired") if part in content]
        return {_sheet_name(mean["rain_type"], mean["dataset"]) for part in parts for mean in part["datasets"]}
    except (OSError, ValueError, TypeError, KeyError):
        return set()


class _Journal:
    """The pictures measured so far, a line each, after a line that says what was asked for. Of pictures that were others then
    (`changed`), the figures no longer count."""

    def __init__(self, path: Path, header: dict, changed: dict[tuple[str, str, str], int], overwrite: bool):
        self.path = path
        self.header = json.loads(json.dumps(header))
        self.changed = changed
        self.overwrite = overwrite
        self.results: dict[tuple[str, str, str], ImageResult] = {}

    def __enter__(self) -> "_Journal":
        lines = self.path.read_bytes().splitlines(keepends=True) if self.path.exists() else []
        try:
            complete = [json.loads(line) for line in lines if line.endswith(b"\n")]  # a kill may cut the last line
            results = [self._read(**line) for line in complete[1:]]
        except (ValueError, TypeError) as error:
            if not self.overwrite:
                raise ValueError(f"{self.path} is damaged: delete it, or say --overwrite.") from error
            complete, results = [], []
        if complete and complete[0] != self.header:
            if not self.overwrite:
                raise ValueError(
                    f"{self.path.parent} holds an interrupted evaluation of something else: give another folder, or "
                    "--overwrite."
                )
            results = []
        self.results = {result.key: result for result, changed in results if changed == self.changed.get(result.key)}
        if self.results:
            logger.info("%d of %d pictures were measured before.", len(self.results), len(self.header["pairs"]))
        kept = [self.header, *map(self._line, self.results.values())]
        write_atomically(self.path, b"".join(map(_as_line, kept)))
        self.file = open(self.path, "ab")
        return self

    def add(self, result: ImageResult) -> None:
        self.results[result.key] = result
        self.file.write(_as_line(self._line(result)))
        self.file.flush()
        os.fsync(self.file.fileno())

    def __exit__(self, *_) -> None:
        self.file.close()

    def _line(self, result: ImageResult) -> dict:
        return {**asdict(result), "changed": self.changed[result.key]}

    @staticmethod
    def _read(changed: int = 0, **result) -> tuple[ImageResult, int]:
        return ImageResult(**result), changed


def _as_line(content: dict) -> bytes:
    return json.dumps(content).encode() + b"\n"
