"""Data: what a sample depends on, how samples are dealt, that crops stay aligned, and what bad data is told."""

import io
import json
import logging
import math
import pickle
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from modeling_unirain.training.data import (
    CleanSource,
    CorpusSource,
    DataConfig,
    DataError,
    PairedSource,
    RainDataset,
    ValidationConfig,
    ValidationSet,
)
from modeling_unirain.training.readers import StreamedCorpus


def picture(seed: int, height: int = 24, width: int = 30) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def write(path: Path, pixels: np.ndarray, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def write_pairs(root: Path, type_name: str, count: int, name: str = "set", first: int = 0, **size) -> Path:
    """Pairs whose target is the negative of the input, so that an aligned pair sums to one everywhere."""
    for number in range(first, first + count):
        pixels = picture(number, **size)
        write(root / type_name / name / "input" / f"{number}.png", pixels)
        write(root / type_name / name / "target" / f"{number}.png", 255 - pixels)
    return root


def config(*sources, types=("DRS",), **options) -> DataConfig:
    defaults = {"patch_size": 16, "samples_per_epoch": 24, "cache_gib": 0.01}
    return DataConfig(list(sources), types=list(types), **(defaults | options))


def stem(sample: dict) -> str:
    return Path(sample["name"]).stem


def read_all(dataset, workers: int = 0) -> list[dict]:
    return list(DataLoader(dataset, batch_size=None, num_workers=workers))


def assert_same(samples: list[dict], others: list[dict]) -> None:
    assert len(samples) == len(others)
    for one, other in zip(samples, others, strict=True):
        assert one["name"] == other["name"]
        assert one["rain_type"] == other["rain_type"]
        assert torch.equal(one["pixel_values"], other["pixel_values"])
        assert torch.equal(one["labels"], other["labels"])


@pytest.fixture
def photographs(tmp_path) -> Path:
    """Two bright day and two dark night photographs with some structure."""
    y, x = np.mgrid[0:80, 0:100]
    for number in range(2):
        day = np.stack([(x * 2 + 55), (y * 2 + 95), (x + y + 75 * number)], -1).clip(0, 255).astype(np.uint8)
        write(tmp_path / f"day/a/{number}.png", day)
        write(tmp_path / f"night/{number}.png", day // 12)
    return tmp_path


@pytest.fixture
def mixed(tmp_path, photographs) -> DataConfig:
    write_pairs(tmp_path / "pairs", "DRS", 5)
    write_pairs(tmp_path / "pairs", "NRS", 2)
    return config(
        PairedSource(tmp_path / "pairs"),
        CleanSource(day=[photographs / "day"], night=[photographs / "night"], min_scale=0.5),
        types=["DRS", "DRD", "NRS", "NRD"],
    )


# ---- Determinism


def test_sample_has_the_documented_form(mixed):
    for sample in read_all(RainDataset(mixed)):
        assert set(sample) == {"pixel_values", "labels", "rain_type", "name"}
        for key in ("pixel_values", "labels"):
            assert sample[key].shape == (3, 16, 16)
            assert sample[key].dtype == torch.float32
            assert 0 <= sample[key].min() <= sample[key].max() <= 1


@pytest.mark.parametrize("workers", [1, 2])
def test_worker_count_changes_nothing(mixed, workers):
    assert_same(read_all(RainDataset(mixed, seed=3), workers), read_all(RainDataset(mixed, seed=3)))


def test_sample_depends_on_seed_epoch_and_index_alone(mixed):
    dataset = RainDataset(mixed, seed=3)
    dataset.set_epoch(5)
    samples = read_all(dataset)
    resumed = RainDataset(mixed, seed=3)
    resumed.set_epoch(5)
    assert_same([resumed[17], resumed[4]], [samples[17], samples[4]])

    def differs(other):
        return any(not torch.equal(a["labels"], b["labels"]) for a, b in zip(samples, read_all(other), strict=True))

    assert differs(RainDataset(mixed, seed=4))
    resumed.set_epoch(6)
    assert differs(resumed)


def test_pickled_dataset_gives_the_same_samples(mixed):
    dataset = RainDataset(mixed)
    assert_same(read_all(pickle.loads(pickle.dumps(dataset))), read_all(dataset))


# ---- Crops and turns


def test_crops_and_turns_stay_aligned(tmp_path):
    dataset = RainDataset(config(PairedSource(write_pairs(tmp_path, "DRS", 4)), samples_per_epoch=40))
    for sample in read_all(dataset):
        assert torch.allclose(sample["pixel_values"] + sample["labels"], torch.ones(3, 16, 16), atol=1e-6)


@pytest.mark.parametrize(("rotate", "count"), [(True, 8), (False, 2)])
def test_symmetries(tmp_path, rotate, count):
    root = write_pairs(tmp_path, "DRS", 1, height=16, width=16)
    dataset = RainDataset(config(PairedSource(root), samples_per_epoch=200, rotate=rotate))
    seen = Counter(sample["labels"].numpy().tobytes() for sample in read_all(dataset))
    assert len(seen) == count
    assert max(seen.values()) < 3 * min(seen.values())
    upright = torch.from_numpy(255 - picture(0, 16, 16)).permute(2, 0, 1).float() / 255
    assert upright.numpy().tobytes() in seen
    assert upright.flip(-1).contiguous().numpy().tobytes() in seen


def test_every_place_of_a_picture_is_cropped(tmp_path):
    """The target holds each pixel's own number."""
    numbers = np.arange(20 * 22, dtype=np.uint16).reshape(20, 22)
    pixels = np.stack([numbers >> 8, numbers & 255, numbers * 0], -1).astype(np.uint8)
    write(tmp_path / "DRS/set/input/0.png", pixels)
    write(tmp_path / "DRS/set/target/0.png", pixels)
    dataset = RainDataset(config(PairedSource(tmp_path), samples_per_epoch=600))
    seen = set()
    for sample in read_all(dataset):
        high, low, _ = (sample["labels"] * 255).round().int()
        seen.update((high * 256 + low).flatten().tolist())
    assert seen == set(numbers.flatten().tolist())


@pytest.mark.parametrize("size", [{"height": 5, "width": 40}, {"height": 1, "width": 1}, {"height": 16, "width": 15}])
def test_small_pictures_are_reflected_never_dropped(tmp_path, size):
    root = write_pairs(tmp_path, "DRS", 1, **size)
    sample = RainDataset(config(PairedSource(root), rotate=False))[0]
    assert sample["labels"].shape == (3, 16, 16)
    colours = {tuple(colour) for colour in (sample["labels"] * 255).round().int().flatten(1).T.tolist()}
    assert colours <= {tuple(colour) for colour in (255 - picture(0, **size)).reshape(-1, 3).tolist()}
    assert torch.allclose(sample["pixel_values"] + sample["labels"], torch.ones(3, 16, 16), atol=1e-6)


def test_pairs_can_be_left_out_by_name(tmp_path):
    write_pairs(tmp_path, "DRS", 3)
    dataset = RainDataset(config(PairedSource(tmp_path, leave_out=["DRS/set/0", "DRS/set/2"])))
    assert {stem(dataset[index]) for index in range(8)} == {"1"}
    with pytest.raises(DataError, match="no pair 'DRS/set/7' to leave out"):
        RainDataset(config(PairedSource(tmp_path, leave_out=["DRS/set/7"])))
    with pytest.raises(DataError, match="leaves no pair"):
        RainDataset(config(PairedSource(tmp_path, leave_out=[f"DRS/set/{number}" for number in range(3)])))


def test_pairs_can_be_left_out_by_pattern_and_names_are_taken_as_they_are(tmp_path):
    write_pairs(tmp_path, "DRS", 12)
    dataset = RainDataset(config(PairedSource(tmp_path, leave_out=["DRS/set/1*", "DRS/set/[3-9]"])))
    assert {stem(dataset[index]) for index in range(8)} == {"0", "2"}
    for folder in ("input", "target"):
        (tmp_path / "DRS" / "set" / folder / "2.png").rename(tmp_path / "DRS" / "set" / folder / "[0].png")
    dataset = RainDataset(config(PairedSource(tmp_path, leave_out=["DRS/set/[0]", "DRS/set/1*", "DRS/set/[3-9]"])))
    assert {stem(dataset[index]) for index in range(8)} == {"0"}
    with pytest.raises(DataError, match=r"no pair 'DRS/set/z\*' to leave out"):
        RainDataset(config(PairedSource(tmp_path, leave_out=["DRS/set/z*"])))


def test_whole_sets_can_be_left_out(tmp_path):
    for name in ("set", "settled"):
        write_pairs(tmp_path, "DRS", 3, name=name)
    dataset = RainDataset(config(PairedSource(tmp_path, leave_out=["DRS/set", "DRS/settled/0"])))
    read = {Path(dataset[index]["name"]).relative_to(tmp_path).parts[1] for index in range(8)}
    assert read == {"settled"}


def test_photographs_can_be_left_out(tmp_path):
    targets = [write_pairs(tmp_path / name, "DRS", 12) / "DRS" / "set" / "target" for name in ("day", "night")]
    names = [folder.as_posix() for folder in targets]
    source = {"day": targets[:1], "night": targets[1:], "darkened": 0.0}
    left_out = [f"{names[0]}/1*", f"{names[0]}/[2-9]", f"{names[1]}/3", *(f"{names[1]}/{n}" for n in (0, 1, 10, 11))]
    dataset = RainDataset(
        config(CleanSource(**source, leave_out=left_out), types=("DRS", "NRS"), samples_per_epoch=64)
    )
    read = {Path(dataset[index]["name"]) for index in range(64)}
    assert read == {targets[0] / "0.png"} | {targets[1] / f"{number}.png" for number in (2, 4, 5, 6, 7, 8, 9)}
    with pytest.raises(DataError, match="no photograph '.*target/12' to leave out"):
        RainDataset(config(CleanSource(**source, leave_out=[f"{names[1]}/12"])))
    with pytest.raises(DataError, match="leaves no photograph by day"):
        RainDataset(config(CleanSource(**source, leave_out=[f"{tmp_path.as_posix()}/*"])))


def test_linked_folders_are_read_and_hidden_files_are_not(tmp_path, photographs):
    """A set on another disk: `Path.rglob` passes over linked folders, and `os.walk` follows those in a circle for ever."""
    write_pairs(tmp_path / "elsewhere", "DRS", 3)
    (tmp_path / "elsewhere" / "DRS" / "set" / "input" / "._0.png").write_bytes(b"a Mac's notes about 0.png")
    (tmp_path / "root" / "DRS").mkdir(parents=True)
    (tmp_path / "root" / "DRS" / "linked").symlink_to(tmp_path / "elsewhere" / "DRS" / "set")
    write_pairs(tmp_path / "root", "DRS", 1, name="own", first=3)
    (tmp_path / "root" / "snow").mkdir()
    (tmp_path / "root" / "snow" / "both").symlink_to(tmp_path / "root" / "DRS" / "own")
    (tmp_path / "elsewhere" / "DRS" / "set" / "circle").symlink_to(tmp_path / "root")
    write_pairs(tmp_path / "root" / "DRS", ".trash", 1, first=7)
    write_pairs(tmp_path / "root" / ".trash", "DRS", 1, first=8)
    for type_name, expected in (("DRS", {"0", "1", "2", "3"}), ("snow", {"3"})):
        dataset = RainDataset(config(PairedSource(tmp_path / "root", types=[type_name]), types=(type_name,)))
        assert {stem(dataset[index]) for index in range(24)} == expected
    (tmp_path / "clean").mkdir()
    (tmp_path / "clean" / "linked").symlink_to(photographs / "day")
    (tmp_path / "clean" / "._0.png").write_bytes(b"a Mac's notes")
    dataset = RainDataset(config(CleanSource(day=[tmp_path / "clean"])))
    assert {stem(dataset[index]) for index in range(24)} == {"0", "1"}


# ---- Dealing


def test_balanced_sampling_shows_every_type_equally_often_in_every_batch(tmp_path):
    write_pairs(tmp_path, "DRS", 9)
    write_pairs(tmp_path, "snow", 1)
    dataset = RainDataset(config(PairedSource(tmp_path), types=["snow", "DRS"]))
    for epoch in range(2):
        dataset.set_epoch(epoch)
        assert [sample["rain_type"] for sample in read_all(dataset)] == [0, 1] * 12
    assert {stem(s) for s in read_all(dataset) if s["rain_type"] == 0} == {"0"}


def test_type_shares_are_kept_in_every_batch(tmp_path):
    write_pairs(tmp_path, "DRS", 9)
    write_pairs(tmp_path, "snow", 1)
    shares = {"snow": 1, "DRS": 3}
    dataset = RainDataset(config(PairedSource(tmp_path), types=["snow", "DRS"], type_shares=shares))
    drawn = [sample["rain_type"] for sample in read_all(dataset)]
    assert [sum(drawn[start : start + 4]) for start in range(0, 24, 4)] == [3] * 6


def test_natural_sampling_follows_weights_and_counts(tmp_path):
    write_pairs(tmp_path / "one", "DRS", 6)
    write_pairs(tmp_path / "one", "NRS", 2)
    write_pairs(tmp_path / "two", "NRS", 1)
    sources = PairedSource(tmp_path / "one", weight=3), PairedSource(tmp_path / "two")
    dataset = RainDataset(config(*sources, types=["DRS", "NRS"], sampling="natural", samples_per_epoch=1024))
    seen = Counter((Path(s["name"]).relative_to(tmp_path).parts[0], s["rain_type"]) for s in read_all(dataset))
    assert seen == {("one", 0): 576, ("one", 1): 192, ("two", 1): 256}


def test_sources_of_a_type_share_it_by_weight(tmp_path):
    write_pairs(tmp_path / "one", "DRS", 2)
    write_pairs(tmp_path / "two", "DRS", 7)
    sources = PairedSource(tmp_path / "one", weight=3), PairedSource(tmp_path / "two", weight=1)
    names = [sample["name"] for sample in read_all(RainDataset(config(*sources, samples_per_epoch=40)))]
    assert sum("one" in name for name in names) == 30


def test_nothing_repeats_before_everything_was_seen(tmp_path):
    write_pairs(tmp_path / "one", "DRS", 7)
    write_pairs(tmp_path / "two", "DRS", 5, first=100)
    dataset = RainDataset(config(PairedSource(tmp_path / "one"), PairedSource(tmp_path / "two"), samples_per_epoch=10))
    names = []
    for epoch in range(7):  # a cycle of 7 does not fit an epoch of 5 draws; 70 draws are five and seven cycles
        dataset.set_epoch(epoch)
        names += [int(stem(sample)) for sample in read_all(dataset)]
    one, two = [n for n in names if n < 100], [n for n in names if n >= 100]
    assert len(one) == len(two) == 35
    for draws, size in ((one, 7), (two, 5)):
        cycles = [draws[i : i + size] for i in range(0, 35, size)]
        assert all(len(set(cycle)) == size for cycle in cycles)
        assert len({tuple(cycle) for cycle in cycles}) > 1  # each in an order of its own


# ---- Corpora


def build_corpus(count: int = 6, string_types: bool = False, first: int = 0):
    datasets = pytest.importorskip("datasets")
    kind = datasets.Value("string") if string_types else datasets.ClassLabel(names=["NRD", "haze"])
    features = datasets.Features(
        {"input": datasets.Image(), "target": datasets.Image(), "type": kind, "pair_id": kind}
    )
    rows = {"input": [], "target": [], "type": [], "pair_id": []}
    for number in range(first, first + count):
        rows["input"].append(Image.fromarray(picture(number)))
        rows["target"].append(Image.fromarray(255 - picture(number)))
        rows["type"].append(["NRD", "haze"][number % 3 == 0])
        rows["pair_id"].append("haze")
    return datasets.Dataset.from_dict(rows, features=features)


@pytest.fixture
def hub_like_folder(tmp_path) -> str:
    """What `push_to_hub` leaves: Parquet shards under `data/`."""
    for shard in range(2):
        path = tmp_path / f"corpus/data/train-0000{shard}-of-00002.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        build_corpus(4, first=4 * shard).to_parquet(path)
    return str(tmp_path / "corpus")


def targets_of(samples) -> dict[str, set]:
    """The distinct top-left-sorted colours of every sample, to tell which pictures were seen, whatever the turn."""
    return {tuple(sorted((s["labels"] * 255).round().int().flatten().tolist())): s["rain_type"] for s in samples}


def expected_targets(numbers) -> dict:
    return {
        tuple(sorted((255 - picture(n)).flatten().tolist())): ["NRD", "haze"].index("haze" if n % 3 == 0 else "NRD")
        for n in numbers
    }


def whole_pictures(source: CorpusSource) -> ValidationSet:
    return ValidationSet(
        ValidationConfig([source], samples_per_type=8, crop_size=None, size_divisor=1), ["NRD", "haze"]
    )


@pytest.mark.parametrize("form", ["disk", "disk with splits", "parquet", "string types"])
def test_corpus_from_disk(tmp_path, form):
    datasets = pytest.importorskip("datasets")
    corpus = build_corpus(string_types=form == "string types")
    path = tmp_path / "corpus"
    if form == "parquet":
        path = tmp_path / "corpus.parquet"
        corpus.to_parquet(path)
    elif form == "disk with splits":
        datasets.DatasetDict({"train": corpus}).save_to_disk(path)
    else:
        corpus.save_to_disk(path)
    samples = read_all(RainDataset(config(CorpusSource(str(path)), types=["NRD", "haze"])), workers=2)
    assert Counter(sample["rain_type"] for sample in samples) == {0: 12, 1: 12}
    for sample in samples:
        assert torch.allclose(sample["pixel_values"] + sample["labels"], torch.ones(3, 16, 16), atol=1e-6)
    assert targets_of(read_all(whole_pictures(CorpusSource(str(path))))) == expected_targets(range(6))


def test_corpus_as_the_hub_keeps_it(hub_like_folder):
    samples = read_all(whole_pictures(CorpusSource(hub_like_folder)))
    assert targets_of(samples) == expected_targets(range(8))


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])
def test_corpus_written_anew_is_read_anew(tmp_path, streaming):
    """As distillation leaves it, with a card that names the files; also of another folder with the same name."""
    header = (
        "configs:\n- config_name: default\n  data_files:\n  - split: distilled\n    path: data/distilled-*.parquet\n"
    )
    for first, run in enumerate(["one", "one", "two"]):
        folder = tmp_path / run / "corpus"
        (folder / "data").mkdir(parents=True, exist_ok=True)
        build_corpus(5, first=first).to_parquet(folder / "data" / "distilled-00000-of-00001.parquet")
        (folder / "README.md").write_text(f"---\n{header}---\n")
        types = ["NRD", "haze"] if streaming else None
        source = CorpusSource(str(folder), split="distilled", streaming=streaming, types=types)
        assert targets_of(read_all(whole_stream(source))) == expected_targets(range(first, first + 5))


