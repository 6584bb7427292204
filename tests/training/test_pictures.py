"""The store of pictures: what it is told of bad ones, and that its own bookkeeping stays small."""

import tracemalloc
from pathlib import Path

import pytest

from modeling_unirain.training.data import CorpusSource, DataConfig, DataError, RainDataset
from modeling_unirain.training.pictures import PictureStore


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


def test_few_pictures_wait_for_a_thread_at_a_time():
    store, count = PictureStore(0), 12_000
    for number in range(count):
        store.add(Path(f"{number}.png"))
    tracemalloc.start()
    numbers = store._in_threads(lambda number: number, "Counting")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert numbers == list(range(count))
    assert peak < 12e6  # all at once take 20 MB
