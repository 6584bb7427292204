"""The paper's figure as a list of stages (section 3.2):

    references:  list -> inspect -> caption -> embed -> index                 once
    candidates:  list -> inspect -> caption -> embed -> retrieve -> judge (each) -> decide -> write

Every stage turns one shard's tables into the next (`shards.py`); pictures are read again by each stage that needs them,
so that nothing but tables of numbers and words lies in the work folder. Several processes share the shards of each
stage; the main process alone indexes, fits, decides and writes.
"""

import logging
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import groupby, islice, repeat
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from modeling_unirain.distillation.arguments import DistillationArguments
from modeling_unirain.distillation.duplicates import Edge, find_duplicates, iter_edges, resolve
from modeling_unirain.distillation.inspection import inspect
from modeling_unirain.distillation.protocols import (
    Captioner,
    ImageEmbedder,
    Judge,
    JudgeCase,
    RetrievedReference,
    TextEmbedder,
    Triplet,
    Vote,
)
from modeling_unirain.distillation.reading import loaded_ahead, read_pixels
from modeling_unirain.distillation.records import RainPair, Record, Reference, Verdict
from modeling_unirain.distillation.reference_index import (
    ReferenceChunk,
    ReferenceIndex,
    build_reference_index,
    is_built,
)
from modeling_unirain.distillation.retrieval import HierarchicalRetriever
from modeling_unirain.distillation.schemas import (
    INSPECTED_SCHEMA,
    PAIR_SCHEMA,
    REFERENCE_SCHEMA,
    RETRIEVED_SCHEMA,
    VERDICT_SCHEMA,
    VOTE_FIELDS,
    VOTE_SCHEMA,
)
from modeling_unirain.distillation.shards import (
    Process,
    ShardStore,
    alone_in,
    at_work,
    batched,
    stage_key,
    wait_for,
)
from modeling_unirain.distillation.sources import Fetcher, Identified, list_pairs, list_references
from modeling_unirain.distillation.structural import SIDE
from modeling_unirain.distillation.voting import verdict
from modeling_unirain.distillation.writing import PROBE, CorpusWriter
from modeling_unirain.files import as_text, written


logger = logging.getLogger(__name__)

DUPLICATE = "duplicate"
BYTES_PER_PAIR = 40_000
"""Of the work folder per candidate, generously: 21 kB measured with the local preset, most of it the thumbnail, to which
CLIP adds two embeddings of 3 kB and vision language models their answers."""


@dataclass(frozen=True, eq=False)
class Backends:
    """Who captions, embeds and judges in a run."""

    captioner: Captioner
    text_embedder: TextEmbedder
    image_embedder: ImageEmbedder
    judges: tuple[Judge, ...]

    def __post_init__(self) -> None:
        names = [judge.name for judge in self.judges]
        if len(set(names)) < len(names):
            raise ValueError(f"two judges have one name ({', '.join(names)}): a judge can vote once")

    def check(self) -> None:
        for backend in (self.captioner, self.text_embedder, self.image_embedder, *self.judges):
            backend.check()


@dataclass(frozen=True)
class Summary:
    """What came of the candidates."""

    seen: int
    kept: int
    rejected: dict[str, int] = field(default_factory=dict)
    """Reason -> number of pairs."""


@dataclass(frozen=True, eq=False)
class Listing:
    """The records of all candidates, or of all references, in shards."""

    kind: str
    """`pair` or `reference`."""
    record: type[Record]
    store: ShardStore
    sizes: tuple[int, ...]
    """Records in each shard."""

    @property
    def shards(self) -> Sequence[str]:
        """The names of the shards, which every stage over the listing shares."""
        return self.store.names

    @property
    def key(self) -> str:
        """Of all of it, for what depends on more than a shard."""
        return stage_key(*self.shards)

    @property
    def total(self) -> int:
        return sum(self.sizes)

    def records(self, shard: int) -> list:
        return [self.record.from_row(row) for row in self.store.read(shard).to_pylist()]


