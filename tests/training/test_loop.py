"""What a run does, on runs of a few steps."""

import json
import multiprocessing
import os
import platform
import resource
import shutil
import signal
import threading
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader, Dataset
from training_runs import logged, losses, tiny_arguments, write_pairs, write_recipe

from modeling_unirain.configuration_unirain import UniRainConfig
from modeling_unirain.modeling_unirain import UniRainForImageDeraining
from modeling_unirain.training.arguments import parse_arguments
from modeling_unirain.training.averaging import AveragedWeights
from modeling_unirain.training.batches import BatchNumbers
from modeling_unirain.training.checkpoints import Checkpoints
from modeling_unirain.training.loop import ROUTED_SAMPLES, NonFiniteError, Trainer
from modeling_unirain.training.run_log import read_records
from modeling_unirain.training.stopping import leave_signals_to_the_main_process
from modeling_unirain.training.validation import TypeResult, ValidationResult
from train_unirain import main


@pytest.fixture(autouse=True)
def fresh_accelerator():
    """Accelerate keeps its state in singletons; a process normally runs one training."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def read(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


# What a run learns and leaves


def test_a_run_learns_keeps_its_best_and_last_and_shows_what_it_did(tmp_path):
    outcome = main(tiny_arguments(tmp_path, max_steps=40, validation_steps=10, save_steps=8, learning_rate=5e-3))
    run = tmp_path / "run"
    rounds = read(run / "validation_log.jsonl")
    assert [record["step"] for record in rounds] == [0, 10, 20, 30, 40]
    for name, first in rounds[0]["per_type"].items():
        assert first["psnr"] == pytest.approx(first["input_psnr"])  # the untrained network returns its input
        assert rounds[-1]["per_type"][name]["psnr"] > first["psnr"] + 2

    best = json.loads((run / "best.json").read_text())
    assert outcome.status == "finished" and outcome.results == best
    assert best["psnr"] == max(record["psnr"] for record in rounds)
    kept = sorted(folder.name for folder in run.glob("checkpoint-*"))
    assert kept == sorted({"checkpoint-00000032", "checkpoint-00000040", best["checkpoint"]} | set(kept[-2:]))
    assert len(kept) <= 3 and kept[-1] == "checkpoint-00000040"

    for picture in ("curves.png", "samples/step-00000040.png"):
        with Image.open(run / picture) as image:
            image.load()
    assert list(losses(run)) == list(range(1, 41))


def test_the_best_average_is_exported(tmp_path):
    outcome = main(tiny_arguments(tmp_path, max_steps=4))
    exported = load_file(tmp_path / "run" / "export" / "model.safetensors")
    best = load_file(outcome.model_folder / "model.safetensors")
    assert all(torch.equal(exported[name], best[name]) for name in best)


def test_learning_rate_warms_up_and_falls_to_its_minimum(tmp_path):
    main(tiny_arguments(tmp_path, "--min_learning_rate", "1e-5", max_steps=12, warmup_steps=4))
    rates = [record["learning_rate"] for record in read(tmp_path / "run" / "train_log.jsonl")]
    assert rates[:5] == pytest.approx([0, 2.5e-4, 5e-4, 7.5e-4, 1e-3])
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert 1e-5 < rates[-1] < 6e-5


def test_accumulated_batches_are_one_large_batch(tmp_path):
    quiet = {"model_overrides": {"router_noise_std": 0.0}, "router_balance_coef": 0.0, "max_steps": 4}
    main(tiny_arguments(tmp_path, "--output_dir", str(tmp_path / "large"), batch_size=8, **quiet))
    accumulated = {"batch_size": 4, "gradient_accumulation_steps": 2}
    main(tiny_arguments(tmp_path, "--output_dir", str(tmp_path / "small"), **quiet, **accumulated))
    large, small = losses(tmp_path / "large"), losses(tmp_path / "small")
    assert list(small.values()) == pytest.approx(list(large.values()), rel=1e-4)


def test_phases_change_patch_and_batch(tmp_path):
    phases = [
        {"until_step": 2, "patch_size": 16, "batch_size": 4},
        {"until_step": 5, "patch_size": 32, "batch_size": 2},
    ]
    arguments = tiny_arguments(tmp_path, max_steps=5, phases=phases)
    seen = []
    forward = UniRainForImageDeraining.forward

    def watch(model, pixel_values, *args, **kwargs):
        if model.training:
            seen.append(tuple(pixel_values.shape))
        return forward(model, pixel_values, *args, **kwargs)

    UniRainForImageDeraining.forward = watch
    try:
        main(arguments)
    finally:
        UniRainForImageDeraining.forward = forward
    assert seen == [(4, 3, 16, 16)] * 2 + [(2, 3, 32, 32)] * 3


def test_bf16_trains_and_is_float32_on_a_cpu_that_would_emulate_it(tmp_path, caplog):
    main(tiny_arguments(tmp_path, "--mixed_precision", "bf16", max_steps=4))
    assert all(torch.tensor(list(losses(tmp_path / "run").values())).isfinite())
    flags = Path("/proc/cpuinfo")
    if flags.is_file() and platform.machine() == "x86_64":
        assert ("training in float32" in caplog.text) == ("avx512bw" not in flags.read_text())


def test_the_loss_asked_for_is_trained_on(tmp_path):
    runs = {}
    for loss in ("l1", "psnr"):
        main(tiny_arguments(tmp_path / loss, "--loss", loss, max_steps=3))
        runs[loss] = list(losses(tmp_path / loss / "run").values())
    assert runs["l1"] != runs["psnr"]
    assert all(torch.tensor(runs["psnr"]).isfinite())


def test_tensorboard_gets_losses_pictures_and_curves(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    main(tiny_arguments(tmp_path, "--report_to", "tensorboard", max_steps=4))
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard" / "unirain"))
    events.Reload()
    assert {"train/loss", "validation/psnr/DRS", "objective/weight/NRD"} <= set(events.Tags()["scalars"])
    assert {"samples", "curves"} <= set(events.Tags()["images"])
    logged = [event.value for event in events.Scalars("train/loss")]
    assert logged == pytest.approx(list(losses(tmp_path / "run").values()))


# Stopping


def test_max_minutes_saves_and_exports_what_there_is(tmp_path):
    outcome = main(tiny_arguments(tmp_path, "--max_minutes", "1e-6"))
    assert outcome.status == "out of time" and outcome.step == 1
    assert outcome.checkpoint.name == "checkpoint-00000001"
    assert (tmp_path / "run" / "export" / "README.md").is_file()

    resumed = main(tiny_arguments(tmp_path, "--resume_from", "last"))
    assert resumed.status == "finished" and list(losses(tmp_path / "run")) == list(range(1, 13))


def test_ctrl_c_saves_and_leaves_the_signals_as_they_were(tmp_path):
    log = tmp_path / "run" / "train_log.jsonl"

    def interrupt():
        while not (log.exists() and '"step": 2,' in log.read_text()):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    threading.Thread(target=interrupt, daemon=True).start()
    outcome = main(tiny_arguments(tmp_path, max_steps=100_000, validation_steps=100_000))
    assert outcome.status == "interrupted" and outcome.checkpoint.is_dir()
    assert signal.getsignal(signal.SIGINT) == before


@pytest.mark.parametrize(("call", "step"), [(6, 4), (14, 12)], ids=["in the middle", "the last"])
def test_a_validation_round_cut_short_is_run_again_on_resume(tmp_path, call, step):
    """The signal comes while the round of `step` is under way: its losses must not be missing from the objective."""
    calls = []
    forward = UniRainForImageDeraining.forward

    def signal_in_the_round(model, *args, **kwargs):
        if not model.training:
            calls.append(1)
            if len(calls) == call:  # four pictures a round
                os.kill(os.getpid(), signal.SIGTERM)
        return forward(model, *args, **kwargs)

    UniRainForImageDeraining.forward = signal_in_the_round
    try:
        outcome = main(tiny_arguments(tmp_path, "--output_dir", str(tmp_path / "cut")))
    finally:
        UniRainForImageDeraining.forward = forward
    assert (outcome.status, outcome.step) == ("interrupted", step)
    for _ in range(2):  # what a finished run exports stays what it is
        resumed = main(tiny_arguments(tmp_path, "--output_dir", str(tmp_path / "cut"), "--resume_from", "last"))
    whole = main(tiny_arguments(tmp_path, "--output_dir", str(tmp_path / "whole")))
    assert whole.results["step"] == 12, "the last round must be the best for this to tell"
    assert resumed.results == whole.results and resumed.model_folder.name == whole.model_folder.name
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    assert read(tmp_path / "cut" / "validation_log.jsonl") == read(tmp_path / "whole" / "validation_log.jsonl")


def test_a_loss_that_is_not_finite_names_its_samples_and_keeps_the_last_checkpoint(tmp_path):
    with pytest.raises(NonFiniteError, match=r"step 3.*checkpoint-00000002.*input/\d\.png") as error:
        main(tiny_arguments(tmp_path, "--max_grad_norm", "0", learning_rate=1e38, warmup_steps=1, save_steps=1))
    assert "\n" not in str(error.value)
    checkpoint = Checkpoints(tmp_path / "run", 2).find("last")
    assert checkpoint.name == "checkpoint-00000002" and (checkpoint / "ema" / "model.safetensors").is_file()


def test_a_checkpoint_that_cannot_be_written_leaves_the_earlier_one(tmp_path):
    """The limit on the size of a file stands for a full disk: the optimizer's state does not fit, all else does."""
    main(tiny_arguments(tmp_path, max_steps=2, warmup_steps=1))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        with pytest.raises(OSError, match="checkpoint of step 4 could not be written") as error:
            main(tiny_arguments(tmp_path, "--resume_from", "last", max_steps=4))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "run").glob("*.tmp"))
    assert main(tiny_arguments(tmp_path, "--resume_from", "last", max_steps=4)).status == "finished"


