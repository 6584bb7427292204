"""Is the distillation right, worth its parts, fast enough, and of help? Prints the tables of the README.

    python benchmarks/distillation.py decisions --work_dir DIR [--corpus ../shared/corpus] [--pairs 240]
    python benchmarks/distillation.py scale --work_dir DIR [--corpus ../shared/corpus]
    python benchmarks/distillation.py helps --work_dir DIR [--corpus ../shared/corpus] [--steps 1500]

decisions: a candidate set about half of which is sound, with defects planted at known places (`planted_defects.py`), is
    distilled by preset `local`. The tuning half (its sources, photographs and kinds of defects) is what the limits of the local
    judges were set on; the final half shares no pair, no photograph for rendering, and no kind of defect with it (but see
    `planted_defects.py`: it was looked at once before the limits reached their present values). `robotcar_tiles`
    is reported apart: its pairs are misaligned by 1 to 3 pixels, so whether they are sound is the question, not the answer.
    The test sets of the corpus are not touched.
scale: pairs a second of every stage with one and two processes, the recall of IVF against the exact index, the memory of a search
    among 1,000 to 100,000 references, and what two million pairs would take by these figures.
helps: trains the tiny network on what `decisions` distilled and on everything merged, equally long, for three seeds, and measures
    both on the real test sets.
"""

import argparse
import logging
import os
import re
import subprocess
import sys
import time
import zlib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import torch
from PIL import Image
from planted_defects import HELD_OUT, TUNING
from tqdm import tqdm

from modeling_unirain.distillation.arguments import BackendArguments, DistillationArguments
from modeling_unirain.distillation.backends import build_backends
from modeling_unirain.distillation.local_judges import ReferenceDistanceJudge
from modeling_unirain.distillation.pipeline import Distillation
from modeling_unirain.distillation.protocols import JudgeCase, RetrievedReference, Triplet
from modeling_unirain.distillation.records import Reference
from modeling_unirain.distillation.reference_index import (
    IndexSettings,
    ReferenceChunk,
    ReferenceIndex,
    build_reference_index,
)
from modeling_unirain.images import read_rgb
from modeling_unirain.rain import render_rain


ROOT = Path(__file__).resolve().parents[1]
SPLITS = ("tuning", "final")
HALVED_SETS = ("DRS/rain800", "DRS/nitedr_day", "NRS/nitedr_night")
FINAL_SETS = ("DRS/carlarain_day", "NRS/carlarain_night", "NRS/bdd_night")
APART = "DRD/robotcar_tiles"
BACKGROUNDS = {
    "tuning": {
        "day": ("bsds500", "camvid360", "demophotos", "deepphotostyle"),
        "night": ("amos", "darkdemo", "deepphotostyle"),
    },
    "final": {
        "day": ("kodak24", "urban100", "unsplash", "sunhays80"),
        "night": ("nightscapes", "mefsets", "dicm_lime", "wxbs", "urban100", "unsplash"),
    },
}
SEVERITY = (0.1, 0.7)
"""Rendered rain from faint to heavy; beyond lie near-clean and drowned pictures, which no one can call sound or not."""
LARGEST_SIDE = 768
KINDS = {"tuning": tuple(TUNING), "final": tuple(HELD_OUT)}


# ---- The candidate set --------------------------------------------------------------------------------------------------


def build_candidates(corpus: Path, folder: Path, pairs: int) -> None:
    """Write `folder/TYPE/SPLIT_KIND/{input,target}/STEM.png`; `pairs` sound and about as many planted pairs per split."""
    done = folder.parent / "candidates.done"
    if done.exists():
        return
    for split in SPLITS:
        pool = list(pairs_of(corpus, split, 2 * pairs))
        sound, spoilt = pool[::2], pool[1::2]
        for name, rain_type, rainy, target in tqdm(sound, desc=f"{split}: sound"):
            _save(folder, rain_type, f"{split}_sound", name, rainy, target)
        functions = TUNING | HELD_OUT
        for number, (name, rain_type, rainy, target) in enumerate(tqdm(spoilt, desc=f"{split}: planted")):
            kind = KINDS[split][number % len(KINDS[split])]
            rng = np.random.default_rng(zlib.crc32(f"{kind} {name}".encode()))
            if kind == "twice_saved":
                name, rain_type, rainy, target = sound[number % len(sound)]
            others = [entry for entry in pool if _set_of(entry[0]) == _set_of(name) and entry[0] != name] or sound
            more = (others[int(rng.integers(len(others)))][3],) if kind == "swapped_target" else ()
            _save(folder, rain_type, f"{split}_{kind}", name, *functions[kind](rainy, target, rng, *more))
    for name, rain_type, rainy, target in tqdm(_stored_pairs(corpus, APART, None), desc="apart"):
        _save(folder, rain_type, "apart_robotcar", name, rainy, target)
    done.touch()


