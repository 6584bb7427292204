import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image, Value, load_dataset
from distillation.fakes import FakeCaptioner, ScriptedJudge
from distillation.tiny_corpus import (
    arguments,
    backends,
    brighter_than,
    contents,
    distil,
    rained,
    save,
    save_pair,
    scene,
)

from modeling_unirain.distillation.judging import vote_of
from modeling_unirain.distillation.pipeline import Backends, Distillation
from modeling_unirain.distillation.records import RainPair
from modeling_unirain.distillation.schemas import PAIR_SCHEMA
from modeling_unirain.distillation.shards import Process
from modeling_unirain.distillation.sources import list_pairs


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """A run in one go: its folder and its summary."""
    where = tmp_path_factory.mktemp("finished")
    return where, distil(data, where)


@pytest.fixture(scope="module")
def corpus(finished, tmp_path_factory):
    return load_dataset(str(finished[0] / "output"), cache_dir=str(tmp_path_factory.mktemp("cache")))


def small_data(root, first=0):
    """Three pairs, written over those that are there, and three references."""
    for i in range(3):
        save_pair(root / "candidates" / "DRS" / "set", f"{i}", seed=first + i)
        save(root / "references" / "DRS" / f"{i}.png", rained(scene(20 + i), i))


def rows_of(corpus, split):
    return {row["pair_id"]: row for row in corpus[split].remove_columns(["input", "target"])}


def test_every_candidate_is_kept_or_rejected_once(finished, corpus):
    _, summary = finished
    kept, rejected = rows_of(corpus, "distilled"), rows_of(corpus, "rejected")
    assert not set(kept) & set(rejected)
    assert (len(kept), len(kept) + len(rejected)) == (summary.kept, summary.seen) == (summary.kept, 23)
    assert len(corpus["real"]) == 21


def test_unusable_and_duplicate_pairs_are_rejected_with_the_reason(corpus):
    rejected = rows_of(corpus, "rejected")
    assert {pair_id: row["reason"] for pair_id, row in rejected.items() if row["reason"] != "voted down"} == {
        "alpha/DRS/broken": "unreadable",
        "alpha/DRS/unequal": "unequal size",
        "alpha/DRS/alone": "no target",
        "beta/NRD/again": "duplicate",
    }
    assert rejected["beta/NRD/again"]["detail"] == "duplicate of alpha/DRS/003"
    assert (
        "56 x 40" in rejected["alpha/DRS/unequal"]["detail"] and "56 x 41" in rejected["alpha/DRS/unequal"]["detail"]
    )
    assert rejected["alpha/DRS/broken"]["detail"].startswith("input/broken.png")


def test_one_scene_under_other_rain_is_no_duplicate(corpus):
    assert "beta/NRD/other_rain" in rows_of(corpus, "distilled")


def test_verdicts_follow_the_votes_and_all_of_them_are_on_record(corpus):
    for split in ("distilled", "rejected"):
        for row in rows_of(corpus, split).values():
            if row["reason"] in ("unreadable", "unequal size", "no target"):
                assert row["votes"] == [] and row["caption"] is None
                continue
            assert [vote["judge"] for vote in row["votes"]] == ["bright", "dim", "shy"]
            yes = sum(vote["decision"] is True for vote in row["votes"])
            assert (yes >= 2) == (split == "distilled" or row["reason"] == "duplicate")
            for vote in row["votes"]:
                assert vote["raw_answer"] == f"said {vote['decision']}"
                assert [score["name"] for score in vote["scores"]] == ["from_references", "rain"]
            similarities = [reference["structural_similarity"] for reference in row["references"]]
            assert len(similarities) == 2 and similarities == sorted(similarities, reverse=True)


def test_pictures_keep_the_bytes_of_their_files(data, corpus):
    kept = corpus["distilled"].cast_column("input", Image(decode=False)).cast_column("target", Image(decode=False))
    for row in kept:
        if row["source"] != "sides":
            file = data / row["origin"]
            assert row["input"]["bytes"] == file.read_bytes()
            assert row["target"]["bytes"] == (file.parent.parent / "target" / f"{file.stem}.png").read_bytes()


