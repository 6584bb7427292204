"""A run that is killed and resumed is the run that was not killed."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
import yaml
from accelerate import PartialState
from training_runs import logged, losses, tiny_arguments, write_recipe

from modeling_unirain.training.data import DataConfig, RainDataset
from modeling_unirain.training.start import alone_in
from train_unirain import main


pytestmark = pytest.mark.timeout(900)  # a dozen interpreters are started, which takes long on a busy machine

ROOT = Path(__file__).parents[2]
SCRIPT = "train_unirain.py"
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
ONE = [sys.executable, SCRIPT]
TWO = [*TORCHRUN, SCRIPT]


def start(launcher: list[str], *flags: str) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads()), "OMP_WAIT_POLICY": "PASSIVE"}
    return subprocess.Popen(
        [*launcher, *flags],
        cwd=ROOT,
        env=environment | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def run(launcher: list[str], *flags: str) -> str:
    process = start(launcher, *flags)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return output


def kill_at(process: subprocess.Popen, output_dir: Path, step: int) -> None:
    """SIGKILL the process and its children once it has logged `step`."""
    log = output_dir / "train_log.jsonl"
    while process.poll() is None and not (log.exists() and f'"step": {step},' in log.read_text()):
        time.sleep(0.01)
    assert process.poll() is None, process.stdout.read()
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def weights(output_dir: Path) -> bytes:
    return (output_dir / "export" / "model.safetensors").read_bytes()


def test_two_trainings_are_kept_out_of_one_folder_and_a_kill_lets_the_next_in(tmp_path):
    recipe, run_folder = write_recipe(tmp_path, max_steps=100_000, num_workers=1), tmp_path / "run"
    first = start(ONE, "--recipe", str(recipe))
    log = run_folder / "train_log.jsonl"
    while first.poll() is None and not (log.exists() and '"step": 2,' in log.read_text()):
        time.sleep(0.01)
    second = start(TWO, "--recipe", str(recipe), "--resume_from", "last")
    output, _ = second.communicate()
    assert second.returncode != 0
    assert output.count(f"Another training is at work in {run_folder}: let it end first") == 1
    assert first.poll() is None, first.stdout.read()
    first.kill()  # its worker alone is left, and ends later
    first.communicate()
    with alone_in(run_folder, PartialState(cpu=True)):
        pass


def test_a_picture_that_one_process_alone_cannot_read_is_named(tmp_path):
    recipe = write_recipe(tmp_path, batch_size=2)
    settings = yaml.safe_load(recipe.read_text())
    settings["data"] |= {"verify_images": False, "sources": settings["data"]["sources"][:1]}
    settings["validation"]["sources"][0] |= {"types": ["DRS"]}
    recipe.write_text(yaml.safe_dump(settings))
    order = RainDataset(DataConfig.from_dict(settings["data"]), 0)
    broken = Path(order[1]["name"])  # of the first batch's two samples the other process's; its type is not validated
    broken.write_bytes(broken.read_bytes()[:200])
    process = start(TWO, "--recipe", str(recipe), "--seed", "0")
    output, _ = process.communicate()
    assert process.returncode == 1
    assert f"train_unirain.py: {broken} is damaged" in output


def test_a_killed_run_resumes_bit_for_bit_with_one_process(tmp_path):
    # Two phases and two validation rounds lie beyond the kill; the epochs of 10 samples do not fit the batches.
    phases = [
        {"until_step": 9, "patch_size": 16, "batch_size": 4},
        {"until_step": 14, "patch_size": 32, "batch_size": 2},
    ]
    recipe = write_recipe(tmp_path, phases=phases, max_steps=14, num_workers=1)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    main(tiny_arguments(tmp_path, "--output_dir", str(whole), phases=phases, max_steps=14, num_workers=1))

    process = start(ONE, "--recipe", str(recipe), "--output_dir", str(broken))
    kill_at(process, broken, 7)
    assert (broken / "checkpoint-00000005").is_dir()
    run(ONE, "--recipe", str(recipe), "--output_dir", str(broken), "--resume_from", "last")

    assert list(losses(broken)) == list(range(1, 15))
    assert losses(broken) == losses(whole)
    assert weights(broken) == weights(whole)


WATCHED = """
import gc
import sys

import torch
from torch.nn.parallel import DistributedDataParallel

from modeling_unirain.training.arguments import parse_arguments
from train_unirain import main


def destroy(*arguments, original=torch.distributed.destroy_process_group):
    print("networks held:", sum(isinstance(held, DistributedDataParallel) for held in gc.get_objects()))
    original(*arguments)