def test_streamed_corpus_shows_every_row_in_order_whatever_the_workers(hub_like_folder):
    source = CorpusSource(hub_like_folder, streaming=True)
    dataset = RainDataset(config(source, types=["NRD", "haze"], samples_per_epoch=20))
    samples = read_all(dataset)
    assert_same(read_all(dataset, workers=2), samples)
    rows = {kind: [int(s["name"].split()[1]) for s in samples if s["rain_type"] == kind] for kind in (0, 1)}
    assert rows == {0: [1, 2, 4, 5, 7, 1, 2, 4, 5, 7], 1: [0, 3, 6, 0, 3, 6, 0, 3, 6, 0]}
    assert_same([RainDataset(dataset.config)[13]], [samples[13]])  # resumed in the middle
    assert targets_of(read_all(whole_stream(source))) == expected_targets(range(8))


def whole_stream(source: CorpusSource) -> ValidationSet:
    return ValidationSet(
        ValidationConfig([source], samples_per_type=5, crop_size=None, size_divisor=1), ["NRD", "haze"]
    )


@pytest.mark.parametrize("kind", ["parquet", "pictures"])
def test_corpus_on_the_hub_whole_and_streamed(hub, hub_like_folder, tmp_path, kind):
    """In a subprocess, since `datasets` reads the Hub's address when it is imported; streamed by a worker as well."""
    from huggingface_hub import HfApi

    folder = hub_like_folder
    if kind == "pictures":  # which `datasets` streams otherwise
        folder, lines = tmp_path / "pictures", []
        for number in range(8):
            for side, pixels in (("input", picture(number)), ("target", 255 - picture(number))):
                write(folder / side / f"{number}.png", pixels)
            files = {f"{side}_file_name": f"{side}/{number}.png" for side in ("input", "target")}
            lines.append(json.dumps({**files, "type": "haze" if number % 3 == 0 else "NRD"}))
        (folder / "metadata.jsonl").write_text("\n".join(lines))
    HfApi().create_repo("me/rain", repo_type="dataset", private=True)
    HfApi().upload_folder(folder_path=folder, repo_id="me/rain", repo_type="dataset")
    code = """
import sys
from torch.utils.data import DataLoader
from modeling_unirain.training.data import CorpusSource, DataConfig, RainDataset
for streaming, workers in ((False, 0), (True, 0), (True, 1)):
    source = CorpusSource("me/rain", streaming=streaming, types=["NRD", "haze"])
    config = DataConfig([source], types=["NRD", "haze"], patch_size=16, samples_per_epoch=10)
    samples = list(DataLoader(RainDataset(config), batch_size=None, num_workers=workers))
    print(sorted({sample["name"].split(" of ")[0] for sample in samples}))
"""
    done = subprocess.run([sys.executable, "-c", code], env=hub.env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines() == [str([f"row {number}" for number in range(8)])] * 3


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])
def test_a_pair_labelled_as_nothing_is_of_no_type(tmp_path, streaming):
    datasets = pytest.importorskip("datasets")
    corpus = build_corpus(6)
    labels = [-1 if number < 2 else label for number, label in enumerate(corpus["type"])]
    features = corpus.features
    corpus = corpus.remove_columns("type").add_column("type", labels).cast(datasets.Features(features))
    corpus.to_parquet(tmp_path / "corpus.parquet")
    if not streaming:
        with pytest.raises(DataError, match="holds pairs without a type"):
            RainDataset(config(CorpusSource(str(tmp_path / "corpus.parquet")), types=["NRD", "haze"]))
    source = CorpusSource(str(tmp_path / "corpus.parquet"), streaming=streaming, types=["NRD", "haze"])
    dataset = RainDataset(config(source, types=["NRD", "haze"], samples_per_epoch=12))
    assert {sample["name"].split()[1].rstrip(",") for sample in read_all(dataset)} == {"2", "3", "4", "5"}


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])
def test_a_label_that_the_corpus_does_not_name_is_told_of(tmp_path, streaming):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    corpus = build_corpus(3)
    table = corpus.data.table.set_column(corpus.column_names.index("type"), "type", pyarrow.array([7, 0, 0]))
    table = table.replace_schema_metadata(corpus.features.arrow_schema.metadata)
    parquet.write_table(table, tmp_path / "corpus.parquet")
    source = CorpusSource(str(tmp_path / "corpus.parquet"), streaming=streaming, types=["NRD"])
    with pytest.raises(
        DataError, match=r"row 0 of .*corpus\.parquet \(train\) has 7 for its type, but the column names NRD"
    ):
        RainDataset(config(source, types=["NRD"]))[0]


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("cells", ["bytes", "structs"])
def test_a_corpus_that_datasets_did_not_write_is_read(tmp_path, cells, streaming):
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = {"input": [], "target": [], "type": []}
    for number in range(5):
        for name, pixels in (("input", picture(number)), ("target", 255 - picture(number))):
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "PNG")
            columns[name].append(file.getvalue() if cells == "bytes" else {"bytes": file.getvalue(), "path": None})
        columns["type"].append("haze" if number % 3 == 0 else "NRD")
    parquet.write_table(pytest.importorskip("pyarrow").table(columns), tmp_path / "corpus.parquet")
    source = CorpusSource(str(tmp_path / "corpus.parquet"), streaming=streaming, types=["NRD", "haze"])
    assert targets_of(read_all(whole_stream(source))) == expected_targets(range(5))


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])
def test_a_corpus_without_pictures_in_its_columns_says_what_there_is(tmp_path, streaming):
    datasets = pytest.importorskip("datasets")
    rows = {"input": [1, 2], "target": [3, 4], "type": ["DRS", "DRS"]}
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "corpus.parquet")
    with pytest.raises(DataError, match="holds no pictures in column 'input', but Value"):
        RainDataset(config(CorpusSource(str(tmp_path / "corpus.parquet"), streaming=streaming, types=["DRS"])))