def test_halves_of_side_by_side_pictures_are_kept_without_loss(data, corpus):
    from PIL import Image as PillowImage

    sides = [row for row in corpus["distilled"] if row["source"] == "sides"]
    assert sides
    for row in sides:
        whole = np.asarray(PillowImage.open(data / row["origin"]))
        np.testing.assert_array_equal(np.asarray(row["target"]), whole[:, :56])
        np.testing.assert_array_equal(np.asarray(row["input"]), whole[:, 56:])


def test_columns_are_those_a_training_run_reads(corpus):
    features = corpus["distilled"].features
    assert isinstance(features["input"], Image) and isinstance(features["target"], Image)
    assert isinstance(features["type"], ClassLabel) and features["type"].names == ["DRS", "DRD", "NRS", "NRD"]
    for row in rows_of(corpus, "distilled").values():
        assert features["type"].int2str(row["type"]) == row["pair_id"].split("/")[1]
        assert row["pair_id"].split("/")[2] in row["origin"]


def test_references_are_the_top_level_with_their_type_from_the_folder(corpus):
    features = corpus["real"].features
    types = {
        row["pair_id"]: row["type"] if row["type"] is None else features["type"].int2str(row["type"])
        for row in corpus["real"]
    }
    assert types["references/DRS/deep/real01"] == "DRS" and types["references/NRD/deep/real00"] == "NRD"
    assert types["references/loose"] is None and "references/broken" not in types


def test_card_states_settings_and_counts_per_source_and_type(finished):
    where, summary = finished
    card = (where / "output" / "README.md").read_text()
    header = card.split("---")[1]
    assert all(f"split: {split}" in header for split in ("distilled", "rejected", "real"))
    assert "license: other" in header and "image-to-image" in header
    assert f"{summary.kept} of 23 candidate pairs" in card
    assert "| captioner | fake-captioner |" in card and "| K1, K2, K3 | 9, 5, 2 |" in card
    for source, rain_type, candidates in (("alpha", "DRS", 13), ("beta", "NRD", 8), ("sides", "DRS", 2)):
        assert f"| {source} | {rain_type} | {candidates} |" in card
    assert "| duplicate | 1 |" in card and str(where) not in card


def test_nothing_of_this_machine_is_in_the_output(finished, data):
    for name, content in contents(finished[0] / "output").items():
        assert str(data).encode() not in content, name
        assert str(finished[0]).encode() not in content, name


def test_a_second_run_computes_nothing_and_changes_nothing(finished, data):
    where, summary = finished
    before = contents(where)
    captioner, judge = FakeCaptioner(), ScriptedJudge("bright", brighter_than(95))
    others = backends().judges[1:]
    again = distil(data, where, {"captioner": captioner, "judges": (judge, *others)})
    assert again == summary
    assert captioner.images_seen == judge.cases_seen == 0
    assert contents(where) == before


def test_the_empty_folder_of_a_run_killed_at_its_very_end_goes_with_the_next(tmp_path):
    small_data(tmp_path)
    distil(tmp_path, tmp_path)
    before = contents(tmp_path / "output")
    key = json.loads((tmp_path / "output" / "distillation.json").read_text())["key"]
    (tmp_path / "output" / f".building-{key}").mkdir()
    distil(tmp_path, tmp_path)
    assert contents(tmp_path / "output") == before
    assert not list((tmp_path / "output").glob(".building-*"))


def test_a_bar_in_a_name_does_not_break_the_cards_tables(tmp_path):
    small_data(tmp_path)
    (tmp_path / "candidates" / "DRS").rename(tmp_path / "candidates" / "D|S")
    (tmp_path / "candidates" / "D|S" / "set").rename(tmp_path / "candidates" / "D|S" / "a|b")
    distil(tmp_path, tmp_path, {"judges": ()})
    assert r"| a\|b | D\|S | 3 | 3 | 100.0% |" in (tmp_path / "output" / "README.md").read_text()


