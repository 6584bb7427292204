"""The script under real launchers: two processes share the shards, and write the bytes that one process writes."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from distillation.tiny_corpus import contents, rained, save, save_pair, scene

from modeling_unirain.distillation.local_judges import MIN_SIDE


SCRIPT = Path(__file__).parents[2] / "distill_dataset.py"
LAUNCHER_VARIABLES = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "SLURM_PROCID",
    "SLURM_STEP_NUM_TASKS",
    "ACCELERATE",
    "MASTER_",
)
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHER_VARIABLES)}
ENVIRONMENT |= {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
SIDE = MIN_SIDE + 8


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    for i in range(5):
        save_pair(root / "candidates" / "DRS" / "few", f"{i}", seed=i)
        clean = scene(i, SIDE, SIDE)
        save(root / "candidates" / "NRD" / "more" / "input" / f"{i}.png", rained(clean, i))
        save(root / "candidates" / "NRD" / "more" / "target" / f"{i}.png", clean)
        save(root / "references" / "DRS" / f"{i}.png", rained(scene(50 + i, SIDE, SIDE), i))
    return root


def options(pictures: Path, where: Path) -> list[str]:
    return [
        *("--preset", "local", "--shard_size", "2", "--rows_per_file", "4", "--k1", "4", "--k2", "3", "--k3", "2"),
        *("--candidates", str(pictures / "candidates"), "--references", str(pictures / "references")),
        *("--work_dir", str(where / "work"), "--output_dir", str(where / "output")),
    ]


@pytest.fixture(scope="module")
def alone(pictures, tmp_path_factory):
    where = tmp_path_factory.mktemp("alone")
    command = [sys.executable, str(SCRIPT), *options(pictures, where)]
    subprocess.run(command, env=ENVIRONMENT, check=True, capture_output=True, timeout=280)
    return where


def assert_shared(said: str, where: Path, alone: Path) -> None:
    """Two processes had shards of the last shared stage, and what came of it is what one process makes."""
    shares = re.findall(r"^pair-judge-pair-integrity: seen (\d+)", said, re.MULTILINE)
    assert len(shares) == 2 and sum(map(int, shares)) == 10, said[-2000:]
    assert contents(where / "output") == contents(alone / "output")
    assert contents(where / "work").keys() == contents(alone / "work").keys()


LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--standalone", "--nproc_per_node", "2"],
    # With --cpu, accelerate starts one process only, whatever it is told; without, it needs no GPU as long as the script does not.
    "accelerate launch": [
        *("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"),
        *("--mixed_precision", "no", "--dynamo_backend", "no"),
    ],
}


@pytest.mark.parametrize("launcher", ["torchrun", pytest.param("accelerate launch", marks=pytest.mark.slow)])
def test_launched_processes_write_what_one_writes(pictures, alone, tmp_path, launcher):
    command = [sys.executable, "-m", *LAUNCHERS[launcher], str(SCRIPT), *options(pictures, tmp_path)]
    run = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=280)
    assert run.returncode == 0, run.stderr[-2000:]
    assert_shared(run.stderr, tmp_path, alone)


def test_slurm_tasks_write_what_one_process_writes(pictures, alone, tmp_path):
    """As `srun -n 2` starts them: each task with its number, and no launcher above them."""
    tasks = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), *options(pictures, tmp_path)],
            env=ENVIRONMENT | {"SLURM_PROCID": str(rank), "SLURM_STEP_NUM_TASKS": "2", "SLURM_LOCALID": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [task.communicate(timeout=280)[1] for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0], said
    assert_shared("".join(said), tmp_path, alone)
