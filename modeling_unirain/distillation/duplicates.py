"""Pairs that show one rainy picture twice, across all shards.

A public data set often contains another, saved anew. Candidates come from equal pixels and from near perceptual hashes;
the rain itself decides (`structural.is_same_picture`), since one scene under two rains is two pairs worth having.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from modeling_unirain.distillation.shards import ShardStore
from modeling_unirain.distillation.structural import (
    HASH_BANDS,
    SIDE,
    WINDOW,
    detail,
    is_same_picture,
    similar_hashes,
)


EDGE_SCHEMA = pa.schema([("first", pa.string()), ("second", pa.string()), ("equal", pa.bool_())])
SHARDS_AT_HAND = 16
"""Shards whose thumbnails are held while pictures are compared, 8 MB each of 512 pairs."""
DETAILS_AT_HAND = 2048
"""And pictures whose `detail` is, 64 kB each: those of two shards and more."""

Edge = tuple[str, str, bool]
"""Ids of two pairs, in order, and whether their rainy pictures have equal pixels."""


def find_duplicates(inspected: ShardStore) -> pa.Table:
    """Pairs of candidates that show one rainy picture; `first` < `second` as strings, sorted. Of pictures with equal pixels,
    however many, each is listed with the first of them only.

    Holds about 100 bytes per candidate, some 50 per comparison, and the thumbnails of a few shards.
    """
    columns = ["pixels", "hash", "rain_energy", "reason"]
    places, pixels, hashes, energies = [], [], [], []
    for shard in range(inspected.num_shards):
        table = inspected.read(shard, columns)
        sound = np.flatnonzero(np.array(table.column("reason").to_pylist(), dtype=object) == "")
        places.append(np.stack([np.full(len(sound), shard), sound], axis=1))
        pixels.append(table.column("pixels").to_numpy()[sound])
        hashes.append(table.column("hash").to_numpy()[sound])
        energies.append(table.column("rain_energy").to_numpy()[sound])
    place, pixel, energy = np.concatenate(places), np.concatenate(pixels), np.concatenate(energies)

    windows = HASH_BANDS * -(-len(place) // WINDOW)
    similar = similar_hashes(np.concatenate(hashes), energy)
    found = [np.empty((0, 2), np.int32)]
    for pairs in tqdm(similar, "near hashes", windows, unit=" windows", delay=2):
        unequal = pixel[pairs[:, 0]] != pixel[pairs[:, 1]]
        found.append(np.sort(pairs[unequal].astype(np.int32), axis=1))
    near = _of_one_rain(inspected, place, np.concatenate(found), energy)
    classes = _equal(pixel)

    ids = _ids(inspected, place, np.unique(np.concatenate([near.ravel(), *classes])))
    edges = [(*sorted((ids[i], ids[j])), False) for i, j in near.tolist()]
    for members in classes:
        first, *others = sorted(ids[i] for i in members.tolist())
        edges += [(first, other, True) for other in others]
    columns = zip(*sorted(edges), strict=True) if edges else ((), (), ())
    arrays = [pa.array(values, kind) for values, kind in zip(columns, EDGE_SCHEMA.types, strict=True)]
    return pa.table(arrays, schema=EDGE_SCHEMA)


def _of_one_rain(inspected: ShardStore, place: np.ndarray, pairs: np.ndarray, energy: np.ndarray) -> np.ndarray:
    """Those of the (m, 2) index pairs, the lower index first, that show one rain.

    Ordered by the shards of both, so that a shard is read once for every other with which it is compared.
    """

    @lru_cache(SHARDS_AT_HAND)
    def thumbnails(shard: int) -> pa.ChunkedArray:
        return inspected.read(shard, ["thumbnail"]).column("thumbnail")

    @lru_cache(DETAILS_AT_HAND)
    def detail_of(number: int) -> np.ndarray:
        shard, row = place[number].tolist()
        return detail(np.frombuffer(thumbnails(shard)[row].as_py(), np.uint8).reshape(1, SIDE, SIDE))[0]

    shards = place[pairs, 0]
    pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0], shards[:, 1], shards[:, 0]))]
    same = (
        is_same_picture(detail_of(i), detail_of(j), energy[i], energy[j])
        for i, j in tqdm(pairs, "duplicates", unit=" comparisons", delay=2)
    )
    return pairs[np.fromiter(same, bool, len(pairs))]


def _ids(inspected: ShardStore, place: np.ndarray, numbers: np.ndarray) -> dict[int, str]:
    ids: dict[int, str] = {}
    shards = place[numbers, 0]
    for shard in np.unique(shards).tolist():
        part = numbers[shards == shard]
        rows = inspected.read(shard, ["pair_id"]).column("pair_id").take(pa.array(place[part, 1]))
        ids.update(zip(part.tolist(), rows.to_pylist(), strict=True))
    return ids


def resolve(edges: Iterable[Edge], kept: Callable[[str], bool]) -> dict[str, str]:
    """Which pairs to drop, each with the pair it duplicates.

    In the order of `pair_id`, a pair that the judges would keep is dropped when an earlier picture with its pixels, or near
    to one with its pixels, stays. A pair the judges rejected takes no one else down with it: of two pairs with one rainy
    picture, one of which has a bad target, the other is kept.
    """
    edges = list(edges)
    class_of = {second: first for first, second, equal in edges if equal}
    near: defaultdict[str, set[str]] = defaultdict(set)  # of a class, those that some of its pictures are near to
    for first, second, _ in edges:
        classes = {class_of.get(first, first), class_of.get(second, second)}
        for one in classes:
            near[one] |= classes
    stays: dict[str, str] = {}  # of a class, the pair
    dropped: dict[str, str] = {}
    for pair_id in sorted({pair_id for first, second, _ in edges for pair_id in (first, second)}):
        if not kept(pair_id):
            continue
        its_class = class_of.get(pair_id, pair_id)
        if earlier := [stays[one] for one in near[its_class] if one in stays]:
            dropped[pair_id] = min(earlier)
        else:
            stays[its_class] = pair_id
    return dropped


def _equal(values: np.ndarray) -> list[np.ndarray]:
    """Indices of the elements of each value that occurs more than once."""
    order = np.argsort(values, kind="stable")
    _, starts, counts = np.unique(values[order], return_index=True, return_counts=True)
    return [order[start : start + many] for start, many in zip(starts, counts, strict=True) if many > 1]


def iter_edges(table: pa.Table) -> Iterator[Edge]:
    return zip(*(table.column(name).to_pylist() for name in EDGE_SCHEMA.names), strict=True)
