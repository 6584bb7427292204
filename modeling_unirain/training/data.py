"""Training and validation pictures: paired folders, `datasets` corpora, and photographs with rain rendered on the fly.

    DataConfig -> RainDataset: sample n -> (type, source, item) -> decode (cached) -> crop -> [render rain] -> flip, rotate

Nothing here keeps a random state. Which pair sample `index` of epoch `epoch` shows, and everything random about it, is a
function of (seed, epoch, index), so that the number of workers, of processes, and a resume in the middle of an epoch
change nothing. Read it in order: the order is already mixed, and in order every batch is balanced over the types.
"""

import io
import itertools
import logging
import mmap
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import MISSING, dataclass, field, fields
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from ..images import EXTENSIONS, read_rgb
from ..rain import MIN_SIDE, render_rain
from ..types import RainType


logger = logging.getLogger(__name__)

SAMPLING = ("balanced", "natural")
EXAMPLES_IN_MESSAGES = 3
ORIENTATION = 0x0112  # EXIF
STREAK_LAYERS = 3  # of a folder of layers are offered to the renderer at a time
THUMBNAIL_SIDE = 192


class DataError(ValueError):
    """Data that cannot be trained on, in one sentence: what, which file, what to do."""


# ---- What a recipe says -------------------------------------------------------------------------------------------------


@dataclass
class PairedSource:
    """Folders of pairs: `<root>/<TYPE>/**/input` beside `target`; a pair has the same file name, save for the suffix."""

    root: Path
    weight: float = 1.0
    """Share of a type's samples (`sampling="balanced"`) or of all samples (`"natural"`), relative to the other sources."""
    types: list[str] | None = None
    """Read only these type folders. Default: all there are, and each must be a type of the recipe."""

    def __post_init__(self):
        self.root = Path(self.root).expanduser()
        _check_source(self)


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

    def __post_init__(self):
        self.path = str(self.path)
        _check_source(self)


@dataclass
class CleanSource:
    """Photographs without rain, over which rain is rendered on the fly (`modeling_unirain.rain`).

    The crop is cut first, the rain rendered over the crop. Day types use the photographs by day, night types those by
    night and, with the probability `darkened`, those by day, which the renderer darkens.
    """

    day: list[Path] = field(default_factory=list)
    """Folders, searched with their subfolders, or single pictures."""
    night: list[Path] = field(default_factory=list)
    streaks: list[Path] = field(default_factory=list)
    """Folders of streak layers (grey on black), some of which are used in place of drawn streaks."""
    types: list[str] | None = None
    """Types to render. Default: all four that the photographs allow and the recipe lists."""
    weight: float = 1.0
    darkened: float = 0.5
    """Probability that a night sample is a darkened day photograph; without night photographs every one is."""
    min_scale: float = 1.0
    """Before cropping, a photograph is reduced by a factor drawn from [min_scale, 1], averaging over areas."""

    def __post_init__(self):
        self.day = [Path(path).expanduser() for path in _as_list(self.day)]
        self.night = [Path(path).expanduser() for path in _as_list(self.night)]
        self.streaks = [Path(path).expanduser() for path in _as_list(self.streaks)]
        _check_source(self)
        if not self.day and not self.night:
            raise DataError("A clean source needs folders of photographs under day, night or both.")
        if not 0 <= self.darkened <= 1:
            raise DataError(f"darkened is a probability between 0 and 1, got {self.darkened}.")
        if not 0 < self.min_scale <= 1:
            raise DataError(f"min_scale must lie in (0, 1], got {self.min_scale}.")
        for name in self.types or []:
            if name not in set(RainType):
                raise DataError(f"Rain of type {name!r} cannot be rendered; the renderer knows {', '.join(RainType)}.")


Source = PairedSource | CorpusSource | CleanSource
SOURCE_KINDS = {"paired": PairedSource, "corpus": CorpusSource, "clean": CleanSource}


