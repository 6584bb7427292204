"""What a checkpoint's name means, and failing at once, in one sentence, when it cannot be had.

This file travels with every checkpoint, so it imports nothing else of ours.
"""

import os
from pathlib import Path

from huggingface_hub import constants, get_session, try_to_load_from_cache
from huggingface_hub.utils import validate_repo_id


HUB_REPOSITORIES = {"unirain": "unirain/unirain", "unirain-base": "unirain/unirain-base"}
"""Our own names, and where each is published. A name bundled with the package never reaches the Hub."""

CONNECT_TIMEOUT = 5.0
"""Seconds to wait for the Hub to answer at all before saying that it cannot be reached."""


def resolve_checkpoint(name: str | Path) -> str:
    """Turn a checkpoint's name into what `from_pretrained` takes.

    Args:
        name (`str` or `Path`): One of our names (`"unirain"`), a folder, or a repository id on the Hub. A `Path` is a folder.

    Returns:
        `str`: The bundled folder of one of our names, its Hub repository where the package bundles no such folder,
        and any other name unchanged. A folder that happens to be called `unirain` is reached as `./unirain`.
    """
    if isinstance(name, Path):
        return os.path.join(os.curdir, name)  # a `Path` drops the `./` that tells a folder from one of our names
    if name not in HUB_REPOSITORIES:
        return name
    bundled = Path(__file__).parent / "checkpoints" / name
    return str(bundled) if (bundled / "config.json").is_file() else HUB_REPOSITORIES[name]


class ResolvesCheckpointNames:
    """Mixin, first in the bases of config, model and image processor: `from_pretrained("unirain")` needs no network.

    For a model it also refuses pickled weights, which could run any code when opened: safetensors only, unless
    `use_safetensors=False` asks for them.
    """

    _checkpoint_file = "config.json"

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        if pretrained_model_name_or_path is None:  # transformers' way of giving config and weights themselves
            return super().from_pretrained(None, *args, **kwargs)
        checkpoint = resolve_checkpoint(pretrained_model_name_or_path)
        folder = Path(checkpoint, kwargs.get("subfolder") or "")
        if not Path(checkpoint).is_dir():
            file = Path(kwargs.get("subfolder") or "", cls._checkpoint_file).as_posix()
            _check_repository(checkpoint, file, kwargs)
        elif not (folder / cls._checkpoint_file).is_file():
            raise OSError(f"The folder '{folder}' is no checkpoint: it has no {cls._checkpoint_file}.")
        if hasattr(cls, "base_model_prefix"):  # a PreTrainedModel, not a config or processor
            kwargs.setdefault("use_safetensors", True)
        if hasattr(cls, "get_config_dict"):  # a config, which a model's `from_pretrained` loads first
            config = cls.get_config_dict(checkpoint, **kwargs)[0]
            found = config.get("model_type") if isinstance(config, dict) else None
            if found != cls.model_type:
                raise ValueError(
                    f"Checkpoint '{pretrained_model_name_or_path}' holds the architecture '{found}', not "
                    f"'{cls.model_type}': give a {cls.model_type} checkpoint."
                )
        return super().from_pretrained(checkpoint, *args, **kwargs)


def _check_repository(name: str, file: str, options: dict) -> None:
    """Raise if only the Hub could have this checkpoint and the Hub does not answer; without an answer, use the cache.

    `from_pretrained` by itself retries each file of an unreachable Hub for 23 seconds.
    """
    try:
        validate_repo_id(name)
    except ValueError as error:
        raise OSError(
            f"There is no checkpoint '{name}': no such folder, nor can a repository be called so."
        ) from error
    if not (constants.HF_HUB_OFFLINE or options.get("local_files_only")):
        try:
            get_session().head(constants.ENDPOINT, timeout=CONNECT_TIMEOUT)
            return
        except Exception:  # of whichever HTTP library huggingface_hub uses: all mean that nobody answered
            options["local_files_only"] = True
    cached = try_to_load_from_cache(name, file, cache_dir=options.get("cache_dir"), revision=options.get("revision"))
    if not isinstance(cached, str):
        raise OSError(
            f"Checkpoint '{name}' is neither a folder nor in the local cache, and {constants.ENDPOINT} cannot be "
            "reached: check the name and the network connection, or give a folder."
        )
