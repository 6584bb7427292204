import subprocess
import sys

import faiss
import numpy as np
import pytest
import torch
from PIL import Image

from modeling_unirain.distillation.records import ImageLocation, Reference
from modeling_unirain.distillation.reference_index import (
    IndexSettings,
    ReferenceChunk,
    ReferenceIndex,
    build_reference_index,
)
from modeling_unirain.distillation.retrieval import HierarchicalRetriever, RetrievalSettings
from modeling_unirain.distillation.structural import structural_similarity
from modeling_unirain.metrics import ssim


COUNT, TEXT, IMAGE = 600, 16, 12


@pytest.fixture(scope="module")
def vectors():
    """References in shuffled order of id; a third of the captions repeat, as attribute captions do."""
    rng = np.random.default_rng(0)
    text = rng.standard_normal((COUNT, TEXT)).astype(np.float32)
    text[::3] = text[rng.integers(0, 10, COUNT // 3) * 3]
    image = rng.standard_normal((COUNT, IMAGE)).astype(np.float32)
    thumbnails = rng.integers(0, 256, (COUNT, 128, 128), dtype=np.uint8)
    return text, image, thumbnails


def build(folder, vectors, order, **settings):
    text, image, thumbnails = vectors

    def chunks():
        for start in range(0, COUNT, 77):
            part = order[start : start + 77]
            records = [Reference(f"r/{i:04d}", "r", None, "", ImageLocation(f"{i}.png")) for i in part]
            yield ReferenceChunk(records, [f"caption {i}" for i in part], text[part], image[part], thumbnails[part])

    build_reference_index(folder, [f"r/{i:04d}" for i in order], chunks, IndexSettings(**settings))
    return ReferenceIndex(folder)


def brute_force(text, query, k):
    distances = np.sqrt(np.square(text.astype(np.float64) - query.astype(np.float64)).sum(axis=1))
    rows = np.lexsort((np.arange(len(text)), distances))
    rows = rows[distances[rows] <= np.sort(distances)[:k][-1]]
    return rows, distances[rows]


# An IVF index that looks into all its cells must find exactly what the exact one finds.
@pytest.mark.parametrize(
    "settings", [{"kind": "exact"}, {"kind": "ivf", "lists": 8, "probes": 8}], ids=["exact", "ivf"]
)
@pytest.mark.parametrize("k", [1, 7, 60, COUNT, COUNT + 5])
def test_nearest_captions_are_those_of_brute_force_with_ties_by_id(tmp_path, vectors, settings, k):
    order = np.random.default_rng(1).permutation(COUNT)
    index = build(tmp_path / "index", vectors, order, **settings)
    rng = np.random.default_rng(2)
    queries = np.concatenate([rng.standard_normal((20, TEXT)).astype(np.float32), vectors[0][:30]])
    for query, (rows, distances) in zip(queries, index.nearest_captions(queries, k), strict=True):
        expected_rows, expected_distances = brute_force(vectors[0], query, k)
        assert rows.tolist() == expected_rows.tolist()
        np.testing.assert_allclose(distances, expected_distances, rtol=1e-12)


def test_the_exact_index_on_disk_is_what_faiss_writes(tmp_path, vectors):
    build(tmp_path / "index", vectors, np.arange(COUNT), kind="exact")
    whole = faiss.IndexFlatL2(TEXT)
    whole.add(vectors[0])
    assert (tmp_path / "index" / "captions.faiss").read_bytes() == faiss.serialize_index(whole).tobytes()


def built_in_another_process(folder, kind, count, width=512):
    """Megabytes of its own that building an index of `count` captions took at most."""
    script = f"""
import threading, numpy as np, faiss
from pathlib import Path
from modeling_unirain.distillation.records import ImageLocation, Reference
from modeling_unirain.distillation.reference_index import IndexSettings, ReferenceChunk, build_reference_index

def chunks():
    for first in range(0, {count}, 1000):
        names = [f"r{{first + k:06}}" for k in range(1000)]
        values = np.random.default_rng(first).standard_normal((1000, {width}), np.float32)
        records = [Reference(name, "r", None, "", ImageLocation("none.png")) for name in names]
        yield ReferenceChunk(records, names, values, values[:, :2], np.zeros((1000, 2, 2), np.uint8))

def own():
    return next(int(line.split()[1]) / 1e3 for line in open("/proc/self/status") if line.startswith("RssAnon"))

def watch():
    global most
    while not over.wait(0.005):
        most = max(most, own())

faiss.omp_set_num_threads(1)
settings = IndexSettings("{kind}", lists=64)
warm = Path(r"{folder}") / "warm"
names = [f"r{{k:06}}" for k in range({count})]
build_reference_index(warm, names[:3000], lambda: (chunk for chunk, _ in zip(chunks(), range(3))), settings)
before = most = own()
over = threading.Event()
thread = threading.Thread(target=watch)
thread.start()
build_reference_index(Path(r"{folder}") / "index", names, chunks, settings)
over.set()
thread.join()
print(max(most, own()) - before)
"""
    folder.mkdir()
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return float(told.stdout.splitlines()[-1])  # faiss tells how it resizes its file


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("kind", ["exact", "ivf"])
def test_building_takes_no_more_memory_for_more_references(tmp_path, kind):
    few, many = 20_000, 70_000  # several blocks of an IVF index; 102 MB more of captions
    small, large = (built_in_another_process(tmp_path / str(count), kind, count) for count in (few, many))
    assert large - small < 40, (small, large)


def test_rows_of_the_index_carry_their_own_reference_and_caption(tmp_path, vectors):
    index = build(tmp_path / "index", vectors, np.random.default_rng(3).permutation(COUNT))
    for row in (0, 5, COUNT - 1):
        assert index.reference(row).reference_id == f"r/{row:04d}"
        assert index.caption(row) == f"caption {row}"
        np.testing.assert_array_equal(index.image_embeddings[row], vectors[1][row])


def test_few_probes_of_an_ivf_index_still_give_true_distances(tmp_path, vectors):
    index = build(tmp_path / "index", vectors, np.arange(COUNT), kind="ivf", lists=12, probes=1)
    for query, (rows, distances) in zip(vectors[0][:20], index.nearest_captions(vectors[0][:20], 5), strict=True):
        exact = np.linalg.norm(vectors[0][rows].astype(np.float64) - query, axis=1)
        np.testing.assert_allclose(distances, exact, rtol=1e-12)
        assert (np.diff(distances) >= 0).all()


def test_each_level_searches_only_what_the_one_before_kept(tmp_path, vectors):
    text, image, thumbnails = vectors
    index = build(tmp_path / "index", vectors, np.arange(COUNT))
    settings = RetrievalSettings(k1=50, k2=12, k3=4)
    rng = np.random.default_rng(4)
    queries = (
        rng.standard_normal((6, TEXT)).astype(np.float32),
        rng.standard_normal((6, IMAGE)).astype(np.float32),
        rng.integers(0, 256, (6, 128, 128), dtype=np.uint8),
    )
    for i, found in enumerate(HierarchicalRetriever(index, settings).retrieve(*queries)):
        level_1, _ = brute_force(text, queries[0][i], 50)
        f, q = image[level_1].astype(np.float64), queries[1][i].astype(np.float64)
        cosines = f @ q / np.linalg.norm(f, axis=1) / np.linalg.norm(q)
        level_2 = level_1[np.argsort(-cosines)[:12]]
        similarities = structural_similarity(queries[2][i], thumbnails[level_2])
        expected = level_2[np.argsort(-similarities)]
        assert list(found.rows) == expected.tolist()
        assert set(found.rows) <= set(level_2) <= set(level_1)
        assert list(found.structural_similarity) == sorted(found.structural_similarity, reverse=True)
        np.testing.assert_allclose(
            found.semantic_distance, np.linalg.norm(text[expected].astype(np.float64) - queries[0][i], axis=1)
        )


def test_equal_scores_of_every_level_go_to_the_smaller_id(tmp_path, vectors):
    same = tuple(np.repeat(array[:1], COUNT, axis=0) for array in vectors)
    index = build(tmp_path / "index", same, np.random.default_rng(5).permutation(COUNT))
    (found,) = HierarchicalRetriever(index, RetrievalSettings(40, 10, 3)).retrieve(*(array[:1] for array in same))
    assert found.rows == tuple(range(10))


def test_a_feature_without_length_is_similar_to_nothing(tmp_path, vectors):
    index = build(tmp_path / "index", (vectors[0], np.zeros_like(vectors[1]), vectors[2]), np.arange(COUNT))
    (found,) = HierarchicalRetriever(index, RetrievalSettings(5, 5, 5)).retrieve(*(array[:1] for array in vectors))
    assert found.feature_similarity == (0.0,) * 5


def test_structural_similarity_is_the_metrics_ssim():
    a, b = (np.random.default_rng(i).integers(0, 256, (128, 128), dtype=np.uint8) for i in range(2))
    smooth = np.asarray(Image.fromarray(a).resize((8, 8)).resize((128, 128)))
    values = structural_similarity(a, np.stack([a, b, smooth]))
    assert values[0] == pytest.approx(1)
    as_tensor = [torch.from_numpy(x.copy())[None, None].double() / 255 for x in (a, smooth)]
    assert values[2] == pytest.approx(ssim(*as_tensor).item(), abs=1e-12)


@pytest.mark.parametrize("levels", [(2, 3, 1), (5, 2, 3), (5, 2, 0)])
def test_levels_that_do_not_narrow_are_refused(levels):
    with pytest.raises(ValueError, match="K1 >= K2 >= K3"):
        RetrievalSettings(*levels)


def test_no_readable_reference_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="references"):
        build_reference_index(tmp_path / "index", [], lambda: iter(()), IndexSettings())
