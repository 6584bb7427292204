"""The pictures of a data set by number: decoded once, kept in memory that workers share, checked before training."""

import io
import mmap
import multiprocessing
import os
from array import array
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError
from tqdm import tqdm

from ..corpora import read_stored
from ..images import read_rgb, rgb_of


BLOCK = 4096
"""Pictures that wait in line for a thread at a time, 2 kB each."""


class DataError(ValueError):
    """Data that cannot be trained on, in one sentence: what, which file, what to do."""


class SampleError(DataError):
    """The same, met while training or validating: by one process alone."""


@dataclass(frozen=True)
class CorpusPicture:
    """One picture of a corpus that is read by row."""

    corpus: object
    row: int
    column: str
    label: str

    def __str__(self):
        return f"row {self.row} of {self.label}, column {self.column!r},"

    def open(self) -> io.BytesIO | str | None:
        return encoded(self.corpus[self.row][self.column])


class PackedTexts:
    """A list of texts in one buffer. Two million objects would be copied into every worker that has been forked: reading one
    counts a reference, which writes to its page."""

    def __init__(self):
        self._bytes = bytearray()
        self._ends = array("q", [0])

    def append(self, text: str) -> None:
        self._bytes += os.fsencode(text)
        self._ends.append(len(self._bytes))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, number: int) -> str:
        return os.fsdecode(bytes(self._bytes[self._ends[number] : self._ends[number + 1]]))


