"""Every layout of data is found, named and read; what is wrong with one is said."""

import io
import os

import datasets
import numpy as np
import pyarrow
import pytest
from evaluation.rainy_pictures import clean_picture, rainy_picture, write_pairs
from PIL import Image
from pyarrow import parquet

from modeling_unirain.evaluation import find_pairs


def keys(pairs) -> list[tuple[str, str, str]]:
    return [pair.key for pair in pairs]


def test_folders_of_pairs_are_found_with_types_of_any_name(test_sets):
    assert keys(find_pairs(test_sets)) == [
        ("heavy", "DRS", "000"),
        ("light", "DRS", "000"),
        ("light", "DRS", "001"),
        ("light", "DRS", "002"),
        ("flakes", "SNOW", "000"),
        ("flakes", "SNOW", "001"),
    ]


def test_a_part_of_the_tree_keeps_its_names(test_sets):
    assert keys(find_pairs(test_sets / "DRS" / "heavy")) == [("heavy", "DRS", "000")]
    assert {key[:2] for key in keys(find_pairs(test_sets / "DRS"))} == {("heavy", "DRS"), ("light", "DRS")}


def test_a_folder_that_tells_no_type_has_none(tmp_path):
    write_pairs(tmp_path / "mine", 1)
    assert keys(find_pairs(tmp_path / "mine")) == [("mine", "unknown", "000")]


def test_pairs_are_matched_by_name_whatever_the_format(tmp_path):
    write_pairs(tmp_path / "DRS" / "set", 2)
    path = tmp_path / "DRS" / "set" / "input" / "000.png"
    rainy = np.asarray(Image.open(path))
    Image.fromarray(rainy).save(path.with_suffix(".bmp"))
    path.unlink()
    (path.parent / "notes.txt").write_text("no picture")
    (path.parent / "._001.png").write_bytes(b"what a Mac notes about 001.png")
    first, second = find_pairs(tmp_path)
    assert (first.read()[0] == rainy).all()
    assert first.read()[0].dtype == np.uint8 and first.read()[0].shape == first.read()[1].shape


def test_side_by_side_pictures_are_clean_left_and_rainy_right(tmp_path):
    clean = clean_picture(0)
    rainy = rainy_picture(clean, 1)
    both = np.concatenate([np.asarray(clean), np.asarray(rainy)], axis=1)
    folder = tmp_path / "DRS" / "test100" / "pair"
    folder.mkdir(parents=True)
    Image.fromarray(both).save(folder / "7.png")
    (pair,) = find_pairs(tmp_path)
    assert pair.key == ("test100", "DRS", "7")
    read_rainy, read_clean = pair.read()
    assert (read_rainy == np.asarray(rainy)).all() and (read_clean == np.asarray(clean)).all()