# Going on, and starting from weights


def write_darker_pairs(root: Path) -> Path:
    """Pairs whose input is further from its target than `write_pairs` makes it."""
    for file in write_pairs(root).rglob("input/*.png"):
        with Image.open(file) as picture:
            darker = picture.point(lambda value: value // 4)
        darker.save(file)
    return root


def test_going_back_to_an_earlier_checkpoint_redoes_what_came_after(tmp_path):
    arguments = {"save_steps": 1, "save_total_limit": 20}
    main(tiny_arguments(tmp_path, **arguments))
    first = losses(tmp_path / "run")
    main(tiny_arguments(tmp_path, "--resume_from", str(tmp_path / "run" / "checkpoint-00000006"), **arguments))
    assert losses(tmp_path / "run") == first


def test_the_checkpoint_of_another_run_goes_on_in_a_folder_of_its_own_only(tmp_path):
    main(tiny_arguments(tmp_path, "--output_dir", str(tmp_path / "a"), max_steps=6))
    main(tiny_arguments(tmp_path))
    before = {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()}
    resume = ("--resume_from", str(tmp_path / "a" / "checkpoint-00000005"))
    with pytest.raises(
        ValueError, match="run, which already holds checkpoints .*choose another --output_dir"
    ) as error:
        main(tiny_arguments(tmp_path, *resume, max_steps=7))
    assert "\n" not in str(error.value)
    assert {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()} == before

    outcome = main(tiny_arguments(tmp_path, *resume, "--output_dir", str(tmp_path / "c"), max_steps=7))
    assert outcome.status == "finished" and list(losses(tmp_path / "c")) == [6, 7]


def test_a_run_gone_on_with_elsewhere_exports_the_best_of_its_own_rounds(tmp_path):
    """The first round's figure, above all later ones, is of a checkpoint that is not in the new folder."""
    main(tiny_arguments(tmp_path, "--output_dir", str(tmp_path / "a"), max_steps=3, save_steps=1, validation_steps=1))
    state = tmp_path / "a" / "checkpoint-00000002"
    for file in state.glob("custom_checkpoint_*.pkl"):
        content = torch.load(file, weights_only=False)
        if isinstance(content, dict) and content.get("best"):
            content["best"] |= {"step": 1, "psnr": 99.0}
            torch.save(content, file)
    outcome = main(
        tiny_arguments(
            tmp_path, "--resume_from", str(state), "--output_dir", str(tmp_path / "b"), max_steps=6, validation_steps=1
        )
    )
    rounds = {record["step"]: record["psnr"] for record in read_records(tmp_path / "b" / "validation_log.jsonl")}
    best = max(rounds, key=rounds.get)
    assert outcome.results["step"] == best
    assert json.loads((tmp_path / "b" / "best.json").read_text())["step"] == best


def test_a_finished_run_is_exported_elsewhere_too(tmp_path):
    finished = main(tiny_arguments(tmp_path, "--output_dir", str(tmp_path / "a"), max_steps=4))
    resume = ("--resume_from", str(finished.checkpoint), "--output_dir", str(tmp_path / "b"))
    outcome = main(tiny_arguments(tmp_path, *resume, max_steps=4))
    assert outcome.status == "finished" and outcome.results == finished.results | {"checkpoint": "checkpoint-00000004"}
    assert outcome.checkpoint == tmp_path / "b" / "checkpoint-00000004" and outcome.checkpoint.is_dir()
    ours, theirs = (load_file(tmp_path / name / "export" / "model.safetensors") for name in "ba")
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_a_resumed_run_takes_the_learning_rate_it_is_given_and_says_so(tmp_path, caplog):
    main(tiny_arguments(tmp_path, max_steps=6, save_steps=3, save_total_limit=9, validation_steps=6))
    start = str(tmp_path / "run" / "checkpoint-00000003")
    with caplog.at_level("WARNING"):
        resume = ("--resume_from", start, "--learning_rate", "2e-3", "--min_learning_rate", "2e-6")
        main(tiny_arguments(tmp_path, *resume, max_steps=6, save_steps=3, validation_steps=6))
    assert "`learning_rate` is now 0.002; it was 0.001." in caplog.text
    assert logged(tmp_path / "run", "learning_rate")[5] == pytest.approx((2e-3 + 2e-6) / 2)  # half-way down


@pytest.mark.parametrize("types", [["DRS"], ["DRS", "NRS"], ["NRD", "DRS"]], ids=["fewer", "other", "swapped"])
def test_a_checkpoint_of_other_types_is_refused(tmp_path, types):
    main(tiny_arguments(tmp_path, max_steps=3, logging_steps=2))
    pairs = {"kind": "paired", "root": str(write_pairs(tmp_path / "pairs", types)), "types": types}
    changes = {"data": {"types": types, "sources": [pairs]}, "validation": {"sources": [pairs]}}
    before = {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()}
    trained_on = f"trained on the types DRS, NRD, in this order; this run has {', '.join(types)}"
    with pytest.raises(
        ValueError, match=f"checkpoint-00000003 cannot be resumed by this run: it was {trained_on}"
    ) as error:
        main(tiny_arguments(tmp_path, "--resume_from", "last", max_steps=4, **changes))
    assert "\n" not in str(error.value)
    assert {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()} == before


def test_a_round_over_fewer_types_is_not_of_the_same_pictures():
    measured = TypeResult(images=2, loss=0.1, psnr=30.0, ssim=0.9, input_psnr=25.0, input_ssim=0.8)
    one, two = ValidationResult(4, {"DRS": measured}), ValidationResult(2, {"DRS": measured, "NRS": measured})
    assert one.is_of_the_pictures_of(one.as_dict())
    assert not one.is_of_the_pictures_of(two.as_dict()) and not two.is_of_the_pictures_of(one.as_dict())


def test_a_precision_that_only_accelerate_was_told_is_not_passed_over_in_silence(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    with caplog.at_level("WARNING"):
        main(tiny_arguments(tmp_path, max_steps=3))
    assert "accelerate asks for bf16, but --mixed_precision no counts" in caplog.text


def test_a_best_round_on_another_validation_set_no_longer_counts(tmp_path, caplog):
    arguments = {"max_steps": 6, "save_steps": 3, "learning_rate": 1e-6}  # nothing is learnt: only the pictures differ
    main(tiny_arguments(tmp_path, **arguments, validation_steps=2))
    easier = json.loads((tmp_path / "run" / "best.json").read_text())
    harder = write_darker_pairs(tmp_path / "harder")
    changed = {"validation": {"crop_size": 32, "sources": [{"kind": "paired", "root": str(harder)}]}}
    further = arguments | changed | {"max_steps": 9, "validation_steps": 8}
    with caplog.at_level("WARNING"):
        longer = main(tiny_arguments(tmp_path, "--resume_from", "last", **further))
    assert (
        f"best round so far, of step {easier['step']}, no longer counts and the objective begins anew" in caplog.text
    )
    rounds = [row["objective"]["round"] for row in read(tmp_path / "run" / "validation_log.jsonl")]
    assert rounds == [1, 2, 3, 4, 1, 2]
    best = json.loads((tmp_path / "run" / "best.json").read_text())
    assert longer.results == best and best["step"] in (8, 9) and best["psnr"] < easier["psnr"] - 2
    exported = load_file(tmp_path / "run" / "export" / "model.safetensors")
    trained = load_file(tmp_path / "run" / best["checkpoint"] / "ema" / "model.safetensors")
    assert all(torch.equal(exported[name], trained[name]) for name in trained)

    moved = shutil.copytree(harder, tmp_path / "moved")  # the same pictures elsewhere
    elsewhere = {"validation": {"crop_size": 32, "sources": [{"kind": "paired", "root": str(moved)}]}}
    caplog.clear()
    with caplog.at_level("WARNING"):
        main(tiny_arguments(tmp_path, "--resume_from", "last", **further | elsewhere | {"max_steps": 10}))
    assert "`validation` is now" in caplog.text and "no longer counts" not in caplog.text


def test_resuming_a_finished_run_only_exports_again(tmp_path):
    main(tiny_arguments(tmp_path, max_steps=4))
    before = (tmp_path / "run" / "train_log.jsonl").read_bytes()
    outcome = main(tiny_arguments(tmp_path, "--resume_from", "last", max_steps=4))
    assert outcome.status == "finished" and (tmp_path / "run" / "train_log.jsonl").read_bytes() == before


def test_last_starts_anew_where_there_is_nothing(tmp_path):
    assert main(tiny_arguments(tmp_path, "--resume_from", "last", max_steps=4)).status == "finished"


def test_a_run_starts_from_exported_weights(tmp_path):
    main(tiny_arguments(tmp_path, max_steps=4))
    export = str(tmp_path / "run" / "export")
    main(tiny_arguments(tmp_path, "--init_from", export, "--output_dir", str(tmp_path / "next"), max_steps=4))
    ended = json.loads((tmp_path / "run" / "best.json").read_text())
    began = read(tmp_path / "next" / "validation_log.jsonl")[0]
    assert began["psnr"] == pytest.approx(ended["psnr"], abs=1e-6)
    main(tiny_arguments(tmp_path, "--resume_from", "last", "--output_dir", str(tmp_path / "next"), max_steps=6))
    assert json.loads((tmp_path / "next" / "arguments.json").read_text())["init_from"] == export


# What goes wrong, said before any step


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--recipe", "no_such_recipe"], "no recipe 'no_such_recipe'"),
        (["--no_such_flag", "1"], "unknown option --no_such_flag 1"),
        (["--max_steps", "many"], "max_steps.*invalid int value: 'many'"),
        (["--mixed_precision", "fp8"], "mixed_precision.*invalid choice: 'fp8'"),
        (["--learning_rate", "0"], "--learning_rate must be positive"),
        (["--learning_rate", "inf"], "--learning_rate must be positive"),
        (["--weight_decay", "nan"], "--weight_decay must be at least 0 and finite, not nan"),
        (["--max_grad_norm", "nan"], "--max_grad_norm must be at least 0 and finite, not nan"),
        (["--ema_decay", "1"], "--ema_decay must lie in"),
        (["--max_steps", "10", "--warmup_steps", "10"], "leaves nothing of --max_steps"),
        (["--report_to", "notebook"], "knows tensorboard, wandb and none, not 'notebook'"),
    ],
)
def test_nonsense_options_are_refused_in_one_sentence(flags, message):
    with pytest.raises(ValueError, match=f"(?i){message}") as error:
        parse_arguments(flags)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("learning_rat: 1.0", "unknown option 'learning_rat'"),
        ("batch_size: 2.5", "batch_size.*invalid int value: '2.5'"),
        ("phases: [{until_step: 5, patch_size: 16}]", "must give until_step, patch_size, batch_size"),
        ("phases: 7", "`phases` of recipe .* must be a list"),
        ("{max_steps: 900, phases: [{until_step: 700, patch_size: 16, batch_size: 4}]}", "ends at step 700"),
        ("data: {patch_size: 16}", "`patch_size` belongs"),
        ("- a list", "must be a mapping"),
        ("a: [", "not valid YAML"),
    ],
)
def test_nonsense_recipes_are_refused_in_one_sentence(tmp_path, recipe, message):
    file = tmp_path / "recipe.yaml"
    file.write_text(recipe)
    with pytest.raises(ValueError, match=message) as error:
        parse_arguments(["--recipe", str(file)])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("word", ["no", "false", '"no"'])