def test_a_stream_that_breaks_off_is_named(hub_like_folder):
    second = Path(hub_like_folder, "data", "train-00001-of-00002.parquet")
    content = bytearray(second.read_bytes())
    content[4:200] = bytes(196)
    second.write_bytes(content)
    dataset = RainDataset(config(CorpusSource(hub_like_folder, streaming=True), types=["NRD", "haze"]))
    with pytest.raises(DataError, match=r"corpus \(train\) cannot be read from row 4 on: "):
        read_all(dataset)


def test_a_row_of_a_stream_that_is_no_picture_is_named_or_the_next_stands_for_it(tmp_path, caplog):
    import pyarrow.parquet as pq

    path = tmp_path / "corpus.parquet"
    build_corpus(9).to_parquet(path)
    table = pq.read_table(path)
    rows = table.to_pylist()
    for number in (4, 5):  # of the type NRD, as are 1, 2, 7 and 8
        rows[number]["input"]["bytes"] = b"no picture"
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)
    source = CorpusSource(str(path), streaming=True, types=["NRD"])
    with pytest.raises(DataError, match=r"row 4 of .*, column 'input', is not a picture\. .*skip_unreadable") as error:
        read_all(RainDataset(config(source, types=["NRD"])))
    assert "0x" not in str(error.value)
    dataset = RainDataset(config(source, types=["NRD"], samples_per_epoch=12, skip_unreadable=True))
    with caplog.at_level(logging.WARNING):
        samples = read_all(dataset)
    assert caplog.text.count("row 4 of") == caplog.text.count("row 5 of") == 1  # though drawn four times
    assert [int(sample["name"].split()[1]) for sample in samples] == [1, 2, 7, 7, 7, 8] * 2
    assert_same(read_all(dataset, workers=2), samples)
    assert_same([RainDataset(dataset.config)[9]], [samples[9]])
    for row in rows:
        row["target"]["bytes"] = b"no picture"
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)
    with pytest.raises(DataError, match="no row of type NRD that can be read"):
        RainDataset(config(source, types=["NRD"], skip_unreadable=True))[0]


