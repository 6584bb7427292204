"""What an evaluation found: means per dataset, per type and over the types, as Markdown, JSON and CSV."""

import csv
import io
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean

from ..files import write_atomically
from .measures import DECIMALS, LOWER_IS_BETTER, TITLES


FILES = ("images.csv", "report.md", "report.json")
"""What a report is written to, in this order: with the last it is whole."""

Figures = dict[str, float]


@dataclass(frozen=True)
class ImageResult:
    """The figures of one rainy picture as it came (`input`) and derained (`output`; None if only inputs are measured)."""

    dataset: str
    rain_type: str
    name: str
    input: Figures
    output: Figures | None

    @property
    def key(self) -> tuple[str, str, str]:
        return self.dataset, self.rain_type, self.name

    @property
    def paired(self) -> bool:
        return "niqe" not in self.input

    @property
    def gain(self) -> float:
        """What deraining brought, larger is better: PSNR in RGB with a clean twin, else the fall of NIQE."""
        metric = "psnr_rgb" if self.paired else "niqe"
        gain = self.output[metric] - self.input[metric]
        return -gain if metric in LOWER_IS_BETTER else gain


@dataclass(frozen=True)
class Mean:
    """One row of a table: means over images, or over types."""

    dataset: str
    rain_type: str
    images: int
    input: Figures
    output: Figures | None


@dataclass
class EvaluationReport:
    """Every picture's figures, and the settings that led to them.

    A type's figures are means over all its images; the average is the mean over the types, as in the paper's tables, so
    that a type with many images does not decide it. Pictures with and without a clean twin are never mixed.
    """

    results: list[ImageResult]
    settings: dict = field(default_factory=dict)

    def part(self, paired: bool) -> list[ImageResult]:
        """The results of pictures with a clean twin, or of those without."""
        return [result for result in self.results if result.paired == paired]

    def datasets(self, paired: bool = True) -> list[Mean]:
        """Means over the images of every dataset, sorted by type and name."""
        keys = sorted({(result.rain_type, result.dataset) for result in self.part(paired)})
        return [
            _mean(dataset, kind, [r for r in self.part(paired) if (r.rain_type, r.dataset) == (kind, dataset)])
            for kind, dataset in keys
        ]

    def types(self, paired: bool = True) -> list[Mean]:
        """Means over the images of every type."""
        kinds = sorted({result.rain_type for result in self.part(paired)})
        return [_mean("all", kind, [r for r in self.part(paired) if r.rain_type == kind]) for kind in kinds]

    def average(self, paired: bool = True) -> Mean:
        """Mean over the types.

        Raises:
            ValueError: there is no such picture.
        """
        types = self.types(paired)
        if not types:
            raise ValueError(f"no picture {'with' if paired else 'without'} a clean twin was measured")
        return replace(_mean("all", "mean over types", types), images=len(self.part(paired)))

    def to_markdown(self) -> str:
        """Tables of input -> output (gain): one for pictures with a clean twin, one for those without."""
        lines = ["# Evaluation", ""]
        lines += [f"- {name}: {value}" for name, value in self.settings.items()]
        for paired, title in ((True, "With a clean twin"), (False, "Without a twin")):
            if not self.part(paired):
                continue
            metrics = _metrics(self.part(paired))
            lines += ["", f"## {title}", "", _note(metrics), ""]
            lines += [_row(["type", "dataset", "images", *(TITLES[metric] for metric in metrics)])]
            lines += [_row(["---", "---", "---:", *("---:" for _ in metrics)])]
            lines += [_row([m.rain_type, m.dataset, str(m.images), *_cells(m, metrics)]) for m in self._rows(paired)]
        return "\n".join(lines) + "\n"

    def _rows(self, paired: bool) -> list[Mean]:
        """Datasets, then types of several datasets, then the mean over several types: no row says what another said."""
        datasets, types = self.datasets(paired), self.types(paired)
        mixed = [kind for kind in types if sum(mean.rain_type == kind.rain_type for mean in datasets) > 1]
        return [*datasets, *mixed, *([self.average(paired)] if len(types) > 1 else [])]

    def to_json(self) -> str:
        """The same means unrounded, and every image; a figure that does not exist is null."""
        content: dict = {"settings": self.settings}
        for paired, name in ((True, "paired"), (False, "unpaired")):
            if self.part(paired):
                content[name] = {
                    "average": _as_dict(self.average(paired)),
                    "types": [_as_dict(mean) for mean in self.types(paired)],
                    "datasets": [_as_dict(mean) for mean in self.datasets(paired)],
                    "images": [_as_dict(result) for result in self.part(paired)],
                }
        return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    def to_csv(self) -> str:
        """A line an image: `psnr_rgb_input`, `psnr_rgb_output`, ..."""
        metrics = _metrics(self.results)
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        columns = [(metric, side) for metric in metrics for side in ("input", "output")]
        writer.writerow(["type", "dataset", "image", *(f"{metric}_{side}" for metric, side in columns)])
        for result in self.results:
            figures = [(getattr(result, side) or {}).get(metric, math.nan) for metric, side in columns]
            cells = ["" if math.isnan(figure) else repr(figure) for figure in figures]
            writer.writerow([result.rain_type, result.dataset, result.name, *cells])
        return text.getvalue()

    def save(self, folder: str | Path) -> None:
        """Write `FILES`; each complete or absent."""
        contents = (self.to_csv(), self.to_markdown(), self.to_json())
        for name, text in zip(FILES, contents, strict=True):
            write_atomically(Path(folder, name), text.encode())


def _metrics(results: Iterable[ImageResult]) -> list[str]:
    present = {metric for result in results for metric in result.input}
    return [metric for metric in TITLES if metric in present]


def _mean(dataset: str, rain_type: str, rows: list[ImageResult] | list[Mean]) -> Mean:
    output = None if any(row.output is None for row in rows) else _mean_figures([row.output for row in rows])
    return Mean(dataset, rain_type, len(rows), _mean_figures([row.input for row in rows]), output)


def _mean_figures(rows: list[Figures]) -> Figures:
    """Means over the rows that have a figure; NaN where none has."""
    means = {}
    for metric in rows[0]:
        figures = [row[metric] for row in rows if not math.isnan(row[metric])]
        means[metric] = fmean(figures) if figures else math.nan
    return means


def _note(metrics: list[str]) -> str:
    if "niqe" in metrics:
        return (
            "NIQE: lower is more natural. Its pristine model is ours, so the figures compare with one another and not with "
            "published ones."
        )
    note = "On 8-bit values; Y is BT.601, 16 to 235. Higher is better"
    return note + ("; LPIPS: lower is better." if "lpips" in metrics else ".")


def _cells(mean: Mean, metrics: list[str]) -> list[str]:
    cells = []
    for metric in metrics:
        before, digits = mean.input[metric], DECIMALS[metric]
        cell = _number(before, digits)
        if mean.output is not None:
            after = mean.output[metric]
            cell += f" → {_number(after, digits)} ({_number(after - before, digits, sign='+')})"
        cells.append(cell)
    return cells


def _number(value: float, digits: int, sign: str = "") -> str:
    return "–" if math.isnan(value) else f"{value:{sign}.{digits}f}"


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _as_dict(row: ImageResult | Mean) -> dict:
    fields = {name: value for name, value in vars(row).items() if value is not None}
    for side in ("input", "output"):
        if side in fields:
            fields[side] = {name: None if math.isnan(value) else value for name, value in fields[side].items()}
    return fields