@dataclass(frozen=True, eq=False)
class Described:
    """The triplets (T, f, I) of a listing."""

    listing: Listing
    inspected: ShardStore
    captioned: ShardStore
    embedded: ShardStore

    def sound(self, shard: int) -> list:
        """Records of the shard whose pictures can be read: what all stages after the inspection see."""
        reasons = self.inspected.read(shard, ["reason"]).column("reason").to_pylist()
        return [record for record, reason in zip(self.listing.records(shard), reasons, strict=True) if not reason]

    def thumbnails(self, shard: int) -> np.ndarray:
        table = self.inspected.read(shard, ["reason", "thumbnail"])
        sound = [
            np.frombuffer(data, np.uint8)
            for data, reason in zip(*(table.column(name).to_pylist() for name in ("thumbnail", "reason")), strict=True)
            if not reason
        ]
        return np.stack(sound).reshape(-1, SIDE, SIDE) if sound else np.zeros((0, SIDE, SIDE), np.uint8)

    def captions(self, shard: int) -> list[str]:
        return self.captioned.read(shard, ["caption"]).column("caption").to_pylist()

    def embeddings(self, shard: int, name: str) -> np.ndarray:
        """`text_embedding` or `image_embedding` of the sound records, `float32` (n, d)."""
        column = self.embedded.read(shard, [name]).column(name).combine_chunks()
        return column.flatten().to_numpy().reshape(len(column), -1) if len(column) else np.zeros((0, 0), np.float32)