def test_a_stream_with_fewer_rows_than_wanted_is_validated_on_once(hub_like_folder):
    source = CorpusSource(hub_like_folder, streaming=True)
    names = [sample["name"] for sample in read_all(whole_stream(source))]
    assert len(names) == len(set(names)) == 8


def test_a_type_that_a_stream_hardly_holds_is_counted_in_one_pass(hub_like_folder, monkeypatch):
    passes, whole = [], StreamedCorpus._whole_stream
    monkeypatch.setattr(StreamedCorpus, "_whole_stream", lambda self: passes.append(self) or whole(self))
    validation = ValidationConfig([CorpusSource(hub_like_folder, streaming=True)], samples_per_type=100)
    assert len(ValidationSet(validation, ["NRD", "haze"])) == 8
    assert len(passes) == 4  # of either type, one and the beginning of the next, where its first row is met again


def test_source_types_select_rows(hub_like_folder):
    dataset = RainDataset(config(CorpusSource(hub_like_folder, types=["haze"]), types=["haze"]))
    assert len({s["name"] for s in read_all(dataset)}) == 3


# ---- Rendered rain


def test_rain_is_rendered_over_crops(photographs):
    types = ["DRS", "DRD", "NRS", "NRD"]
    source = CleanSource(day=[photographs / "day"], night=[photographs / "night"], min_scale=0.5, darkened=0.5)
    samples = read_all(RainDataset(config(source, types=types, samples_per_epoch=80, patch_size=32)))
    assert Counter(sample["rain_type"] for sample in samples) == dict.fromkeys(range(4), 20)
    changed = sum(not torch.equal(s["pixel_values"], s["labels"]) for s in samples)
    assert changed > 70  # a crop may lie between the drops
    for sample in samples:
        if sample["rain_type"] < 2:
            assert "day" in sample["name"]
    by_night = [s for s in samples if s["rain_type"] >= 2]
    darkened = sum("day" in s["name"] for s in by_night)
    assert 8 < darkened < 32
    day_level = np.mean([s["labels"].mean() for s in samples if s["rain_type"] < 2])
    assert all(s["labels"].mean() < day_level for s in by_night)