def pairs_of(corpus: Path, split: str, count: int) -> Iterator[tuple[str, str, np.ndarray, np.ndarray]]:
    """(name, type, rainy, clean) of `count` pairs, in a fixed order that mixes the sources; about half are rendered."""
    stored = [pair for name in HALVED_SETS for pair in _stored_pairs(corpus, name, split)]
    stored += [pair for name in FINAL_SETS if split == "final" for pair in _stored_pairs(corpus, name, None)]
    stored = sorted(stored, key=lambda pair: zlib.crc32(pair[0].encode()))[: count // 2]
    rendered = _rendered_pairs(corpus, split, count - len(stored))
    yield from sorted([*stored, *rendered], key=lambda pair: zlib.crc32(f"order {pair[0]}".encode()))


def _stored_pairs(corpus: Path, name: str, split: str | None) -> Iterator[tuple[str, str, np.ndarray, np.ndarray]]:
    folder = corpus / "train" / name
    targets = {path.stem: path for path in (folder / "target").iterdir()}
    for path in sorted((folder / "input").iterdir()):
        if split is None or SPLITS[zlib.crc32(path.stem.encode()) % 2] == split:
            rainy, target = _cropped(read_rgb(path)), _cropped(read_rgb(targets[path.stem]))
            yield f"{folder.name}-{path.stem}", folder.parent.name, rainy, target


def _rendered_pairs(corpus: Path, split: str, count: int) -> Iterator[tuple[str, str, np.ndarray, np.ndarray]]:
    """Rain of the four types, a quarter each, over photographs in a fixed order; a photograph may serve several seeds."""
    for number, rain_type in enumerate(("DRS", "DRD", "NRS", "NRD")):
        light = "night" if rain_type.startswith("N") else "day"
        files = [
            path for name in BACKGROUNDS[split][light] for path in sorted((corpus / "clean" / light / name).iterdir())
        ]
        files.sort(key=lambda path: zlib.crc32(f"{rain_type} {path.parent.name} {path.name}".encode()))
        share = count // 4 + (number < count % 4)
        for turn in tqdm(range(share), desc=f"{split}: rendering {rain_type}"):
            path = files[turn % len(files)]
            seed = zlib.crc32(f"{rain_type} {path.name} {turn}".encode())
            severity = float(np.random.default_rng(seed).uniform(*SEVERITY))
            pair = render_rain(_cropped(read_rgb(path)), rain_type, seed, severity=severity)
            images = ((image * 255 + 0.5).astype(np.uint8) for image in (pair.rainy, pair.clean))
            yield f"rendered{rain_type.lower()}-{path.parent.name}-{path.stem}-{turn}", rain_type, *images


def _cropped(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    top, left = max(height - LARGEST_SIDE, 0) // 2, max(width - LARGEST_SIDE, 0) // 2
    return image[top : top + LARGEST_SIDE, left : left + LARGEST_SIDE]


def _save(folder: Path, rain_type: str, name: str, stem: str, rainy: np.ndarray, target: np.ndarray) -> None:
    for part, image in (("input", rainy), ("target", target)):
        path = folder / rain_type / name / part / f"{stem}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.ascontiguousarray(image)).save(path, compress_level=1)


def _set_of(name: str) -> str:
    return name.partition("-")[0]


# ---- decisions ----------------------------------------------------------------------------------------------------------


def decisions(corpus: Path, work_dir: Path, pairs: int) -> None:
    candidates = work_dir / "candidates"
    build_candidates(corpus, candidates, pairs)
    backends = build_backends(BackendArguments(preset="local"))
    arguments = DistillationArguments(
        [str(candidates)], [str(corpus / "real")], work_dir / "run", work_dir / "distilled"
    )
    Distillation(arguments, backends).run()
    rows = _rows(work_dir / "distilled")
    judges = [judge.name for judge in backends.judges]

    def voted(row: dict, *names: str) -> bool:
        decisions = {vote["judge"]: vote["decision"] for vote in row["votes"]}
        return sum(decisions.get(name) is True for name in names) > len(names) / 2

    print("\n### Right decisions, preset local\n")
    _print_rates(rows, {row["pair_id"]: row["kept"] for row in rows})
    print("\n### Per kind\n")
    print("| half | kind | pairs | right |" + "".join(f" {name} alone |" for name in judges))
    print("| --- | --- | --- | --- |" + " --- |" * len(judges))
    kinds = defaultdict(list)
    for row in rows:
        kinds[row["split"], row["kind"]].append(row)
    for (split, kind), members in sorted(kinds.items()):
        wanted = kind == "sound"
        right = np.mean([row["kept"] == wanted for row in members])
        alone = [np.mean([voted(row, name) == wanted for row in members]) for name in judges]
        cells = "".join(f" {100 * value:.1f} % |" for value in alone)
        print(f"| {split} | {kind} | {len(members)} | {100 * right:.1f} % |{cells}")
    print("\nIn the row of robotcar_tiles 'right' is the share that was rejected.")
    print("\n### Sound pairs kept, per source\n\n| half | source | pairs | kept |\n| --- | --- | --- | --- |")
    sources = defaultdict(list)
    for row in rows:
        if row["kind"] == "sound":
            sources[row["split"], _set_of(row["pair_id"].rpartition("/")[2])].append(row["kept"])
    for (split, source), kept in sorted(sources.items()):
        print(f"| {split} | {source} | {len(kept)} | {100 * np.mean(kept):.1f} % |")
    print("\n### Worth its parts\n")
    for name in judges:
        _print_rates(rows, {row["pair_id"]: voted(row, name) for row in rows}, f"{name} alone")
    similarity = {row["pair_id"]: _similarity(row) for row in rows}
    middle = np.median([value for pair, value in similarity.items() if "apart_" not in pair])
    _print_rates(rows, {pair: value > middle for pair, value in similarity.items()}, "retrieval without judging")
    unguided = _without_retrieval(rows, candidates, corpus / "real")
    others = [name for name in judges if name != ReferenceDistanceJudge.name]
    mixed = {}
    for row in rows:
        yes = sum(voted(row, name) for name in others) + unguided.get(row["pair_id"], False)
        mixed[row["pair_id"]] = yes >= 2 and row["reason"] != "duplicate"
    _print_rates(rows, mixed, "judging without retrieval")


def _rows(output_dir: Path) -> list[dict]:
    columns = ["pair_id", "reason", "votes", "references"]
    rows = []
    for level in ("distilled", "rejected"):
        for path in sorted((output_dir / "data").glob(f"{level}-*.parquet")):
            for row in pq.read_table(path, columns=columns).to_pylist():
                split, _, kind = re.search(r"(tuning|final|apart)_([a-z]+(?:_[a-z]+)*)", row["pair_id"])[0].partition(
                    "_"
                )
                rows.append({**row, "kept": level == "distilled", "split": split, "kind": kind})
    return rows


def _print_rates(rows: list[dict], kept: dict[str, bool], label: str = "majority of two of three") -> None:
    print(f"{label}: ", end="")
    parts = []
    for split in SPLITS:
        sound = [kept[row["pair_id"]] for row in rows if row["split"] == split and row["kind"] == "sound"]
        planted = [not kept[row["pair_id"]] for row in rows if row["split"] == split and row["kind"] != "sound"]
        parts.append(
            f"{split}: keeps {100 * np.mean(sound):.1f} % of {len(sound)} sound, "
            f"rejects {100 * np.mean(planted):.1f} % of {len(planted)} planted"
        )
    print("; ".join(parts))


def _similarity(row: dict) -> float:
    scores = [reference["feature_similarity"] for reference in row["references"]]
    return float(np.mean(scores)) if scores else -1.0


def _without_retrieval(rows: list[dict], candidates: Path, references: Path) -> dict[str, bool]:
    """The votes of the one judge that looks at references, shown three drawn at random in place of the retrieved ones."""
    nothing = np.zeros(1, np.float32)
    triplets = [
        Triplet(path.name, read_rgb(path), "", nothing, nothing)
        for path in sorted(references.rglob("*"))
        if path.is_file()
    ]
    judge = ReferenceDistanceJudge()
    judge.load_statistics(judge.fit(triplets))
    files = {path.relative_to(candidates).with_suffix("").as_posix(): path for path in candidates.rglob("input/*.png")}
    votes = {}
    for row in tqdm(rows, desc="without retrieval"):
        pair_id = row["pair_id"]
        stem, name = pair_id.rpartition("/")[2], re.search(r"(?:tuning|final|apart)_[a-z_]+", pair_id)[0]
        path = next(path for key, path in files.items() if key.endswith(f"{name}/input/{stem}"))
        rng = np.random.default_rng(zlib.crc32(pair_id.encode()))
        drawn = tuple(RetrievedReference(triplets[k], 0, 0, 0) for k in rng.choice(len(triplets), 3, replace=False))
        target = read_rgb(path.parents[1] / "target" / path.name)
        case = JudgeCase(pair_id, Triplet(pair_id, read_rgb(path), "", nothing, nothing), target, drawn)
        votes[pair_id] = judge.judge([case])[0].decision is True
    return votes


# ---- scale --------------------------------------------------------------------------------------------------------------


def scale(corpus: Path, work_dir: Path) -> None:
    rates = {processes: _timed_run(corpus, work_dir / f"run-{processes}", processes) for processes in (1, 2)}
    print("\n### Pairs a second, preset local\n\n| stage | 1 process | 2 processes |\n| --- | --- | --- |")
    for stage in rates[1]:
        print(f"| {stage} | {rates[1][stage]:.1f} | {rates[2].get(stage, float('nan')):.1f} |")
    seconds = sum(2_000_000 / rate for stage, rate in rates[1].items() if stage.startswith("pair"))
    print(
        f"\nTwo million pairs, by these figures: {seconds / 86400:.1f} days on one core, over 64 cores {seconds / 64 / 3600:.1f} h"
    )
    print("\n### Search among many references\n")
    print("| references | exact, ms a query | IVF, ms a query | IVF recall of K1 = 100 | memory of a search, MB |")
    print("| --- | --- | --- | --- | --- |")
    for count in (1_000, 10_000, 100_000):
        exact, ivf, recall, memory = _search(work_dir / f"index-{count}", count)
        print(f"| {count:,} | {exact:.2f} | {ivf:.2f} | {100 * recall:.1f} % | {memory:.0f} |")


def _timed_run(corpus: Path, folder: Path, processes: int) -> dict[str, float]:
    """Stage -> pairs a second of the whole run, from what `distill_dataset.py` reports."""
    launcher = [sys.executable] if processes == 1 else [
        sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"
    ]  # fmt: skip
    command = [*launcher, str(ROOT / "distill_dataset.py"), "--preset", "local", "--shard_size", "32"]
    command += ["--candidates", str(corpus / "train"), "--references", str(corpus / "real")]
    command += ["--work_dir", str(folder / "work"), "--output_dir", str(folder / "out")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": str(ROOT)}
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stderr
    pairs: dict[str, float] = defaultdict(float)
    seconds: dict[str, float] = defaultdict(float)
    for stage, counts, took in re.findall(r"^((?:pair|reference)-[\w.-]+): (.*); ([\d.]+) s$", told, re.MULTILINE):
        seen = re.search(r"seen ([\d,]+)", counts) or re.search(r"([\d,]+)", counts)
        pairs[stage] += int(seen[1].replace(",", ""))
        seconds[stage] = max(seconds[stage], float(took), 0.05)
    return {stage: pairs[stage] / seconds[stage] for stage in pairs}


def _search(folder: Path, count: int) -> tuple[float, float, float, float]:
    """Milliseconds a query (exact, IVF), IVF's recall, and what the process grew by while searching the mapped index."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((max(8, count // 50), 384), np.float32)

    def captions(number: int) -> np.ndarray:  # sentences come in clusters of like meaning
        vectors = centres[rng.integers(len(centres), size=number)] + 0.5 * rng.standard_normal(
            (number, 384), np.float32
        )
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    vectors, queries = captions(count), captions(200)
    location = next(iter(_locations()))
    indexes = {}
    for kind in ("exact", "ivf"):
        ids = [f"r{number:07}" for number in range(count)]
        references = [Reference(name, "made", None, name, location) for name in ids]
        chunk = ReferenceChunk(references, ids, vectors, vectors[:, :16], np.zeros((count, 8, 8), np.uint8))
        if not (folder / kind / "complete.done").exists():
            folder.mkdir(parents=True, exist_ok=True)
            build_reference_index(folder / kind, ids, lambda chunk=chunk: iter([chunk]), IndexSettings(kind))
        indexes[kind] = ReferenceIndex(folder / kind)
    del vectors
    process, found, times = psutil.Process(), {}, {}
    before = process.memory_info()
    for kind, index in indexes.items():
        started = time.perf_counter()
        found[kind] = [set(rows.tolist()) for rows, _ in index.nearest_captions(queries, 100)]
        times[kind] = 1000 * (time.perf_counter() - started) / len(queries)
    after = process.memory_info()
    grown = (after.rss - after.shared - before.rss + before.shared) / 1e6  # mapped pages belong to the page cache
    recall = np.mean([len(e & i) / len(e) for e, i in zip(found["exact"], found["ivf"], strict=True)])
    return times["exact"], times["ivf"], float(recall), max(grown, 0.0)


def _locations() -> Iterator:
    from modeling_unirain.distillation.records import ImageLocation

    yield ImageLocation("none.png")


# ---- helps --------------------------------------------------------------------------------------------------------------


def helps(corpus: Path, work_dir: Path, steps: int, seeds: int = 3) -> None:
    from modeling_unirain.evaluation import evaluate_pairs, find_pairs
    from modeling_unirain.pipeline_unirain import load_derainer
    from modeling_unirain.training.arguments import parse_arguments
    from train_unirain import main as train

    rows = _rows(work_dir / "distilled")
    kept = {row["pair_id"].rpartition("/")[2] + row["kind"] for row in rows if row["kept"]}
    merged = work_dir / "candidates"
    distilled = work_dir / "distilled_folder"
    for path in sorted(merged.rglob("*.png")):
        kind = path.parents[1].name.partition("_")[2]
        link = distilled / path.relative_to(merged)
        if path.stem + kind in kept and not link.exists():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path)
    print("| corpus | pairs | seed | set | PSNR | SSIM |\n| --- | --- | --- | --- | --- | --- |")
    for name, root in (("merged", merged), ("distilled", distilled)):
        for seed in range(seeds):
            output = work_dir / f"helps-{name}-{seed}"
            recipe = work_dir / f"helps-{name}.yaml"
            recipe.write_text(_recipe(root, steps))
            outcome = train(
                parse_arguments(["--recipe", str(recipe), "--output_dir", str(output), "--seed", str(seed)])
            )
            logging.info("%s, seed %d: %s", name, seed, outcome)
            report = evaluate_pairs(load_derainer(str(output / "export")), find_pairs(corpus / "test"))
            for mean in report.datasets():
                psnr, ssim = (mean.output[metric] for metric in ("psnr_rgb", "ssim_rgb"))
                pairs = sum(1 for _ in root.rglob("input/*.png"))
                print(f"| {name} | {pairs} | {seed} | {mean.dataset} | {psnr:.2f} | {ssim:.4f} |", flush=True)


def _recipe(root: Path, steps: int) -> str:
    return (
        f"model: unirain-tiny\nmax_steps: {steps}\nbatch_size: 8\npatch_size: 64\nlearning_rate: 2.0e-3\nnum_workers: 1\n"
        f"validation_steps: {steps}\nsave_steps: {steps}\ndata:\n  sources:\n    - {{kind: paired, root: {root}}}\n"
        f"validation:\n  samples_per_type: 4\n  crop_size: 64\n  sources:\n    - {{kind: paired, root: {root}}}\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmark", choices=("decisions", "scale", "helps"))
    parser.add_argument("--work_dir", type=Path, required=True)
    parser.add_argument("--corpus", type=Path, default=ROOT.parent / "shared" / "corpus")
    parser.add_argument("--pairs", type=int, default=240, help="sound pairs of each half")
    parser.add_argument("--steps", type=int, default=1500)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    if not (arguments.corpus / "train").is_dir():
        sys.exit(f"{arguments.corpus} holds no train/: give the corpus's folder with --corpus")
    arguments.work_dir.mkdir(parents=True, exist_ok=True)
    if arguments.benchmark == "decisions":
        decisions(arguments.corpus, arguments.work_dir, arguments.pairs)
    elif arguments.benchmark == "scale":
        scale(arguments.corpus, arguments.work_dir)
    else:
        helps(arguments.corpus, arguments.work_dir, arguments.steps)


if __name__ == "__main__":
    main()