class Distillation:
    """One run of the pipeline.

    Args:
        arguments (`DistillationArguments`): what to distil and how.
        backends (`Backends`): who captions, embeds and judges.
        process (`Process`): which of the processes that share the run this is.
    """

    def __init__(self, arguments: DistillationArguments, backends: Backends, process: Process | None = None):
        self.arguments, self.backends = arguments, backends
        self.process = process or Process.from_environment()
        self.work_dir = arguments.work_dir
        judges = len(backends.judges)
        self.min_votes = judges // 2 + 1 if arguments.min_votes is None and judges else (arguments.min_votes or 0)
        if self.min_votes > judges:
            raise ValueError(f"--min_votes {self.min_votes} can never be reached by {judges} judges")
        self.writer = CorpusWriter(arguments, self.settings())

    def run(self) -> Summary | None:
        """Everything that is not done yet. Only the main process returns a summary.

        Raises:
            ValueError, OSError: with one sentence, as early as it can be known.
        """
        self._check()
        with alone_in(self.work_dir) if self.process.is_main else nullcontext():
            return self._run()

    def _run(self) -> Summary | None:
        arguments = self.arguments
        fetch = Fetcher(self.work_dir, self.process, arguments.wait_timeout)
        references = list_references(arguments.references, fetch)
        pairs = list_pairs(arguments.candidates, fetch)
        listed_references = self.listing("reference", Reference, REFERENCE_SCHEMA, references)
        listed_pairs = self.listing("pair", RainPair, PAIR_SCHEMA, pairs)
        if self.process.is_main:
            self._check_space(listed_pairs.total)
        index = self.build_index(self.describe(listed_references))
        candidates = self.describe(listed_pairs)
        retrieved = self.retrieve(candidates, index)
        ballots = [self.judge(judge, candidates, retrieved, index) for judge in self.backends.judges]
        if not self.process.is_main:
            return None
        for store in ballots or [retrieved]:
            store.wait(arguments.wait_timeout)
        verdicts = self.decide(candidates, retrieved, ballots, index)
        counts = verdicts.counts()
        kept = counts.pop("kept", 0)
        started = time.monotonic()
        self.writer.write(verdicts, index)
        _tell("write", Counter(seen=candidates.listing.total, kept=kept), started)
        return Summary(candidates.listing.total, kept, counts)

    def settings(self) -> dict[str, Any]:
        """What the corpus's card and the report say about the run; nothing of this machine, no times."""
        arguments, backends = self.arguments, self.backends
        return {
            "captioner": backends.captioner.name,
            "text embedder": backends.text_embedder.name,
            "image embedder": backends.image_embedder.name,
            "judges": [judge.name for judge in backends.judges],
            "votes needed": self.min_votes,
            "K1, K2, K3": [arguments.k1, arguments.k2, arguments.k3],
            "SSIM at": f"{SIDE} x {SIDE}, luma",
            "index": arguments.index,
            "duplicates": "dropped" if arguments.drop_duplicates else "kept",
            "candidates": [_source_name(source) for source in arguments.candidates],
            "references": [_source_name(source) for source in arguments.references],
        }

    # ---- Lists ----------------------------------------------------------------------------------------------------------

    def listing(self, kind: str, record: type[Record], schema: pa.Schema, records: Iterable[Identified]) -> Listing:
        """Names of all pictures, in shards of one data set each. Every process lists, to know them; the main one keeps the list."""
        started, names, sizes = time.monotonic(), [], []
        listed = ShardStore(self.work_dir, f"{kind}-list", stage_key("list 2"), names)
        for shard, part in enumerate(self._shards(tqdm(records, desc=f"list {kind}s", unit=f" {kind}"))):
            rows = [found.to_row() for found, _ in part]
            names.append(stage_key(rows, [identity for _, identity in part]))
            sizes.append(len(part))
            if self.process.is_main and not listed.is_done(shard):
                with at_work(self.work_dir):
                    listed.write(shard, pa.Table.from_pylist(rows, schema=schema), {"seen": len(rows)})
        _tell(f"{kind}-list", Counter(seen=sum(sizes)), started)
        listed.wait(self.arguments.wait_timeout)
        return Listing(kind, record, listed, tuple(sizes))

    def _shards(self, records: Iterable[Identified]) -> Iterator[list[Identified]]:
        """Cut where a data set ends too, so that a new picture moves none but those of its own from shard to shard."""
        for _, of_data_set in groupby(records, key=lambda found: found[0].source):
            while part := list(islice(of_data_set, self.arguments.shard_size)):
                yield part

    # ---- Triplets -------------------------------------------------------------------------------------------------------

    def describe(self, listing: Listing) -> Described:
        """Inspect, caption and embed every picture of a listing."""
        backends, kind, shards = self.backends, listing.kind, listing.shards
        inspected = ShardStore(self.work_dir, f"{kind}-inspect", stage_key("inspect 3"), shards)
        captioned = ShardStore(
            self.work_dir,
            f"{kind}-caption",
            stage_key("caption", inspected.key, backends.captioner.fingerprint),
            shards,
        )
        fingerprints = backends.text_embedder.fingerprint, backends.image_embedder.fingerprint
        embedded = ShardStore(self.work_dir, f"{kind}-embed", stage_key("embed", captioned.key, *fingerprints), shards)
        described = Described(listing, inspected, captioned, embedded)
        self.run_stage(inspected, listing, lambda shard, advance: self._inspect(described, shard, advance))
        self.run_stage(captioned, listing, lambda shard, advance: self._caption(described, shard, advance))
        backends.captioner.release()
        self.run_stage(embedded, listing, lambda shard, advance: self._embed(described, shard, advance))
        backends.text_embedder.release()
        backends.image_embedder.release()
        return described

    def _inspect(self, described: Described, shard: int, advance: Callable) -> tuple[pa.Table, Counter]:
        records = described.listing.records(shard)
        rows: list[dict] = []
        for batch, inspected in loaded_ahead(batched(records, self.arguments.batch_size), inspect):
            rows += inspected
            advance(len(batch))
        for row in rows:
            if row["reason"]:
                logger.info("%s is dropped: %s", row["pair_id"], row["detail"])
        return pa.Table.from_pylist(rows, schema=INSPECTED_SCHEMA), _reasons(rows)

    def _caption(self, described: Described, shard: int, advance: Callable) -> tuple[pa.Table, Counter]:
        records, captions = described.sound(shard), []
        for batch, images in loaded_ahead(batched(records, self.arguments.batch_size), _read_picture):
            given = list(self.backends.captioner.caption(images))
            _check_count(self.backends.captioner.name, given, batch)
            captions += map(as_text, given)
            advance(len(batch))
        ids = [record.id for record in records]
        table = pa.table({"pair_id": pa.array(ids, pa.string()), "caption": pa.array(captions, pa.string())})
        return table, Counter(seen=len(records))

    def _embed(self, described: Described, shard: int, advance: Callable) -> tuple[pa.Table, Counter]:
        records, captions = described.sound(shard), described.captions(shard)
        backends, size = self.backends, self.arguments.batch_size
        text, image = [], []
        for batch, images in loaded_ahead(batched(list(zip(records, captions, strict=True)), size), _read_described):
            ids = [record.id for record, _ in batch]
            words = [caption for _, caption in batch]
            text.append(_checked(backends.text_embedder.name, backends.text_embedder.embed_texts(words), ids))
            image.append(_checked(backends.image_embedder.name, backends.image_embedder.embed_images(images), ids))
            advance(len(batch))
        vectors = pa.list_(pa.float32())
        table = pa.table(
            {
                "pair_id": pa.array([record.id for record in records], pa.string()),
                "text_embedding": pa.array([row for part in text for row in part], vectors),
                "image_embedding": pa.array([row for part in image for row in part], vectors),
            }
        )
        return table, Counter(seen=len(records))

    # ---- Index ----------------------------------------------------------------------------------------------------------

    def build_index(self, references: Described) -> ReferenceIndex:
        """The reference database, built once by the main process."""
        settings = self.arguments.index_settings
        key = stage_key(
            "index 3", references.listing.key, references.embedded.key, settings.kind, settings.lists, settings.probes
        )
        folder = self.work_dir / f"index-{key}"
        if not is_built(folder):
            references.embedded.wait(self.arguments.wait_timeout)
        if self.process.is_main and not is_built(folder):
            started = time.monotonic()
            with at_work(self.work_dir):
                shards = range(references.listing.store.num_shards)
                ids = [record.reference_id for shard in shards for record in references.sound(shard)]
                build_reference_index(folder, ids, lambda: (_chunk(references, shard) for shard in shards), settings)
            logger.info("index: %d references, %.1f s", len(ids), time.monotonic() - started)
        self._wait_for_main(lambda: is_built(folder), "reference indexes")
        index = ReferenceIndex(folder)
        if len(index) < self.arguments.k1:
            logger.info(
                "%d references are fewer than K1 = %d: the first level keeps all", len(index), self.arguments.k1
            )
        return index

    # ---- Retrieval ------------------------------------------------------------------------------------------------------

    def retrieve(self, candidates: Described, index: ReferenceIndex) -> ShardStore:
        """S(q) of every candidate, with the scores of the three levels for all of C2."""
        settings = self.arguments.retrieval_settings
        # K3 is not in the key: the table holds all of C2, and S(q) is its beginning.
        key = stage_key("retrieve 2", candidates.embedded.key, index.key, settings.k1, settings.k2)
        store = ShardStore(self.work_dir, "pair-retrieve", key, candidates.listing.shards)
        retriever = HierarchicalRetriever(index, settings)

        def retrieve(shard: int, advance: Callable) -> tuple[pa.Table, Counter]:
            ids = [record.pair_id for record in candidates.sound(shard)]
            text, image = (candidates.embeddings(shard, f"{name}_embedding") for name in ("text", "image"))
            thumbnails = candidates.thumbnails(shard)
            rows = []
            for part in batched(range(len(ids)), self.arguments.batch_size):
                of = slice(part.start, part.stop)
                for pair_id, found in zip(
                    ids[of], retriever.retrieve(text[of], image[of], thumbnails[of]), strict=True
                ):
                    rows.append({"pair_id": pair_id, **vars(found)})
                advance(len(part))
            return pa.Table.from_pylist(rows, schema=RETRIEVED_SCHEMA), Counter(seen=len(rows))

        self.run_stage(store, candidates.listing, retrieve)
        return store

    # ---- Judging --------------------------------------------------------------------------------------------------------

    def judge(self, judge: Judge, candidates: Described, retrieved: ShardStore, index: ReferenceIndex) -> ShardStore:
        """One judge's votes on every candidate. Judges work one after the other: one set of weights in memory."""
        fitted = stage_key("fit", index.key, judge.name, judge.fingerprint)
        key = stage_key("judge", retrieved.key, fitted, self.arguments.k3)
        store = ShardStore(self.work_dir, f"pair-judge-{judge.name}", key, candidates.listing.shards)
        if all(store.is_done(shard) for shard in store.shards_of(self.process)):
            return store
        judge.load_statistics(self._statistics(judge, index, self.work_dir / f"fit-{judge.name}-{fitted}"))

        def ballot(shard: int, advance: Callable) -> tuple[pa.Table, Counter]:
            cases = _Cases(candidates, retrieved, index, shard, self.arguments.k3)
            rows, counts = [], Counter(seen=len(cases))
            for batch, loaded in loaded_ahead(batched(range(len(cases)), self.arguments.batch_size), cases.load):
                votes = list(judge.judge(loaded))
                _check_count(judge.name, votes, batch)
                for case, vote in zip(loaded, votes, strict=True):
                    rows.append({"pair_id": case.pair_id, **_vote_row(judge, vote)})
                    counts[{True: "yes", False: "no", None: "abstained"}[vote.decision]] += 1
                advance(len(batch))
            return pa.Table.from_pylist(rows, schema=VOTE_SCHEMA), counts

        self.run_stage(store, candidates.listing, ballot)
        judge.release()
        return store

    def _statistics(self, judge: Judge, index: ReferenceIndex, folder: Path) -> dict[str, np.ndarray]:
        """What the judge learned from all references; fitted once by the main process, saved for all."""
        file = folder / "statistics.npz"
        if self.process.is_main and not file.exists():
            started = time.monotonic()
            with at_work(self.work_dir):
                statistics = judge.fit(_triplets(index, f"fit {judge.name}"))
            with written(file) as temporary, open(temporary, "wb") as opened:
                np.savez(opened, **statistics)
            logger.info("fit %s: %d references, %.1f s", judge.name, len(index), time.monotonic() - started)
        self._wait_for_main(file.exists, f"fits of judge '{judge.name}'")
        with np.load(file, allow_pickle=False) as statistics:
            return dict(statistics)

    # ---- Verdicts -------------------------------------------------------------------------------------------------------

    def decide(
        self, candidates: Described, retrieved: ShardStore, ballots: list[ShardStore], index: ReferenceIndex
    ) -> ShardStore:
        """Votes to verdicts, duplicates dropped; one table with everything there is to know about each pair."""
        listing = candidates.listing
        edges = ShardStore(
            self.work_dir, "duplicates", stage_key("duplicates of classes", candidates.inspected.key), [listing.key]
        )
        if self.arguments.drop_duplicates and not edges.is_done(0):
            started = time.monotonic()
            table = find_duplicates(candidates.inspected)
            edges.write(0, table, {"pairs": table.num_rows})
            _tell("duplicates", Counter(seen=listing.total, found=table.num_rows), started)
        key = stage_key(
            "decide",
            retrieved.key,
            [store.key for store in ballots],
            self.min_votes,
            self.arguments.drop_duplicates and edges.key,
            listing.key,  # duplicates may be of any shard
        )
        store = ShardStore(self.work_dir, "verdict", stage_key(key, self.arguments.k3), listing.shards)
        if all(store.is_done(shard) for shard in range(store.num_shards)):
            return store
        duplicate_of: dict[str, str] = {}
        if self.arguments.drop_duplicates:
            duplicate_of = self._duplicates(list(iter_edges(edges.read(0))), ballots)

        def decide(shard: int, advance: Callable) -> tuple[pa.Table, Counter]:
            rows = self._verdicts(candidates, retrieved, ballots, index, duplicate_of, shard)
            advance(len(rows))
            counts = Counter(row["reason"] or "kept" for row in rows)
            return pa.Table.from_pylist(rows, schema=VERDICT_SCHEMA), counts

        self.run_stage(store, listing, decide, everything=True)
        return store

    def _duplicates(self, edges: list[Edge], ballots: list[ShardStore]) -> dict[str, str]:
        """Only the votes on pairs that have a twin are held in memory."""
        twins = {pair_id for first, second, _ in edges for pair_id in (first, second)}
        yes: Counter = Counter()
        for store in ballots if twins else []:
            for shard in range(store.num_shards):
                table = store.read(shard, ["pair_id", "decision"])
                columns = (table.column(name).to_pylist() for name in ("pair_id", "decision"))
                yes.update(pair_id for pair_id, said in zip(*columns, strict=True) if said and pair_id in twins)
        return resolve(edges, lambda pair_id: yes[pair_id] >= self.min_votes)

    def _verdicts(
        self,
        candidates: Described,
        retrieved: ShardStore,
        ballots: list[ShardStore],
        index: ReferenceIndex,
        duplicate_of: dict[str, str],
        shard: int,
    ) -> list[dict]:
        inspected = candidates.inspected.read(shard, ["reason", "detail"]).to_pylist()
        judged = zip(
            candidates.captions(shard),
            retrieved.read(shard).to_pylist(),
            zip(*(store.read(shard).to_pylist() for store in ballots), strict=True) if ballots else repeat(()),
            strict=bool(ballots),
        )
        rows = []
        for record, problem in zip(candidates.listing.records(shard), inspected, strict=True):
            row = {**record.to_row(), "caption": None, "references": [], "votes": []}
            if problem["reason"]:
                decided = Verdict(kept=False, reason=problem["reason"], detail=problem["detail"])
            else:
                row["caption"], found, votes = next(judged)
                row["references"] = _retrieved_references(found, index, self.arguments.k3)
                row["votes"] = [{name: vote[name] for name, _ in VOTE_FIELDS} for vote in votes]
                decided = verdict([Vote(v["judge"], v["decision"], reason=v["reason"]) for v in votes], self.min_votes)
                if decided.kept and record.pair_id in duplicate_of:
                    twin = duplicate_of[record.pair_id]
                    decided = Verdict(kept=False, reason=DUPLICATE, detail=f"duplicate of {twin}")
            rows.append({**row, **vars(decided)})
        return rows

    # ---- Running --------------------------------------------------------------------------------------------------------

    def _wait_for_main(self, is_done: Callable[[], bool], what: str) -> None:
        wait_for(self.work_dir, lambda: int(is_done()), 1, what, self.arguments.wait_timeout)

    def run_stage(self, store: ShardStore, listing: Listing, compute: Callable, everything: bool = False) -> None:
        """Compute this process's missing shards (`everything`: all of them), with a progress bar and counts at the end."""
        shards = store.shards_of(Process() if everything else self.process)
        missing = [shard for shard in shards if not store.is_done(shard)]
        started = time.monotonic()
        counts: Counter = Counter()
        with tqdm(
            total=sum(listing.sizes[shard] for shard in shards),
            initial=sum(listing.sizes[shard] for shard in shards if store.is_done(shard)),
            desc=store.stage,
            unit=f" {listing.kind}s",
            disable=None if missing else True,
        ) as bar:
            for shard in missing:
                at = bar.n
                with at_work(self.work_dir):
                    table, shard_counts = compute(shard, bar.update)
                    store.write(shard, table, shard_counts)
                bar.update(at + listing.sizes[shard] - bar.n)
                counts.update(shard_counts)
        if missing:
            _tell(store.stage, counts, started)

    def _check(self) -> None:
        """Whatever can be known to go wrong before time is spent."""
        arguments = self.arguments
        if arguments.work_dir.resolve().is_relative_to(arguments.output_dir.resolve()):
            raise ValueError(
                f"--work_dir {arguments.work_dir} is or lies inside --output_dir {arguments.output_dir}, all of which is "
                "published: choose another folder for either"
            )
        for name in ("work_dir", "output_dir"):
            folder = getattr(arguments, name).resolve()
            for source in (*arguments.candidates, *arguments.references):
                if Path(source).is_dir() and folder.is_relative_to(Path(source).resolve()):
                    raise ValueError(f"--{name} {folder} lies inside {source}, which is read: choose another folder")
                if name == "output_dir" and Path(source).exists() and Path(source).resolve().is_relative_to(folder):
                    raise ValueError(
                        f"{source}, which is read, lies inside --output_dir {folder}, whose corpus is replaced: choose another "
                        "--output_dir"
                    )
            try:
                folder.mkdir(parents=True, exist_ok=True)
                probe = folder / f"{PROBE}{self.process.rank}"  # the other processes look into the folder meanwhile
                probe.write_bytes(b"?")
                probe.unlink()
            except OSError as error:
                raise OSError(f"--{name} {folder} cannot be written to ({error.strerror})") from error
        self.writer.check()
        self.backends.check()

    def _check_space(self, pairs: int) -> None:
        used = sum(_size(file) for folder in self.work_dir.glob("pair-*") for file in folder.iterdir())
        needed, free = pairs * BYTES_PER_PAIR - used, shutil.disk_usage(self.work_dir).free
        if needed > free:
            raise OSError(
                f"the disk of --work_dir has {free / 1e9:.1f} GB left and {pairs:,} pairs need about "
                f"{needed / 1e9:.1f} GB more: free some, or choose another --work_dir"
            )


