import io
import json
import os
import resource
import tarfile
import time
from collections import Counter

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Features, Image, load_from_disk
from distillation.tiny_corpus import distil, rained, save, save_pair, scene

from modeling_unirain.distillation import sources
from modeling_unirain.distillation.inspection import inspect
from modeling_unirain.distillation.reading import loaded_ahead, read_bytes, read_pixels
from modeling_unirain.distillation.shards import Process, stage_key
from modeling_unirain.distillation.sources import Fetcher, list_pairs, list_references
from modeling_unirain.images import ImageError


def pairs(*candidates):
    return [record for record, _ in list_pairs([str(candidate) for candidate in candidates], lambda source: None)]


def references(*sources):
    return [record for record, _ in list_references([str(source) for source in sources], lambda source: None)]


def as_png(picture):
    from PIL import Image as Pillow

    buffer = io.BytesIO()
    Pillow.fromarray(picture).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def dataset(count=5):
    """Pairs as a `datasets` object with a ClassLabel."""
    from datasets import ClassLabel

    rows = [{"input": as_png(rained(scene(i), i)), "target": as_png(scene(i)), "type": i % 2} for i in range(count)]
    features = Features({"input": Image(), "target": Image(), "type": ClassLabel(names=["DRS", "snow"])})
    return Dataset.from_list(rows, features=features)


@pytest.mark.parametrize("start", [".", "DRS", "DRS/set"])
def test_folders_are_found_from_any_level_with_their_type(tmp_path, start):
    save_pair(tmp_path / "DRS" / "set", "001", seed=1)
    (found,) = pairs(tmp_path / start)
    assert (found.pair_id, found.source, found.rain_type, found.problem) == ("set/DRS/001", "set", "DRS", "")


def test_any_type_name_below_the_root_is_a_type(tmp_path):
    save_pair(tmp_path / "data" / "snow" / "set", "a", seed=1)
    assert pairs(tmp_path / "data")[0].rain_type == "snow"


def test_a_folder_of_pairs_without_a_type_has_none(tmp_path):
    save_pair(tmp_path / "anything" / "set", "a", seed=1)
    (found,) = pairs(tmp_path / "anything" / "set")
    assert found.rain_type is None and found.pair_id == "set/untyped/a"


def test_pair_ids_are_unique_across_equal_names_and_suffixes(tmp_path):
    for root in ("one", "two"):
        save_pair(tmp_path / root / "DRS" / "set", "001", seed=1)
    save(tmp_path / "one" / "DRS" / "set" / "input" / "001.jpg", scene(2))
    save_pair(tmp_path / "one" / "DRS" / "set", "sub/002", seed=3)
    ids = [pair.pair_id for pair in pairs(tmp_path / "one", tmp_path / "two")]
    assert max(Counter(ids).values()) == 1
    assert set(ids) == {"set/DRS/001.jpg", "set/DRS/001.png", "set/DRS/sub/002", "set-2/DRS/001"}


def test_a_stem_that_is_another_pictures_name_gives_way(tmp_path):
    for name in ("a.png", "a.jpg", "a.png.png", "b.png"):
        save(tmp_path / "real" / name, scene(1))
    for part in ("input", "target"):
        (tmp_path / "DRS" / "set").mkdir(parents=True, exist_ok=True)
        (tmp_path / "DRS" / "set" / part).symlink_to(tmp_path / "real")
    names = ["a.jpg", "a.png", "a.png.png", "b"]
    assert sorted(pair.pair_id for pair in pairs(tmp_path / "DRS" / "set")) == [f"set/DRS/{name}" for name in names]
    assert sorted(found.reference_id for found in references(tmp_path / "real")) == [f"real/{name}" for name in names]


def test_a_number_that_another_data_set_bears_as_its_name_is_not_given_again(tmp_path):
    for root, name in (("a", "rain"), ("b", "rain"), ("c", "rain-2"), ("d", "rain")):
        save_pair(tmp_path / root / "DRS" / name, "0", seed=1)
    ids = [pair.pair_id for pair in pairs(*(tmp_path / root for root in "abcd"))]
    assert ids == ["rain/DRS/0", "rain-2/DRS/0", "rain-2-2/DRS/0", "rain-3/DRS/0"]