def copy_of(finished, tmp_path):
    shutil.copytree(finished[0] / "work", tmp_path / "work")
    return tmp_path


def stages(where):
    return {path.name for path in (where / "work").iterdir()}


def test_another_judge_recomputes_votes_and_nothing_before_them(finished, data, tmp_path):
    where = copy_of(finished, tmp_path)
    before = stages(where)
    captioner = FakeCaptioner()
    judges = (ScriptedJudge("bright", lambda case: False, version=2), *backends().judges[1:])
    summary = distil(data, where, {"captioner": captioner, "judges": judges})
    assert captioner.images_seen == 0 and judges[0].cases_seen == 20
    new = {name.rsplit("-", 1)[0] for name in stages(where) - before}
    assert new == {"fit-bright", "pair-judge-bright", "verdict"}
    assert summary.kept < finished[1].kept


def test_another_captioner_recomputes_everything_that_follows(finished, data, tmp_path):
    where = copy_of(finished, tmp_path)
    before = stages(where)
    captioner = FakeCaptioner(version=2)
    distil(data, where, {"captioner": captioner})
    assert captioner.images_seen == 21 + 20
    new = {name.rsplit("-", 1)[0] for name in stages(where) - before}
    assert not {name for name in new if "inspect" in name or "list" in name or "duplicates" in name}
    assert {"index", "pair-retrieve", "pair-judge-bright", "verdict", "pair-caption", "reference-embed"} <= new


@pytest.mark.parametrize("changes", [{"k1": 8, "k2": 4}, {"k3": 1}, {"drop_duplicates": False}])
def test_a_changed_setting_gives_what_a_fresh_run_gives(finished, data, tmp_path, changes):
    (tmp_path / "reused").mkdir()
    (tmp_path / "fresh").mkdir()
    distil(data, copy_of(finished, tmp_path / "reused"), **changes)
    distil(data, tmp_path / "fresh", **changes)
    reused, fresh = contents(tmp_path / "reused" / "output"), contents(tmp_path / "fresh" / "output")
    assert reused == fresh
    assert reused != contents(finished[0] / "output")


@pytest.mark.parametrize("lost", ["data/distilled-00001-of-00004.parquet", "README.md"])
def test_a_file_of_the_corpus_that_was_removed_is_written_again(data, tmp_path, lost):
    distil(data, tmp_path)
    before = contents(tmp_path / "output")
    (tmp_path / "output" / lost).unlink()
    distil(data, tmp_path)
    assert contents(tmp_path / "output") == before


def test_a_changed_picture_is_looked_at_again(tmp_path):
    folder = tmp_path / "candidates" / "DRS" / "set"
    for i in range(3):
        save_pair(folder, f"{i}", seed=i)
        save_pair(tmp_path / "references" / "DRS", f"{i}", seed=20 + i)
    first = distil(tmp_path, tmp_path)
    (folder / "input" / "1.png").write_bytes(b"no picture any more")
    second = distil(tmp_path, tmp_path)
    assert (first.kept, second.kept) == (3, 2) and second.rejected == {"unreadable": 1}