def test_photographs_are_left_without_rain_as_often_as_asked(photographs):
    source = CleanSource(day=[photographs / "day"], rainless=0.5)
    samples = read_all(RainDataset(config(source, samples_per_epoch=60, patch_size=32)))
    assert 18 <= sum(torch.equal(s["pixel_values"], s["labels"]) for s in samples) <= 42
    validation = ValidationSet(ValidationConfig([source], samples_per_type=6, crop_size=64), ["DRS"])
    assert not any(torch.equal(s["pixel_values"], s["labels"]) for s in (validation[n] for n in range(6)))


def test_styles_of_a_source_are_those_rendered(photographs):
    def error(style):
        source = CleanSource(day=[photographs / "day"], types=["DRS"], styles={style: 1})
        samples = read_all(RainDataset(config(source, types=["DRS"], samples_per_epoch=20, patch_size=32)))
        return np.mean([(s["pixel_values"] - s["labels"]).square().mean() for s in samples])

    assert error("storm") > 4 * error("driving")


def test_day_photograph_is_the_target_of_day_rain(photographs):
    source = CleanSource(day=[photographs / "day"])
    sample = RainDataset(config(source, patch_size=24, rotate=False))[0]
    photograph = np.asarray(Image.open(sample["name"]))
    target = (sample["labels"] * 255).round().byte().permute(1, 2, 0).numpy()
    windows = np.lib.stride_tricks.sliding_window_view(photograph, (24, 24), axis=(0, 1)).transpose(0, 1, 3, 4, 2)
    assert any((windows == mirrored).all((2, 3, 4)).any() for mirrored in (target, target[:, ::-1]))


