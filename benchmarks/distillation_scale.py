"""`benchmarks/distillation.py scale`: speed of every stage, and what the search among many references takes."""

import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import psutil

from modeling_unirain.distillation.records import ImageLocation, Reference
from modeling_unirain.distillation.reference_index import (
    IndexSettings,
    ReferenceChunk,
    ReferenceIndex,
    build_reference_index,
    is_built,
)
from modeling_unirain.distillation.retrieval import HierarchicalRetriever, RetrievalSettings
from modeling_unirain.distillation.sources import list_pairs
from modeling_unirain.distillation.structural import SIDE


ROOT = Path(__file__).resolve().parents[1]
MANY = 2_000_000
CORES = 64
TOLD = re.compile(r"^([\w.-]+): (\w.*); ([\d.]+) s$", re.MULTILINE)
MAIN_ALONE = ("pair-list", "duplicates", "verdict", "write")
"""Stages over the candidates that are not shared by the processes."""
WIDTH = {"text": 384, "image": 64}
CHUNK = 1000
QUERIES, K1 = 200, 100


def scale(data: Path, work_dir: Path, pairs: int, references: list[int]) -> None:
    one, two = (_rates(data, work_dir, pairs, processes) for processes in (1, 2))
    print("\n### Pairs (or references) a second, preset local\n")
    print("| stage | 1 process | 2 processes | ratio |\n| --- | ---: | ---: | ---: |")
    for stage, rate in one.items():
        print(f"| {stage} | {rate:.1f} | {two[stage]:.1f} | {two[stage] / rate:.2f} |")
    shared = sum(MANY / rate for stage, rate in one.items() if stage.startswith("pair-") and stage not in MAIN_ALONE)
    alone = sum(MANY / one[stage] for stage in MAIN_ALONE)
    print(
        f"\nTwo million pairs, by the rates of one process: {(shared + alone) / 86400:.1f} days; on {CORES} such cores "
        f"{(shared / CORES + alone) / 3600:.1f} hours, {alone / 3600:.1f} of them in what the main process does alone "
        f"({', '.join(MAIN_ALONE)})."
    )
    print("\n### Search among many references\n")
    print(
        "| references | exact, ms a query | IVF, ms a query | IVF recall of K1 = 100 | memory of a search, MB: exact | IVF | "
        "memory of building, MB: exact | IVF | on disk, MB |"
    )
    print("| ---: |" + " ---: |" * 8)
    for count in references:
        found, cells = {}, {}
        for kind in ("exact", "ivf"):
            folder = work_dir / f"index-{count}" / kind
            if not is_built(folder):
                built = _in_another_process(_build, folder, count)
                (folder / "building.json").write_text(json.dumps(built))
            cells[kind] = _in_another_process(_search, folder, count)
            cells[kind]["building"] = json.loads((folder / "building.json").read_text())
            found[kind] = cells[kind].pop("found")
        exact, ivf = cells["exact"], cells["ivf"]
        recall = np.mean([len(set(e) & set(i)) / len(e) for e, i in zip(found["exact"], found["ivf"], strict=True)])
        size = sum(path.stat().st_size for path in (work_dir / f"index-{count}" / "exact").iterdir()) / 1e6
        print(
            f"| {count:,} | {exact['ms']:.2f} | {ivf['ms']:.2f} | {100 * recall:.1f} % | {exact['memory']:.0f} | "
            f"{ivf['memory']:.0f} | {exact['building']:.0f} | {ivf['building']:.0f} | {size:.0f} |",
            flush=True,
        )


# ---- Stages -------------------------------------------------------------------------------------------------------------


def _rates(data: Path, work_dir: Path, pairs: int, processes: int) -> dict[str, float]:
    """Stage -> pairs (references) a second over all processes, from what `distill_dataset.py` reports."""
    folder = work_dir / f"run-{processes}"
    shutil.rmtree(folder, ignore_errors=True)  # what is done already would not be timed
    candidates = _some_pairs(data / "train", folder / "candidates", pairs)
    launcher = (
        ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    )
    command = [sys.executable, *launcher, str(ROOT / "distill_dataset.py"), "--preset", "local", "--shard_size", "16"]
    command += ["--candidates", str(candidates), "--references", str(data / "real")]
    command += ["--work_dir", str(folder / "work"), "--output_dir", str(folder / "out")]
    environment = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "TQDM_DISABLE": "1", "PYTHONPATH": str(ROOT)}
    run = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
    if run.returncode:
        raise OSError(f"distill_dataset.py ended with {run.returncode}: {run.stderr[-1000:]}")
    seen: dict[str, int] = {}
    seconds: dict[str, float] = {}
    for stage, told, took in TOLD.findall(run.stderr):
        counts = {name: int(count.replace(",", "")) for name, count in re.findall(r"(\S[^,]*) ([\d,]+)(?:, |$)", told)}
        count = counts.get("seen", sum(counts.values()))  # of the verdicts, every one is counted under its reason
        every_process = stage.endswith("-list")  # every process lists everything; the other stages' shards are shared
        seen[stage] = count + (0 if every_process else seen.get(stage, 0))
        seconds[stage] = max(seconds.get(stage, 0.05), float(took))
    return {stage: seen[stage] / seconds[stage] for stage in seen}