def test_only_what_is_new_is_computed_when_pairs_come_change_or_go(tmp_path):
    for name, count in (("one", 9), ("two", 3)):
        for i in range(count):
            save_pair(tmp_path / "candidates" / "DRS" / name, f"{i}", seed=10 * count + i)
    save_pair(tmp_path / "more" / "NRS" / "three", "0", seed=7)
    for i in range(5):
        save_pair(tmp_path / "references" / "DRS", f"{i}", seed=200 + i)
    candidates, more = str(tmp_path / "candidates"), str(tmp_path / "more")

    def looked_at(*sources):
        parts = backends()
        Distillation(arguments(tmp_path, tmp_path, candidates=list(sources)), parts, Process()).run()
        distil(tmp_path, tmp_path / "fresh", candidates=list(sources))
        assert contents(tmp_path / "output") == contents(tmp_path / "fresh" / "output")
        shutil.rmtree(tmp_path / "fresh")
        return parts.captioner.images_seen, parts.judges[0].cases_seen

    references = 2 * 5  # their inputs and targets
    assert looked_at(candidates) == (12 + references, 12)
    assert looked_at(candidates, more) == (1, 1)
    assert looked_at(more, candidates) == (0, 0)
    os.utime(tmp_path / "candidates" / "DRS" / "one" / "input" / "8.png", (0, 0))  # the only one in its shard of 8
    assert looked_at(candidates, more) == (1, 1)
    for folder in ("input", "target"):
        (tmp_path / "candidates" / "DRS" / "two" / folder / "0.png").unlink()
    assert looked_at(candidates, more) == (2, 2)
    assert looked_at(more) == (0, 0)


def test_rows_of_mixed_types_fill_their_shards(tmp_path):
    save(tmp_path / "picture.png", scene(0))
    picture = str(tmp_path / "picture.png")
    rows = [{"input": picture, "target": picture, "type": "DRS" if i % 2 else "NRD"} for i in range(20)]
    features = Features({"input": Image(), "target": Image(), "type": Value("string")})
    Dataset.from_list(rows, features=features).to_parquet(tmp_path / "mixed.parquet")
    run = Distillation(arguments(tmp_path, tmp_path), backends(), Process())
    listing = run.listing("pair", RainPair, PAIR_SCHEMA, list_pairs([str(tmp_path / "mixed.parquet")], lambda _: None))
    assert listing.sizes == (8, 8, 4)


def test_rejected_pictures_are_in_the_corpus_only_when_asked_for(finished, data, tmp_path, corpus):
    assert all(row["input"] is None for row in corpus["rejected"])
    where = copy_of(finished, tmp_path)
    distil(data, where, rejected_images=True)
    rejected = load_dataset(str(where / "output"), split="rejected", cache_dir=str(tmp_path / "cache"))
    encoded = rejected.cast_column("input", Image(decode=False)).cast_column("target", Image(decode=False))
    assert all(row["input"]["bytes"] for row in encoded)
    assert {row["pair_id"] for row in encoded if row["target"] is None} == {"alpha/DRS/alone"}


def test_a_rejected_picture_that_cannot_be_read_is_left_out(tmp_path):
    small_data(tmp_path)
    both = tmp_path / "candidates" / "DRS" / "sides" / "pair" / "cut.png"
    save(both, np.concatenate([scene(7), rained(scene(7), 7)], axis=1))
    both.write_bytes(both.read_bytes()[:300])
    rows = [
        {"input": {"bytes": (tmp_path / "references" / "DRS" / "0.png").read_bytes(), "path": None}, "target": None}
    ]
    features = Features({"input": Image(), "target": Image()})
    Dataset.from_list(rows, features=features).to_parquet(str(tmp_path / "set.parquet"))
    candidates = [str(tmp_path / "candidates"), str(tmp_path / "set.parquet")]
    summary = distil(tmp_path, tmp_path, {"judges": ()}, candidates=candidates, rejected_images=True)
    assert summary.kept == 3 and summary.rejected == {"unreadable": 2}
    rejected = load_dataset(str(tmp_path / "output"), split="rejected", cache_dir=str(tmp_path / "cache"))
    there = {(row["source"], row["input"] is not None, row["target"] is not None) for row in rejected}
    assert there == {("sides", False, False), ("set", True, False)}