# ---- Pictures and rows --------------------------------------------------------------------------------------------------


def _size(path: Path) -> int:
    """Bytes of a file; 0 of one that another process has renamed meanwhile."""
    try:
        return path.stat().st_size if path.is_file() else 0
    except FileNotFoundError:
        return 0


def _source_name(source: str) -> str:
    """A folder's own name, without where it lies on this machine; a Hub id as it is."""
    return as_text(Path(source).resolve().name if Path(source).exists() else source)


def _read_picture(record: Record) -> np.ndarray:
    return read_pixels(record.picture)


def _read_described(described: tuple[Record, str]) -> np.ndarray:
    return _read_picture(described[0])


class _Cases:
    """The cases of one shard; their pictures are read one case at a time."""

    def __init__(self, candidates: Described, retrieved: ShardStore, index: ReferenceIndex, shard: int, k3: int):
        self.records = candidates.sound(shard)
        self.captions = candidates.captions(shard)
        self.text = candidates.embeddings(shard, "text_embedding")
        self.image = candidates.embeddings(shard, "image_embedding")
        self.retrieved = retrieved.read(shard).to_pylist()
        self.index, self.k3 = index, k3

    def __len__(self) -> int:
        return len(self.records)

    def load(self, row: int) -> JudgeCase:
        record, found = self.records[row], self.retrieved[row]
        query = Triplet(
            image_id=record.pair_id,
            image=read_pixels(record.input),
            caption=self.captions[row],
            text_embedding=self.text[row],
            image_embedding=self.image[row],
            rain_type=record.rain_type,
        )
        scores = [found[name][: self.k3] for name in RETRIEVED_SCHEMA.names[1:]]
        references = tuple(
            RetrievedReference(self.index.triplet(at), *levels) for at, *levels in zip(*scores, strict=True)
        )
        return JudgeCase(record.pair_id, query, read_pixels(record.target), references)