def _some_pairs(train: Path, folder: Path, count: int) -> Path:
    """Links to `count` pairs, spread evenly over all there are."""
    records = [record for record, _ in list_pairs([str(train)], lambda source: None)]
    for record in islice(records, 0, None, max(1, len(records) // count)):
        for part, location in (("input", record.input), ("target", record.target)):
            source = Path(location.path)
            link = folder / record.rain_type / record.source / part / source.name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(source.resolve())
    return folder


# ---- Search -------------------------------------------------------------------------------------------------------------


def _captions(seed: int, number: int, count: int) -> np.ndarray:
    """Made-up sentence embeddings of unit length, in clusters of like meaning, fifty references to a cluster."""
    clusters = max(8, count // 50)
    rng = np.random.default_rng((1, seed))
    vectors = np.empty((number, WIDTH["text"]), np.float32)
    for row, cluster in enumerate(rng.integers(clusters, size=number)):
        vectors[row] = np.random.default_rng((2, cluster)).standard_normal(WIDTH["text"], np.float32)
    vectors += 0.5 * rng.standard_normal(vectors.shape, np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _chunks(count: int) -> Iterator[ReferenceChunk]:
    for first in range(0, count, CHUNK):
        number = min(CHUNK, count - first)
        names = [f"r{first + k:08}" for k in range(number)]
        rng = np.random.default_rng((3, first))
        yield ReferenceChunk(
            [Reference(name, "made", None, name, ImageLocation("none.png")) for name in names],
            names,
            _captions(first, number, count),
            rng.standard_normal((number, WIDTH["image"]), np.float32),
            rng.integers(0, 256, (number, SIDE, SIDE), dtype=np.uint8),
        )


def _build(folder: Path, count: int) -> float:
    """Build the index; megabytes of its own that the process held at most."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    names = [f"r{number:08}" for number in range(count)]
    before = _memory()
    with _Peak() as peak:
        build_reference_index(folder, names, lambda: _chunks(count), IndexSettings(folder.name))
    return peak.megabytes - before


def _search(folder: Path, count: int) -> dict:
    """Milliseconds a query of the first level; megabytes that opening and all three levels take; the first level's result."""
    queries = _captions(10**9, QUERIES, count)
    rng = np.random.default_rng(4)
    images = rng.standard_normal((QUERIES, WIDTH["image"]), np.float32)
    thumbnails = rng.integers(0, 256, (QUERIES, SIDE, SIDE), dtype=np.uint8)
    np.zeros((4, 4), np.float32) @ np.zeros((4, 4), np.float32)  # the linear algebra's buffers are not the index's
    before = _memory()
    with _Peak() as peak:
        index = ReferenceIndex(folder)
        started = time.perf_counter()
        found = [rows.tolist() for rows, _ in index.nearest_captions(queries, K1)]
        took = time.perf_counter() - started
        HierarchicalRetriever(index, RetrievalSettings()).retrieve(queries, images, thumbnails)
    return {"ms": 1000 * took / QUERIES, "memory": peak.megabytes - before, "found": found}


def _memory() -> float:
    """Megabytes that are this process's own; mapped files belong to the page cache, which gives them back when asked."""
    memory = psutil.Process().memory_info()
    return (memory.rss - memory.shared) / 1e6


class _Peak:
    """The most memory seen while a block ran, looked at every 10 ms by a thread."""

    def __enter__(self) -> "_Peak":
        self.megabytes, self._over = _memory(), threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._over.wait(0.01):
            self.megabytes = max(self.megabytes, _memory())

    def __exit__(self, *_) -> None:
        self._over.set()
        self._thread.join()
        self.megabytes = max(self.megabytes, _memory())


def _in_another_process(function, *arguments):
    """So that what one measurement leaves in memory is not there for the next."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)