def test_a_kept_picture_that_is_gone_stops_the_run_and_the_next_one_finishes(tmp_path):
    small_data(tmp_path)
    target = tmp_path / "candidates" / "DRS" / "set" / "target" / "1.png"
    judge = ScriptedJudge("careless", lambda case: target.unlink(missing_ok=True) or True)
    with pytest.raises(FileNotFoundError, match=r"target/1\.png"):
        distil(tmp_path, tmp_path, {"judges": (judge,)})
    assert not (tmp_path / "output" / "distillation.json").exists()
    summary = distil(tmp_path, tmp_path, {"judges": (judge,)})
    assert summary.kept == 2 and summary.rejected == {"no target": 1}


@pytest.mark.parametrize("decision, level", [(True, "distilled"), (False, "rejected")])
def test_a_level_without_rows_is_left_out_and_the_others_load(tmp_path, decision, level):
    small_data(tmp_path)
    distil(tmp_path, tmp_path, {"judges": (ScriptedJudge("firm", lambda case: decision),)})
    corpus = load_dataset(str(tmp_path / "output"), cache_dir=str(tmp_path / "cache"))
    assert {name: len(rows) for name, rows in corpus.items()} == {level: 3, "real": 3}
    assert {path.name.split("-")[0] for path in (tmp_path / "output" / "data").iterdir()} == {level, "real"}
    other = ({"distilled", "rejected"} - {level}).pop()
    card = (tmp_path / "output" / "README.md").read_text()
    assert f"split: {other}\n" not in card and f"| `{other}` |" not in card


def test_a_corpus_distilled_anew_is_not_taken_for_the_old_one(tmp_path):
    loaded = []
    for first in (0, 10):
        small_data(tmp_path, first)
        distil(tmp_path, tmp_path, {"judges": ()})
        corpus = load_dataset(str(tmp_path / "output"), split="distilled", cache_dir=str(tmp_path / "cache"))
        loaded.append([np.asarray(picture).mean() for picture in corpus["target"]])
    assert loaded == [[scene(seed).mean() for seed in range(first, first + 3)] for first in (0, 10)]


def test_equal_corpora_have_equal_cards(tmp_path):
    cards = []
    for name in ("one", "two"):
        small_data(tmp_path / name)
        distil(tmp_path / name, tmp_path / name, {"judges": ()})
        cards.append((tmp_path / name / "output" / "README.md").read_text())
    assert cards[0] == cards[1] and "  description: contents " in cards[0]


def test_names_that_are_not_utf_8_are_escaped_and_their_pictures_used(tmp_path):
    small_data(tmp_path)
    folder, odd = tmp_path / "candidates" / "DRS" / "set", os.fsdecode(b"a\xe8.png")
    for part in (folder / "input", folder / "target", tmp_path / "references" / "DRS"):
        (part / "1.png").rename(part / odd)
    (folder / "input" / "0.png").rename(folder / "input" / os.fsdecode(b"alone\xe9.png"))
    (folder / "input" / os.fsdecode(b"broken\xe9.png")).write_bytes(b"no picture")
    shutil.copy(folder / "target" / "0.png", folder / "target" / os.fsdecode(b"broken\xe9.png"))
    (tmp_path / "candidates").rename(tmp_path / os.fsdecode(b"candidat\xe9s"))
    candidates = [str(tmp_path / os.fsdecode(b"candidat\xe9s"))]
    summary = distil(tmp_path, tmp_path, {"judges": ()}, candidates=candidates, rejected_images=True)
    assert summary.kept == 2 and summary.rejected == {"no target": 1, "unreadable": 1}
    corpus = load_dataset(str(tmp_path / "output"), cache_dir=str(tmp_path / "cache"))
    kept = {row["pair_id"]: row for row in corpus["distilled"]}
    assert set(kept) == {r"set/DRS/a\udce8", "set/DRS/2"}
    np.testing.assert_array_equal(np.asarray(kept[r"set/DRS/a\udce8"]["target"]), scene(1))
    details = {row["pair_id"]: row["detail"] for row in rows_of(corpus, "rejected").values()}
    assert details[r"set/DRS/alone\udce9"] == r"candidat\udce9s/DRS/set/input/alone\udce9.png has no target"
    assert details[r"set/DRS/broken\udce9"].startswith(r"input/broken\udce9.png is not a picture")
    assert r"references/DRS/a\udce8" in rows_of(corpus, "real")
    assert r"candidat\udce9s" in (tmp_path / "output" / "README.md").read_text()