def test_folders_linked_in_a_circle_are_listed_once_and_hidden_ones_never(tmp_path):
    save_pair(tmp_path / "DRS" / "set", "001", seed=1)
    save_pair(tmp_path / "DRS" / ".trash", "002", seed=2)
    (tmp_path / "NRS").mkdir()
    (tmp_path / "NRS" / "both").symlink_to(tmp_path / "DRS" / "set")
    (tmp_path / "DRS" / "circle").symlink_to(tmp_path)
    (tmp_path / "DRS" / "set" / "input" / "circle").symlink_to(tmp_path)
    assert [pair.pair_id for pair in pairs(tmp_path)] == ["set/DRS/001", "both/NRS/001"]


def test_listing_twice_gives_the_same_order(data):
    assert pairs(data / "candidates") == pairs(data / "candidates")
    assert references(data / "references") == references(data / "references")


def test_pictures_of_parquet_come_with_their_bytes_and_type(tmp_path):
    made = dataset()
    made.to_parquet(str(tmp_path / "set.parquet"), batch_size=2)
    found = pairs(tmp_path / "set.parquet")
    assert [pair.rain_type for pair in found] == ["DRS", "snow", "DRS", "snow", "DRS"]
    assert len({pair.pair_id for pair in found}) == 5 and all("set" in pair.pair_id for pair in found)
    for i, pair in enumerate(found):
        np.testing.assert_array_equal(read_pixels(pair.target), scene(i))
        assert read_bytes(pair.input) == as_png(rained(scene(i), i))["bytes"]


def test_a_row_that_only_names_its_picture_says_so(tmp_path):
    named = {"bytes": None, "path": "/data/pictures/001.png"}
    pq.write_table(pa.Table.from_pylist([{"input": named, "target": named}]), tmp_path / "pairs.parquet")
    (pair,) = pairs(tmp_path / "pairs.parquet")
    with pytest.raises(OSError, match="row 0 of .* holds no picture in column 'input', only the name of 001.png"):
        read_bytes(pair.input)


def test_threads_that_want_one_row_group_read_it_once(tmp_path, monkeypatch):
    dataset(8).to_parquet(str(tmp_path / "set.parquet"), batch_size=4)
    read, groups = pq.ParquetFile.read_row_group, []

    def slowly(file, group, **options):
        groups.append((group, *options["columns"]))
        time.sleep(0.1)
        return read(file, group, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", slowly)
    rows = [pair.input for pair in pairs(tmp_path / "set.parquet")]
    loaded = [data for _, batch in loaded_ahead([rows[:4], rows[4:]], read_bytes) for data in batch]
    assert loaded == [as_png(rained(scene(i), i))["bytes"] for i in range(8)]
    assert groups == [(0, "input"), (1, "input")]


def test_folder_of_parquet_serves_as_references_too(tmp_path):
    dataset(3).to_parquet(str(tmp_path / "deep" / "part.parquet"))
    assert [reference.rain_type for reference in references(tmp_path)] == ["DRS", "snow", "DRS"]


def test_parquet_files_of_one_name_in_different_folders_keep_their_rows_apart(tmp_path):
    for config in ("a", "b"):
        dataset(2).to_parquet(str(tmp_path / "set" / config / "train.parquet"))
    found = pairs(tmp_path / "set")
    assert [pair.pair_id for pair in found][::2] == ["set/DRS/a/train-000000", "set/DRS/b/train-000000"]
    assert [pair.origin for pair in found][::2] == ["set/a/train.parquet#0", "set/b/train.parquet#0"]
    assert len({reference.reference_id for reference in references(tmp_path / "set")}) == 4


def test_parquet_beside_folders_of_pairs_is_refused_since_only_one_would_be_read(tmp_path):
    save_pair(tmp_path / "both" / "DRS" / "set", "001", seed=1)
    dataset(2).to_parquet(str(tmp_path / "both" / "more" / "part.parquet"))
    with pytest.raises(ValueError, match="both holds Parquet files as well as folders of pairs: name them one by one"):
        pairs(tmp_path / "both")
    assert len(pairs(tmp_path / "both" / "DRS", tmp_path / "both" / "more")) == 3


def test_a_photograph_that_two_sources_hold_is_one_reference(data):
    alone, folder = references(data / "references"), data / "references"
    inner = next(path for path in folder.rglob("*") if path.is_dir())
    assert references(folder, inner) == alone
    assert len(references(inner, folder)) == len(alone)


def test_an_archive_beside_pictures_is_refused_since_only_one_would_be_read(tmp_path):
    folder = tmp_path / "train"
    save_pair(folder / "DRS" / "set", "001", seed=1)
    with tarfile.open(folder / "set.tar", "w") as archive:
        archive.add(folder / "DRS", "DRS")
    fetch = Fetcher(tmp_path / "work", Process(), 5)
    for listed in (list_pairs, list_references):
        with pytest.raises(ValueError, match=r"train holds pictures as well as archives \(set.tar\)"):
            list(listed([str(folder)], fetch))
    (folder / "set.tar").rename(tmp_path / "set.tar")
    assert [pair.pair_id for pair, _ in list_pairs([str(folder)], fetch)] == ["set/DRS/001"]


@pytest.mark.parametrize(
    "name, content", [("a.tar", b"no archive"), ("metadata.csv", b""), ("metadata.csv", b"mine\n1\n")]
)
def test_a_folder_that_datasets_cannot_read_is_named(tmp_path, name, content):
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match="broken cannot be read by datasets"):
        list(list_pairs([str(folder)], Fetcher(tmp_path / "work", Process(), 5)))


