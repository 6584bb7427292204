"""Pairs that show one rainy picture twice, across all shards.

A public data set often contains another, saved anew. Candidates come from equal pixels and from near perceptual hashes;
the rain itself decides (`structural.is_same_picture`), since one scene under two rains is two pairs worth having.
"""

from collections.abc import Callable, Iterable, Iterator

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


EDGE_SCHEMA = pa.schema([("first", pa.string()), ("second", pa.string())])


def find_duplicates(inspected: ShardStore) -> pa.Table:
    """All pairs of candidates that show one rainy picture; `first` < `second` as strings, sorted.

    Holds about 100 bytes per candidate and, of those to compare, the detail of some thousands (64 kB each).
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

    found = [_equal(pixel)]
    windows = HASH_BANDS * -(-len(place) // WINDOW)
    for similar in tqdm(similar_hashes(np.concatenate(hashes), energy), "duplicates", windows, unit=" windows"):
        equal = pixel[similar[:, 0]] == pixel[similar[:, 1]]
        found += [similar[equal], _of_one_rain(inspected, place, similar[~equal], energy)]
    edges = np.concatenate(found)
    ids = {}
    for numbers, rows in _by_shard(inspected, place, np.unique(edges), "pair_id"):
        ids.update(zip(numbers.tolist(), rows.to_pylist(), strict=True))
    named = sorted({tuple(sorted((ids[i], ids[j]))) for i, j in edges.tolist()})
    first, second = zip(*named, strict=True) if named else ((), ())
    return pa.table([pa.array(first, pa.string()), pa.array(second, pa.string())], schema=EDGE_SCHEMA)


def _of_one_rain(inspected: ShardStore, place: np.ndarray, pairs: np.ndarray, energy: np.ndarray) -> np.ndarray:
    """Those of the (m, 2) index pairs that show one rain; each picture is read once, however many it is compared with."""
    pictures = np.unique(pairs)
    details = np.empty((len(pictures), SIDE, SIDE), np.float32)
    for numbers, rows in _by_shard(inspected, place, pictures, "thumbnail"):
        thumbnails = np.stack([np.frombuffer(data, np.uint8) for data in rows.to_pylist()])
        details[np.searchsorted(pictures, numbers)] = detail(thumbnails.reshape(-1, SIDE, SIDE))
    rows = np.searchsorted(pictures, pairs).tolist()
    same = [
        is_same_picture(details[a], details[b], energy[i], energy[j])
        for (i, j), (a, b) in zip(pairs.tolist(), rows, strict=True)
    ]
    return pairs[np.array(same, dtype=bool)]


def _by_shard(
    inspected: ShardStore, place: np.ndarray, numbers: np.ndarray, column: str
) -> Iterator[tuple[np.ndarray, pa.ChunkedArray]]:
    """A column's values of the pictures with these numbers (in order), shard after shard."""
    shards = place[numbers, 0]
    for shard in np.unique(shards).tolist():
        part = numbers[shards == shard]
        yield part, inspected.read(shard, [column]).column(column).take(pa.array(place[part, 1]))


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