def test_pictures_without_targets_are_real_ones(tmp_path):
    for name in ("real/DRS/a.png", "real/DRS/sub/a.png", "real/HAZE/b.png", "real/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        clean_picture(0).save(tmp_path / name)
    expected = {("real", "DRS", "a.png"), ("real", "DRS", "sub/a.png"), ("real", "HAZE", "b.png")}
    assert set(keys(find_pairs(tmp_path / "real"))) == expected | {("real", "unknown", "c.png")}
    assert set(keys(find_pairs(tmp_path / "real" / "DRS"))) == {key for key in expected if key[1] == "DRS"}
    rainy, clean = find_pairs(tmp_path / "real")[0].read()
    assert rainy.shape == (48, 64, 3) and clean is None


def test_linked_sets_go_by_the_names_of_their_links(tmp_path):
    for name in ("Rain100L", "Rain100H"):
        write_pairs(tmp_path / "store" / name / "test", 1)
    (tmp_path / "data" / "DRS").mkdir(parents=True)
    for name in ("Rain100L", "Rain100H"):
        (tmp_path / "data" / "DRS" / name.lower()).symlink_to(tmp_path / "store" / name / "test")
    assert keys(find_pairs(tmp_path / "data")) == [("rain100h", "DRS", "000"), ("rain100l", "DRS", "000")]


def test_linked_photographs_count_and_circles_of_links_end(tmp_path):
    for name in ("photos/a.png", "real/NRS/b.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        clean_picture(0).save(tmp_path / name)
    (tmp_path / "real" / "DRS").symlink_to(tmp_path / "photos")
    (tmp_path / "photos" / "again").symlink_to(tmp_path / "real")
    assert keys(find_pairs(tmp_path / "real")) == [("real", "DRS", "a.png"), ("real", "NRS", "b.png")]


def test_folders_that_only_look_like_pairs_are_told_of(tmp_path):
    write_pairs(tmp_path / "DRS" / "one", 1)
    write_pairs(tmp_path / "DRS" / "two", 1)
    (tmp_path / "DRS" / "two" / "target").rename(tmp_path / "DRS" / "two" / "gt")
    with pytest.raises(ValueError, match="two has the folder input alone"):
        find_pairs(tmp_path)
    assert keys(find_pairs(tmp_path / "DRS" / "two" / "input")) == [("input", "unknown", "000.png")]
    write_pairs(tmp_path / "NRS" / "deep", 1)
    for name in ("input", "target"):
        (tmp_path / "NRS" / "deep" / name).rename(tmp_path / "s1")
        (tmp_path / "NRS" / "deep" / name).mkdir()
        (tmp_path / "s1").rename(tmp_path / "NRS" / "deep" / name / "s1")
    with pytest.raises(ValueError, match="deep/input holds no pictures itself"):
        find_pairs(tmp_path / "NRS")


def test_real_photographs_may_lie_in_a_folder_named_input(tmp_path):
    for name in ("NRS/set/input/a.png", "DRS/b.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        clean_picture(0).save(tmp_path / name)
    assert {key[1:] for key in keys(find_pairs(tmp_path))} == {("NRS", "set/input/a.png"), ("DRS", "b.png")}


def test_what_is_hidden_left_out_or_empty_is_no_half_of_a_pair(tmp_path):
    write_pairs(tmp_path / "DRS" / "one", 1)
    for name in ("DRS/.cache/input", "out/target"):
        (tmp_path / name).mkdir(parents=True)
        clean_picture(0).save(tmp_path / name / "x.png")
    for name in ("DRS/soon/input", "DRS/soon/target"):
        (tmp_path / name).mkdir(parents=True)
    assert keys(find_pairs(tmp_path, leave_out=tmp_path / "out")) == [("one", "DRS", "000")]


def test_the_report_among_the_pictures_is_none_of_them(tmp_path):
    for name in ("photos/a.png", "photos/report/sheets/worst.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        clean_picture(0).save(tmp_path / name)
    pairs = find_pairs(tmp_path / "photos", leave_out=tmp_path / "photos" / "report")
    assert keys(pairs) == [("photos", "unknown", "a.png")]
    with pytest.raises(ValueError, match="is where the pictures are, and .* choose another --output"):
        find_pairs(tmp_path / "photos", leave_out=tmp_path / "photos")


def test_names_that_are_no_text_are_escaped(tmp_path):
    (tmp_path / "photos").mkdir()
    path = tmp_path / "photos" / os.fsdecode(b"caf\xe9.png")
    clean_picture(0).save(path)
    (pair,) = find_pairs(tmp_path / "photos")
    assert pair.name == r"caf\udce9.png" and pair.read()[0].shape == (48, 64, 3)


def corpus_rows(count: int) -> datasets.Dataset:
    features = datasets.Features(
        {
            "input": datasets.Image(),
            "target": datasets.Image(),
            "type": datasets.ClassLabel(names=["DRS", "DRD"]),
            "pair_id": datasets.Value("string"),
            "source": datasets.Value("string"),
        }
    )
    cleans = [clean_picture(index) for index in range(count)]
    return datasets.Dataset.from_dict(
        {
            "input": [rainy_picture(clean, index) for index, clean in enumerate(cleans)],
            "target": cleans,
            "type": [index % 2 for index in range(count)],
            "pair_id": [f"p{index}" for index in range(count)],
            "source": ["mine"] * count,
        },
        features=features,
    )


def test_brackets_in_a_name_are_no_pattern_or_said_to_be_one(tmp_path):
    folder = tmp_path / "corpus [v2]"
    folder.mkdir()
    corpus_rows(2).to_parquet(folder / "test [all].parquet")
    assert len(find_pairs(folder / "test [all].parquet")) == 2
    with pytest.raises(ValueError, match=r"corpus \[v2\]: datasets takes brackets .* rename the folder"):
        find_pairs(folder)


@pytest.mark.parametrize("form", ["parquet", "file", "saved", "saved splits"])
def test_a_corpus_is_read_in_every_form(tmp_path, form):
    rows, folder = corpus_rows(2), tmp_path / "corpus"
    folder.mkdir()
    if form in ("parquet", "file"):
        rows.to_parquet(folder / "test-00000-of-00001.parquet")
    elif form == "saved":
        rows.save_to_disk(folder)
    else:
        datasets.DatasetDict({"train": corpus_rows(1), "test": rows}).save_to_disk(folder)
    pairs = find_pairs(folder / "test-00000-of-00001.parquet" if form == "file" else folder)
    assert keys(pairs) == [("mine", "DRS", "p0"), ("mine", "DRD", "p1")]
    rainy, clean = pairs[1].read()
    assert (clean == np.asarray(clean_picture(1))).all() and (rainy != clean).any()


def test_a_corpus_of_another_program_is_read_and_an_empty_cell_named(tmp_path):
    """Plain structs of bytes and path, without what `datasets` notes beside them; 16-bit grey is not clipped."""
    ramp = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64) * 21
    file = io.BytesIO()
    Image.fromarray(ramp).save(file, "PNG")
    cell = {"bytes": file.getvalue(), "path": None}
    columns = {"input": [cell, cell], "target": [cell, None], "type": ["DRS", "DRS"]}
    (tmp_path / "corpus").mkdir()
    parquet.write_table(pyarrow.table(columns), tmp_path / "corpus" / "test.parquet")
    first, second = find_pairs(tmp_path / "corpus")
    rainy, clean = first.read()
    assert (rainy == clean).all() and (clean == ((ramp.astype(int) + 128) // 257)[..., None]).all()
    with pytest.raises(ValueError, match="row 1 of .*target is empty"):
        second.read()


def test_a_column_that_holds_no_pictures_is_named(tmp_path):
    (tmp_path / "corpus").mkdir()
    parquet.write_table(
        pyarrow.table({"input": [1], "target": [2], "type": ["DRS"]}), tmp_path / "corpus/test.parquet"
    )
    with pytest.raises(ValueError, match="'input' of .* holds no pictures"):
        find_pairs(tmp_path / "corpus")


def test_a_corpus_written_anew_is_read_anew(tmp_path):
    """Its card lists its files, of which `datasets` keeps the rows by the folder's name."""
    card = "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: test\n    path: data/test-*\n---\n"
    for count in (2, 1):
        (tmp_path / "corpus" / "data").mkdir(parents=True, exist_ok=True)
        (tmp_path / "corpus" / "README.md").write_text(card)
        corpus_rows(count).to_parquet(tmp_path / "corpus" / "data" / "test-00000-of-00001.parquet")
        assert len(find_pairs(tmp_path / "corpus")) == count


def test_the_split_must_be_told_where_it_is_not_plain(tmp_path):
    splits = datasets.DatasetDict({"distilled": corpus_rows(2), "rejected": corpus_rows(1)})
    splits.save_to_disk(tmp_path / "corpus")
    assert len(find_pairs(tmp_path / "corpus", split="rejected")) == 1
    with pytest.raises(ValueError, match="needs --split: it has distilled, rejected"):
        find_pairs(tmp_path / "corpus")
    with pytest.raises(ValueError, match="no split 'tset'"):
        find_pairs(tmp_path / "corpus", split="tset")


def test_a_corpus_without_the_columns_says_which(tmp_path):
    corpus_rows(1).remove_columns("target").save_to_disk(tmp_path / "corpus")
    with pytest.raises(ValueError, match="no column 'target'"):
        find_pairs(tmp_path / "corpus")


def test_a_damaged_corpus_is_named(tmp_path):
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "test.parquet").write_bytes(b"PAR1 and nothing more")
    with pytest.raises(ValueError, match="corpus cannot be read as a corpus"):
        find_pairs(tmp_path / "corpus")


def test_inputs_without_targets_are_named(test_sets):
    (test_sets / "DRS" / "light" / "target" / "001.png").unlink()
    (test_sets / "DRS" / "light" / "target" / "002.png").unlink()
    with pytest.raises(ValueError, match=r"input/001.png has no target .* nor have 1 others"):
        find_pairs(test_sets)


def test_two_pictures_of_one_name_are_refused(test_sets):
    clean_picture(0).save(test_sets / "DRS" / "light" / "input" / "001.bmp")
    with pytest.raises(ValueError, match="same name"):
        find_pairs(test_sets)


def test_pairs_of_unequal_size_are_named_with_their_sizes(test_sets):
    clean_picture(0, (32, 48)).save(test_sets / "DRS" / "heavy" / "target" / "000.png")
    pair = find_pairs(test_sets / "DRS" / "heavy")[0]
    with pytest.raises(ValueError, match="is 64 x 48, but its target .*target/000.png is 32 x 48"):
        pair.read()


def test_side_by_side_pictures_of_odd_width_are_refused(tmp_path):
    (tmp_path / "pair").mkdir()
    clean_picture(0, (63, 48)).save(tmp_path / "pair" / "0.png")
    with pytest.raises(ValueError, match="63 pixels wide"):
        find_pairs(tmp_path)[0].read()


def test_what_is_no_data_says_so(tmp_path):
    with pytest.raises(ValueError, match="holds no pictures"):
        find_pairs(tmp_path)
    with pytest.raises(ValueError, match="does not exist"):
        find_pairs(tmp_path / "missing" / "folder")
    (tmp_path / "a.txt").touch()
    with pytest.raises(ValueError, match="is a file"):
        find_pairs(tmp_path / "a.txt")
    (tmp_path / "b.png").touch()
    with pytest.raises(ValueError, match="no split 'test'"):
        find_pairs(tmp_path, split="test")


@pytest.mark.parametrize("label", [None, -1])
def test_pairs_of_a_corpus_without_a_type_are_unknown(tmp_path, label):
    rows = corpus_rows(2)
    (tmp_path / "corpus").mkdir()
    features = rows.features
    labelled = rows.map(lambda row: {"type": label if row["pair_id"] == "p1" else row["type"]}, features=features)
    labelled.to_parquet(tmp_path / "corpus" / "test-00000-of-00001.parquet")
    assert keys(find_pairs(tmp_path / "corpus")) == [("mine", "DRS", "p0"), ("mine", "unknown", "p1")]