def test_without_judges_every_sound_pair_is_kept(finished, data, tmp_path):
    summary = distil(data, copy_of(finished, tmp_path), {"judges": ()})
    assert summary.kept == 19 and set(summary.rejected) == {"unreadable", "unequal size", "no target", "duplicate"}


def test_a_pair_that_the_judges_reject_takes_no_duplicate_down(finished, data, tmp_path):
    judges = (ScriptedJudge("picky", lambda case: case.pair_id != "alpha/DRS/003"),)
    distil(data, copy_of(finished, tmp_path), {"judges": judges})
    corpus = load_dataset(str(tmp_path / "output"), cache_dir=str(tmp_path / "cache"))
    assert "beta/NRD/again" in rows_of(corpus, "distilled")
    assert rows_of(corpus, "rejected")["alpha/DRS/003"]["detail"] == "picky: picky finds it False"


def test_undecided_pairs_are_told_from_those_voted_down(finished, data, tmp_path):
    judges = tuple(ScriptedJudge(f"mute-{i}", lambda case: None) for i in range(3))
    summary = distil(data, copy_of(finished, tmp_path), {"judges": judges})
    assert summary.kept == 0 and summary.rejected["undecided"] == 20
    assert len(load_dataset(str(tmp_path / "output"), split="rejected", cache_dir=str(tmp_path / "cache"))) == 23


def test_missing_targets_do_not_reach_the_judges(data, finished, tmp_path):
    seen = []
    judge = ScriptedJudge("watching", lambda case: seen.append(case) or True)
    distil(data, copy_of(finished, tmp_path), {"judges": (judge,)})
    assert len(seen) == 20
    for case in seen:
        assert case.query.image.shape == case.target.shape and case.query.image_id == case.pair_id
        assert 1 <= len(case.references) <= 2 and case.query.rain_type in ("DRS", "NRD")
        assert all(reference.reference.image.ndim == 3 for reference in case.references)


def test_what_cannot_work_is_said_before_anything_is_computed(data, tmp_path):
    captioner = FakeCaptioner()
    empty = tmp_path / "empty"
    empty.mkdir()
    cases = [
        ({"references": [str(empty)]}, "no pictures"),
        ({"candidates": [str(empty)]}, "no pairs"),
        ({"candidates": [str(data / "candidates"), str(tmp_path / "typo")]}, "neither a folder nor a Parquet file"),
        ({"min_votes": 4}, "never be reached"),
        ({"output_dir": str(data / "candidates" / "inside")}, "lies inside"),
    ]
    for changes, sentence in cases:
        with pytest.raises(ValueError, match=sentence):
            distil(data, tmp_path / "run", {"captioner": captioner}, **changes)
    assert captioner.images_seen == 0


@pytest.mark.parametrize("source", ["data", "data/distilled-00000-of-00004.parquet"])
def test_a_part_of_the_corpus_that_would_be_replaced_is_not_distilled(data, tmp_path, source):
    distil(data, tmp_path)
    before = contents(tmp_path / "output")
    for option in ("candidates", "references"):
        with pytest.raises(ValueError, match=f"{source}, which is read, lies inside --output_dir {tmp_path}/output"):
            distil(data, tmp_path, **{option: [str(tmp_path / "output" / source)]})
    assert contents(tmp_path / "output") == before


