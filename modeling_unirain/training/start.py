"""What precedes a run: device and processes, the network, the checkpoint to go on from, and every check that needs no data."""

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import ProjectConfiguration, broadcast_object_list, set_seed
from huggingface_hub.errors import StrictDataclassError
from torch import nn

from modeling_unirain.configuration_unirain import UniRainConfig
from modeling_unirain.files import lock_of
from modeling_unirain.loading import load_model
from modeling_unirain.messages import one_line
from modeling_unirain.modeling_unirain import UniRainForImageDeraining

from .arguments import Arguments, ModelArguments, TrainingArguments
from .checkpoints import AVERAGE_FOLDER, Checkpoints
from .precision import computes_in_bf16
from .run_log import check_trackers


logger = logging.getLogger(__name__)

ARCHITECTURE = tuple(name for name in UniRainConfig.__annotations__ if name != "model_type")
"""The fields of the config that make the network, without what every transformers config has besides."""


def build_accelerator(arguments: TrainingArguments) -> Accelerator:
    """Device, processes, precision and trackers; what the package logs is shown by the main process only.

    bf16 is for devices that compute in it: recipes ask for it, and a CPU that only emulates it trains in float32, which is told.

    Raises:
        ValueError: a tracker's package is missing.
    """
    check_trackers(arguments.report_to)
    on_cpu = arguments.cpu or not torch.accelerator.is_available()
    is_emulated = arguments.mixed_precision == "bf16" and on_cpu and not computes_in_bf16("cpu")
    accelerator = Accelerator(
        cpu=on_cpu,  # without being told, Accelerate ignores torchrun where there is no GPU: every process would train alone
        mixed_precision="no" if is_emulated else arguments.mixed_precision,
        log_with=arguments.report_to or None,
        project_config=ProjectConfiguration(logging_dir=arguments.output_dir / "tensorboard"),
        # An expert that no image of the batch chose has no gradient.
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    if not accelerator.is_main_process:
        logging.getLogger("modeling_unirain").setLevel(logging.ERROR)
    if is_emulated:
        logger.warning(
            "This CPU has no instructions for bf16, which would take several times as long: training in float32."
        )
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if launched not in ("no", arguments.mixed_precision):
        logger.warning(
            f"accelerate asks for {launched}, but --mixed_precision {arguments.mixed_precision} counts: "
            "tell train_unirain.py or its recipe."
        )
    return accelerator


def build_model(arguments: ModelArguments, overrides: dict[str, Any], seed: int) -> UniRainForImageDeraining:
    """A new network, or one with the weights of `init_from`.

    Raises:
        OSError, ValueError: unknown size or override, or weights that are not there, not whole or of another config.
    """
    set_seed(seed)
    unknown = sorted(set(overrides) - set(ARCHITECTURE))
    if unknown:
        raise ValueError(f"`model_overrides` has the unknown field '{unknown[0]}'.")
    try:
        config = UniRainConfig.from_name(arguments.model, **overrides)
    except StrictDataclassError as error:
        raise ValueError(f"`model_overrides` cannot be: {one_line(error)}") from error
    if arguments.init_from is None:
        model = UniRainForImageDeraining(config)
        # Not in the paper: the last layer starts at zero, so that the untrained network returns its input.
        nn.init.zeros_(model.output_projection.weight)
        nn.init.zeros_(model.output_projection.bias)
        return model
    check_same_config(config, UniRainConfig.from_pretrained(arguments.init_from), f"--init_from {arguments.init_from}")
    return load_model(arguments.init_from)


def check_same_config(config: UniRainConfig, other: UniRainConfig, name: str) -> None:
    """Raises `ValueError`, naming the first field, if the configs build different networks."""
    ours, theirs = _architecture(config), _architecture(other)
    different = sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))
    if different:
        key = different[0]
        raise ValueError(f"{name} has another config: `{key}` is {theirs.get(key)} there and {ours.get(key)} here.")


def _architecture(config: UniRainConfig) -> dict[str, Any]:
    values = {name: getattr(config, name) for name in ARCHITECTURE}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def find_checkpoint(arguments: Arguments, num_processes: int, config: UniRainConfig) -> Path | None:
    """The checkpoint to go on from, `None` to start anew; with every check that needs no data, so that it can be first.

    Raises:
        ValueError: the output folder, the checkpoint, a batch or a patch size cannot be.
    """
    options = arguments.training
    for phase in arguments.phases:
        if phase.batch_size % num_processes:
            raise ValueError(
                f"A batch of {phase.batch_size} images cannot be split evenly over {num_processes} processes: choose a "
                "multiple as batch_size."
            )
        if phase.patch_size % config.size_divisor:
            raise ValueError(
                f"A patch size of {phase.patch_size} is no multiple of {config.size_divisor}, which the model "
                f"{arguments.model.model} needs."
            )
    there = next(place for place in (options.output_dir, *options.output_dir.absolute().parents) if place.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise ValueError(f"--output_dir {options.output_dir} cannot be written to: {there} does not allow it.")
    checkpoints = Checkpoints(options.output_dir, options.save_total_limit)
    if options.resume_from is None:
        if checkpoints.list():
            raise ValueError(
                f"{options.output_dir} already holds checkpoints: go on with --resume_from last, or choose another "
                "--output_dir."
            )
        return None
    checkpoint = checkpoints.find(options.resume_from)
    if checkpoint is not None:
        folder = checkpoint / AVERAGE_FOLDER
        if not (folder / "config.json").is_file():
            raise ValueError(
                f"{checkpoint} is not a checkpoint of a training run: it has no {AVERAGE_FOLDER}/config.json; "
                "--resume_from takes last, best or a checkpoint's folder."
            )
        elsewhere = checkpoint.absolute().parent.resolve() != options.output_dir.resolve()
        if elsewhere and checkpoints.list():
            raise ValueError(
                f"{checkpoint} is not in {options.output_dir}, which already holds checkpoints that going on would "
                "replace: choose another --output_dir."
            )
        check_same_config(config, UniRainConfig.from_pretrained(folder), f"The checkpoint {checkpoint}")
    return checkpoint


@contextlib.contextmanager
def alone_in(output_dir: Path, accelerator: Accelerator) -> Iterator[None]:
    """Keep other trainings out of a run's folder, which is made, until the end of the block. The main process holds the lock.

    Raises:
        ValueError: another training is at work there.
    """
    with contextlib.ExitStack() as stack:
        is_ours = True
        if accelerator.is_main_process:
            # Data workers outlive a killed run for seconds, in which it could not be gone on with.
            is_ours = stack.enter_context(lock_of(output_dir, is_inherited=False))
        (is_ours,) = broadcast_object_list([is_ours])
        if not is_ours:
            raise ValueError(
                f"Another training is at work in {output_dir}: let it end first, or choose another --output_dir."
            )
        yield
