"""A checkpoint, whole or not at all."""

from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from .messages import one_line
from .modeling_unirain import UniRainForImageDeraining


def load_model(name: str | Path, dtype: torch.dtype = torch.float32) -> UniRainForImageDeraining:
    """The network of a checkpoint, on the CPU. `from_pretrained` by itself leaves at random what a file lacks.

    Args:
        name (`str` or `Path`): as [`load_derainer`] takes it.
        dtype (`torch.dtype`): of the weights.

    Raises:
        OSError: No such checkpoint, or the Hub cannot be reached.
        ValueError: A checkpoint of another architecture, from another version, damaged or incomplete.
    """
    try:
        model, report = UniRainForImageDeraining.from_pretrained(name, dtype=dtype, output_loading_info=True)
    except (RuntimeError, AttributeError, TypeError, SafetensorError, StrictDataclassError) as error:
        raise ValueError(f"Checkpoint '{name}' is damaged or from another version: {one_line(error)}") from error
    if report["missing_keys"]:
        raise ValueError(
            f"Checkpoint '{name}' is incomplete: {len(report['missing_keys'])} of its weights are missing."
        )
    return model
