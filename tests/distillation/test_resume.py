"""Killed at any moment, resumed, shared by processes: the output is that of one unbroken run, byte for byte."""

import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from distillation.tiny_corpus import arguments, backends, contents, distil

from modeling_unirain.distillation import shards
from modeling_unirain.distillation.pipeline import Distillation
from modeling_unirain.distillation.shards import Process, wait_for
from modeling_unirain.distillation.sources import Fetcher


# Everything a run makes durable passes through a rename. The child counts them and is killed (SIGKILL) just before or
# just after the given one, which puts a kill into every stage without guessing at times.
DRIVER = """
import os, pathlib, signal, sys
from pathlib import Path

sys.path[:0] = {paths!r}
from distillation.tiny_corpus import distil

data, where, steps = Path(sys.argv[1]), Path(sys.argv[2]), [int(step) for step in sys.argv[3].split(",")]
replace, rename = os.replace, os.rename
state = {{"left": None, "after": False}}

def counted(original):
    def moved(*args, **kwargs):
        state["left"] -= 1
        if state["left"] == 0 and not state["after"]:
            os.kill(os.getpid(), signal.SIGKILL)
        original(*args, **kwargs)
        if state["left"] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    return moved

os.replace, os.rename = counted(replace), counted(rename)
for number, step in enumerate(steps):
    child = os.fork()
    if child == 0:
        state.update(left=step, after=bool(number % 2))
        distil(data, where)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    done = sorted(path.name.rsplit("-", 1)[0] for path in (where / "work").iterdir())
    print(number, "killed" if os.WIFSIGNALED(status) else os.WEXITSTATUS(status), done[-1] if done else "", flush=True)
    if not os.WIFSIGNALED(status):
        break
"""
PATHS = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}


@pytest.fixture(scope="module")
def unbroken(data, tmp_path_factory):
    where = tmp_path_factory.mktemp("unbroken")
    distil(data, where)
    return where


def stages(where):
    return sorted(path.name for path in (where / "work").iterdir())


def test_killed_again_and_again_it_ends_with_the_output_of_an_unbroken_run(data, unbroken, tmp_path):
    # A run makes more than a hundred renames, the first of them for its lists. Every child dies some renames later, before
    # or after one in turn, so that there is a kill in every stage; the last one lives.
    driven = subprocess.run(
        [
            sys.executable,
            "-c",
            DRIVER.format(paths=PATHS),
            str(data),
            str(tmp_path),
            ",".join(["5", "13", "14"] + ["12"] * 40),
        ],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
    )
    lines = driven.stdout.splitlines()
    assert lines and lines[-1].split()[1] == "0", driven.stderr[-2000:]
    assert sum("killed" in line for line in lines) >= 10
    assert contents(tmp_path / "output") == contents(unbroken / "output")
    assert stages(tmp_path) == stages(unbroken)


STUCK = """
import sys, time
from pathlib import Path

sys.path[:0] = {paths!r}
from distillation import tiny_corpus

data, where, stage = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]

def stuck(backend, method):
    run = getattr(backend, method)
    def called(*args):
        if list((where / "work").glob(stage + "-*/*.done")):
            time.sleep(10_000)
        return run(*args)
    setattr(backend, method, called)

parts = tiny_corpus.backends()
stuck(parts.captioner, "caption")
for judge in parts.judges:
    stuck(judge, "judge")
tiny_corpus.Distillation(tiny_corpus.arguments(data, where), parts, tiny_corpus.Process()).run()
"""