torch.distributed.destroy_process_group = destroy
main(parse_arguments(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> tuple[Path, str]:
    """Eight steps in two processes that nobody disturbs: the folder of their recipe and their run, and what they said."""
    folder = tmp_path_factory.mktemp("unbroken")
    script = folder / "watched.py"
    script.write_text(WATCHED)
    return folder, run([*TORCHRUN, str(script)], "--recipe", str(write_recipe(folder, max_steps=8)))


def test_a_killed_run_resumes_bit_for_bit_with_two_processes(unbroken, tmp_path):
    whole, broken = unbroken[0] / "run", tmp_path / "broken"
    recipe = str(unbroken[0] / "recipe.yaml")
    process = start(TWO, "--recipe", recipe, "--output_dir", str(broken))
    kill_at(process, broken, 7)
    run(TWO, "--recipe", recipe, "--output_dir", str(broken), "--resume_from", "last")

    assert list(losses(broken)) == list(range(1, 9))
    assert losses(broken) == losses(whole)
    assert weights(broken) == weights(whole)


def test_two_processes_let_go_of_their_network_before_their_group(unbroken):
    """Else they may wait for their own threads for ever (`Trainer._release`)."""
    assert unbroken[1].count("networks held: 0") == 2, unbroken[1]


def test_two_processes_descend_the_loss_of_one(tmp_path):
    """Without the routers' noise, which every process draws for itself, the split of a batch changes rounding only.

    The balance of the routers is that of the whole batch too, and weighs as much as the rest here.
    """
    changes = {"max_steps": 3, "model_overrides": {"router_noise_std": 0.0}, "router_balance_coef": 0.1}
    recipe = write_recipe(tmp_path, **changes)
    one, two = tmp_path / "one", tmp_path / "two"
    main(tiny_arguments(tmp_path, "--output_dir", str(one), **changes))
    run(TWO, "--recipe", str(recipe), "--output_dir", str(two))
    for name in ("loss", "grad_norm"):
        assert logged(two, name) == pytest.approx(logged(one, name), rel=1e-3)


def test_a_checkpoint_beyond_the_last_step_is_refused(tmp_path):
    main(tiny_arguments(tmp_path, max_steps=4))
    with pytest.raises(ValueError, match="checkpoint-00000004 is at step 4, beyond --max_steps 3"):
        main(tiny_arguments(tmp_path, "--resume_from", "last", max_steps=3))
    assert main(tiny_arguments(tmp_path, "--resume_from", "last", max_steps=4)).step == 4


@pytest.mark.parametrize("launcher", [ONE, pytest.param(TWO, marks=pytest.mark.slow)], ids=["one", "two"])
def test_sigterm_saves_and_exits_cleanly(tmp_path, launcher):
    recipe = str(write_recipe(tmp_path, max_steps=10_000, save_steps=10_000, validation_steps=10_000, num_workers=1))
    process = start(launcher, "--recipe", recipe)
    log = tmp_path / "run" / "train_log.jsonl"
    while process.poll() is None and not (log.exists() and '"step": 3,' in log.read_text()):
        time.sleep(0.01)
    # As SLURM does: the workers are struck too. torchrun passes it on to the groups of its processes.
    os.killpg(process.pid, signal.SIGTERM)
    output, _ = process.communicate()
    # torchrun itself reports the signal it was sent; what it ran has exited by itself.
    assert launcher == TWO or process.returncode == 0, output
    assert launcher == TWO or "Traceback" not in output
    last = max(losses(tmp_path / "run"))
    assert (tmp_path / "run" / f"checkpoint-{last:08d}").is_dir(), output
    assert not list((tmp_path / "run").glob("*.tmp"))


def test_a_data_worker_that_is_killed_ends_a_run_in_one_sentence_and_the_last_checkpoint_stays(tmp_path):
    recipe, run_folder = write_recipe(tmp_path, max_steps=10_000, save_steps=2, num_workers=2), tmp_path / "run"
    process = start(ONE, "--recipe", str(recipe))
    log = run_folder / "train_log.jsonl"
    while process.poll() is None and not (log.exists() and '"step": 3,' in log.read_text()):
        time.sleep(0.01)
    psutil.Process(process.pid).children()[0].kill()
    output, _ = process.communicate()
    assert process.returncode == 1 and "Traceback" not in output, output
    assert re.search(
        r"train_unirain.py: A process that loads data died .*: lower --num_workers.* --resume_from last goes on",
        output,
    )
    assert max(run_folder.glob("checkpoint-*[0-9]")).name >= "checkpoint-00000002"


def test_a_second_ctrl_c_ends_a_run_at_once_in_one_sentence(tmp_path):
    # Patches of that size make a step long, so that the second comes while the first is waited with.
    recipe = str(write_recipe(tmp_path, max_steps=10_000, validation_steps=10_000, patch_size=256))
    process = start(ONE, "--recipe", recipe)
    log = tmp_path / "run" / "train_log.jsonl"
    while process.poll() is None and not (log.exists() and '"step": 1,' in log.read_text()):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    told = ""
    while "SIGINT received" not in told and (line := process.stdout.readline()):
        told += line
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate()
    assert process.returncode == 130, told + output
    assert "train_unirain.py: Interrupted" in output and "Traceback" not in output