def test_no_in_a_recipe_is_the_word_where_an_option_has_it(tmp_path, word):
    """YAML reads it as false."""
    file = tmp_path / "recipe.yaml"
    file.write_text(f"mixed_precision: {word}\nchannels_last: {word}\ncpu: yes\n")
    options = parse_arguments(["--recipe", str(file)]).training
    assert (options.mixed_precision, options.cpu) == ("no", True) and not options.channels_last


def test_flags_override_the_recipe(tmp_path):
    recipe = write_recipe(tmp_path)
    assert parse_arguments(["--recipe", str(recipe)]).training.max_steps == 12
    assert parse_arguments(["--max_steps", "700", "--recipe", str(recipe)]).training.max_steps == 700


@pytest.mark.parametrize("flag", ["--batch_size=8", "--patch_size=64", "--batch-size=8"])
def test_a_flag_that_the_phases_of_a_recipe_would_hide_is_refused(flag):
    name = flag.split("=")[0].replace("-size", "_size")
    with pytest.raises(ValueError, match=f"{name} has no effect: recipe 'unirain' has `phases`"):
        parse_arguments(["--recipe", "unirain", flag])
    assert parse_arguments(["--recipe", "paper", flag]).phases


@pytest.mark.parametrize("name", ["paper", "smoke", "unirain"])
def test_our_recipes_are_valid(name):
    arguments = parse_arguments(["--recipe", name])
    UniRainConfig.from_name(arguments.model.model, **arguments.model_overrides)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch_size": 20}, "no multiple of 8"),
        ({"model": "unirain-giant"}, "no size called 'unirain-giant'"),
        ({"model_overrides": {"num_expert": 3}}, "unknown field 'num_expert'"),
        ({"model_overrides": {"encoder_depths": 3}}, "`model_overrides` cannot be: .*encoder_depths"),
        ({"objective_window": 1}, "window must be at least 2"),
        ({"resume_from": "best"}, "no best checkpoint"),
        ({"resume_from": "nowhere"}, "no checkpoint 'nowhere'"),
        ({"data": {"sources": [{"kind": "paired", "root": "nowhere"}]}}, "nowhere is not a folder"),
    ],
)
def test_what_cannot_be_trained_is_said_before_anything_is_written(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message) as error:
        main(tiny_arguments(tmp_path, **changes))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_picture_that_a_worker_cannot_read_is_named_in_one_sentence(tmp_path):
    arguments = tiny_arguments(tmp_path, num_workers=1)
    arguments.data |= {"verify_images": False, "sources": arguments.data["sources"][:1]}
    for file in (tmp_path / "pairs" / "DRS" / "made" / "input").iterdir():
        file.write_bytes(file.read_bytes()[:200])  # the header is whole
    arguments.validation["sources"][0]["types"] = ["NRD"]
    with pytest.raises(ValueError, match=r"input/\d\.png") as error:
        main(arguments)
    assert "\n" not in str(error.value) and "Traceback" not in str(error.value)
    # With the error, and all its frames, still held: Python waits for its children before it exits.
    assert not multiprocessing.active_children()