@pytest.mark.parametrize("work_dir", ["output", "output/work", "linked"])
def test_a_work_folder_that_would_be_published_is_refused_before_any_folder_is_made(data, tmp_path, work_dir):
    (tmp_path / "linked").symlink_to(tmp_path / "output")
    with pytest.raises(ValueError, match=rf"--work_dir {tmp_path / work_dir} is or .* --output_dir {tmp_path}/output"):
        distil(data, tmp_path, work_dir=str(tmp_path / work_dir))
    assert not (tmp_path / "output").exists()


def test_a_foreign_output_folder_is_left_alone(data, tmp_path):
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="thesis.txt"):
        distil(data, tmp_path)
    assert (tmp_path / "output" / "thesis.txt").read_text() == "mine"


def test_processes_that_start_together_do_not_take_each_others_probe_for_a_foreign_file(data, tmp_path):
    runs = [Distillation(arguments(data, tmp_path), backends(), Process(rank, 8)) for rank in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(20):
            list(pool.map(Distillation._check, runs))


def test_a_backend_that_cannot_work_is_found_before_the_first_picture(data, tmp_path):
    class Unreachable(ScriptedJudge):
        def check(self):
            raise OSError("weights of this judge are out of reach; --preset local needs none")

    captioner = FakeCaptioner()
    with pytest.raises(OSError, match="--preset local"):
        distil(data, tmp_path, {"captioner": captioner, "judges": (Unreachable("far", brighter_than(0)),)})
    assert captioner.images_seen == 0


def test_half_a_character_in_what_models_say_is_escaped(tmp_path):
    class Halved(FakeCaptioner):
        def caption(self, images):
            return ["rain \ud83d" for _ in images]

    class HalvedJudge(ScriptedJudge):
        def judge(self, cases):
            return [vote_of(self.name, '{"reliable": false, "reason": "odd \ud83d"}') for _ in cases]

    small_data(tmp_path)
    distil(tmp_path, tmp_path, {"captioner": Halved(), "judges": (HalvedJudge("vlm", None),)})
    corpus = load_dataset(str(tmp_path / "output"), cache_dir=str(tmp_path / "cache"))
    for row in rows_of(corpus, "rejected").values():
        assert row["caption"] == r"rain \ud83d" and row["detail"] == r"vlm: odd \ud83d"
        assert row["votes"][0]["raw_answer"].endswith(r'odd \ud83d"}')


def test_two_judges_of_one_name_are_refused():
    with pytest.raises(ValueError, match="one name"):
        backends(judges=(ScriptedJudge("same", brighter_than(0)), ScriptedJudge("same", brighter_than(9))))


def test_a_backend_that_loses_pictures_stops_the_run(data, tmp_path):
    class Forgetful(FakeCaptioner):
        def caption(self, images):
            return super().caption(images)[1:]

    with pytest.raises(ValueError, match="fake-captioner gave"):
        distil(data, tmp_path, {"captioner": Forgetful()})


def test_the_main_process_says_when_another_one_is_missing(data, tmp_path):
    run = Distillation(arguments(data, tmp_path, wait_timeout=0.5), backends(), Process(0, 2))
    with pytest.raises(TimeoutError, match="resumes where it stopped"):
        run.run()


def test_ranks_come_from_torchrun_or_slurm():
    assert Process.from_environment({}) == Process(0, 1)
    assert Process.from_environment({"RANK": "1", "WORLD_SIZE": "4", "SLURM_PROCID": "7"}) == Process(1, 4)
    assert Process.from_environment({"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "3"}) == Process(2, 3)
    assert Process.from_environment({"SLURM_PROCID": "0", "SLURM_NTASKS": "3"}) == Process(0, 1)  # a batch script
    with pytest.raises(ValueError, match="below WORLD_SIZE"):
        Process.from_environment({"RANK": "4", "WORLD_SIZE": "4"})


def test_marker_tells_what_is_in_the_folder(finished):
    marker = json.loads((finished[0] / "output" / "distillation.json").read_text())
    assert marker["rows"] == {"distilled": finished[1].kept, "rejected": 23 - finished[1].kept, "real": 21}
    assert isinstance(backends(), Backends)
