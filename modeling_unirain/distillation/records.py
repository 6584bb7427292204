"""What flows through the pipeline: frozen records, keyed by `pair_id` or `reference_id`. A leaf of the package."""

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from modeling_unirain.files import as_text


MARKER = "distillation.json"
"""File of a corpus that is written last: it says that the folder is complete."""
BUILDING = ".building-"
"""What the name of the folder begins with in which a corpus is built, inside its own."""
DISTILLED, REJECTED, REAL = "distilled", "rejected", "real"
"""The three levels of a corpus: its splits, and what the names of their files begin with."""

ESCAPED = re.compile(r"\\udc([89a-f][0-9a-f])")


def _text_fields(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name: as_text(value) if isinstance(value, str) else value for name, value in fields}


@dataclass(frozen=True)
class ImageLocation:
    """Where a picture's bytes are, without holding them."""

    path: str
    """File on disk, a picture or a Parquet file; from a row, as `files.as_text` writes it."""
    row: int = -1
    """Row of a Parquet file; -1 for a picture file."""
    part: str = ""
    """Column of a Parquet file; `left` or `right` half of a side-by-side picture; empty for a whole picture."""

    @property
    def file(self) -> Path:
        """The file by its real name. One whose name holds what `as_text` writes out, letter for letter, is not found."""
        return Path(ESCAPED.sub(lambda byte: chr(int("dc" + byte[1], 16)), self.path))


@dataclass(frozen=True)
class RainPair:
    """A candidate: a rainy picture and its clean twin."""

    pair_id: str
    """`source/type/stem`, unique in the run."""
    source: str
    """The data set, named after its folder, file or Hub id."""
    rain_type: str | None
    origin: str
    """Where the rainy picture came from, relative to what the user named; fit to be published."""
    input: ImageLocation
    target: ImageLocation | None
    problem: str = ""
    """Why the pair can be dropped unread; empty if it cannot."""

    @property
    def id(self) -> str:
        return self.pair_id

    @property
    def picture(self) -> ImageLocation:
        """The one with rain."""
        return self.input

    def to_row(self) -> dict[str, Any]:
        return asdict(self, dict_factory=_text_fields)

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> "RainPair":
        target = ImageLocation(**row["target"]) if row["target"] is not None else None
        return cls(**{**row, "input": ImageLocation(**row["input"]), "target": target})


@dataclass(frozen=True)
class Reference:
    """A real rainy photograph without a clean twin."""

    reference_id: str
    """`source/relative path without its suffix`, unique in the run."""
    source: str
    rain_type: str | None
    origin: str
    image: ImageLocation
    target: ClassVar[None] = None
    problem: ClassVar[str] = ""
    """Both are the same for every reference, so neither is a column."""

    @property
    def id(self) -> str:
        return self.reference_id

    @property
    def picture(self) -> ImageLocation:
        return self.image

    def to_row(self) -> dict[str, Any]:
        return asdict(self, dict_factory=_text_fields)

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> "Reference":
        return cls(**{**row, "image": ImageLocation(**row["image"])})


Record = RainPair | Reference
"""Either has `id`, `source`, `rain_type`, `origin`, `picture`, `target` and `problem`."""


@dataclass(frozen=True)
class Retrieval:
    """S(q): rows of the reference index, structurally most similar first, with the scores of the three levels."""

    rows: tuple[int, ...]
    semantic_distance: tuple[float, ...]
    feature_similarity: tuple[float, ...]
    structural_similarity: tuple[float, ...]


@dataclass(frozen=True)
class Verdict:
    """Whether a pair is kept, and why not."""

    kept: bool
    reason: str = ""
    """Short and countable: `voted down`, `duplicate`, `unreadable`, ...; empty for a kept pair."""
    detail: str = ""
    """The sentence behind the reason, such as `duplicate of rain800/DRS/001`."""