@dataclass
class DataConfig:
    """What to train on."""

    sources: list[Source]
    """Instances, or mappings with `kind: paired | corpus | clean` and the fields of that source."""
    types: list[str] = field(default_factory=lambda: [str(name) for name in RainType])
    """The types, in the order of their ids. Any names: snow and haze are added by data alone."""
    patch_size: int = 128
    """Side of the square crops in pixels (paper: 128). A smaller picture is padded by reflection."""
    samples_per_epoch: int = 10_000
    """An epoch is a count of samples, not a pass over the data; within a source, nothing is repeated before everything has
    been seen."""
    rotate: bool = True
    """Turn samples by all eight symmetries of the square, as the paper does, though a turn by 90 degrees lets streaks fall
    sideways. Otherwise only mirror left and right."""
    sampling: str = "balanced"
    """`"balanced"`: every type equally often. `"natural"`: sources by weight, types as a source has them."""
    cache_gib: float = 4.0
    """Memory for decoded pictures per process, shared by its workers."""
    verify_images: bool = True
    """Decode every picture once before training, which also fills the cache. Otherwise only the headers are read, and a
    truncated file stops the run when it is met."""
    skip_unreadable: bool = False
    """Leave out pictures that cannot be read, naming each in a warning, instead of stopping before training."""

    def __post_init__(self):
        self.sources = _as_sources(self.sources)
        _check_types(self.types)
        if self.sampling not in SAMPLING:
            raise DataError(f"sampling must be one of {', '.join(SAMPLING)}, got {self.sampling!r}.")
        for name in ("patch_size", "samples_per_epoch"):
            if getattr(self, name) < 1:
                raise DataError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.cache_gib < 0:
            raise DataError(f"cache_gib must not be negative, got {self.cache_gib}.")

    @classmethod
    def from_dict(cls, values: dict) -> "DataConfig":
        """From a parsed recipe; a key that is not a field is an error."""
        return cls(**_known_fields(cls, values, "data"))


