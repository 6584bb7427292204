"""The reference database: triplets (T_r, f_r, I_r) of all real rainy photographs, searched by caption. Only here is faiss.

On disk, all of it memory-mapped, so that memory stays flat however many references there are:

- `captions.faiss`: the embedded captions in a faiss index (exact, or IVF for many, with its lists in `captions.ivfdata`);
- `text_embeddings.npy`, `image_embeddings.npy`, `thumbnails.npy`: one row per reference;
- `references.arrow`: id, source, type, place and caption of each.

Rows are sorted by `reference_id`, so "ties by row" means "ties by reference id". All of it is written piece by piece as well: of the
references only the ids, and for IVF a sample of the captions to train on, are in memory at once.
"""

import json
import shutil
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
from faiss.contrib.ondisk import merge_ondisk

from modeling_unirain.distillation.protocols import Triplet
from modeling_unirain.distillation.reading import read_pixels
from modeling_unirain.distillation.records import Reference
from modeling_unirain.distillation.schemas import REFERENCE_SCHEMA
from modeling_unirain.files import replace_folder, write_json


IVF_THRESHOLD = 200_000
"""From here on `auto` builds an IVF index. One exact search among this many captions of 512 values reads 0.4 GB."""

TRAINING_VECTORS_PER_LIST = 64
MIN_VECTORS_PER_LIST = 39  # below this many faiss calls its clustering unreliable
CHUNK = 8192
IVF_BLOCK = 16_384
"""Vectors that are sorted into an IVF index's lists in memory before the lists are merged on disk."""
# faiss computes ‖x‖² + ‖y‖² − 2xy in float32; neighbours closer than this fraction of the norms may have been swapped.
ROUNDING = 1e-5


@dataclass(frozen=True)
class IndexSettings:
    """How captions are searched.

    Args:
        kind (`str`): `exact`, `ivf`, or `auto`: exact below `IVF_THRESHOLD` references.
        lists (`int`, *optional*): IVF cells; `None` gives 4 √n, faiss's own advice.
        probes (`int`): IVF cells that a query looks into.
    """

    kind: str = "auto"
    lists: int | None = None
    probes: int = 32

    def __post_init__(self) -> None:
        if self.kind not in ("auto", "exact", "ivf"):
            raise ValueError(f"the index is 'auto', 'exact' or 'ivf', not '{self.kind}'")
        if self.probes < 1 or (self.lists is not None and self.lists < 1):
            raise ValueError("an IVF index needs at least one list and one probe")


@dataclass(frozen=True, eq=False)
class ReferenceChunk:
    """Some references, described, on their way into the index."""

    references: list[Reference]
    captions: list[str]
    text_embeddings: np.ndarray
    """`float32` (n, d_text)."""
    image_embeddings: np.ndarray
    """`float32` (n, d_image)."""
    thumbnails: np.ndarray
    """`uint8` (n, side, side), see `structural.luma_thumbnail`."""