def _chunk(references: Described, shard: int) -> ReferenceChunk:
    return ReferenceChunk(
        references=references.sound(shard),
        captions=references.captions(shard),
        text_embeddings=references.embeddings(shard, "text_embedding"),
        image_embeddings=references.embeddings(shard, "image_embedding"),
        thumbnails=references.thumbnails(shard),
    )


def _triplets(index: ReferenceIndex, label: str) -> Iterator[Triplet]:
    """All references, read one after the other; a judge that asks for none shows no progress bar."""
    for row in tqdm(range(len(index)), desc=label, unit=" references"):
        yield index.triplet(row)


def _vote_row(judge: Judge, vote: Vote) -> dict[str, Any]:
    decision = vote.decision if vote.decision is None else bool(vote.decision)
    scores = [{"name": name, "value": float(value)} for name, value in vote.scores.items()]
    return {
        "judge": judge.name,
        "decision": decision,
        "raw_answer": as_text(vote.raw_answer),
        "reason": as_text(vote.reason),
        "scores": scores,
    }


def _retrieved_references(found: dict[str, list], index: ReferenceIndex, k3: int) -> list[dict[str, Any]]:
    levels = RETRIEVED_SCHEMA.names[2:]
    return [
        {"reference_id": index.reference(row).reference_id, "row": row, **{name: found[name][i] for name in levels}}
        for i, row in enumerate(found["rows"][:k3])
    ]


