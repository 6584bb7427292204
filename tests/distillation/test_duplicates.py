"""Duplicates are those that comparing every candidate with every other of its buckets finds, without doing it twice."""

import numpy as np
import pyarrow as pa
import pytest

from modeling_unirain.distillation import duplicates, structural
from modeling_unirain.distillation.duplicates import find_duplicates, iter_edges, resolve
from modeling_unirain.distillation.schemas import INSPECTED_SCHEMA
from modeling_unirain.distillation.shards import ShardStore
from modeling_unirain.distillation.structural import detail, difference_hash, rain_energy, similar_hashes


COUNT, SHARD = 48, 8


def fixed_camera(seed: int) -> list[dict]:
    """Inspected frames of one scene under many rains, some of them saved anew, some copied, some unreadable."""
    rng = np.random.default_rng(seed)
    scene = np.kron(rng.integers(0, 200, (8, 8)), np.ones((16, 16))).astype(np.int16)
    rows, frames = [], []
    for number in range(COUNT):
        twin = int(rng.integers(number)) if number and rng.random() < 0.4 else None
        if twin is None:
            frame = scene + (rng.random(scene.shape) < 0.03) * rng.integers(20, 55)
            energy, pixels = rain_energy(frame.astype(np.uint8), scene.astype(np.uint8)), number
        else:
            copied = rng.random() < 0.3
            frame = frames[twin] + (0 if copied else rng.integers(-2, 3, scene.shape))
            energy = rows[twin]["rain_energy"] * rng.uniform(0.9, 1.1)
            pixels = rows[twin]["pixels"] if copied else number
        frames.append(frame.clip(0, 255))
        thumbnail, broken = frames[-1].astype(np.uint8), rng.random() < 0.1
        rows.append(
            {
                **dict.fromkeys(INSPECTED_SCHEMA.names),
                "pair_id": f"{rng.integers(1000)}/{number}",
                "reason": "unreadable" if broken else "",
                "pixels": pixels,
                "hash": difference_hash(thumbnail),
                "rain_energy": float(energy),
                "thumbnail": None if broken else thumbnail.tobytes(),
            }
        )
    return rows


class CountingStore(ShardStore):
    reads = 0

    def read(self, shard, columns=None):
        self.reads += "thumbnail" in columns
        return super().read(shard, columns)


def stored(folder, rows: list[dict]) -> CountingStore:
    store = CountingStore(folder, "pair-inspect", "key", [str(start) for start in range(0, len(rows), SHARD)])
    for shard in range(store.num_shards):
        part = rows[shard * SHARD : (shard + 1) * SHARD]
        store.write(shard, pa.Table.from_pylist(part, schema=INSPECTED_SCHEMA), {})
    return store


def neighbours(rows: list[dict]) -> set[tuple[int, int]]:
    """Candidates by definition: a band in common, near in rain within its bucket, few bits apart."""
    found = set()
    for band in range(structural.HASH_BANDS):
        buckets = {}
        for number, row in enumerate(rows):
            buckets.setdefault(row["hash"] >> 16 * band & 0xFFFF, []).append(number)
        for bucket in buckets.values():
            bucket.sort(key=lambda number: rows[number]["rain_energy"])
            for at, i in enumerate(bucket):
                for j in bucket[at + 1 : at + 1 + structural.BUCKET_NEIGHBOURS]:
                    if (rows[i]["hash"] ^ rows[j]["hash"]).bit_count() <= structural.MAX_HASH_DISTANCE:
                        found.add((min(i, j), max(i, j)))
    return found


def one_by_one(rows: list[dict]) -> list[tuple[str, str, bool]]:
    sound = [row for row in rows if not row["reason"]]
    details = [detail(np.frombuffer(row["thumbnail"], np.uint8).reshape(1, 128, 128))[0] for row in sound]
    edges = set()
    for i, j in neighbours(sound):
        a, b = sound[i], sound[j]
        energy = np.square(details[i] - details[j], dtype=np.float64).mean()
        limit = structural.MAX_RAIN_RATIO * min(a["rain_energy"], b["rain_energy"])
        if a["pixels"] != b["pixels"] and energy <= limit:
            edges.add((*sorted((a["pair_id"], b["pair_id"])), False))
    for pixels in {row["pixels"] for row in sound}:
        first, *others = sorted(row["pair_id"] for row in sound if row["pixels"] == pixels)
        edges |= {(first, other, True) for other in others}
    return sorted(edges)


@pytest.mark.parametrize(("window", "bucket_neighbours"), [(2048, 64), (7, 64), (7, 3)])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_duplicates_are_those_found_one_by_one(tmp_path, monkeypatch, seed, window, bucket_neighbours):
    for module in (structural, duplicates):
        monkeypatch.setattr(module, "WINDOW", window)
    monkeypatch.setattr(structural, "BUCKET_NEIGHBOURS", bucket_neighbours)
    rows = fixed_camera(seed)
    expected = one_by_one(rows)
    assert 5 < len(expected) < COUNT * 5
    assert list(iter_edges(find_duplicates(stored(tmp_path, rows)))) == expected


def test_no_two_pictures_are_compared_twice():
    rows = fixed_camera(2)
    hashes, energies = (np.array([row[name] for row in rows]) for name in ("hash", "rain_energy"))
    pairs = np.sort(np.concatenate(list(similar_hashes(hashes.astype(np.uint64), energies))), axis=1).tolist()
    assert len(pairs) == len(set(map(tuple, pairs)))
    assert set(map(tuple, pairs)) == neighbours(rows)


def test_thumbnails_are_read_once_for_many_comparisons(tmp_path):
    store = stored(tmp_path, fixed_camera(3))
    assert any(not equal for _, _, equal in iter_edges(find_duplicates(store)))
    assert store.reads <= store.num_shards


def test_of_equal_pictures_the_first_that_is_kept_takes_the_others_places():
    edges = [("a", "b", True), ("a", "c", True), ("a", "d", True), ("c", "z", False)]
    assert resolve(edges, lambda pair_id: True) == {"b": "a", "c": "a", "d": "a", "z": "a"}
    assert resolve(edges, lambda pair_id: pair_id != "a") == {"c": "b", "d": "b", "z": "b"}
    assert resolve(edges, lambda pair_id: pair_id not in "abc") == {"z": "d"}
    assert resolve([("a", "c", False), ("b", "c", True)], lambda pair_id: True) == {"b": "a", "c": "a"}
    # What is near to one that is near to another need not be near to that.
    assert resolve([("a", "b", False), ("b", "c", False)], lambda pair_id: True) == {"b": "a"}


def test_without_candidates_there_are_no_duplicates(tmp_path):
    assert find_duplicates(stored(tmp_path, fixed_camera(4)[:1])).num_rows == 0