def test_an_archive_whose_columns_are_called_otherwise_is_named_with_them(tmp_path):
    (tmp_path / "shards").mkdir()
    with tarfile.open(tmp_path / "shards" / "set.tar", "w") as archive:
        for side in ("input", "target"):
            picture = as_png(scene(1))["bytes"]
            member = tarfile.TarInfo(f"0.{side}.png")
            member.size = len(picture)
            archive.addfile(member, io.BytesIO(picture))
    sentence = r"shards cannot be read by datasets \(pairs need the columns input and target, .* but it has .*input.png, target.png"
    with pytest.raises(ValueError, match=sentence):
        list(list_pairs([str(tmp_path / "shards")], Fetcher(tmp_path / "work", Process(), 5)))
    assert not list((tmp_path / "work").glob("fetch-*/*"))


@pytest.mark.parametrize("note", [b"no json", b"[]", b'{"info": {"features": null}}'])
def test_what_another_program_notes_in_a_parquet_file_is_passed_over(tmp_path, note):
    rows = {"input": [as_png(scene(1))], "target": [as_png(scene(2))], "type": ["DRS"]}
    pq.write_table(pa.table(rows).replace_schema_metadata({b"huggingface": note}), tmp_path / "theirs.parquet")
    assert [pair.rain_type for pair in pairs(tmp_path / "theirs.parquet")] == ["DRS"]


def test_what_save_to_disk_wrote_is_fetched_into_parquet_once(tmp_path):
    dataset().save_to_disk(str(tmp_path / "saved"))
    assert len(load_from_disk(str(tmp_path / "saved"))) == 5
    fetch = Fetcher(tmp_path / "work", Process(), timeout=1)
    for _ in range(2):
        found = [record for record, _ in list_pairs([str(tmp_path / "saved")], fetch)]
        assert [pair.rain_type for pair in found] == ["DRS", "snow", "DRS", "snow", "DRS"]
    np.testing.assert_array_equal(read_pixels(found[3].target), scene(3))
    assert len(list((tmp_path / "work").glob("fetch-*"))) == 1


def test_a_killed_fetch_does_not_read_again_what_it_has(tmp_path, monkeypatch):
    for i in range(5):
        save_pair(tmp_path / "pairs", f"{i}", seed=i)
    names = [{f"{side}_file_name": f"{side}/{i}.png" for side in ("input", "target")} for i in range(5)]
    (tmp_path / "pairs" / "metadata.jsonl").write_text("\n".join(map(json.dumps, names)))
    opened, read = fsspec.open, []

    def killed_at_the_third_and_fifth_row(path, *args, **kwargs):
        if path.endswith(("input/2.png", "input/4.png")) and path not in read:
            read.append(path)
            raise KeyboardInterrupt
        read.append(path)
        return opened(path, *args, **kwargs)

    monkeypatch.setattr(sources, "FETCHED_ROWS", 2)
    monkeypatch.setattr(fsspec, "open", killed_at_the_third_and_fifth_row)
    fetch = Fetcher(tmp_path / "work", Process(), timeout=1)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            fetch(str(tmp_path / "pairs"))
    found = [pair for pair, _ in list_pairs([str(tmp_path / "pairs")], fetch)]
    for i, pair in enumerate(found):
        np.testing.assert_array_equal(read_pixels(pair.target), scene(i))
    times = Counter("/".join(path.rsplit("/", 2)[1:]) for path in read)
    assert len(times) == 10 and {name for name, number in times.items() if number > 1} == {
        "input/2.png",
        "input/4.png",
    }


