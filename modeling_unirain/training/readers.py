"""The sources at work: what is found and checked in each, and how a sample is drawn from it."""

import itertools
import logging
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path

import numpy as np

from ..corpora import load_corpus, type_of, undecoded
from ..files import folders_below
from ..images import EXTENSIONS, pictures_below, pictures_by_stem
from ..messages import one_line
from ..rain import MIN_SIDE, apply_grade, draw_grade, render_rain
from ..types import RainType
from .crops import crop_window, pad_to, random_patch
from .pictures import DataError, PictureStore, decode, encoded
from .sources import CleanSource, CorpusSource, PairedSource, Source
from .transfer import lay_rain, tone_curve


logger = logging.getLogger(__name__)

EXAMPLES_IN_MESSAGES = 3
STREAK_LAYERS = 3  # of a folder of layers are offered to the renderer at a time
THUMBNAIL_SIDE = 192
TRANSFER_STRENGTH = (0.7, 1.2)
STORED_PICTURES = {"binary", "large_binary", "string", "null"}
"""What a corpus's column of pictures can be of besides `datasets.Image`: files, their paths, or nothing in any row."""
NIGHT_TYPES = {RainType.NRS, RainType.NRD}


@lru_cache(maxsize=32)
def _permutation(seed: int, deck: int, cycle: int, size: int) -> np.ndarray:
    return np.random.default_rng([seed, deck, cycle]).permutation(size)


def _shuffled(seed: int, deck: int, number: int, size: int) -> int:
    """Item of the `number`-th draw from `size` items: each cycle deals every item once, in an order of its own."""
    cycle, position = divmod(number, size)
    return int(_permutation(seed, deck, cycle, size)[position])


@dataclass
class Sample:
    rainy: np.ndarray
    clean: np.ndarray
    name: str


class Pairs:
    """Pairs in a store: paired folders and corpora read by row."""

    def __init__(
        self,
        label: str,
        pairs: dict[str, np.ndarray],  # of each type, (pairs, 2): numbers of inputs and targets
        store: PictureStore,
        source: PairedSource | CorpusSource,
    ):
        self.label = label
        self.pairs = pairs
        self.store = store
        self.transferred = source.transferred
        self.graded = source.graded
        self.backgrounds = [store.add(path) for folder in source.backgrounds for path in _photographs(folder)]

    def counts(self) -> dict[str, int]:
        return {name: len(pairs) for name, pairs in self.pairs.items()}

    def settle(self, sizes: list[tuple[int, int] | str], skip_unreadable: bool) -> None:
        """Takes what the inspection of the store found: drops or reports unreadable pictures and unequal pairs."""
        for name, pairs in self.pairs.items():
            readable = [all([_is_readable(sizes[number], skip_unreadable) for number in pair]) for pair in pairs]
            self.pairs[name] = pairs[np.asarray(readable, bool)]
        unequal = [p for pairs in self.pairs.values() for p in pairs if sizes[p[0]] != sizes[p[1]]]
        if unequal:
            shown = "; ".join(
                f"{self.store.name(rainy)} is {_dimensions(sizes[rainy])}, its target {_dimensions(sizes[clean])}"
                for rainy, clean in unequal[:EXAMPLES_IN_MESSAGES]
            )
            raise DataError(f"{self.label}: {len(unequal)} pair(s) differ in size and cannot be aligned: {shown}.")
        self.backgrounds = [number for number in self.backgrounds if _is_readable(sizes[number], skip_unreadable)]

    def draw(self, type_name: str, number: int, deck: int, seed: int, rng: np.random.Generator, size: int) -> Sample:
        pairs = self.pairs[type_name]
        item = _shuffled(seed, deck, number, len(pairs))
        rainy, clean, name = self.whole(type_name, item)
        sample = _crop_pair(rainy, clean, name, rng, size)
        if self.transferred > 0 and rng.random() < self.transferred:
            curve = tone_curve(rainy, clean)
            sample = self._transfer(sample, pairs, curve, rng, size)
        if self.graded > 0 and rng.random() < self.graded:
            sample.rainy = _grade(sample.rainy, rng)
        return sample

    def _transfer(
        self, sample: Sample, pairs: np.ndarray, curve: np.ndarray, rng: np.random.Generator, size: int
    ) -> Sample:
        other = rng.integers(len(pairs) + len(self.backgrounds))
        photograph = pairs[other, 1] if other < len(pairs) else self.backgrounds[other - len(pairs)]
        background = random_patch(self.store.read(photograph), size, 1.0, rng)
        rainy = lay_rain(sample.rainy, sample.clean, background, curve, rng.uniform(*TRANSFER_STRENGTH))
        return Sample(rainy, background, sample.name)

    def pictures(self, type_name: str, item: int) -> list[int]:
        """The store's numbers of one pair."""
        return self.pairs[type_name][item].tolist()

    def whole(self, type_name: str, item: int) -> tuple[np.ndarray, np.ndarray, str]:
        """Input, target and name of one pair."""
        rainy, clean = self.pairs[type_name][item]
        return self.store.read(rainy), self.store.read(clean), self.store.name(rainy)