class ReferenceIndex:
    """Opens what `build_reference_index` wrote."""

    def __init__(self, folder: Path):
        self.key = folder.name
        self.text_embeddings = np.load(folder / "text_embeddings.npy", mmap_mode="r")
        self.image_embeddings = np.load(folder / "image_embeddings.npy", mmap_mode="r")
        self.thumbnails = np.load(folder / "thumbnails.npy", mmap_mode="r")
        with pa.memory_map(str(folder / "references.arrow")) as file:
            self._table = pa.ipc.open_file(file).read_all()
        # Lists on disk are mapped in any case, flat codes only by a flag, which an IVF index rejects.
        is_ivf = json.loads((folder / "complete.done").read_text(encoding="utf-8"))["kind"] == "ivf"
        flag = faiss.IO_FLAG_ONDISK_SAME_DIR if is_ivf else faiss.IO_FLAG_MMAP_IFC
        self._index = faiss.read_index(str(folder / "captions.faiss"), flag)
        self._pixels = lru_cache(maxsize=64)(read_pixels)

    def __len__(self) -> int:
        return len(self.text_embeddings)

    def nearest_captions(self, queries: np.ndarray, k: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """The k references whose embedded captions are nearest in L2, and all that are as near as the k-th.

        Measured captions repeat: cut at k, the references that share one with more than k others would never be found.

        faiss proposes, exact distances decide: they are computed again in `float64` among the proposed, and where
        faiss cannot tell the k-th from the next (attribute captions repeat; so do their embeddings) all within rounding
        of the k-th are compared. Equal distances are ordered by row.

        Args:
            queries (`np.ndarray`): `float32` (n, d_text).
            k (`int`): K1.

        Returns:
            `list[tuple[np.ndarray, np.ndarray]]`: per query rows and distances, at least min(k, number of references)
            long (an IVF index may find fewer).
        """
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        if k >= len(self):
            return [self._ranked(query, np.arange(len(self)), k) for query in queries]
        squared, rows = self._index.search(queries, k + 1)
        return [self._resolved(query, squared[i], rows[i], k) for i, query in enumerate(queries)]

    def _resolved(self, query: np.ndarray, squared: np.ndarray, rows: np.ndarray, k: int) -> tuple:
        found = rows >= 0
        squared, rows = squared[found], rows[found]
        if len(rows) <= k:
            return self._ranked(query, rows, k)
        norms = float(np.square(query, dtype=np.float64).sum()) + float(
            np.square(self.text_embeddings[rows], dtype=np.float64).sum(axis=1).max()
        )
        margin = ROUNDING * norms
        if squared[k] - squared[k - 1] <= 2 * margin:
            # `range_search` gives what is strictly within the radius.
            _, _, rows = self._index.range_search(query[None], float(squared[k - 1] + 2 * margin) + 1e-12)
        else:
            rows = rows[:k]
        return self._ranked(query, rows, k)

    def _ranked(self, query: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        difference = np.asarray(self.text_embeddings[rows], dtype=np.float64) - query.astype(np.float64)
        distances = np.sqrt(np.square(difference).sum(axis=1))
        best = np.lexsort((rows, distances))
        best = best[distances[best] <= distances[best[:k]].max(initial=0)]
        return rows[best], distances[best]

    def reference(self, row: int) -> Reference:
        return Reference.from_row(self._table.select(REFERENCE_SCHEMA.names).slice(row, 1).to_pylist()[0])

    def references(self) -> Iterator[Reference]:
        return (self.reference(row) for row in range(len(self)))

    def caption(self, row: int) -> str:
        return self._table.column("caption")[row].as_py()

    def triplet(self, row: int) -> Triplet:
        """(T, f, I) of one reference; the last few pictures are kept decoded."""
        reference = self.reference(row)
        return Triplet(
            image_id=reference.reference_id,
            image=self._pixels(reference.image),
            caption=self.caption(row),
            text_embedding=np.array(self.text_embeddings[row]),
            image_embedding=np.array(self.image_embeddings[row]),
            rain_type=reference.rain_type,
        )


def build_reference_index(
    folder: Path, reference_ids: Sequence[str], chunks: Callable[[], Iterator[ReferenceChunk]], settings: IndexSettings
) -> None:
    """Write the reference database, complete or not at all.

    Args:
        folder (`Path`): where it shall lie.
        reference_ids (`Sequence[str]`): ids of all references in the order of the chunks.
        chunks (`Callable`): gives the described references, a chunk at a time.
        settings (`IndexSettings`): the kind of index.

    Raises:
        ValueError: there are no references.
    """
    if not reference_ids:
        raise ValueError("none of the references could be read: there is nothing to compare with")
    building = folder.with_name(f".{folder.name}.building")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    rank = np.empty(len(reference_ids), dtype=np.int64)
    rank[sorted(range(len(reference_ids)), key=reference_ids.__getitem__)] = np.arange(len(reference_ids))

    unsorted = building / "unsorted.arrow"
    schema = REFERENCE_SCHEMA.append(pa.field("caption", pa.string()))
    arrays: dict[str, np.ndarray] = {}
    start = 0
    with pa.OSFile(str(unsorted), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        for chunk in filter(lambda chunk: chunk.references, chunks()):
            places = rank[start : start + len(chunk.references)]
            start += len(places)
            for name in ("text_embeddings", "image_embeddings", "thumbnails"):
                values = getattr(chunk, name)
                if name not in arrays:
                    shape = (len(reference_ids), *values.shape[1:])
                    arrays[name] = np.lib.format.open_memmap(building / f"{name}.npy", "w+", values.dtype, shape)
                arrays[name][places] = values
            rows = [
                {**reference.to_row(), "caption": caption}
                for reference, caption in zip(chunk.references, chunk.captions, strict=True)
            ]
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
    _write_sorted(unsorted, building / "references.arrow", np.argsort(rank))
    unsorted.unlink()
    is_ivf = settings.kind == "ivf" or (settings.kind == "auto" and len(rank) >= IVF_THRESHOLD)
    if is_ivf:
        _write_ivf(building / "captions.faiss", arrays["text_embeddings"], settings)
    else:
        _write_exact(building / "captions.faiss", arrays["text_embeddings"])
    for array in arrays.values():
        array.flush()
    write_json(building / "complete.done", {"references": len(rank), "kind": "ivf" if is_ivf else "exact"})
    replace_folder(building, folder)


def is_built(folder: Path) -> bool:
    return (folder / "complete.done").exists()


def _write_sorted(unsorted: Path, file: Path, order: np.ndarray) -> None:
    """The rows of one table in another order; both lie on disk."""
    with pa.memory_map(str(unsorted)) as source, pa.OSFile(str(file), "wb") as sink:
        table = pa.ipc.open_file(source).read_all()
        with pa.ipc.new_file(sink, table.schema) as writer:
            for first in range(0, len(order), CHUNK):
                writer.write_table(table.take(order[first : first + CHUNK]).combine_chunks())


def _write_exact(file: Path, embeddings: np.ndarray) -> None:
    """What `faiss.write_index` writes of a flat index, without all vectors in memory: the head of an empty one, its two counts filled in,
    and then the vectors."""
    count, width = embeddings.shape
    head = bytearray(faiss.serialize_index(faiss.IndexFlatL2(width)).tobytes())
    struct.pack_into("<q", head, 8, count)  # after the kind and the width, 4 bytes each
    struct.pack_into("<Q", head, len(head) - 8, count * width)
    with open(file, "wb") as opened:
        opened.write(head)
        for vectors in _pieces(embeddings, CHUNK):
            opened.write(vectors)
    if faiss.read_index(str(file), faiss.IO_FLAG_MMAP_IFC).ntotal != count:
        raise OSError(f"faiss {faiss.__version__} does not read the index written for it: install the pinned version")


def _write_ivf(file: Path, embeddings: np.ndarray, settings: IndexSettings) -> None:
    """Blocks of vectors are sorted into the trained lists one after the other, and the blocks' lists merged on disk."""
    count, width = embeddings.shape
    lists = settings.lists or round(4 * count**0.5)
    lists = max(1, min(lists, count // MIN_VECTORS_PER_LIST))
    index = faiss.IndexIVFFlat(faiss.IndexFlatL2(width), width, lists)
    wanted = min(count, TRAINING_VECTORS_PER_LIST * lists)
    sample = np.sort(np.random.default_rng(0).choice(count, wanted, replace=False))
    index.train(np.ascontiguousarray(embeddings[sample], dtype=np.float32))
    index.nprobe = min(settings.probes, lists)
    trained = faiss.serialize_index(index)
    blocks, start = [], 0
    for vectors in _pieces(embeddings, IVF_BLOCK):
        block = faiss.deserialize_index(trained)
        block.add_with_ids(vectors, np.arange(start, start + len(vectors)))
        start += len(vectors)
        blocks.append(file.with_name(f"block-{len(blocks)}.faiss"))
        faiss.write_index(block, str(blocks[-1]))
    merge_ondisk(index, [str(path) for path in blocks], str(file.with_suffix(".ivfdata")))
    faiss.write_index(index, str(file))
    for path in blocks:
        path.unlink()


def _pieces(embeddings: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for first in range(0, len(embeddings), size):
        yield np.ascontiguousarray(embeddings[first : first + size], dtype=np.float32)