class PictureStore:
    """All pictures of a data set by number, decoded on first use and kept as uint8 while there is room.

    The memory is one anonymous shared mapping, so that forked workers fill and use it together; what is not touched is
    never allocated. There is no eviction: samples are drawn evenly, so keeping the first pictures serves as well as
    keeping the latest. A store that is pickled (workers that are spawned) arrives there without its cache.
    """

    def __init__(self, budget: int):
        self.budget = budget
        self._paths = PackedTexts()
        self._columns: list[tuple[object, str, str]] = []  # corpus, column, label
        self._places = array("i")  # of each picture: number of its column, or -1 for a path
        self._rows = array("q")  # of each picture: number of its row, or of its path
        self._numbers: dict[str, int] = {}
        self._memory = None

    def add(self, path: Path) -> int:
        """The picture's number; a path that several sources read has one."""
        number = self._numbers.setdefault(str(path), len(self))
        if number == len(self):
            self._places.append(-1)
            self._rows.append(len(self._paths))
            self._paths.append(str(path))
        return number

    def add_rows(self, corpus, rows: Sequence[int], columns: Sequence[str], label: str) -> np.ndarray:
        """Numbers `(rows, columns)` of the pictures in some rows of a corpus, whose `label` messages name."""
        first, places = len(self), range(len(self._columns), len(self._columns) + len(columns))
        self._columns += [(corpus, column, label) for column in columns]
        self._places.extend(array("i", places) * len(rows))
        self._rows.frombytes(np.repeat(np.asarray(rows, np.int64), len(columns)).tobytes())
        return np.arange(first, len(self)).reshape(len(rows), len(columns))

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, number: int) -> Path | CorpusPicture:
        place, row = self._places[number], self._rows[number]
        if place < 0:
            return Path(self._paths[row])
        corpus, column, label = self._columns[place]
        return CorpusPicture(corpus, row, column, label)

    def name(self, number: int) -> str:
        return str(self[number])

    def inspect(self, decode: bool) -> list[tuple[int, int] | str]:
        """(height, width) of every picture, or why it cannot be read; `decode` reads all of it and warms the cache. No picture
        can be added afterwards."""
        self._numbers.clear()
        everything = range(len(self))
        sizes = self._in_threads(self._header_size, everything, "Looking at pictures")
        self._allocate(sum(size[0] * size[1] * 3 for size in sizes if not isinstance(size, str)))
        return self._in_threads(self._decoded_size, everything, "Checking pictures") if decode else sizes

    def unreadable(self, numbers: Sequence[int]) -> dict[int, str]:
        """Those of the pictures that cannot be decoded, and why."""
        results = self._in_threads(self._decoded_size, numbers, "Checking pictures")
        return {number: result for number, result in zip(numbers, results, strict=True) if isinstance(result, str)}

    def _in_threads(self, task, numbers: Sequence[int], title: str) -> list:
        # Every process of a launcher looks at them all: one bar will do.
        is_first_process = os.environ.get("RANK", "0") == "0"
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            blocks = (numbers[start : start + BLOCK] for start in range(0, len(numbers), BLOCK))
            results = chain.from_iterable(threads.map(task, block) for block in blocks)
            bar = tqdm(
                results, title, len(numbers), unit="picture", delay=2, leave=False, disable=not is_first_process
            )
            return list(bar)

    def kept(self) -> int:
        """Bytes of decoded pictures in the cache."""
        return 0 if self._memory is None else int(self._used[0])

    def read(self, number: int) -> np.ndarray:
        """The picture as uint8 (height, width, 3); it may be the cache itself, so do not write into it."""
        if self._memory is None:
            return self._decode(number)
        with self._lock:
            start, height, width = self._entries[number]
        if height == 0:
            return self._keep(number, self._decode(number))
        return self._view(start, height, width)

    def _keep(self, number: int, pixels: np.ndarray) -> np.ndarray:
        height, width, _ = pixels.shape
        with self._lock:
            start = int(self._used[0])
            if self._entries[number, 1] == 0 and start + pixels.size <= len(self._memory):
                self._view(start, height, width)[...] = pixels
                self._used[0] = start + pixels.size
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
        count = len(self)
        table = np.frombuffer(mmap.mmap(-1, 8 * (3 * count + 1)), np.int64)
        self._used, self._entries = table[:1], table[1:].reshape(count, 3)

    def _decode(self, number: int) -> np.ndarray:
        picture = self[number]
        if isinstance(picture, Path):
            return _read_file(picture)
        return decode(picture.open(), str(picture))

    def _decoded_size(self, number: int) -> tuple[int, int] | str:
        try:
            return self.read(number).shape[:2]
        except DataError as error:
            return str(error)

    def _header_size(self, number: int) -> tuple[int, int] | str:
        picture = self[number]
        try:
            with Image.open(picture if isinstance(picture, Path) else picture.open()) as image:
                tagged = image.format != "PNG" or "exif" in image.info  # without, Pillow searches a PNG to its end
                turned = tagged and image.getexif().get(ExifTags.Base.Orientation, 1) >= 5  # those that swap the sides
                return image.size if turned else image.size[::-1]
        except Exception:  # broken, or a kind that `read_rgb` knows and Pillow does not
            return self._decoded_size(number)

    def __getstate__(self):
        kept = ("budget", "_paths", "_columns", "_places", "_rows", "_numbers")
        return {name: getattr(self, name) for name in kept} | {"_memory": None}


def _read_file(path: Path) -> np.ndarray:
    try:
        return read_rgb(path)
    except (ValueError, OSError) as error:
        raise DataError(str(error)) from error


def decode(source: io.BytesIO | str | None, label: str) -> np.ndarray:
    """A corpus's picture: the bytes of a file, or the path of one, perhaps on the Hub."""
    if source is None:
        raise DataError(f"{label} holds no picture; choose a split that has pictures, such as 'distilled'.")
    if isinstance(source, str) and "://" not in source:
        return _read_file(Path(source))
    try:
        source = io.BytesIO(read_stored(source)) if isinstance(source, str) else source
        with Image.open(source) as image:
            return rgb_of(image)
    except UnidentifiedImageError as error:  # names the object that holds the bytes
        raise DataError(f"{label} is not a picture.") from error
    except Exception as error:  # Pillow raises half a dozen types for files that are broken in different ways
        raise DataError(f"{label} cannot be read as a picture ({error}).") from error


def encoded(cell: dict | None) -> io.BytesIO | str | None:
    """What an undecoded `Image` cell holds: the file's bytes, its path, or nothing."""
    if cell is None:
        return None
    return io.BytesIO(cell["bytes"]) if cell["bytes"] is not None else cell["path"]
