"""`benchmarks/distillation.py decisions`: sound pairs with planted defects among them, and what the local judges make of them."""

import zlib
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from planted_candidates import SPLITS, build_candidates, set_of
from tqdm import tqdm

from modeling_unirain.distillation.arguments import BackendArguments, DistillationArguments
from modeling_unirain.distillation.backends import LOCAL_JUDGES, build_backends
from modeling_unirain.distillation.local_judges import ReferenceDistanceJudge
from modeling_unirain.distillation.pipeline import Distillation
from modeling_unirain.distillation.protocols import JudgeCase, RetrievedReference, Triplet
from modeling_unirain.images import pictures_below, read_rgb


SHARD_SIZE = 64
"""Small, so that `distill_dataset.py --shard_size 64` under torchrun, with the same folders beforehand, divides the work evenly."""


def decisions(data: Path, work_dir: Path, pairs: int) -> None:
    """Distil the planted candidates and print every table about what was decided."""
    candidates = work_dir / "candidates"
    build_candidates(data, candidates, pairs)
    arguments = DistillationArguments(
        [str(candidates)], [str(data / "real")], work_dir / "run", work_dir / "distilled", shard_size=SHARD_SIZE
    )
    Distillation(arguments, build_backends(BackendArguments(preset="local"))).run()
    rows = decided(work_dir)
    print("\n### Right decisions, preset local\n")
    _print_rates(rows, {row["pair_id"]: row["kept"] for row in rows}, "majority of two of three")
    _print_kinds(rows)
    _print_sources(rows)
    print("\n### Worth its parts\n")
    for name, kept in without_parts(rows, work_dir, data / "real").items():
        _print_rates(rows, kept, name)


def decided(work_dir: Path) -> list[dict]:
    """Every candidate with its votes, whether it was kept, its half and its kind."""
    columns = ["pair_id", "source", "origin", "reason", "votes", "references"]
    rows = []
    for level in ("distilled", "rejected"):
        for path in sorted((work_dir / "distilled" / "data").glob(f"{level}-*.parquet")):
            for row in pq.read_table(path, columns=columns).to_pylist():
                split, _, kind = row["source"].partition("_")
                rows.append({**row, "kept": level == "distilled", "split": split, "kind": kind})
    return rows


def without_parts(rows: list[dict], work_dir: Path, references: Path) -> dict[str, dict[str, bool]]:
    """What would be kept by a part of the method alone: name -> pair id -> kept."""
    kept = {
        f"{name} alone": {row["pair_id"]: _voted(row, name) and row["reason"] != "duplicate" for row in rows}
        for name in LOCAL_JUDGES
    }
    # As many as the whole method keeps, those nearest to their references.
    similarity = {row["pair_id"]: _similarity(row) for row in rows}
    nearest = sorted(similarity, key=similarity.__getitem__, reverse=True)[: sum(row["kept"] for row in rows)]
    kept["retrieval without judging"] = {pair_id: pair_id in set(nearest) for pair_id in similarity}
    unguided = _random_references(rows, work_dir, references)
    others = [name for name in LOCAL_JUDGES if name != ReferenceDistanceJudge.name]
    kept["judging without retrieval"] = {
        row["pair_id"]: sum(_voted(row, name) for name in others) + unguided[row["pair_id"]] >= 2
        and row["reason"] != "duplicate"
        for row in rows
    }
    return kept


def _voted(row: dict, name: str) -> bool:
    return any(vote["judge"] == name and vote["decision"] for vote in row["votes"])


def _similarity(row: dict) -> float:
    scores = [reference["feature_similarity"] for reference in row["references"]]
    return float(np.mean(scores)) if scores else -1.0


def _random_references(rows: list[dict], work_dir: Path, references: Path) -> dict[str, bool]:
    """The votes of the one judge that looks at references, shown three drawn at random in place of the retrieved ones."""
    nothing = np.zeros(1, np.float32)
    triplets = [Triplet(path.name, read_rgb(path), "", nothing, nothing) for path in pictures_below(references)]
    judge = ReferenceDistanceJudge()
    judge.load_statistics(judge.fit(triplets))
    votes = {}
    for row in tqdm(rows, desc="without retrieval"):
        rng = np.random.default_rng(zlib.crc32(row["pair_id"].encode()))
        drawn = tuple(RetrievedReference(triplets[k], 0, 0, 0) for k in rng.choice(len(triplets), 3, replace=False))
        rainy = work_dir / row["origin"]
        query = Triplet(row["pair_id"], read_rgb(rainy), "", nothing, nothing)
        target = read_rgb(rainy.parents[1] / "target" / rainy.name)
        votes[row["pair_id"]] = judge.judge([JudgeCase(row["pair_id"], query, target, drawn)])[0].decision is True
    return votes


def _print_rates(rows: list[dict], kept: dict[str, bool], label: str) -> None:
    parts = []
    for split in SPLITS:
        sound = [kept[row["pair_id"]] for row in rows if row["split"] == split and row["kind"] == "sound"]
        planted = [not kept[row["pair_id"]] for row in rows if row["split"] == split and row["kind"] != "sound"]
        parts.append(
            f"{split}: keeps {100 * np.mean(sound):.1f} % of {len(sound)} sound, "
            f"rejects {100 * np.mean(planted):.1f} % of {len(planted)} planted"
        )
    print(f"{label}: {'; '.join(parts)}")


def _print_kinds(rows: list[dict]) -> None:
    print("\n### Per kind\n")
    print("| half | kind | pairs | right |" + "".join(f" {name} alone |" for name in LOCAL_JUDGES))
    print("| --- | --- | ---: | ---: |" + " ---: |" * len(LOCAL_JUDGES))
    kinds = defaultdict(list)
    for row in rows:
        kinds[row["split"], row["kind"]].append(row)
    for (split, kind), members in sorted(kinds.items()):
        wanted = kind == "sound"
        shares = [np.mean([row["kept"] == wanted for row in members])]
        shares += [np.mean([_voted(row, name) == wanted for row in members]) for name in LOCAL_JUDGES]
        print(f"| {split} | {kind} | {len(members)} |" + "".join(f" {100 * share:.1f} % |" for share in shares))
    print("\nIn the row of robotcar_tiles 'right' is the share that was rejected.")


def _print_sources(rows: list[dict]) -> None:
    print("\n### Sound pairs kept, per source\n\n| half | source | pairs | kept |\n| --- | --- | ---: | ---: |")
    sources = defaultdict(list)
    for row in rows:
        if row["kind"] == "sound":
            sources[row["split"], set_of(row["pair_id"].rpartition("/")[2])].append(row["kept"])
    for (split, source), kept in sorted(sources.items()):
        print(f"| {split} | {source} | {len(kept)} | {100 * np.mean(kept):.1f} % |")
