"""What every backend that holds a transformers model has: where the weights come from, when they load, where they run."""

import gc
import hashlib
import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, OfflineModeIsEnabled
from safetensors import SafetensorError

from modeling_unirain.messages import one_line


HUB_TIMEOUT = 10.0
"""Seconds to wait for the Hub to say that a model exists, before anything is loaded."""
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
MAY_BE_MISSING = 0.05
"""Share of a model's weights that a checkpoint may do without, which some do by design: tied ones, heads that are not used."""
OF_A_LAYER = re.compile(r"\.\d+\.")
"""In the name of a weight that no checkpoint does without."""
FINGERPRINTED = (".json", ".safetensors", ".bin", ".txt", ".jinja", ".model")
"""Endings of a folder's files that a verdict depends on: weights, configurations, vocabularies and chat templates."""


class Pretrained:
    """A model and its processor, loaded on first use and given back by `release`.

    Args:
        model (`str`): Hub id (`ORG/NAME`, `ORG/NAME@revision`) or folder.
        auto_class (`str`): The transformers class that loads it.
        device (`str`, *optional*): `cpu`, `cuda`, `cuda:1`, `mps`; default: what there is.
    """

    def __init__(self, model: str, auto_class: str, device: str | None = None):
        self.model = model
        self.auto_class = auto_class
        self.device = device
        self._loaded: tuple[Any, Any] | None = None

    @property
    def fingerprint(self) -> str:
        """The model's name and revision; of a folder, its files' names and contents."""
        folder = Path(self.model)
        if not folder.is_dir():
            return f"{type(self).__name__} {self.model}"
        contents = hashlib.sha256()
        for path in sorted(path for path in folder.iterdir() if path.suffix in FINGERPRINTED):
            status = path.stat()
            contents.update(f"{path.name} {_digest(path, status.st_size, status.st_mtime_ns)} ".encode())
        return f"{type(self).__name__} {contents.hexdigest()}"

    def check(self) -> None:
        """Raise `OSError` when the weights are out of reach, `ValueError` when a package for them is missing."""
        if Path(self.model).is_dir():
            if not any((Path(self.model) / name).is_file() for name in WEIGHT_FILES):
                raise OSError(f"the folder {self.model} holds no weights of a transformers model")
        else:
            self._check_hub()
        self.load_processor()

    def load(self) -> tuple[Any, Any]:
        """The model on its device, in evaluation mode, and its processor.

        Raises:
            ValueError: the weights are damaged, not whole, or of another model than the folder's config says.
        """
        if self._loaded is None:
            processor = self.load_processor()
            device = self.device or best_device()
            self._loaded = self._load_model(device).to(device).eval(), processor
        return self._loaded

    def _load_model(self, device: str) -> Any:
        try:
            model, report = getattr(transformers, self.auto_class).from_pretrained(
                **self._source,
                dtype=torch.float32 if device == "cpu" else "auto",
                low_cpu_mem_usage=True,
                output_loading_info=True,
            )
        except (RuntimeError, SafetensorError) as error:
            raise ValueError(f"the weights of {self.model} cannot be loaded: {_in_short(error)}") from error
        missing, wanted = report["missing_keys"], len(model.state_dict())  # transformers leaves them at random
        if len(missing) > MAY_BE_MISSING * wanted or any(OF_A_LAYER.search(name) for name in missing):
            raise ValueError(f"the weights of {self.model} are not whole: {len(missing)} of {wanted} are missing")
        return model

    def load_processor(self) -> Any:
        try:
            return transformers.AutoProcessor.from_pretrained(**self._source)
        except ImportError as error:
            if "torchvision" not in str(error).lower():
                raise ValueError(f"{self.model} needs a package that is not installed: {_in_short(error)}") from error
            raise ValueError(
                f"{self.model} needs torchvision for its pictures: pip install -e '.[vlm]', or choose a model without it"
            ) from error
        except ValueError as error:  # of several thousand characters, when a folder's model is unknown to transformers
            raise ValueError(f"the processor of {self.model} cannot be loaded: {_in_short(error)}") from error

    def release(self) -> None:
        self._loaded = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    @property
    def _source(self) -> dict[str, str]:
        if Path(self.model).is_dir():
            return {"pretrained_model_name_or_path": self.model}
        name, _, revision = self.model.partition("@")
        return {"pretrained_model_name_or_path": name, "revision": revision or "main"}

    def _check_hub(self) -> None:
        name, revision = self._source.values()
        try:
            if any(isinstance(try_to_load_from_cache(name, file, revision=revision), str) for file in WEIGHT_FILES):
                return
            HfApi().model_info(name, revision=revision, timeout=HUB_TIMEOUT)
        except HFValidationError as error:
            raise ValueError(
                f"{self.model} is neither a folder nor a Hub id (ORG/NAME or ORG/NAME@revision)"
            ) from error
        except HfHubHTTPError as error:
            raise OSError(f"the Hub does not give out {self.model}: {_in_short(error)}") from error
        except (HTTPError, OfflineModeIsEnabled, OSError) as error:
            raise OSError(
                f"the weights of {self.model} are not on this machine and the Hub cannot be reached "
                f"({type(error).__name__}); connect, name a folder, or use --preset local, which needs no download"
            ) from error


@lru_cache
def _digest(path: Path, size: int, changed: int) -> str:
    """Of a file's whole content, read once a process: fine-tunes of one model can share all but the last tensors."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def best_device() -> str:
    """CUDA, else Apple's MPS, else the CPU. Each local process takes its own GPU where a launcher numbers them."""
    if torch.cuda.is_available():
        return f"cuda:{_local_rank() % torch.cuda.device_count()}"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def slug(name: str) -> str:
    """A model's name fit for a folder name: lower case, `[a-z0-9._-]`."""
    name = name.rstrip("/")
    short = Path(name).name if Path(name).is_dir() else name
    return re.sub(r"[^a-z0-9._-]+", "-", short.lower()).strip("-.")


def _local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")))


def _in_short(error: Exception) -> str:
    """Models' errors list every weight or class that they know."""
    return one_line(error)[:300]