def test_random_scale_averages_areas(tmp_path):
    """A fine checkerboard, reduced, is grey; cut out as it is, it is black and white."""
    board = (np.indices((200, 200)).sum(0) % 2 * 255).astype(np.uint8)[..., None].repeat(3, -1)
    write(tmp_path / "board.png", board)
    samples = read_all(RainDataset(config(CleanSource(day=[tmp_path], min_scale=0.4), samples_per_epoch=40)))
    contrast = [sample["labels"].std().item() for sample in samples]
    assert min(contrast) < 0.1
    plain = read_all(RainDataset(config(CleanSource(day=[tmp_path]))))
    assert all(set(sample["labels"].unique().tolist()) == {0.0, 1.0} for sample in plain)


def test_streak_layers_of_a_folder_are_used_in_some_samples(photographs, tmp_path):
    """Two folders give the same samples but for those into which a layer went."""
    samples = []
    for level in (0, 200):
        layer = write(tmp_path / f"streaks{level}/0.png", np.full((64, 64, 3), level, np.uint8))
        source = CleanSource(day=[photographs / "day"], streaks=[layer.parent])
        samples.append(read_all(RainDataset(config(source, samples_per_epoch=40))))
    same = sum(torch.equal(a["pixel_values"], b["pixel_values"]) for a, b in zip(*samples, strict=True))
    assert 0 < same < 40
    assert all(torch.equal(a["labels"], b["labels"]) for a, b in zip(*samples, strict=True))


def test_a_streak_layer_that_is_too_small_is_named(photographs, tmp_path):
    layer = write(tmp_path / "streaks/0.png", np.zeros((7, 64, 3), np.uint8))
    with pytest.raises(DataError, match="0.png is 64 x 7: a layer of streaks needs at least 8"):
        RainDataset(config(CleanSource(day=[photographs / "day"], streaks=[layer.parent])))


# ---- Memory


def test_cache_serves_files_that_are_gone(tmp_path):
    dataset = RainDataset(config(PairedSource(write_pairs(tmp_path, "DRS", 4))))
    samples = read_all(dataset)
    for path in tmp_path.rglob("*.png"):
        path.unlink()
    assert_same(read_all(dataset), samples)


def test_workers_fill_one_cache(tmp_path):
    """Nothing is decoded in this process, yet it finds what its workers have read."""
    dataset = RainDataset(config(PairedSource(write_pairs(tmp_path, "DRS", 4)), verify_images=False))
    samples = read_all(dataset, workers=2)
    for path in tmp_path.rglob("*.png"):
        path.unlink()
    assert_same(read_all(dataset), samples)


@pytest.mark.parametrize("cache_gib", [0, 5000 / 2**30])
def test_little_memory_changes_nothing_but_speed(tmp_path, cache_gib):
    root = write_pairs(tmp_path, "DRS", 4)
    small = RainDataset(config(PairedSource(root), cache_gib=cache_gib))
    assert_same(read_all(small), read_all(RainDataset(config(PairedSource(root)))))
    assert small.store.kept() <= cache_gib * 2**30


# ---- What bad data is told


def refuses(message: str, data: DataConfig) -> None:
    with pytest.raises(ValueError, match=message) as error:
        RainDataset(data)
    assert "\n" not in str(error.value)


def test_folders_without_pairs(tmp_path):
    refuses("holds no pairs; expected", config(PairedSource(tmp_path)))
    refuses("is not a folder", config(PairedSource(tmp_path / "absent")))
    write(tmp_path / "DRS/set/input/a.png", picture(0))
    refuses("no folder target beside it", config(PairedSource(tmp_path)))
    write(tmp_path / "DRS/set/target/b.png", picture(0))
    refuses("no file in input has the name of one in target", config(PairedSource(tmp_path)))


def test_partners_differ_in_suffix_and_strays_are_mentioned(tmp_path, caplog):
    write(tmp_path / "DRS/set/input/a.jpg", picture(0))
    write(tmp_path / "DRS/set/target/a.png", picture(0))
    write(tmp_path / "DRS/set/target/stray.png", picture(0))
    with caplog.at_level(logging.WARNING):
        assert stem(RainDataset(config(PairedSource(tmp_path)))[0]) == "a"
    assert "1 picture(s) without a partner" in caplog.text and "stray" in caplog.text
    write(tmp_path / "DRS/set/input/a.webp", picture(0))
    refuses("a.jpg and a.webp have the same name", config(PairedSource(tmp_path)))


@pytest.mark.parametrize("verify_images", [True, False])
def test_unequal_sizes_name_the_first_files(tmp_path, verify_images):
    root = write_pairs(tmp_path, "DRS", 5)
    for number in range(5):
        write(root / f"DRS/set/target/{number}.png", picture(number, 20, 30))
    data = config(PairedSource(root), verify_images=verify_images)
    refuses(r"5 pair\(s\) differ in size.*0\.png is 30 x 24, its target 30 x 20; .*1\.png.*2\.png[^;]*$", data)


