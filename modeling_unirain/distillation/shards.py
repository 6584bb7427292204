"""Tables on disk that survive a kill: `work_dir/<stage>-<hash of settings>/<hash of records>.parquet` with done marks.

A table is written under a temporary name, flushed, renamed, and only then marked done. A shard without its mark is
computed again. The first hash covers the stage's settings and, through the keys of the stages before it, all settings
that its rows depend on; the second the shard's own records and the identities of their files. So a changed setting or
picture can never meet an old result, and what is added, changed or taken away leaves the other shards' results as they are.
"""

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from modeling_unirain.files import lock_of, write_json, written


# Part of every key: raise it when the meaning of a stage's rows changes.
FORMAT = 1
BEAT = 1.0
"""Seconds between two signs of a process that is at work."""


def stage_key(*settings: Any) -> str:
    """Twelve hex digits that change with any setting (JSON types, in order)."""
    return hashlib.sha256(json.dumps([FORMAT, *settings], sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Process:
    """This process among those that share the run: see `ShardStore.shards_of`."""

    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise ValueError(
                f"process rank {self.rank} of {self.world_size}: RANK must be below WORLD_SIZE "
                "(SLURM_PROCID below SLURM_STEP_NUM_TASKS)"
            )

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Process":
        """torchrun and accelerate launch set RANK and WORLD_SIZE; srun sets SLURM_PROCID and SLURM_STEP_NUM_TASKS.

        A batch script has SLURM_PROCID and SLURM_NTASKS too, and runs once however many tasks it may start.
        """
        for rank, world_size in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")):
            if rank in environment and world_size in environment:
                return cls(int(environment[rank]), int(environment[world_size]))
        return cls()


class ShardStore:
    """The tables of one stage, one Parquet file per shard.

    Args:
        work_dir (`Path`): folder that holds all stages.
        stage (`str`): name of the stage.
        key (`str`): from `stage_key`.
        names (sequence of `str`): of the shards' files, in order; from `stage_key` too.
    """

    def __init__(self, work_dir: Path, stage: str, key: str, names: Sequence[str]):
        self.stage, self.key, self.names = stage, key, names
        self.folder = work_dir / f"{stage}-{key}"

    @property
    def num_shards(self) -> int:
        return len(self.names)

    def path(self, shard: int) -> Path:
        return self.folder / f"{self.names[shard]}.parquet"

    def _mark(self, shard: int) -> Path:
        return self.folder / f"{self.names[shard]}.done"

    def is_done(self, shard: int) -> bool:
        return self._mark(shard).exists()

    def shards_of(self, process: Process) -> list[int]:
        """In order; dealt out by their names, being hashes, since sizes repeat with the data sets."""
        dealt = sorted(range(self.num_shards), key=self.names.__getitem__)
        return sorted(dealt[process.rank :: process.world_size])

    def read(self, shard: int, columns: list[str] | None = None) -> pa.Table:
        # Tables of a shard are small: handing them from thread to thread takes longer than reading them.
        return pq.read_table(self.path(shard), columns=columns, use_threads=False, pre_buffer=False)

    def write(self, shard: int, table: pa.Table, counts: Mapping[str, int]) -> None:
        with written(self.path(shard)) as temporary:
            pq.write_table(table, temporary, compression="zstd")
        write_json(self._mark(shard), counts)

    def counts(self) -> dict[str, int]:
        """Sum over the done shards of what the stage counted."""
        total: dict[str, int] = {}
        for shard in range(self.num_shards):
            if self.is_done(shard):
                for name, count in json.loads(self._mark(shard).read_text(encoding="utf-8")).items():
                    total[name] = total.get(name, 0) + count
        return total

    def wait(self, timeout: float) -> None:
        """Until every shard of every process is done.

        Raises:
            TimeoutError: no shard was finished for `timeout` seconds, and no process was at work.
        """
        wait_for(
            self.folder.parent,
            lambda: sum(self.is_done(shard) for shard in range(self.num_shards)),
            self.num_shards,
            f"shards of stage '{self.stage}'",
            timeout,
        )


@contextmanager
def alone_in(work_dir: Path) -> Iterator[None]:
    """Keep other runs out of a work folder: an index or a fetched data set is built under a name that two runs would share.

    For the main process alone.

    Raises:
        ValueError: the main process of another run is there.
    """
    with lock_of(work_dir, is_inherited=True) as is_ours:
        if not is_ours:
            raise ValueError(
                f"another run is at work in --work_dir {work_dir}: wait until it ends, or choose another folder"
            )
        yield


@contextmanager
def at_work(work_dir: Path) -> Iterator[None]:
    """Tell the processes that wait (`wait_for`) that this one is at work, however long it takes.

    Must not enclose waiting: of processes that wait for each other, or for one that died, none would give up.
    """
    sign, over = _sign_of_work(work_dir), threading.Event()

    def beat() -> None:
        while True:
            with suppress(OSError):  # a full disk: the work itself will say so
                sign.touch()
            if over.wait(BEAT):
                return

    work_dir.mkdir(parents=True, exist_ok=True)
    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _sign_of_work(work_dir: Path) -> Path:
    """A file whose time of the last change moves on while a process is `at_work`."""
    return work_dir / ".at-work"


def wait_for(work_dir: Path, count_done: Callable[[], int], total: int, what: str, timeout: float) -> None:
    """Wait until `count_done()` reaches `total`; the clock starts again with every step forward, and while any of the
    processes that share `work_dir` is `at_work`."""

    def last_sign() -> int:
        try:
            return _sign_of_work(work_dir).stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    seen, since, pause = None, time.monotonic(), 0.05
    while (now := count_done()) < total:
        if (signs := (now, last_sign())) != seen:
            seen, since = signs, time.monotonic()
        elif time.monotonic() - since > timeout:
            raise TimeoutError(
                f"waited {timeout:.0f} s for another process: {now} of {total} {what} are done. If a process died, "
                "start the same command again; it resumes where it stopped"
            )
        time.sleep(pause)
        pause = min(2 * pause, 5)


def batched(rows: Sequence, size: int) -> Iterator[Sequence]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