def test_routers_are_spread_whatever_the_length_of_an_epoch(tmp_path):
    arguments = tiny_arguments(tmp_path, max_steps=3, router_deviation=0.5)
    assert arguments.data["samples_per_epoch"] < ROUTED_SAMPLES
    assert main(arguments).status == "finished"


def test_a_worker_that_lost_its_loop_ends_after_sigterm():
    start = partial(leave_signals_to_the_main_process, grace=1)
    stream = iter(DataLoader(range(9), batch_size=None, num_workers=1, worker_init_fn=start))
    assert next(stream) == 0
    (worker,) = multiprocessing.active_children()
    worker.terminate()
    assert [next(stream) for _ in range(5)] == [1, 2, 3, 4, 5], "more than were prefetched"
    worker.join(20)
    assert worker.exitcode == 0


class Interrupting(Dataset):
    """Another error than a picture that cannot be read."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        raise KeyError(index)


def test_workers_end_whatever_the_error_though_it_is_held():
    stream = iter(DataLoader(Interrupting(), num_workers=1))
    with pytest.raises(KeyError) as held:
        Trainer._next(stream)
    assert multiprocessing.active_children()
    del stream
    assert not multiprocessing.active_children(), held.value


def test_a_tracker_without_its_package_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("accelerate.tracking._available_trackers", [])
    with pytest.raises(ValueError, match="--report_to tensorboard needs the package tensorboard"):
        main(tiny_arguments(tmp_path, "--report_to", "tensorboard"))


def test_an_output_folder_with_checkpoints_is_not_trained_over(tmp_path):
    main(tiny_arguments(tmp_path, max_steps=3))
    with pytest.raises(ValueError, match="already holds checkpoints: go on with --resume_from last"):
        main(tiny_arguments(tmp_path, max_steps=3))


def test_the_folder_of_a_run_is_no_checkpoint_to_go_on_from(tmp_path):
    main(tiny_arguments(tmp_path, max_steps=3))
    with pytest.raises(ValueError, match="run is not a checkpoint of a training run: .* takes last, best or a"):
        main(tiny_arguments(tmp_path, "--resume_from", str(tmp_path / "run"), max_steps=4))


def test_checkpoint_and_weights_of_another_config_are_refused(tmp_path):
    main(tiny_arguments(tmp_path, max_steps=3))
    other = {"max_steps": 3, "model_overrides": {"refinement_depth": 2}}
    with pytest.raises(ValueError, match="another config: `refinement_depth` is 1 there and 2 here"):
        main(tiny_arguments(tmp_path, "--resume_from", "last", **other))
    with pytest.raises(ValueError, match="another config: `refinement_depth` is 1 there and 2 here"):
        export, output = str(tmp_path / "run" / "export"), str(tmp_path / "next")
        main(tiny_arguments(tmp_path, "--init_from", export, "--output_dir", output, **other))


def test_weights_that_are_not_whole_are_not_trained_on(tmp_path):
    main(tiny_arguments(tmp_path, max_steps=3))
    broken = shutil.copytree(tmp_path / "run" / "export", tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    save_file(dict(list(weights.items())[5:]), broken / "model.safetensors", metadata={"format": "pt"})
    start = ["--init_from", str(broken), "--output_dir", str(tmp_path / "next")]
    with pytest.raises(ValueError, match="broken' is incomplete: 5 of its weights are missing"):
        main(tiny_arguments(tmp_path, *start, max_steps=3))
    (broken / "model.safetensors").write_bytes((broken / "model.safetensors").read_bytes()[:2000])
    with pytest.raises(ValueError, match="broken' is damaged"):
        main(tiny_arguments(tmp_path, *start, max_steps=3))
    assert not (tmp_path / "next" / "export").exists()


def test_the_home_folder_is_found_in_every_place(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    write_recipe(tmp_path, output_dir="~/runs", init_from="~/weights", resume_from="~/runs/checkpoint-00000004")
    arguments = parse_arguments(["--recipe=~/recipe.yaml"])
    assert arguments.training.output_dir == tmp_path / "runs"
    assert arguments.model.init_from == str(tmp_path / "weights")
    checkpoints = Checkpoints(arguments.training.output_dir, 1)
    checkpoints.prepare(4)
    checkpoints.commit(4)
    assert checkpoints.find(arguments.training.resume_from) == tmp_path / "runs" / "checkpoint-00000004"


@pytest.mark.parametrize("name", ["unirain", "./unirain", "owner/name"])
def test_what_is_no_place_below_the_home_folder_stays_as_it_is(name):
    assert parse_arguments(["--init_from", name]).model.init_from == name


# Parts


def test_processes_share_every_batch_and_any_start_is_reached():
    for start in (0, 7):
        parts = [iter(BatchNumbers(start, 6, rank, 3)) for rank in range(3)]
        for batch in range(4):
            numbers = [number for part in parts for number in next(part)]
            assert numbers == list(range(start + 6 * batch, start + 6 * batch + 6))


def test_averaged_weights_follow_their_equation():
    model = torch.nn.Linear(2, 2)
    average = AveragedWeights(model, 0.5)
    expected = model.weight.detach().clone()
    for n in range(8):
        with torch.no_grad():
            model.weight.normal_()
        average.update()
        decay = min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * model.weight.detach()
        torch.testing.assert_close(average.module.weight, expected)


def test_a_half_written_checkpoint_is_not_found_and_is_removed(tmp_path):
    checkpoints = Checkpoints(tmp_path, 1)
    (checkpoints.prepare(1) / "file").write_text("whole")
    checkpoints.commit(1)
    (checkpoints.prepare(2) / "file").write_text("ha")
    assert checkpoints.find("last") == tmp_path / "checkpoint-00000001"
    checkpoints.remove_leftovers()
    assert [folder.name for folder in tmp_path.iterdir()] == ["checkpoint-00000001"]


def test_rotation_spares_the_best(tmp_path):
    checkpoints = Checkpoints(tmp_path, 2)
    for step in range(5):
        checkpoints.prepare(step)
        checkpoints.commit(step)
        if step == 1:
            checkpoints.mark_best(step, {"step": step})
        checkpoints.rotate()
    assert [int(folder.name[-8:]) for folder in checkpoints.list()] == [1, 3, 4]
    assert checkpoints.find("best") == checkpoints.path(1)


@pytest.mark.slow
def test_the_smoke_recipe_beats_its_input(tmp_path, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    outcome = main(parse_arguments(["--recipe", "smoke", "--output_dir", str(tmp_path)]))
    assert outcome.status == "finished"
    for result in outcome.results["per_type"].values():
        assert result["psnr"] > result["input_psnr"]
