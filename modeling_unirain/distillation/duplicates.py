"""Pairs that show one rainy picture twice, across all shards.

A public data set often contains another, saved anew. Candidates come from equal pixels and from near perceptual hashes;
the rain itself decides (`structural.is_same_picture`), since one scene under two rains is two pairs worth having.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import chain

import numpy as np
import pyarrow as pa

from modeling_unirain.distillation.shards import ShardStore
from modeling_unirain.distillation.structural import SIDE, is_same_picture, similar_hashes


EDGE_SCHEMA = pa.schema([("first", pa.string()), ("second", pa.string())])


def find_duplicates(inspected: ShardStore, progress: Callable[[int], object]) -> pa.Table:
    """All pairs of candidates that show one rainy picture; `first` < `second` as strings, sorted.

    Holds about 40 bytes per candidate and the thumbnails of a few shards.
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
        progress(table.num_rows)
    place, pixel, energy = np.concatenate(places), np.concatenate(pixels), np.concatenate(energies)

    @lru_cache(maxsize=16)
    def shard_columns(shard: int) -> tuple[list[str], np.ndarray]:
        table = inspected.read(shard, ["pair_id", "thumbnail"])
        thumbnails = [
            np.frombuffer(data or bytes(SIDE * SIDE), np.uint8) for data in table.column("thumbnail").to_pylist()
        ]
        return table.column("pair_id").to_pylist(), np.stack(thumbnails).reshape(-1, SIDE, SIDE)

    def pair_id(i: int) -> str:
        return shard_columns(int(place[i, 0]))[0][place[i, 1]]

    def thumbnail(i: int) -> np.ndarray:
        return shard_columns(int(place[i, 0]))[1][place[i, 1]]

    edges = set()
    for candidates in chain([_equal(pixel)], similar_hashes(np.concatenate(hashes), energy)):
        for i, j in np.unique(np.sort(candidates, axis=1), axis=0).tolist():
            if pixel[i] == pixel[j] or is_same_picture(thumbnail(i), thumbnail(j), energy[i], energy[j]):
                edges.add(tuple(sorted((pair_id(i), pair_id(j)))))
    first, second = zip(*sorted(edges), strict=True) if edges else ((), ())
    return pa.table([pa.array(first, pa.string()), pa.array(second, pa.string())], schema=EDGE_SCHEMA)


def resolve(edges: Iterable[tuple[str, str]], kept: Callable[[str], bool]) -> dict[str, str]:
    """Which pairs to drop, each with the pair it duplicates.

    In the order of `pair_id`, a pair that the judges would keep is dropped when an earlier picture of its kind stays. A
    pair the judges rejected takes no one else down with it: of two pairs with one rainy picture, one of which has a bad
    target, the other is kept.
    """
    neighbours: dict[str, list[str]] = {}
    for first, second in edges:
        neighbours.setdefault(second, []).append(first)
        neighbours.setdefault(first, [])
    stays: set[str] = set()
    dropped: dict[str, str] = {}
    for pair_id in sorted(neighbours):
        if not kept(pair_id):
            continue
        earlier = [other for other in neighbours[pair_id] if other in stays]
        if earlier:
            dropped[pair_id] = min(earlier)
        else:
            stays.add(pair_id)
    return dropped


def _equal(values: np.ndarray) -> np.ndarray:
    """(m, 2) index pairs: every element with the first of its value."""
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    pairs = np.stack([first[inverse], np.arange(len(values))], axis=1)
    return pairs[pairs[:, 0] != pairs[:, 1]]


def iter_edges(table: pa.Table) -> Iterator[tuple[str, str]]:
    return zip(table.column("first").to_pylist(), table.column("second").to_pylist(), strict=True)