@pytest.mark.parametrize("stage", ["pair-caption", "pair-judge-dim"])
def test_killed_from_outside_while_a_model_works_it_resumes(data, unbroken, tmp_path, stage):
    child = subprocess.Popen(
        [sys.executable, "-c", STUCK.format(paths=PATHS), str(data), str(tmp_path), stage],
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while not list((tmp_path / "work").glob(f"{stage}-*/*.done")):
            assert child.poll() is None, "the run ended before it could be killed"
            time.sleep(0.01)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert not list((tmp_path / "work").glob("verdict-*"))
    distil(data, tmp_path)
    assert contents(tmp_path / "output") == contents(unbroken / "output")


SHARED = """
import sys
from pathlib import Path

sys.path[:0] = {paths!r}
from distillation import tiny_corpus

tiny_corpus.Distillation(tiny_corpus.arguments(Path(sys.argv[1]), Path(sys.argv[2])), tiny_corpus.backends()).run()
"""


def test_two_processes_give_the_result_of_one(data, unbroken, tmp_path):
    environment = {key: value for key, value in ENVIRONMENT.items() if not key.startswith(("RANK", "WORLD", "SLURM"))}
    children = [
        subprocess.Popen(
            [sys.executable, "-c", SHARED.format(paths=PATHS), str(data), str(tmp_path)],
            env={**environment, "RANK": str(rank), "WORLD_SIZE": "2"},
            stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    for child in children:
        _, errors = child.communicate()
        assert child.returncode == 0, errors.decode()[-2000:]
    assert contents(tmp_path / "output") == contents(unbroken / "output")
    assert contents(tmp_path / "work").keys() == contents(unbroken / "work").keys()


def test_a_task_of_the_main_process_may_take_longer_than_the_timeout(data, unbroken, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "BEAT", 0.1)
    started = []

    def slow(parts):
        fit, caption = parts.judges[0].fit, parts.captioner.caption

        def slow_fit(references):
            started.append("fit")
            time.sleep(8)
            return fit(references)

        def slow_caption(images):
            if "caption" not in started:
                started.append("caption")
                time.sleep(8)
            return caption(images)

        parts.judges[0].fit, parts.captioner.caption = slow_fit, slow_caption
        return parts

    runs = [
        Distillation(arguments(data, tmp_path, wait_timeout=3.0), parts, Process(rank, 2))
        for rank, parts in enumerate((slow(backends()), backends()))
    ]
    with ThreadPoolExecutor(2) as pool:
        summary, nothing = pool.map(Distillation.run, runs)
    assert started == ["caption", "fit"] and summary is not None and nothing is None
    assert contents(tmp_path / "output") == contents(unbroken / "output")


def test_a_fetch_may_take_longer_than_the_timeout(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "BEAT", 0.1)

    def slow_rows():
        for row in range(8):
            time.sleep(0.5)
            yield {"type": row}

    fetchers = [Fetcher(tmp_path, Process(rank, 2), timeout=1.5) for rank in range(2)]
    with ThreadPoolExecutor(2) as pool:
        folders = list(pool.map(lambda fetcher: fetcher._fetch("slow", "key", slow_rows), fetchers))
    assert folders[0] == folders[1] and len(list(folders[0].glob("*.parquet"))) == 1


AT_WORK = """
import sys, time
from pathlib import Path

sys.path[:0] = {paths!r}
from modeling_unirain.distillation.shards import at_work

with at_work(Path(sys.argv[1])):
    time.sleep(10_000)
"""


def test_a_process_that_dies_at_work_is_noticed(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", AT_WORK.format(paths=PATHS), str(tmp_path)], env=ENVIRONMENT)
    try:
        while not list(tmp_path.iterdir()):
            assert child.poll() is None
            time.sleep(0.01)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    with pytest.raises(TimeoutError, match="If a process died"):
        wait_for(tmp_path, lambda: 0, 1, "lists", 0.5)


HELD = """
import sys
from pathlib import Path

sys.path[:0] = {paths!r}
from distillation import tiny_corpus

def refused(images):
    try:
        print(tiny_corpus.distil(Path(sys.argv[1]), Path(sys.argv[2])), flush=True)
    except ValueError as error:
        print(error, flush=True)
    sys.stdin.read()

parts = tiny_corpus.backends()
parts.captioner.caption = refused
tiny_corpus.Distillation(tiny_corpus.arguments(Path(sys.argv[1]), Path(sys.argv[2])), parts).run()
"""


def test_a_second_run_is_kept_out_of_the_work_folder_until_the_first_is_gone(data, unbroken, tmp_path):
    first = subprocess.Popen(
        [sys.executable, "-c", HELD.format(paths=PATHS), str(data), str(tmp_path)],
        env=ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        sentence = f"another run is at work in --work_dir {tmp_path / 'work'}: wait until it ends, or choose another"
        assert sentence in first.stdout.readline()
        with pytest.raises(ValueError, match=re.escape(sentence)):
            distil(data, tmp_path)
    finally:
        first.kill()
        first.communicate()
    distil(data, tmp_path)
    assert contents(tmp_path / "output") == contents(unbroken / "output")


def test_each_process_takes_its_own_shards_only(data, tmp_path):
    other = Distillation(arguments(data, tmp_path, wait_timeout=0.5), backends(), Process(1, 2))
    with pytest.raises(TimeoutError):  # the main process never made the lists
        other.run()
    assert not list((tmp_path / "work").glob("*/*.done"))
    assert list(other_shards(5, 1, 2)) == [1, 3] and list(other_shards(5, 0, 2)) == [0, 2, 4]


def other_shards(count, rank, world_size):
    from modeling_unirain.distillation.shards import ShardStore

    return ShardStore(Path("work"), "stage", "key", [str(shard) for shard in range(count)]).shards_of(
        Process(rank, world_size)
    )