@pytest.mark.parametrize("verify_images", [True, False])
def test_sizes_are_compared_upright(tmp_path, verify_images):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    write(tmp_path / "DRS/set/input/a.jpg", picture(0, 30, 20), exif=exif)
    write(tmp_path / "DRS/set/target/a.png", picture(0, 20, 30))
    RainDataset(config(PairedSource(tmp_path), verify_images=verify_images))[0]


def test_unknown_and_missing_types(tmp_path):
    write_pairs(tmp_path, "snow", 1)
    refuses("type snow is not a type of this recipe", config(PairedSource(tmp_path)))
    write_pairs(tmp_path, "DRS", 1)
    RainDataset(config(PairedSource(tmp_path, types=["DRS"])))
    refuses("holds nothing of type DRD", config(PairedSource(tmp_path, types=["DRD"]), types=["DRD"]))
    refuses("No source holds anything of type NRD", config(PairedSource(tmp_path), types=["DRS", "snow", "NRD"]))


def test_unreadable_picture_is_named_or_skipped_when_asked(tmp_path, caplog):
    root = write_pairs(tmp_path, "DRS", 4)
    victim = root / "DRS/set/target/2.png"
    victim.write_bytes(victim.read_bytes()[:600])  # the header is whole
    refuses(r"2\.png.*skip_unreadable", config(PairedSource(root)))
    with caplog.at_level(logging.WARNING):
        dataset = RainDataset(config(PairedSource(root), skip_unreadable=True))
    assert "2.png" in caplog.text
    assert {stem(sample) for sample in read_all(dataset)} == {"0", "1", "3"}
    unverified = RainDataset(config(PairedSource(root), verify_images=False))
    with pytest.raises(DataError, match=r"2\.png"):
        read_all(unverified)
    for path in (root / "DRS/set/input").iterdir():
        path.write_bytes(b"")
    refuses("holds no usable pictures", config(PairedSource(root), skip_unreadable=True))


def test_clean_folders(tmp_path, photographs):
    (tmp_path / "empty").mkdir()
    refuses("holds no pictures", config(CleanSource(day=[tmp_path / "empty"])))
    refuses("neither a folder nor a picture", config(CleanSource(day=[tmp_path / "absent"])))
    refuses("DRS", config(CleanSource(night=[photographs / "night"]), types=["DRS"]))
    with pytest.raises(DataError, match="'snow' cannot be rendered"):
        CleanSource(day=[tmp_path], types=["snow"])
    with pytest.raises(DataError, match="day, night or both"):
        CleanSource()


def test_corpora_that_cannot_be_used(tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict({"input": [1], "type": ["DRS"]}).save_to_disk(tmp_path / "columns")
    refuses("has no column 'target', only input, type", config(CorpusSource(str(tmp_path / "columns"))))
    datasets.DatasetDict({"distilled": build_corpus(2)}).save_to_disk(tmp_path / "splits")
    refuses("no split 'train', only distilled", config(CorpusSource(str(tmp_path / "splits"))))
    untyped = build_corpus(2, string_types=True).map(
        lambda row, n: {"type": row["type"] if n else None}, with_indices=True
    )
    untyped.save_to_disk(tmp_path / "untyped")
    refuses(
        "holds pairs without a type: list the types", config(CorpusSource(str(tmp_path / "untyped")), types=["NRD"])
    )
    chosen = RainDataset(config(CorpusSource(str(tmp_path / "untyped"), types=["NRD"]), types=["NRD"]))
    assert {chosen[index]["name"].split()[1] for index in range(8)} == {"1"}
    (tmp_path / "nothing").mkdir()
    refuses("cannot be opened", config(CorpusSource(str(tmp_path / "nothing"))))
    build_corpus(2, string_types=True).to_parquet(tmp_path / "strings.parquet")
    refuses("list them under types", config(CorpusSource(str(tmp_path / "strings.parquet"), streaming=True)))
    stream = CorpusSource(str(tmp_path / "strings.parquet"), streaming=True, types=["DRS"])
    with pytest.raises(DataError, match="no row of type DRS"):
        RainDataset(config(stream))[0]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sources": [{"kind": "clean", "day": "."}], "patchsize": 3}, "Unknown key 'patchsize' in data"),
        ({"sources": [{"kind": "clean", "days": "."}]}, r"Unknown key 'days' in source 1 \(clean\); the keys are day"),
        ({"sources": [{"kind": "paired"}]}, r"'root' is missing in source 1 \(paired\)"),
        ({"sources": [{"root": "."}]}, "source 1 needs a kind: one of paired, corpus, clean"),
        ({"sources": [{"kind": "paired", "root": None}]}, "root of a paired source must be one folder, got None"),
        ({"sources": [{"kind": "paired", "root": ["a", "b"]}]}, "must be one folder, got .'a', 'b'"),
        ({"sources": [{"kind": ["paired"], "root": "."}]}, "source 1 needs a kind"),
        ({"sources": [{"kind": "paired", "root": "."}], "cache_gib": math.inf}, "cache_gib must be a number"),
        ({"sources": [{"kind": "clean", "day": None}]}, "folders of photographs under day, night or both"),
        ({"sources": [{"kind": "clean", "day": [7]}]}, r"day must be a path or a list of paths, got \[7\]"),
        ({"sources": []}, "at least one source"),
        ({}, "'sources' is missing in data"),
        ({"sources": [{"kind": "paired", "root": ".", "weight": 0}]}, "weight of a source must be positive"),
        ({"sources": [{"kind": "paired", "root": "."}], "patch_size": 0}, "patch_size must be at least 1"),
        ({"sources": [{"kind": "paired", "root": "."}], "sampling": "even"}, "sampling must be one of"),
        ({"sources": [{"kind": "paired", "root": "."}], "types": ["a", "a"]}, "different names"),
        ({"sources": [{"kind": "paired", "root": "."}], "types": [["a"]]}, "different names"),
        ({"sources": [{"kind": "paired", "root": "."}], "type_shares": ["DRS"]}, "must name every type once"),
        (
            {"sources": [{"kind": "paired", "root": "."}], "type_shares": {"DRS": 1}},
            "must name every type once: DRS, DRD",
        ),
        (
            {"sources": [{"kind": "paired", "root": "."}], "types": ["a"], "type_shares": {"a": 0}},
            "share of type a must be a positive number, got 0",
        ),
        (
            {"sources": [{"kind": "paired", "root": "."}], "sampling": "natural", "type_shares": {}},
            "type_shares needs balanced sampling",
        ),
        ({"sources": [{"kind": "clean", "day": ".", "min_scale": 2}]}, "min_scale"),
        (
            {"sources": [{"kind": "paired", "root": ".", "weight": "2"}]},
            r"'weight' in source 1 \(paired\) must be a number, got '2'",
        ),
        (
            {"sources": [{"kind": "paired", "root": "."}], "patch_size": 64.5},
            "'patch_size' in data must be a whole number",
        ),
        ({"sources": [{"kind": "paired", "root": "."}], "rotate": 1}, "'rotate' in data must be true or false"),
        ({"sources": [{"kind": "clean", "day": ".", "darkened": -1}]}, "darkened"),
        ({"sources": [{"kind": "clean", "day": ".", "rainless": 1.5}]}, "rainless"),
        (
            {"sources": [{"kind": "clean", "day": ".", "styles": ["storm"]}]},
            "styles must map streak styles to numbers",
        ),
        ({"sources": [{"kind": "clean", "day": ".", "styles": {"storm": "1"}}]}, "styles must map"),
        ({"sources": [{"kind": "clean", "day": ".", "styles": {"hail": 1}}]}, "no streak style 'hail'"),
    ],
)
def test_recipe_mistakes_are_named(values, message):
    with pytest.raises(DataError, match=message):
        DataConfig.from_dict(values)