def test_what_was_fetched_of_a_commit_is_gone_on_with_offline(tmp_path, hub, monkeypatch):
    from huggingface_hub import constants

    dataset().to_parquet(str(tmp_path / "part.parquet"))
    fetch, commit = Fetcher(tmp_path / "work", Process(), timeout=1), "0123456789" * 4
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="OfflineModeIsEnabled"):
        fetch(f"org/rain@{commit}")
    folder = tmp_path / "work" / f"fetch-{stage_key('fetch', 'org/rain', commit, None)}"
    folder.mkdir(parents=True)
    (tmp_path / "part.parquet").rename(folder / "000000.parquet")
    (folder / "complete.done").write_text("{}")
    assert fetch(f"org/rain@{commit}") == folder
    assert len(list(list_pairs([f"org/rain@{commit}"], fetch))) == 5


def test_a_pair_labelled_as_nothing_is_fetched_without_a_type(tmp_path):
    made = dataset()
    labels = [-1, *made["type"][1:]]
    made.remove_columns("type").add_column("type", labels).cast(made.features).save_to_disk(str(tmp_path / "saved"))
    fetch = Fetcher(tmp_path / "work", Process(), timeout=1)
    found = [record for record, _ in list_pairs([str(tmp_path / "saved")], fetch)]
    assert [pair.rain_type for pair in found] == [None, "snow", "DRS", "snow", "DRS"]


def test_a_cell_that_names_no_type_is_told_of_and_an_empty_name_is_none(tmp_path):
    rows = {"input": [as_png(scene(1))] * 2, "target": [as_png(scene(2))] * 2}
    for name, types in (("names", ["", "drs"]), ("numbers", [0, 1]), ("bytes", [b"DRS"] * 2)):
        pq.write_table(pa.table({**rows, "type": types}), tmp_path / f"{name}.parquet")
    assert [pair.rain_type for pair in pairs(tmp_path / "names.parquet")] == [None, "drs"]
    for name, cell in (("numbers", "0"), ("bytes", "b'DRS'")):
        with pytest.raises(ValueError, match=f"row 0 of .*{name}.parquet has {cell} for its type, but names like DRS"):
            pairs(tmp_path / f"{name}.parquet")
    made, no_label = dataset(), pa.array([5, 0, 0, 0, 0])
    table = made.data.table.set_column(made.column_names.index("type"), "type", no_label)
    pq.write_table(table.replace_schema_metadata(made.features.arrow_schema.metadata), tmp_path / "labels.parquet")
    with pytest.raises(ValueError, match="has 5 for its type, but the column names DRS, snow by their numbers"):
        pairs(tmp_path / "labels.parquet")
    Dataset.from_dict({**rows, "type": [0, 1]}).save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(ValueError, match=r"saved cannot be read by datasets \(row 0 has 0 for its type"):
        list(list_pairs([str(tmp_path / "saved")], Fetcher(tmp_path / "work", Process(), timeout=1)))


def test_a_distilled_corpus_can_be_distilled_again(data, tmp_path):
    distil(data, tmp_path / "first")
    kept = sorted((tmp_path / "first" / "output" / "data").glob("distilled-*.parquet"))
    assert len(pairs(*kept)) > 10
    summary = distil(data, tmp_path / "second", candidates=[str(path) for path in kept])
    assert summary.kept == summary.seen == len(pairs(*kept))


def test_of_a_distilled_corpus_candidates_are_what_it_kept_and_references_the_real_photographs(data, tmp_path):
    first = distil(data, tmp_path / "first", rejected_images=True)
    corpus = tmp_path / "first" / "output"
    assert len(pairs(corpus)) == first.kept < first.seen
    assert all("/data/distilled-" in pair.origin for pair in pairs(corpus))
    assert len(references(corpus)) == 21 and all("/data/real-" in found.origin for found in references(corpus))


