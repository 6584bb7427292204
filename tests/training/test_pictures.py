"""The store of pictures: what it is told of bad ones, and that its own bookkeeping stays small."""

import os
import pickle
import sys
import tracemalloc
from pathlib import Path

import pytest

from modeling_unirain.training.data import CorpusSource, DataConfig, DataError, RainDataset
from modeling_unirain.training.pictures import CorpusPicture, PictureStore


@pytest.mark.parametrize("streaming", [False, True])
def test_a_split_without_pictures_is_told_in_a_sentence(tmp_path, streaming):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"input": datasets.Image(), "target": datasets.Image(), "type": datasets.Value("string")}
    )
    rows = [{"input": None, "target": None, "type": "DRS"}] * 3
    corpus = tmp_path / "rejected.parquet"
    datasets.Dataset.from_list(rows, features=features).to_parquet(corpus)
    source = CorpusSource(str(corpus), streaming=streaming, types=["DRS"])
    with pytest.raises(DataError, match=r"row 0 of .*column 'input', holds no picture; choose a split"):
        RainDataset(DataConfig([source], types=["DRS"], patch_size=16, samples_per_epoch=4))[0]


def test_a_file_that_several_sources_read_is_kept_once():
    store = PictureStore(0)
    assert [store.add(Path(name)) for name in ("a.png", "b.png", "a.png", "c.png")] == [0, 1, 0, 2]
    assert [store.name(number) for number in range(3)] == ["a.png", "b.png", "c.png"]


def test_pictures_are_numbered_across_files_and_corpora_and_travel():
    store = PictureStore(0)
    assert store.add(Path(os.fsdecode(b"caf\xe9.png"))) == 0
    assert store.add_rows("a", [3, 5], ("input", "target"), "corpus a").tolist() == [[1, 2], [3, 4]]
    assert store.add(Path("b.png")) == 5
    assert store.add_rows("c", [0], ("input", "target"), "corpus c").tolist() == [[6, 7]]
    for there in (store, pickle.loads(pickle.dumps(store))):
        assert there[0] == Path(os.fsdecode(b"caf\xe9.png")) and there[5] == Path("b.png")
        assert there[4] == CorpusPicture("a", 5, "target", "corpus a")
        assert there[6] == CorpusPicture("c", 0, "input", "corpus c") and len(there) == 8


def test_what_a_store_notes_of_a_picture_is_small():
    store, count = PictureStore(0), 20_000
    paths = [Path(f"/a/folder/of/pictures/input/{number:08}.png") for number in range(count)]
    texts = [str(path) for path in paths]  # which the paths keep
    tracemalloc.start()
    for path in paths:
        store.add(path)
    store._numbers.clear()
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 80 * count < sum(map(sys.getsizeof, texts))


def test_few_pictures_wait_for_a_thread_at_a_time():
    store, count = PictureStore(0), 12_000
    for number in range(count):
        store.add(Path(f"{number}.png"))
    tracemalloc.start()
    numbers = store._in_threads(lambda number: number, range(count), "Counting")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert numbers == list(range(count))
    assert peak < 12e6  # all at once take 20 MB
