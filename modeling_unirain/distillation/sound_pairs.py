"""What sound pairs score: a Gaussian per local judge, fitted on sound pairs alone, and how far a pair lies from it.

Scores of sound pairs go together (heavy rain hides edges, and darkens nothing), so a defect often shows in no single score but in
scores that do not fit each other: Mahalanobis' distance measures that. Another shows in one or two scores alone, which a distance over
two hundred dilutes: what a score lies beyond nearly all sound pairs is added. No defect takes part in the fit; a new one need not be known.

`sound_pairs.json` is written by `benchmarks/sound_pairs.py`, which says on what.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np


FILE = Path(__file__).with_name("sound_pairs.json")
TAIL = 0.03
"""The quantiles that give a score's spread below and above its median, in units of a normal distribution's."""
NORMAL_QUANTILE = 1.88
COMPRESSED_FROM = 3.0
"""Deviations grow as logarithms from here on, lest one score's long tail decide alone."""
RIDGE = 0.03
SMALLEST_SPREAD = 1e-3
EXTREME = 0.005
"""Share of sound pairs beyond each of a score's two outermost usual values."""
EXTREME_WEIGHT = 100.0
"""What a score e times as far away as that adds to the squared distance."""
MOST_EXTREME = 1.5
"""Logarithm of how far beyond it still counts, lest one wild score decide alone."""
COLUMNS = ("middle", "below", "above", "lowest", "highest", "mean")
"""What the file tells of each score."""


@dataclass(frozen=True, eq=False)
class SoundPairs:
    """The Gaussian of one judge's scores over sound pairs.

    `middle`, `below` and `above` (n,) bring each score to its deviation, of which `lowest` and `highest` (n,), at least one either way, are
    the outermost usual ones; `mean` (n,) and `precision` (n, n) are those of the deviations, compressed; squared distances up to `limit`
    are sound.
    """

    names: tuple[str, ...]
    middle: np.ndarray
    below: np.ndarray
    above: np.ndarray
    lowest: np.ndarray
    highest: np.ndarray
    mean: np.ndarray
    precision: np.ndarray
    limit: float

    def contributions(self, scores: Mapping[str, float]) -> np.ndarray:
        """What each score adds to the squared distance, in units of the limit: they sum to more than 1 for an unsound pair."""
        values = np.array([scores[name] for name in self.names])
        deviation = (values - self.middle) / np.where(values > self.middle, self.above, self.below)
        beyond = deviation / np.where(deviation > 0, self.highest, self.lowest)
        extreme = np.log(np.clip(beyond, 1, math.exp(MOST_EXTREME)))
        away = _compressed(deviation) - self.mean
        return (away * (self.precision @ away) + EXTREME_WEIGHT * extreme) / self.limit


def fitted(names: Sequence[str], scores: np.ndarray, limit: float = 1.0) -> SoundPairs:
    """The Gaussian of `scores`, (pairs, names)."""
    low, middle, high = np.quantile(scores, [TAIL, 0.5, 1 - TAIL], axis=0)
    below, above = (np.maximum(side, SMALLEST_SPREAD) / NORMAL_QUANTILE for side in (middle - low, high - middle))
    deviation = (scores - middle) / np.where(scores > middle, above, below)
    lowest, highest = np.quantile(deviation, [EXTREME, 1 - EXTREME], axis=0)
    away = _compressed(deviation)
    covariance = np.cov(away.T) + RIDGE * np.eye(len(names))
    return SoundPairs(
        tuple(names),
        middle,
        below,
        above,
        np.minimum(lowest, -1),
        np.maximum(highest, 1),
        away.mean(0),
        np.linalg.inv(covariance),
        limit,
    )


def save(models: Mapping[str, SoundPairs], checkpoint: str, file: Path = FILE) -> None:
    """Six digits of everything; of the symmetric precision the lower triangle. `checkpoint` is the fingerprint of the one that was asked."""
    judges = {
        judge: {
            "limit": model.limit,
            "scores": {
                name: [*(_rounded(getattr(model, field)[row]) for field in COLUMNS)]
                for row, name in enumerate(model.names)
            },
            "precision": [
                [_rounded(value) for value in row[: number + 1]] for number, row in enumerate(model.precision)
            ],
        }
        for judge, model in models.items()
    }
    text = json.dumps({"checkpoint": checkpoint, "judges": judges}, indent=1)
    file.write_text(re.sub(r"\[([^\[\]]+)\]", _in_one_line, text) + "\n", encoding="utf-8")


@cache
def bundled() -> dict[str, SoundPairs]:
    """The Gaussians of the judges, by name."""
    return {judge: _loaded(told) for judge, told in json.loads(FILE.read_text(encoding="utf-8"))["judges"].items()}


def measured_with() -> str:
    """The fingerprint of the checkpoint that was asked where it sees rain (`rain_seen.py`)."""
    return json.loads(FILE.read_text(encoding="utf-8"))["checkpoint"]


def _loaded(told: dict) -> SoundPairs:
    columns = np.array(list(told["scores"].values())).T
    precision = np.zeros((columns.shape[1],) * 2)
    for number, row in enumerate(told["precision"]):
        precision[number, : number + 1] = precision[: number + 1, number] = row
    return SoundPairs(tuple(told["scores"]), *columns, precision, told["limit"])


def _compressed(deviation: np.ndarray) -> np.ndarray:
    size = np.abs(deviation)
    beyond = np.log1p(np.maximum(size - COMPRESSED_FROM, 0))
    return np.sign(deviation) * (np.minimum(size, COMPRESSED_FROM) + beyond)


def _in_one_line(numbers: re.Match) -> str:
    return f"[{' '.join(numbers[1].split())}]"


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")
