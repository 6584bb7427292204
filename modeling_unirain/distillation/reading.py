"""Bring the picture behind an `ImageLocation` into memory: its original bytes, or its pixels."""

import errno
import io
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from modeling_unirain.distillation.records import ImageLocation
from modeling_unirain.images import ImageError, read_rgb


# Decoding releases the interpreter lock; more threads than this only compete with the model.
DECODING_THREADS = 4
SIDES = ("left", "right")
THE_PICTURES = {
    None,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EACCES,
    errno.EPERM,
    errno.ENAMETOOLONG,
    errno.ELOOP,
}
"""Error numbers of a picture that is not there or not to be read; an `OSError` of a decoder has none."""


def is_the_pictures_fault(error: BaseException) -> bool:
    """Whether another run would fail at this picture as well. A full disk, a machine out of handles or a drive out of reach is
    not its fault: the run stops, to be resumed. `ImageError` has such an error as its cause. A `MemoryError` while decoding is the picture's:
    a damaged one may ask for any size."""
    if getattr(error, "errno", None) not in THE_PICTURES:
        return False
    return error.__cause__ is None or is_the_pictures_fault(error.__cause__)


def read_bytes(location: ImageLocation) -> bytes:
    """The picture as a file's bytes. Untouched, except for half of a side-by-side picture, which becomes a PNG.

    Raises:
        OSError: the file cannot be read, or the Parquet row holds no picture.
    """
    if location.part in SIDES:
        buffer = io.BytesIO()
        Image.fromarray(read_pixels(location)).save(buffer, "PNG")
        return buffer.getvalue()
    if location.row < 0:
        return location.file.read_bytes()
    return _read_row(location)


def read_pixels(location: ImageLocation) -> np.ndarray:
    """`uint8` RGB (height, width, 3).

    Raises:
        OSError, ValueError: not readable; the message names the file.
    """
    if location.row < 0:
        pixels = read_rgb(location.file)
        return _half(pixels, location) if location.part else pixels
    # A picture inside a Parquet file gets a name for a moment, so that one module alone knows picture formats.
    with tempfile.TemporaryDirectory(prefix="unirain-") as folder:
        file = Path(folder) / "picture"
        file.write_bytes(_read_row(location))
        try:
            return read_rgb(file)
        except (ImageError, OSError) as error:
            where = f"row {location.row} of {location.path}, column '{location.part}'"
            raise ImageError(str(error).replace(str(file), where)) from error


def _half(pixels: np.ndarray, location: ImageLocation) -> np.ndarray:
    middle = pixels.shape[1] // 2
    if middle == 0:
        raise ImageError(f"{location.path} is too narrow to hold two pictures side by side.")
    return np.ascontiguousarray(pixels[:, :middle] if location.part == "left" else pixels[:, middle : 2 * middle])


def _read_row(location: ImageLocation) -> bytes:
    starts = _row_group_starts(location.path)
    group = int(np.searchsorted(starts, location.row, side="right")) - 1
    with _READING:
        cells = _row_group(location.path, group, location.part)
    cell = cells[location.row - int(starts[group])].as_py()
    data = cell.get("bytes") if isinstance(cell, dict) else cell
    if not data:
        named = isinstance(cell, dict) and cell.get("path")  # `datasets` does not put files into Parquet unless told
        rest = f", only the name of {Path(named).name}" if named else ""
        raise OSError(f"row {location.row} of {location.path} holds no picture in column '{location.part}'{rest}")
    return data


@lru_cache(maxsize=256)
def _row_group_starts(path: str) -> np.ndarray:
    metadata = pq.read_metadata(path)
    return np.cumsum([0] + [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups - 1)])


# Threads that miss the same row group at once would each read it.
_READING = threading.Lock()


# Pairs of one row group are read one after the other, their input and their target: four columns of one row group are
# all that is ever worth keeping.
@lru_cache(maxsize=4)
def _row_group(path: str, group: int, column: str) -> pa.ChunkedArray:
    with pq.ParquetFile(path) as file:
        return file.read_row_group(group, columns=[column]).column(column)


def loaded_ahead(batches: Iterable[Sequence[Any]], load: Callable[[Any], Any]) -> Iterator[tuple[Sequence[Any], list]]:
    """Yield every batch with its loaded items; the next batch is decoded by threads meanwhile. Two batches in memory."""
    with ThreadPoolExecutor(DECODING_THREADS) as threads:
        waiting = None
        for batch in batches:
            coming = (batch, [threads.submit(load, item) for item in batch])
            if waiting is not None:
                yield waiting[0], [future.result() for future in waiting[1]]
            waiting = coming
        if waiting is not None:
            yield waiting[0], [future.result() for future in waiting[1]]
