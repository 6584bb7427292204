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


def test_few_pictures_wait_for_a_thread_at_a_time():
    store, count = PictureStore(0), 12_000
    for _ in range(count):
        store.add(Path("picture.png"))
    tracemalloc.start()
    numbers = store._in_threads(lambda number: number, "Counting")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert numbers == list(range(count))
    assert peak < 12e6  # all at once take 20 MB