def _check_count(backend: str, results: Sequence, batch: Sequence) -> None:
    if len(results) != len(batch):
        raise ValueError(f"{backend} gave {len(results)} results for {len(batch)} pictures")


def _checked(backend: str, embeddings: np.ndarray, ids: list[str]) -> np.ndarray:
    embeddings = np.asarray(embeddings, dtype=np.float32)
    if embeddings.ndim != 2 or len(embeddings) != len(ids):
        raise ValueError(f"{backend} gave embeddings of shape {embeddings.shape} for {len(ids)} pictures")
    finite = np.isfinite(embeddings).all(axis=1)
    if not finite.all():
        raise ValueError(f"{backend} gave an embedding with NaN or infinity for {ids[int(np.argmin(finite))]}")
    return embeddings


def _reasons(rows: list[dict]) -> Counter:
    dropped = Counter(f"dropped as {row['reason']}" for row in rows if row["reason"])
    return Counter(seen=len(rows), kept=len(rows) - dropped.total()) + dropped


def _tell(stage: str, counts: Counter, started: float) -> None:
    told = ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items(), key=_seen_first))
    logger.info("%s: %s; %.1f s", stage, told, time.monotonic() - started)


def _seen_first(item: tuple[str, int]) -> tuple[int, str]:
    order = ("seen", "kept")
    return (order.index(item[0]) if item[0] in order else len(order), item[0])