def _grade(rainy: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    graded = apply_grade(rainy.astype(np.float32) / 255, draw_grade(rng))
    return (255 * graded).clip(0, 255).round().astype(np.uint8)


def _crop_pair(rainy: np.ndarray, clean: np.ndarray, name: str, rng: np.random.Generator, size: int) -> Sample:
    window = crop_window(*rainy.shape[:2], size, rng)
    return Sample(pad_to(rainy[window], size, size), pad_to(clean[window], size, size), name)


class _Rewindable:
    """An iterator that takes back what was read ahead of its turn."""

    def __init__(self, items: Iterator):
        self._items = items
        self._ahead: deque = deque()

    def __iter__(self) -> Iterator:
        return self

    def __next__(self):
        return self._ahead.popleft() if self._ahead else next(self._items)

    def give_back(self, items: list) -> None:
        self._ahead.extendleft(reversed(items))


class StreamedCorpus:
    """A corpus read as a stream: draw n of a type is that type's n-th row, from the start again after the last."""

    def __init__(self, source: CorpusSource, types: list[str]):
        self.label = f"{source.path} ({source.split})"
        self._stream, names = _open_corpus(source)
        if names is None and source.types is None:
            raise DataError(
                f"{self.label}: the type column of a stream does not say which types occur; list them under types."
            )
        self.types = _select_types(source.types or names, source.types, types, self.label)
        self._names = names
        self._skip_unreadable = False
        self._unreadable: set[int] = set()
        self._cursors: dict[str, tuple[int, _Rewindable]] = {}

    def counts(self) -> dict[str, None]:
        return dict.fromkeys(self.types)

    def settle(self, sizes, skip_unreadable: bool) -> None:
        """Nothing can be checked before it is read: the next row then stands for one that cannot be."""
        self._skip_unreadable = skip_unreadable

    def pictures(self, type_name: str, item: int) -> list[int]:
        """None is in a store."""
        return []

    def draw(self, type_name: str, number: int, deck: int, seed: int, rng: np.random.Generator, size: int) -> Sample:
        return _crop_pair(*self.whole(type_name, number), rng, size)

    def whole(self, type_name: str, item: int) -> tuple[np.ndarray, np.ndarray, str]:
        position, rows = self._cursors.get(type_name, (0, None))
        if rows is None or item < position:
            position, rows = 0, _Rewindable(self._rows(type_name))
        taken = [next(itertools.islice(rows, item - position, None))]
        while (pair := self._decoded(*taken[-1])) is None:
            taken[-1] = taken[-1][0], None  # its bytes are of no more use
            taken.append(next(rows))
            if taken[-1][0] == taken[0][0]:
                raise DataError(f"{self.label} holds no row of type {type_name} that can be read.")
        rows.give_back(taken[1:])
        self._cursors[type_name] = item + 1, rows
        return pair

    def _decoded(self, row_number: int, row: dict | None) -> tuple[np.ndarray, np.ndarray, str] | None:
        if row_number in self._unreadable:
            return None
        name = f"row {row_number} of {self.label}"
        try:
            rainy, clean = (
                decode(encoded(row[column]), f"{name}, column {column!r},") for column in ("input", "target")
            )
        except DataError as error:
            _is_readable(str(error), self._skip_unreadable)
            self._unreadable.add(row_number)
            return None
        if rainy.shape != clean.shape:
            raise DataError(
                f"{name}: input and target differ in size, {_dimensions(rainy.shape)} and {_dimensions(clean.shape)}."
            )
        return rainy, clean, name

    def count_up_to(self, wanted: int, type_name: str) -> int:
        """Rows of a type, of `wanted` at most."""
        seen: set[int] = set()
        for number, _ in itertools.islice(self._rows(type_name), wanted):
            if number in seen:  # after the last row comes the first again
                break
            seen.add(number)
        return len(seen)

    def _rows(self, type_name: str) -> Iterator[tuple[int, dict]]:
        while True:
            found = False
            for number, row in self._whole_stream():
                if _type_of(row["type"], self._names, f"row {number} of {self.label}") == type_name:
                    found = True
                    yield number, row
            if not found:
                raise DataError(f"{self.label} holds no row of type {type_name}; leave it out of the source's types.")

    def _whole_stream(self) -> Iterator[tuple[int, dict]]:
        number = -1
        try:
            # `iter` and not `__iter__`, which in a DataLoader worker would hand out only that worker's shards.
            for number, batch in enumerate(self._stream.iter(batch_size=1)):
                yield number, {key: values[0] for key, values in batch.items()}
        except Exception as error:  # of pyarrow, `datasets` or the network
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise DataError(f"{self.label} cannot be read from row {number + 1} on: {reason}") from error

    def __getstate__(self):
        return self.__dict__ | {"_cursors": {}}


class CleanPhotographs:
    """Photographs in a store, with rain rendered over the crop."""

    def __init__(self, source: CleanSource, types: list[str], store: PictureStore):
        self.label = ", ".join(str(path) for path in source.day + source.night)
        self.source = source
        self.store = store
        self.day, self.night = _without_left_out(source, store)
        self.streaks = [store.add(path) for folder in source.streaks for path in _photographs(folder)]
        possible = [name for name in RainType if name in types and (self.day or name in NIGHT_TYPES)]
        if not possible:
            raise DataError(f"{self.label}: rain of none of the types {', '.join(types)} can be rendered over these.")
        self.types = _select_types(possible, source.types, types, self.label)

    def counts(self) -> dict[str, int]:
        return {name: len(self.night if name in NIGHT_TYPES and self.night else self.day) for name in self.types}

    def settle(self, sizes: list[tuple[int, int] | str], skip_unreadable: bool) -> None:
        self.day = [number for number in self.day if _is_readable(sizes[number], skip_unreadable)]
        self.night = [number for number in self.night if _is_readable(sizes[number], skip_unreadable)]
        self.streaks = [number for number in self.streaks if _is_readable(sizes[number], skip_unreadable)]
        for number in self.streaks:
            if min(sizes[number]) < MIN_SIDE:
                size = _dimensions(sizes[number])
                raise DataError(
                    f"{self.store.name(number)} is {size}: a layer of streaks needs at least {MIN_SIDE} pixels a side."
                )
        for name in self.types:
            if not self.day and not (name in NIGHT_TYPES and self.night):
                raise DataError(f"{self.label}: no photograph by day is left to render {name} over.")

    def pictures(self, type_name: str, item: int) -> list[int]:
        """The store's numbers of all that may be drawn: which one is, chance decides."""
        return [*self.day, *self.night, *self.streaks]

    def draw(self, type_name: str, number: int, deck: int, seed: int, rng: np.random.Generator, size: int) -> Sample:
        sample = self.render(
            type_name, number, deck, seed, rng, lambda pixels: random_patch(pixels, size, self.source.min_scale, rng)
        )
        if self.source.rainless > 0 and rng.random() < self.source.rainless:
            return Sample(sample.clean, sample.clean, sample.name)
        return sample

    def render(self, type_name: str, number: int, deck: int, seed: int, rng: np.random.Generator, crop) -> Sample:
        """Rain over `crop` of the photograph that draw `number` falls on; streaks and drops have the size they have in a
        crop, however large it is."""
        photographs = self._background(type_name, rng)
        photograph = photographs[_shuffled(seed, deck, number, len(photographs))]
        pixels = self.store.read(photograph)
        layers = rng.choice(self.streaks, min(len(self.streaks), STREAK_LAYERS), replace=False) if self.streaks else ()
        rendered = render_rain(
            crop(pixels),
            type_name,
            rng,
            scale=1.0,
            darken=photographs is self.day,
            context=_thumbnail(pixels),
            streak_layers=[self.store.read(layer)[..., 1] for layer in layers],
            styles=self.source.styles,
        )
        return Sample(rendered.rainy, rendered.clean, self.store.name(photograph))

    def _background(self, type_name: str, rng: np.random.Generator) -> list[int]:
        """Day types take day photographs, night types both kinds, in the source's proportion."""
        if type_name not in NIGHT_TYPES or not self.night:
            return self.day
        return self.day if self.day and rng.random() < self.source.darkened else self.night


def _thumbnail(pixels: np.ndarray) -> np.ndarray:
    """The whole photograph in few pixels, for drops to refract; they blur it, so that leaving out pixels does no harm."""
    step = max(1, max(pixels.shape[:2]) // THUMBNAIL_SIDE)
    thumbnail = pixels[::step, ::step]
    return pad_to(thumbnail, MIN_SIDE, MIN_SIDE)


Reader = Pairs | StreamedCorpus | CleanPhotographs


def build_reader(source: Source, types: list[str], store: PictureStore) -> Reader:
    if isinstance(source, PairedSource):
        pairs = _find_pairs(source, types, store)
        return Pairs(str(source.root), pairs, store, source)
    if isinstance(source, CleanSource):
        return CleanPhotographs(source, types, store)
    if source.streaming:
        return StreamedCorpus(source, types)
    label, pairs = f"{source.path} ({source.split})", _index_corpus(source, types, store)
    return Pairs(label, pairs, store, source)


def _find_pairs(source: PairedSource, types: list[str], store: PictureStore) -> dict[str, np.ndarray]:
    if not source.root.is_dir():
        raise DataError(f"{source.root} is not a folder.")
    inputs_of: dict[str, list[Path]] = {}
    for folder in sorted(folders_below(source.root)):
        if folder != source.root and (folder / "input").is_dir():
            inputs_of.setdefault(folder.relative_to(source.root).parts[0], []).append(folder / "input")
    if not inputs_of:
        raise DataError(f"{source.root} holds no pairs; expected <type>/<name>/input and <type>/<name>/target in it.")
    names = _select_types(list(inputs_of), source.types, types, str(source.root))
    pairs_of = {name: [pair for inputs in inputs_of[name] for pair in _match(inputs)] for name in names}
    labels_of = {rainy: _labels(rainy, source.root) for pairs in pairs_of.values() for rainy, _ in pairs}
    left_out, unused = _left_out(labels_of, source.leave_out)
    found = {}
    for name in names:
        kept = [(store.add(rainy), store.add(clean)) for rainy, clean in pairs_of[name] if rainy not in left_out]
        if not kept:
            raise DataError(f"leave_out leaves no pair of {source.root / name}.")
        found[name] = np.asarray(kept)
    if unused:
        raise DataError(
            f"There is no pair {min(unused)!r} to leave out below {source.root}: a pair is named <TYPE>/<NAME>/<stem>, "
            "a whole set <TYPE>/<NAME>."
        )
    return found


def _without_left_out(source: CleanSource, store: PictureStore) -> tuple[list[int], list[int]]:
    """The store's numbers of the photographs by day and by night."""
    day, night = ([path for place in places for path in _photographs(place)] for places in (source.day, source.night))
    labels_of = {path: (path.with_suffix("").as_posix(),) for path in day + night}
    left_out, unused = _left_out(labels_of, [name.as_posix() for name in source.leave_out])
    if unused:
        raise DataError(
            f"There is no photograph {min(unused)!r} to leave out: name it as it is found below the folders listed, "
            "without its suffix."
        )
    for time, paths in (("day", day), ("night", night)):
        if paths and left_out.issuperset(paths):
            raise DataError(f"leave_out leaves no photograph by {time} of a clean source: leave {time} out instead.")
    return tuple([store.add(path) for path in paths if path not in left_out] for paths in (day, night))


def _left_out(labels_of: dict[Path, tuple[str, ...]], names: list[str]) -> tuple[set[Path], set[str]]:
    """The files that `leave_out` names by one of their labels, and those of its patterns that name none."""
    literal = {label for labels in labels_of.values() for label in labels}.intersection(names)
    patterns = set(names) - literal
    left_out, unused = set(), set(patterns)
    for path, labels in labels_of.items():
        matched = literal & set(labels) | {p for p in patterns if any(fnmatchcase(label, p) for label in labels)}
        unused -= matched
        if matched:
            left_out.add(path)
    return left_out, unused


def _labels(rainy: Path, root: Path) -> tuple[str, str]:
    """What `leave_out` calls the pair's set and the pair."""
    folder = rainy.parents[1].relative_to(root)
    return folder.as_posix(), (folder / rainy.stem).as_posix()


def _match(inputs: Path) -> list[tuple[Path, Path]]:
    targets = inputs.with_name("target")
    if not targets.is_dir():
        raise DataError(f"{inputs} has no folder target beside it.")
    rainy, clean = pictures_by_stem(inputs), pictures_by_stem(targets)
    both = sorted(set(rainy) & set(clean))
    if not both:
        raise DataError(f"{inputs.parent} holds no pairs: no file in input has the name of one in target.")
    alone = sorted(set(rainy) ^ set(clean))
    if alone:
        logger.warning(
            "%s: %d picture(s) without a partner are left out, first %s.", inputs.parent, len(alone), alone[0]
        )
    return [(rainy[stem], clean[stem]) for stem in both]


def _photographs(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    if not place.is_dir():
        raise DataError(f"{place} is neither a folder nor a picture.")
    found = pictures_below(place)
    if not found:
        raise DataError(f"{place} holds no pictures ({', '.join(sorted(EXTENSIONS))}).")
    return found


def _select_types(there: list[str], asked: list[str] | None, types: list[str], label: str) -> list[str]:
    """The types to read from a source that holds `there`; `asked` must be there, and all must be types of the recipe."""
    selected = there if asked is None else asked
    unknown = [name for name in selected if name not in types]
    if unknown:
        raise DataError(
            f"{label}: type {unknown[0]} is not a type of this recipe ({', '.join(types)}); add it to the recipe's "
            "types, or list the types to use under the source's types."
        )
    absent = [name for name in selected if name not in there]
    if absent:
        raise DataError(f"{label} holds nothing of type {absent[0]}, only {', '.join(there)}.")
    return [str(name) for name in selected]


def _open_corpus(source: CorpusSource):
    """The corpus with undecoded pictures, and the names of its ClassLabel, `None` where `type` is a string."""
    import datasets  # only corpora need it

    label = f"{source.path} ({source.split})"
    try:
        corpus = load_corpus(source.path, source.split, source.streaming)
    except Exception as error:  # the library's own sentence names the file or the split
        raise DataError(f"The corpus {label} cannot be opened: {one_line(error)}") from error
    if source.streaming and isinstance(corpus, datasets.Dataset):
        corpus = corpus.to_iterable_dataset()
    columns = corpus.column_names
    missing = [name for name in ("input", "target", "type") if columns is None or name not in columns]
    if missing:
        raise DataError(
            f"The corpus {label} has no column {missing[0]!r}, only {', '.join(columns or ['unknown ones'])}."
        )
    kind = corpus.features["type"] if corpus.features else None
    names = kind.names if isinstance(kind, datasets.ClassLabel) else None
    for column in ("input", "target"):
        feature = corpus.features[column]
        is_stored = isinstance(feature, dict) and "bytes" in feature  # as an Image is, but not called one
        is_file_or_path = isinstance(feature, datasets.Value) and feature.dtype in STORED_PICTURES
        if not (isinstance(feature, datasets.Image) or is_stored or is_file_or_path):
            raise DataError(f"The corpus {label} holds no pictures in column {column!r}, but {feature}.")
    return undecoded(corpus, ["input", "target"]).select_columns(["input", "target", "type"]), names


def _type_of(value, names: list[str] | None, where: str) -> str | None:
    try:
        return type_of(value, names, where)
    except ValueError as error:
        raise DataError(str(error)) from error


def _index_corpus(source: CorpusSource, types: list[str], store: PictureStore) -> dict[str, np.ndarray]:
    corpus, names = _open_corpus(source)
    label = f"{source.path} ({source.split})"
    row_types = [_type_of(value, names, f"row {row} of {label}") for row, value in enumerate(corpus["type"])]
    if None in row_types and source.types is None:
        raise DataError(
            f"The corpus {label} holds pairs without a type: list the types to train on under the source's types."
        )
    selected = _select_types(sorted({name for name in row_types if name is not None}), source.types, types, label)
    if not selected:
        raise DataError(f"The corpus {label} is empty.")
    rows_of = {name: [] for name in selected}
    for row, name in enumerate(row_types):
        if name in rows_of:
            rows_of[name].append(row)
    return {name: store.add_rows(corpus, rows, ("input", "target"), label) for name, rows in rows_of.items()}


def _is_readable(size: tuple[int, int] | str, skip_unreadable: bool) -> bool:
    if isinstance(size, str):
        if not skip_unreadable:
            raise DataError(f"{size} Repair or remove it, or set skip_unreadable to leave such pictures out.")
        logger.warning("Left out: %s", size)
        return False
    return True


def _dimensions(size) -> str:
    return f"{size[1]} x {size[0]}"