@dataclass
class ValidationConfig:
    """What to validate on: the same pictures in every round."""

    sources: list[Source]
    samples_per_type: int | None = 16
    """Pairs of each type from every source, spread evenly over it; null takes all pairs and renders every photograph once."""
    crop_size: int | None = 256
    """Side of the centre crop in pixels; a smaller picture keeps its size. null takes whole pictures."""
    size_divisor: int = 8
    """Height and width are cropped to multiples of it, so that a model takes the pictures as they are."""
    skip_unreadable: bool = False

    def __post_init__(self):
        self.sources = _as_sources(self.sources)
        for name in ("samples_per_type", "crop_size", "size_divisor"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise DataError(f"{name} must be at least 1, got {value}.")

    @classmethod
    def from_dict(cls, values: dict) -> "ValidationConfig":
        """From a parsed recipe; a key that is not a field is an error."""
        return cls(**_known_fields(cls, values, "validation"))


def _known_fields(cls, values: dict, where: str) -> dict:
    if not isinstance(values, dict):
        raise DataError(f"{where} must be a mapping of keys to values, got {values!r}.")
    known = {f.name: f for f in fields(cls)}
    unknown = [key for key in values if key not in known]
    if unknown:
        raise DataError(f"Unknown key {unknown[0]!r} in {where}; the keys are {', '.join(known)}.")
    missing = [name for name, f in known.items() if f.default is f.default_factory is MISSING and name not in values]
    if missing:
        raise DataError(f"The key {missing[0]!r} is missing in {where}.")
    return values


def _as_sources(sources: list) -> list[Source]:
    if not isinstance(sources, list) or not sources:
        raise DataError("sources must be a list with at least one source.")
    return [_as_source(source, f"source {number}") for number, source in enumerate(sources, 1)]


def _as_source(source: "Source | dict", where: str) -> Source:
    if isinstance(source, Source):
        return source
    if not isinstance(source, dict) or source.get("kind") not in SOURCE_KINDS:
        raise DataError(f"{where} needs a kind: one of {', '.join(SOURCE_KINDS)}.")
    cls = SOURCE_KINDS[source["kind"]]
    values = {key: value for key, value in source.items() if key != "kind"}
    return cls(**_known_fields(cls, values, f"{where} ({source['kind']})"))


def _as_list(value) -> list:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _check_source(source: Source) -> None:
    if not source.weight > 0:
        raise DataError(f"The weight of a source must be positive, got {source.weight}; leave the source out instead.")
    if source.types is not None:
        source.types = [str(name) for name in _as_list(source.types)]
        _check_types(source.types)


def _check_types(types: list[str]) -> None:
    if not isinstance(types, list) or not types or len(set(types)) != len(types):
        raise DataError(f"types must be a list of different names, got {types!r}.")


# ---- Decoded pictures ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _CorpusPicture:
    """One picture of a corpus that is read by row."""

    corpus: object
    row: int
    column: str
    label: str

    def __str__(self):
        return f"row {self.row} of {self.label}, column {self.column!r},"

    def open(self) -> io.BytesIO | str:
        return _encoded(self.corpus[self.row][self.column])


class PictureStore:
    """All pictures of a data set by number, decoded on first use and kept as uint8 while there is room.

    The memory is one anonymous shared mapping, so that forked workers fill and use it together; what is not touched is
    never allocated. There is no eviction: samples are drawn evenly, so keeping the first pictures serves as well as
    keeping the latest. A store that is pickled (workers that are spawned) arrives there without its cache.
    """

    def __init__(self, budget: int):
        self.budget = budget
        self._pictures: list[Path | _CorpusPicture] = []
        self._memory = None

    def add(self, picture: Path | _CorpusPicture) -> int:
        self._pictures.append(picture)
        return len(self._pictures) - 1

    def name(self, number: int) -> str:
        return str(self._pictures[number])

    def inspect(self, decode: bool) -> list[tuple[int, int] | str]:
        """(height, width) of every picture, or why it cannot be read; `decode` reads all of it and warms the cache."""
        sizes = self._in_threads(self._header_size, "Looking at pictures")
        self._allocate(sum(size[0] * size[1] * 3 for size in sizes if not isinstance(size, str)))
        return self._in_threads(self._decoded_size, "Checking pictures") if decode else sizes

    def _in_threads(self, task, title: str) -> list:
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            results = threads.map(task, range(len(self._pictures)))
            return list(tqdm(results, title, len(self._pictures), unit="picture", delay=2, leave=False))

    def kept(self) -> int:
        """Bytes of decoded pictures in the cache."""
        return 0 if self._memory is None else int(self._used[0])

    def read(self, number: int) -> np.ndarray:
        """The picture as a read-only uint8 array (height, width, 3)."""
        if self._memory is None:
            return self._decode(number)
        with self._lock:
            start, height, width = self._entries[number]
        if height == 0:
            return self._keep(number, self._decode(number))
        return self._view(start, height, width)

    def _keep(self, number: int, pixels: np.ndarray) -> np.ndarray:
        with self._lock:
            start = int(self._used[0])
            if start + pixels.size > len(self._memory):
                return pixels
            self._used[0] = start + pixels.size
        height, width, _ = pixels.shape
        self._view(start, height, width)[...] = pixels
        with self._lock:
            self._entries[number] = start, height, width
        return pixels

    def _view(self, start: int, height: int, width: int) -> np.ndarray:
        return np.frombuffer(self._memory, np.uint8, height * width * 3, start).reshape(height, width, 3)

    def _allocate(self, wanted: int) -> None:
        size = min(self.budget, wanted)
        if size == 0:
            return
        self._lock = multiprocessing.Lock()
        self._memory = mmap.mmap(-1, size)
        count = len(self._pictures)
        table = np.frombuffer(mmap.mmap(-1, 8 * (3 * count + 1)), np.int64)
        self._used, self._entries = table[:1], table[1:].reshape(count, 3)

    def _decode(self, number: int) -> np.ndarray:
        picture = self._pictures[number]
        if isinstance(picture, Path):
            return _readable(picture)
        return _decoded(picture.open(), str(picture))

    def _decoded_size(self, number: int) -> tuple[int, int] | str:
        try:
            return self.read(number).shape[:2]
        except DataError as error:
            return str(error)

    def _header_size(self, number: int) -> tuple[int, int] | str:
        picture = self._pictures[number]
        try:
            with Image.open(picture if isinstance(picture, Path) else picture.open()) as image:
                tagged = image.format != "PNG" or "exif" in image.info  # without, Pillow searches a PNG to its end
                turned = tagged and image.getexif().get(ORIENTATION, 1) >= 5  # those that swap the sides
                return image.size if turned else image.size[::-1]
        except Exception:  # broken, or a kind that `read_rgb` knows and Pillow does not
            return self._decoded_size(number)

    def __getstate__(self):
        return {"budget": self.budget, "_pictures": self._pictures, "_memory": None}


def _readable(path: Path) -> np.ndarray:
    try:
        return read_rgb(path)
    except (ValueError, OSError) as error:
        raise DataError(str(error)) from error


def _decoded(source: io.BytesIO | str, label: str) -> np.ndarray:
    """A corpus's picture: the bytes of a file, or the path of one."""
    if isinstance(source, str):
        return _readable(Path(source))
    try:
        with Image.open(source) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except Exception as error:  # Pillow raises half a dozen types for files that are broken in different ways
        raise DataError(f"{label} cannot be read as a picture ({error}).") from error


def _encoded(cell: dict) -> io.BytesIO | str:
    """What an undecoded `Image` cell holds: the file's bytes, or its path."""
    return io.BytesIO(cell["bytes"]) if cell["bytes"] is not None else cell["path"]


# ---- Crops and turns ----------------------------------------------------------------------------------------------------


def _crop_window(height: int, width: int, size: int, rng: np.random.Generator) -> tuple[slice, slice]:
    top = rng.integers(max(height - size, 0) + 1)
    left = rng.integers(max(width - size, 0) + 1)
    return slice(top, top + size), slice(left, left + size)


def _pad_to(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Reflects a picture that is too small, as often as it takes, equally on both sides."""
    rows, columns = max(height - pixels.shape[0], 0), max(width - pixels.shape[1], 0)
    if rows == columns == 0:
        return pixels
    return np.pad(pixels, ((rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2), (0, 0)), "reflect")


def _turn(pixels: np.ndarray, symmetry: int) -> np.ndarray:
    """One of the eight symmetries of the square, 0 to 7."""
    turned = np.rot90(pixels, symmetry % 4)
    return turned[:, ::-1] if symmetry >= 4 else turned


def _random_patch(pixels: np.ndarray, size: int, min_scale: float, rng: np.random.Generator) -> np.ndarray:
    """Crop of a photograph reduced by a random factor; only the crop's own area is resized."""
    scale = max(rng.uniform(min_scale, 1.0), min(1.0, size / min(pixels.shape[:2])))
    wide = round(size / scale)
    patch = _pad_to(pixels[_crop_window(*pixels.shape[:2], wide, rng)], wide, wide)
    return patch if wide == size else np.asarray(Image.fromarray(patch).resize((size, size), Image.Resampling.BOX))


def _thumbnail(pixels: np.ndarray) -> np.ndarray:
    """The whole photograph in few pixels, for drops to refract; they blur it, so that leaving out pixels does no harm."""
    step = max(1, max(pixels.shape[:2]) // THUMBNAIL_SIDE)
    thumbnail = pixels[::step, ::step]
    return _pad_to(thumbnail, MIN_SIDE, MIN_SIDE)


def _to_tensor(pixels: np.ndarray) -> Tensor:
    """(height, width, 3), uint8 or float in [0, 1] -> float (3, height, width) in [0, 1]."""
    tensor = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
    return tensor.float() / 255 if tensor.dtype == torch.uint8 else tensor.float()


@lru_cache(maxsize=32)
def _permutation(seed: int, deck: int, cycle: int, size: int) -> np.ndarray:
    return np.random.default_rng([seed, deck, cycle]).permutation(size)


def _shuffled(seed: int, deck: int, number: int, size: int) -> int:
    """Item of the `number`-th draw from `size` items: each cycle deals every item once, in an order of its own."""
    cycle, position = divmod(number, size)
    return int(_permutation(seed, deck, cycle, size)[position])


# ---- Sources at work ----------------------------------------------------------------------------------------------------


@dataclass
class _Sample:
    rainy: np.ndarray
    clean: np.ndarray
    name: str


class _Pairs:
    """Pairs in a store: paired folders and corpora read by row."""

    def __init__(self, label: str, pairs: dict[str, list[tuple[int, int]]], store: PictureStore):
        self.label = label
        self.pairs = pairs
        self.store = store

    def counts(self) -> dict[str, int]:
        return {name: len(pairs) for name, pairs in self.pairs.items()}

    def settle(self, sizes: list[tuple[int, int] | str], skip_unreadable: bool) -> None:
        """Takes what the inspection of the store found: drops or reports unreadable pictures and unequal pairs."""
        for name in list(self.pairs):
            self.pairs[name] = [
                pair
                for pair in self.pairs[name]
                if all([_is_readable(sizes[number], skip_unreadable) for number in pair])
            ]
        unequal = [p for pairs in self.pairs.values() for p in pairs if sizes[p[0]] != sizes[p[1]]]
        if unequal:
            shown = "; ".join(
                f"{self.store.name(rainy)} is {_dimensions(sizes[rainy])}, its target {_dimensions(sizes[clean])}"
                for rainy, clean in unequal[:EXAMPLES_IN_MESSAGES]
            )
            raise DataError(f"{self.label}: {len(unequal)} pair(s) differ in size and cannot be aligned: {shown}.")

    def draw(self, type_name: str, number: int, deck: int, seed: int, rng: np.random.Generator, size: int) -> _Sample:
        pairs = self.pairs[type_name]
        return _crop_pair(*self.whole(type_name, _shuffled(seed, deck, number, len(pairs))), rng, size)

    def whole(self, type_name: str, item: int) -> tuple[np.ndarray, np.ndarray, str]:
        """Input, target and name of one pair."""
        rainy, clean = self.pairs[type_name][item]
        return self.store.read(rainy), self.store.read(clean), self.store.name(rainy)


def _crop_pair(rainy: np.ndarray, clean: np.ndarray, name: str, rng: np.random.Generator, size: int) -> _Sample:
    window = _crop_window(*rainy.shape[:2], size, rng)
    return _Sample(_pad_to(rainy[window], size, size), _pad_to(clean[window], size, size), name)


class _StreamedCorpus:
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
        self._cursors: dict[str, tuple[int, Iterator[tuple[int, dict]]]] = {}

    def counts(self) -> dict[str, None]:
        return dict.fromkeys(self.types)

    def settle(self, sizes, skip_unreadable: bool) -> None:
        """Nothing can be checked before it is read."""

    def draw(self, type_name: str, number: int, deck: int, seed: int, rng: np.random.Generator, size: int) -> _Sample:
        return _crop_pair(*self.whole(type_name, number), rng, size)

    def whole(self, type_name: str, item: int) -> tuple[np.ndarray, np.ndarray, str]:
        position, rows = self._cursors.get(type_name, (0, None))
        if rows is None or item < position:
            position, rows = 0, self._rows(type_name)
        row_number, row = next(itertools.islice(rows, item - position, None))
        self._cursors[type_name] = item + 1, rows
        name = f"row {row_number} of {self.label}"
        rainy, clean = (
            _decoded(_encoded(row[column]), f"{name}, column {column!r},") for column in ("input", "target")
        )
        if rainy.shape != clean.shape:
            raise DataError(
                f"{name}: input and target differ in size, {_dimensions(rainy.shape)} and {_dimensions(clean.shape)}."
            )
        return rainy, clean, name

    def _rows(self, type_name: str) -> Iterator[tuple[int, dict]]:
        while True:
            found = False
            # `iter` and not `__iter__`, which in a DataLoader worker would hand out only that worker's shards.
            for number, batch in enumerate(self._stream.iter(batch_size=1)):
                row = {key: values[0] for key, values in batch.items()}
                if _type_of(row["type"], self._names) == type_name:
                    found = True
                    yield number, row
            if not found:
                raise DataError(f"{self.label} holds no row of type {type_name}; leave it out of the source's types.")

    def __getstate__(self):
        return self.__dict__ | {"_cursors": {}}


class _CleanPhotographs:
    """Photographs in a store, with rain rendered over the crop."""

    def __init__(self, source: CleanSource, types: list[str], store: PictureStore):
        self.label = ", ".join(str(path) for path in source.day + source.night)
        self.source = source
        self.store = store
        self.day = [store.add(path) for folder in source.day for path in _photographs(folder)]
        self.night = [store.add(path) for folder in source.night for path in _photographs(folder)]
        self.streaks = [store.add(path) for folder in source.streaks for path in _photographs(folder)]
        possible = [name for name in RainType if name in types and (self.day or name in _NIGHT)]
        if not possible:
            raise DataError(f"{self.label}: rain of none of the types {', '.join(types)} can be rendered over these.")
        self.types = _select_types(possible, source.types, types, self.label)

    def counts(self) -> dict[str, int]:
        return {name: len(self.night if name in _NIGHT and self.night else self.day) for name in self.types}

    def settle(self, sizes: list[tuple[int, int] | str], skip_unreadable: bool) -> None:
        self.day = [number for number in self.day if _is_readable(sizes[number], skip_unreadable)]
        self.night = [number for number in self.night if _is_readable(sizes[number], skip_unreadable)]
        self.streaks = [number for number in self.streaks if _is_readable(sizes[number], skip_unreadable)]
        for name in self.types:
            if not self.day and not (name in _NIGHT and self.night):
                raise DataError(f"{self.label}: no photograph by day is left to render {name} over.")

    def draw(self, type_name: str, number: int, deck: int, seed: int, rng: np.random.Generator, size: int) -> _Sample:
        return self.render(
            type_name, number, deck, seed, rng, lambda pixels: _random_patch(pixels, size, self.source.min_scale, rng)
        )

    def render(self, type_name: str, number: int, deck: int, seed: int, rng: np.random.Generator, crop) -> _Sample:
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
        )
        return _Sample(rendered.rainy, rendered.clean, self.store.name(photograph))

    def _background(self, type_name: str, rng: np.random.Generator) -> list[int]:
        """Day types take day photographs, night types both kinds, in the source's proportion."""
        if type_name not in _NIGHT or not self.night:
            return self.day
        return self.day if self.day and rng.random() < self.source.darkened else self.night


_NIGHT = {RainType.NRS, RainType.NRD}


def _build_reader(
    source: Source, types: list[str], store: PictureStore
) -> "_Pairs | _StreamedCorpus | _CleanPhotographs":
    if isinstance(source, PairedSource):
        return _Pairs(str(source.root), _find_pairs(source, types, store), store)
    if isinstance(source, CleanSource):
        return _CleanPhotographs(source, types, store)
    if source.streaming:
        return _StreamedCorpus(source, types)
    return _Pairs(f"{source.path} ({source.split})", _index_corpus(source, types, store), store)


def _find_pairs(source: PairedSource, types: list[str], store: PictureStore) -> dict[str, list[tuple[int, int]]]:
    if not source.root.is_dir():
        raise DataError(f"{source.root} is not a folder.")
    there = sorted(
        folder.name for folder in source.root.iterdir() if folder.is_dir() and next(folder.rglob("input"), None)
    )
    if not there:
        raise DataError(f"{source.root} holds no pairs; expected <type>/<name>/input and <type>/<name>/target in it.")
    names = _select_types(there, source.types, types, str(source.root))
    found = {}
    for name in names:
        files = [
            pair
            for inputs in sorted((source.root / name).rglob("input"))
            for pair in _match(inputs)
            if inputs.is_dir()
        ]
        found[name] = [(store.add(rainy), store.add(clean)) for rainy, clean in files]
    return found


def _match(inputs: Path) -> list[tuple[Path, Path]]:
    targets = inputs.with_name("target")
    if not targets.is_dir():
        raise DataError(f"{inputs} has no folder target beside it.")
    rainy, clean = _by_stem(inputs), _by_stem(targets)
    both = sorted(set(rainy) & set(clean))
    if not both:
        raise DataError(f"{inputs.parent} holds no pairs: no file in input has the name of one in target.")
    alone = sorted(set(rainy) ^ set(clean))
    if alone:
        logger.warning(
            "%s: %d picture(s) without a partner are left out, first %s.", inputs.parent, len(alone), alone[0]
        )
    return [(rainy[stem], clean[stem]) for stem in both]


def _by_stem(folder: Path) -> dict[str, Path]:
    files = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in EXTENSIONS:
            if path.stem in files:
                raise DataError(f"{folder} holds two pictures named {path.stem}; pairs are matched by name.")
            files[path.stem] = path
    return files


def _photographs(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    if not place.is_dir():
        raise DataError(f"{place} is neither a folder nor a picture.")
    found = sorted(path for path in place.rglob("*") if path.suffix.lower() in EXTENSIONS)
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
    path = Path(source.path).expanduser()
    try:
        if (path / "dataset_dict.json").is_file():
            corpus = datasets.load_from_disk(path)
            if source.split not in corpus:
                raise DataError(f"{source.path} has no split {source.split!r}, only {', '.join(corpus)}.")
            corpus = corpus[source.split]
        elif (path / "state.json").is_file():
            corpus = datasets.load_from_disk(path)
        elif path.is_file():
            corpus = datasets.load_dataset(
                "parquet", data_files={source.split: str(path)}, split=source.split, streaming=source.streaming
            )
        else:
            name = str(path) if path.exists() else source.path
            corpus = datasets.load_dataset(name, split=source.split, streaming=source.streaming)
    except DataError:
        raise
    except Exception as error:  # the library's own sentence names the file or the split
        raise DataError(f"The corpus {label} cannot be opened: {str(error).splitlines()[0]}") from error
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
    corpus = corpus.select_columns(["input", "target", "type"])
    for column in ("input", "target"):
        corpus = corpus.cast_column(column, datasets.Image(decode=False))
    return corpus, names


def _type_of(value, names: list[str] | None) -> str:
    return str(value) if names is None else names[value]


def _index_corpus(source: CorpusSource, types: list[str], store: PictureStore) -> dict[str, list[tuple[int, int]]]:
    corpus, names = _open_corpus(source)
    label = f"{source.path} ({source.split})"
    row_types = [_type_of(value, names) for value in corpus["type"]]
    selected = _select_types(sorted(set(row_types)), source.types, types, label)
    found = {name: [] for name in selected}
    for row, name in enumerate(row_types):
        if name in found:
            rainy, clean = (store.add(_CorpusPicture(corpus, row, column, label)) for column in ("input", "target"))
            found[name].append((rainy, clean))
    if not found:
        raise DataError(f"The corpus {label} is empty.")
    return found


def _is_readable(size: tuple[int, int] | str, skip_unreadable: bool) -> bool:
    if isinstance(size, str):
        if not skip_unreadable:
            raise DataError(f"{size} Repair or remove it, or set skip_unreadable to leave such pictures out.")
        logger.warning("Left out: %s", size)
        return False
    return True


def _dimensions(size) -> str:
    return f"{size[1]} x {size[0]}"


# ---- Which sample is which ----------------------------------------------------------------------------------------------


@dataclass
class _Lane:
    """One type from one source."""

    type_name: str
    reader: "_Pairs | _StreamedCorpus | _CleanPhotographs"
    weight: float


class _Schedule:
    """Deals draws to lanes in proportion to their weights, evenly spread, and numbers each lane's own draws.

    Both are functions of the draw's number alone. Proportions are exact to one slot in `length`.
    """

    def __init__(self, weights: list[float], length: int = 1024):
        shares = np.asarray(weights) / sum(weights) * max(length, len(weights))
        counts = np.maximum(np.round(shares).astype(int), 1)
        due = np.concatenate([(np.arange(count) + 0.5) / count for count in counts])
        lanes = np.repeat(np.arange(len(counts)), counts)
        self.slots = lanes[np.argsort(due, kind="stable")]
        self.counts = counts
        self.ranks = np.empty_like(self.slots)
        for lane, count in enumerate(counts):
            self.ranks[self.slots == lane] = np.arange(count)

    def deal(self, number: int) -> tuple[int, int]:
        """Draw `number` -> its lane, and which draw of that lane it is."""
        cycle, slot = divmod(number, len(self.slots))
        lane = int(self.slots[slot])
        return lane, cycle * int(self.counts[lane]) + int(self.ranks[slot])


class RainDataset(Dataset):
    """Training samples: `{"pixel_values", "labels": float (3, patch_size, patch_size) in [0, 1], "rain_type": int, "name"}`.

    Built with every check made: folders without pairs, unequal sizes, unknown types, unreadable pictures, types without
    data raise `DataError`.

    Pairs are cropped and turned alike; rain is rendered upright and turned afterwards.

    Call `set_epoch` before each epoch and read in order, without a shuffling sampler.
    """

    def __init__(self, config: DataConfig, seed: int = 0):
        self.config = config
        self.seed = seed
        self.epoch = 0
        self.types = [str(name) for name in config.types]
        self.store = PictureStore(int(config.cache_gib * 2**30))
        readers = [_build_reader(source, self.types, self.store) for source in config.sources]
        sizes = self.store.inspect(decode=config.verify_images)
        for reader in readers:
            reader.settle(sizes, config.skip_unreadable)
        self._lanes = self._lay_lanes(readers)
        self._schedules = [_Schedule([lane.weight for lane in lanes]) for lanes in self._lanes]

    def _lay_lanes(self, readers: list) -> list[list[_Lane]]:
        """One group of lanes per type when balanced, a single group when natural; groups take turns."""
        lanes = []
        for source, reader in zip(self.config.sources, readers, strict=True):
            counts = {name: count for name, count in reader.counts().items() if count != 0}
            if not counts:
                raise DataError(f"{reader.label} holds no usable pictures.")
            total = sum(count or 1 for count in counts.values())
            for name, count in counts.items():
                natural = self.config.sampling == "natural"
                lanes.append(_Lane(name, reader, source.weight * ((count or 1) / total if natural else 1)))
        for name in self.types:
            if not any(lane.type_name == name for lane in lanes):
                raise DataError(f"No source holds anything of type {name}; add a source or take it out of the types.")
        if self.config.sampling == "natural":
            return [lanes]
        return [[lane for lane in lanes if lane.type_name == name] for name in self.types]

    def set_epoch(self, epoch: int) -> None:
        """Moves on to the samples of `epoch`, counted from 0."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.config.samples_per_epoch

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < len(self):
            raise IndexError(index)
        number, group = divmod(self.epoch * len(self) + index, len(self._lanes))
        lane_index, draw = self._schedules[group].deal(number)
        lane = self._lanes[group][lane_index]
        rng = np.random.default_rng([self.seed, self.epoch, index])
        sample = lane.reader.draw(
            lane.type_name, draw, 1024 * group + lane_index, self.seed, rng, self.config.patch_size
        )
        symmetry = int(rng.integers(8)) if self.config.rotate else 4 * int(rng.integers(2))
        return {
            "pixel_values": _to_tensor(_turn(sample.rainy, symmetry)),
            "labels": _to_tensor(_turn(sample.clean, symmetry)),
            "rain_type": self.types.index(lane.type_name),
            "name": sample.name,
        }


class ValidationSet(Dataset):
    """A fixed set of whole pictures or centre crops: the items of `RainDataset`, with heights and widths of their own.

    Sides are multiples of `config.size_divisor`. Rendered rain comes from a fixed seed. Pictures of different sizes
    cannot share a batch: read with a batch size of one, or group by shape.
    """

    def __init__(self, config: ValidationConfig, types: list[str], seed: int = 0):
        self.config = config
        self.types = [str(name) for name in types]
        self.seed = seed
        self.store = PictureStore(0)
        readers = [_build_reader(source, self.types, self.store) for source in config.sources]
        sizes = self.store.inspect(decode=False)
        self._items: list[tuple[str, object, int]] = []
        for reader in readers:
            reader.settle(sizes, config.skip_unreadable)
            for name, count in reader.counts().items():
                self._items += [(name, reader, item) for item in self._choose(count, reader)]
        for name in self.types:
            if not any(item[0] == name for item in self._items):
                logger.warning("No validation pictures of type %s.", name)

    def _choose(self, count: int | None, reader) -> list[int]:
        wanted = self.config.samples_per_type
        if count is None and wanted is None:
            raise DataError(
                f"{reader.label}: how many rows of a stream to validate on must be said by samples_per_type."
            )
        if count is None or isinstance(reader, _CleanPhotographs):
            return list(range(wanted or count))
        wanted = min(wanted or count, count)
        return [round(step) for step in np.linspace(0, count - 1, wanted)]

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> dict:
        name, reader, item = self._items[index]
        if isinstance(reader, _CleanPhotographs):
            rng = np.random.default_rng([self.seed, self.types.index(name), item])
            sample = reader.render(name, item, 0, self.seed, rng, self._centre)
        else:
            rainy, clean, label = reader.whole(name, item)
            sample = _Sample(self._centre(rainy), self._centre(clean), label)
        return {
            "pixel_values": _to_tensor(sample.rainy),
            "labels": _to_tensor(sample.clean),
            "rain_type": self.types.index(name),
            "name": sample.name,
        }

    def _centre(self, pixels: np.ndarray) -> np.ndarray:
        divisor = self.config.size_divisor
        height, width = (min(side, self.config.crop_size or side) // divisor * divisor for side in pixels.shape[:2])
        pixels = _pad_to(pixels, divisor, divisor)
        height, width = max(height, divisor), max(width, divisor)
        top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
        return pixels[top : top + height, left : left + width]
