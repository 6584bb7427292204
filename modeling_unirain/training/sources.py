"""What a recipe says of the places that training data comes from: three kinds of source, mixed by weight."""

import math
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import get_args

from ..files import as_path
from ..rain import check_styles
from ..types import RainType
from .pictures import DataError


KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", NoneType: "null"}
"""The kinds of value that a recipe's single values can have, in words."""


@dataclass
class PairedSource:
    """Folders of pairs: `<root>/<TYPE>/**/input` beside `target`; a pair has the same file name, save for the suffix."""

    root: Path
    weight: float = 1.0
    """Share of a type's samples (`sampling="balanced"`) or of all samples (`"natural"`), relative to the other sources."""
    types: list[str] | None = None
    """Read only these type folders. Default: all there are, and each must be a type of the recipe."""
    leave_out: list[str] = field(default_factory=list)
    """Pairs not to be read, as `<TYPE>/<NAME>/<file name without its suffix>`, or whole sets, as `<TYPE>/<NAME>`, with `*`, `?` and
    `[...]` as in a shell, save that `*` takes in `/` too (a name that is there is taken as it is): scenes of a test set,
    say, or what another source reads with a weight of its own."""
    transferred: float = 0.0
    """Probability that a pair's rain is laid over the target of another pair of its type, or over one of `backgrounds`
    (`training.transfer`). In training only."""
    backgrounds: list[Path] = field(default_factory=list)
    """Folders of photographs (or single ones) over which rain is transferred too; each is as likely as a pair's target."""
    graded: float = 0.0
    """Probability that a tone curve is laid over the rainy picture (`rain.grading`), as a third of Rain800 has one. In training only."""

    def __post_init__(self):
        roots = _as_paths("root", self.root)
        if len(roots) != 1:
            raise DataError(f"The root of a paired source must be one folder, got {self.root!r}.")
        (self.root,) = roots
        self.leave_out = [str(name) for name in _as_list(self.leave_out)]
        _check_source(self)
        _check_changes(self, self.root)


@dataclass
class CorpusSource:
    """A `datasets` corpus with the columns `input`, `target` (Image) and `type` (ClassLabel or string)."""

    path: str
    """A folder, a Parquet file, what `save_to_disk` wrote, or the id of a dataset on the Hub."""
    split: str = "train"
    weight: float = 1.0
    types: list[str] | None = None
    """Use only rows of these types. Needed for a stream whose `type` column is a string, since it cannot be looked through
    beforehand."""
    streaming: bool = False
    """Read while training, keeping nothing on disk. Every worker reads the whole stream once per type and decodes only its
    share, and a resumed run reads up to where it was; a corpus that fits on the disk is faster without."""
    transferred: float = 0.0
    """As for `PairedSource`; not of a stream, of which one row is known at a time."""
    backgrounds: list[Path] = field(default_factory=list)
    """As for `PairedSource`."""
    graded: float = 0.0
    """As for `PairedSource`; not of a stream either."""

    def __post_init__(self):
        self.path = str(self.path)
        _check_source(self)
        _check_changes(self, self.path)
        for name in ("transferred", "graded"):
            if self.streaming and getattr(self, name):
                raise DataError(
                    f"The rain of a stream cannot be {name}: leave {name} or streaming out for {self.path}."
                )


@dataclass
class CleanSource:
    """Photographs without rain, over which rain is rendered on the fly (`modeling_unirain.rain`).

    The crop is cut first, the rain rendered over the crop. Day types use the photographs by day, night types those by
    night and, with the probability `darkened`, those by day, which the renderer darkens.
    """

    day: list[Path] = field(default_factory=list)
    """Folders, searched with their subfolders, or single pictures."""
    night: list[Path] = field(default_factory=list)
    leave_out: list[Path] = field(default_factory=list)
    """Photographs not to be used, as they are found below the folders listed but without their suffixes
    (`data/clean/day/town/047`), with patterns as for `PairedSource`."""
    streaks: list[Path] = field(default_factory=list)
    """Folders of streak layers (grey on black), some of which are used in place of drawn streaks."""
    types: list[str] | None = None
    """Types to render. Default: all four that the photographs allow and the recipe lists."""
    weight: float = 1.0
    darkened: float = 0.5
    """Probability that a night sample is a darkened day photograph; without night photographs every one is."""
    min_scale: float = 1.0
    """Before cropping, a photograph is reduced by a factor drawn from [min_scale, 1], averaging over areas."""
    styles: dict[str, float] = field(default_factory=dict)
    """Shares of the streak styles, of those in `modeling_unirain.rain.parameters.STREAK_STYLES`. Default: the renderer's."""
    rainless: float = 0.0
    """Probability that a photograph is left without rain, for the network to learn to leave it alone (not in the paper); beside
    the few that the renderer gives hardly any. In training only."""

    def __post_init__(self):
        self.day = _as_paths("day", self.day)
        self.night = _as_paths("night", self.night)
        self.leave_out = _as_paths("leave_out", self.leave_out)
        self.streaks = _as_paths("streaks", self.streaks)
        _check_source(self)
        if not self.day and not self.night:
            raise DataError("A clean source needs folders of photographs under day, night or both.")
        _check_probability("darkened", self.darkened)
        _check_probability("rainless", self.rainless)
        _check_styles(self.styles)
        if not 0 < self.min_scale <= 1:
            raise DataError(f"min_scale must lie in (0, 1], got {self.min_scale}.")
        for name in self.types or []:
            if name not in set(RainType):
                raise DataError(f"Rain of type {name!r} cannot be rendered; the renderer knows {', '.join(RainType)}.")