def test_parquet_without_the_columns_says_so(tmp_path):
    Dataset.from_list([{"picture": 1}]).to_parquet(str(tmp_path / "odd.parquet"))
    with pytest.raises(ValueError, match="no column 'input'"):
        pairs(tmp_path / "odd.parquet")
    with pytest.raises(ValueError, match="'image' or 'input'"):
        references(tmp_path / "odd.parquet")


@pytest.mark.parametrize(
    ("cell", "kind"), [("a.png", "string"), ({"path": "a.png"}, "struct<path: string>"), (1, "int64")]
)
def test_parquet_without_pictures_in_its_columns_says_what_there_is(tmp_path, cell, kind):
    pq.write_table(pa.table({"input": [cell], "target": [cell]}), tmp_path / "odd.parquet")
    for find in (pairs, references):
        with pytest.raises(ValueError, match=f"odd.parquet holds no encoded pictures in column 'input', but {kind}"):
            find(tmp_path / "odd.parquet")


def test_a_column_without_a_single_picture_is_no_other_kind(tmp_path):
    """As `Fetcher` writes the rows of a distilled corpus's split `real`, which have no target."""
    cells = {"input": [as_png(scene(1))], "target": [{"bytes": None, "path": None}]}
    pq.write_table(pa.table(cells), tmp_path / "real.parquet")
    (pair,) = pairs(tmp_path / "real.parquet")
    assert inspect(pair)["reason"] == "unreadable"


def test_pictures_in_parquet_need_no_path(tmp_path):
    save_pair(tmp_path / "DRS" / "set", "001", seed=1)
    files = [(tmp_path / "DRS" / "set" / side / "001.png").read_bytes() for side in ("input", "target")]
    for cells in ([{"bytes": data} for data in files], files):
        rainy, clean = cells
        pq.write_table(pa.table({"input": [rainy], "target": [clean]}), tmp_path / "plain.parquet")
        (pair,) = pairs(tmp_path / "plain.parquet")
        assert inspect(pair)["reason"] == ""


def test_a_damaged_parquet_file_is_named(tmp_path):
    dataset(2).to_parquet(str(tmp_path / "cut.parquet"))
    whole = (tmp_path / "cut.parquet").read_bytes()
    footer = int.from_bytes(whole[-8:-4], "little")
    garbled = whole[: -8 - footer] + bytes(byte ^ 255 for byte in whole[-8 - footer : -8]) + whole[-8:]
    for broken in (whole[: len(whole) // 2], garbled):
        (tmp_path / "cut.parquet").write_bytes(broken)
        for find in (pairs, references):
            with pytest.raises(ValueError, match="cut.parquet is damaged"):
                find(tmp_path / "cut.parquet")


@pytest.mark.parametrize("size", [(31, 200), (200, 1)])
def test_pictures_that_are_too_small_are_set_aside(tmp_path, size):
    for side in ("input", "target"):
        save(tmp_path / "DRS" / "set" / side / "001.png", np.zeros((*size, 3), np.uint8))
    (pair,) = pairs(tmp_path)
    assert inspect(pair)["reason"] == "too small"


def test_a_parquet_file_whose_name_is_not_utf_8_is_named(tmp_path):
    dataset(2).to_parquet(str(tmp_path / "set.parquet"))
    (tmp_path / "set.parquet").rename(tmp_path / os.fsdecode(b"s\xe9t.parquet"))
    for source in (tmp_path, tmp_path / os.fsdecode(b"s\xe9t.parquet")):
        with pytest.raises(ValueError, match=r"s\\udce9t\.parquet cannot be opened.*rename it"):
            pairs(source)


def test_a_machine_out_of_handles_is_not_the_pictures_fault(tmp_path):
    save_pair(tmp_path / "DRS" / "set", "001", seed=1)
    (pair,) = pairs(tmp_path)
    assert inspect(pair)["reason"] == ""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open(os.devnull, os.O_RDONLY)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
    try:
        with pytest.raises(ImageError, match="Too many open files"):
            inspect(pair)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_changed_file_changes_the_identity(tmp_path):
    save_pair(tmp_path / "DRS" / "set", "001", seed=1)
    ((_, before),) = list_pairs([str(tmp_path)], lambda source: None)
    save_pair(tmp_path / "DRS" / "set", "001", seed=2)
    ((_, after),) = list_pairs([str(tmp_path)], lambda source: None)
    assert before != after