def test_recipe_becomes_sources(tmp_path):
    data = DataConfig.from_dict(
        {"sources": [{"kind": "paired", "root": "~/x", "types": "DRS"}, {"kind": "clean", "night": "n", "weight": 2}]}
    )
    assert data.sources[0] == PairedSource(Path.home() / "x", types=["DRS"])
    assert data.sources[1] == CleanSource(night=[Path("n")], weight=2)
    assert data.types == ["DRS", "DRD", "NRS", "NRD"]


# ---- Validation


def test_validation_set_is_fixed_and_fits_the_model(tmp_path, photographs):
    write_pairs(tmp_path / "pairs", "DRS", 9, height=37, width=90)
    write_pairs(tmp_path / "pairs", "NRD", 2, height=5, width=20)
    sources = [PairedSource(tmp_path / "pairs"), CleanSource(day=[photographs / "day"], types=["DRS", "NRD"])]
    validation = ValidationConfig(sources, samples_per_type=3, crop_size=50)
    types = ["DRS", "NRD"]
    samples = read_all(ValidationSet(validation, types))
    assert_same(read_all(ValidationSet(validation, types), workers=2), samples)
    assert [sample["rain_type"] for sample in samples] == [0, 0, 0, 1, 1, 0, 0, 0, 1, 1, 1]
    assert [stem(sample) for sample in samples[:5]] == ["0", "4", "8", "0", "1"]  # spread over the set
    shapes = [tuple(sample["labels"].shape[1:]) for sample in samples]
    assert shapes[:5] == [(32, 48)] * 3 + [(8, 16)] * 2
    assert set(shapes[5:]) == {(48, 48)}
    assert torch.equal(
        (samples[0]["labels"] * 255).round().byte().permute(1, 2, 0),
        torch.from_numpy(255 - picture(0, 37, 90)[2:34, 21:69]),
    )
    assert not torch.equal(samples[5]["pixel_values"], samples[5]["labels"])


def test_whole_pictures_for_validation(tmp_path):
    write_pairs(tmp_path, "DRS", 3, height=37, width=90)
    samples = read_all(ValidationSet(ValidationConfig([PairedSource(tmp_path)], None, None), ["DRS", "NRS"]))
    assert [tuple(sample["labels"].shape) for sample in samples] == [(3, 32, 88)] * 3


def test_validation_recipe_mistakes_are_named(tmp_path):
    with pytest.raises(DataError, match="Unknown key 'crop' in validation"):
        ValidationConfig.from_dict({"sources": [], "crop": 1})
    with pytest.raises(DataError, match="'crop_size' in validation must be a whole number or null, got 'full'"):
        ValidationConfig.from_dict({"sources": [], "crop_size": "full"})


def test_validation_decodes_what_it_shows_and_replaces_what_cannot_be(tmp_path):
    write_pairs(tmp_path, "DRS", 30)

    def validation(**options):
        found = ValidationSet(ValidationConfig([PairedSource(tmp_path)], samples_per_type=3, **options), ["DRS"])
        return [stem(sample) for sample in read_all(found)]

    shown = validation()
    never_shown = next(name for name in map(str, range(30)) if name not in shown)
    for name in (never_shown, shown[1]):
        victim = tmp_path / f"DRS/set/input/{name}.png"
        victim.write_bytes(victim.read_bytes()[:600])  # the header is whole
        if name == never_shown:
            assert validation() == shown
    with pytest.raises(DataError, match=rf"{shown[1]}\.png"):
        validation()
    replaced = validation(skip_unreadable=True)
    assert len(set(replaced)) == 3 and shown[1] not in replaced


def test_validation_checks_its_pictures_when_built(tmp_path):
    victim = write_pairs(tmp_path, "DRS", 3) / "DRS/set/input/1.png"
    victim.write_bytes(victim.read_bytes()[:600])
    with pytest.raises(DataError, match=r"1\.png"):
        ValidationSet(ValidationConfig([PairedSource(tmp_path)]), ["DRS"])
    kept = ValidationSet(ValidationConfig([PairedSource(tmp_path)], skip_unreadable=True), ["DRS"])
    assert [stem(sample) for sample in read_all(kept)] == ["0", "2"]