Source = PairedSource | CorpusSource | CleanSource
SOURCE_KINDS = {"paired": PairedSource, "corpus": CorpusSource, "clean": CleanSource}


def known_fields(cls, values: dict, where: str) -> dict:
    """The keys and values of a parsed recipe, checked against the fields of a dataclass."""
    if not isinstance(values, dict):
        raise DataError(f"{where} must be a mapping of keys to values, got {values!r}.")
    known = {f.name: f for f in fields(cls)}
    unknown = [key for key in values if key not in known]
    if unknown:
        raise DataError(f"Unknown key {unknown[0]!r} in {where}; the keys are {', '.join(known)}.")
    missing = [name for name, f in known.items() if f.default is f.default_factory is MISSING and name not in values]
    if missing:
        raise DataError(f"The key {missing[0]!r} is missing in {where}.")
    for key, value in values.items():
        annotation = known[key].type
        kinds = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
        if all(kind in KINDS for kind in kinds) and not any(_is_a(value, kind) for kind in kinds):
            expected = " or ".join(KINDS[kind] for kind in kinds)
            raise DataError(f"The value of {key!r} in {where} must be {expected}, got {value!r}.")
    return values


def _is_a(value, kind: type) -> bool:
    if isinstance(value, bool) and kind is not bool:
        return False
    return isinstance(value, (int, float) if kind is float else kind)


def as_sources(sources: list) -> list[Source]:
    if not isinstance(sources, list) or not sources:
        raise DataError("sources must be a list with at least one source.")
    return [_as_source(source, f"source {number}") for number, source in enumerate(sources, 1)]


def _as_source(source: "Source | dict", where: str) -> Source:
    if isinstance(source, Source):
        return source
    if not isinstance(source, dict) or source.get("kind") not in list(SOURCE_KINDS):
        raise DataError(f"{where} needs a kind: one of {', '.join(SOURCE_KINDS)}.")
    cls = SOURCE_KINDS[source["kind"]]
    values = {key: value for key, value in source.items() if key != "kind"}
    return cls(**known_fields(cls, values, f"{where} ({source['kind']})"))


def _as_list(value) -> list:
    """A single value is a list of one, none of none: in YAML a key whose lines are all commented out."""
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _as_paths(name: str, value) -> list[Path]:
    paths = _as_list(value)
    if not all(isinstance(path, (str, Path)) for path in paths):
        raise DataError(f"{name} must be a path or a list of paths, got {value!r}.")
    return [as_path(path) for path in paths]


def _check_source(source: Source) -> None:
    if not 0 < source.weight < math.inf:
        raise DataError(f"The weight of a source must be positive, got {source.weight}; leave the source out instead.")
    if source.types is not None:
        source.types = [str(name) for name in _as_list(source.types)]
        check_types(source.types)


def _check_changes(source: PairedSource | CorpusSource, label: Path | str) -> None:
    _check_probability("transferred", source.transferred)
    _check_probability("graded", source.graded)
    source.backgrounds = _as_paths("backgrounds", source.backgrounds)
    if source.backgrounds and not source.transferred:
        raise DataError(f"No rain goes to the backgrounds of {label}: set transferred, or leave backgrounds out.")


def _check_probability(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise DataError(f"{name} is a probability between 0 and 1, got {value}.")


def _check_styles(styles: dict[str, float]) -> None:
    if not isinstance(styles, dict) or not all(_is_a(share, float) for share in styles.values()):
        raise DataError(f"styles must map streak styles to numbers, got {styles!r}.")
    try:
        check_styles(styles)
    except ValueError as error:
        raise DataError(str(error)) from None


def check_types(types: list[str]) -> None:
    named = isinstance(types, list) and types and all(isinstance(name, str) for name in types)
    if not named or len(set(types)) != len(types):
        raise DataError(f"types must be a list of different names, got {types!r}.")
