"""Publish a checkpoint, a distilled corpus or the demo to the Hugging Face Hub.

What leaves the machine is exactly what `publish(..., dry_run=True)` lists. Nothing is sent before the whole folder
has passed the checks: no pickle (loading one runs code), no link (its target lies elsewhere), a card with a licence.
The token is the one `hf auth login` or `HF_TOKEN` gives to `huggingface_hub`; it never passes through this module.
"""

import json
import logging
import shutil
import tempfile
import zipfile
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import yaml
from huggingface_hub import HfApi, get_token, metadata_load
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
)
from huggingface_hub.utils import validate_repo_id

from .distillation.records import BUILDING, MARKER
from .messages import one_line


logger = logging.getLogger(__name__)

PICKLE_SUFFIXES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib"}
IGNORED_FOLDERS = {".git", ".cache", ".gradio", "__pycache__"}
# Old files of these kinds would be loaded beside the new ones (a shard of a corpus that had more of them, a module
# that was renamed), so an upload replaces them. Whatever else is in the repository stays.
REPLACED_PATTERNS = ["*.parquet", "*.safetensors", "*.safetensors.index.json", "*.py"]
# The demo trains, distils and measures nothing: these parts of the package stay at home, with the packages they need.
NOT_IN_SPACE = ("training", "distillation", "evaluation", "batch.py", "cli.py", "hub.py", "publishing.py")


class RepoKind(StrEnum):
    MODEL = "model"
    DATASET = "dataset"
    SPACE = "space"


class PublishingError(OSError):
    """The upload cannot start or did not finish; the message says why and what to do, in one sentence."""


@dataclass(frozen=True)
class Publication:
    """What was, or with `dry_run` would be, uploaded.

    Args:
        files (`dict[str, int]`): path in the repository -> size in bytes.
        url (`str`, *optional*): address of the repository; `None` after a dry run.
        private (`bool`): whether only the owner sees it.
    """

    files: dict[str, int]
    url: str | None
    private: bool


def publish(
    kind: RepoKind | str, source: str | Path, repo_id: str, private: bool = True, dry_run: bool = False
) -> Publication:
    """Check `source` and upload it to the Hub repository `repo_id`. It can be repeated: what has arrived is not sent twice.

    Args:
        kind (`RepoKind` or `str`): `"model"`: a folder with weights, processor and card, as the training script
            exports it; its code, the pipeline's too, is added where it is missing. `"dataset"`: the output folder of `distill_dataset.py`. `"space"`: the folder `space/` of the
            source tree; the package and the example photographs are added, so that the Space needs no release of it.
        source (`str` or `Path`): the folder.
        repo_id (`str`): `owner/name`.
        private (`bool`): visibility of a repository that does not exist yet. An existing one keeps its visibility;
            to upload to one that is public, `private=False` must be said.
        dry_run (`bool`): check and list, contact nobody.

    Raises:
        PublishingError: with one sentence, for a folder that must not be uploaded and for every answer of the Hub.
    """
    kind, source = RepoKind(kind), Path(source)
    check_repo_id(repo_id)
    if not source.is_dir():
        raise PublishingError(f"{source} is not a folder.")
    with tempfile.TemporaryDirectory(prefix="unirain-publish-") as staging:
        if kind == RepoKind.SPACE:
            folder = assemble_space(source, Path(staging))
        elif kind == RepoKind.MODEL:
            folder = assemble_model(source, Path(staging), repo_id)
        else:
            folder = source
        try:
            files = list_files(folder)
            check_card(folder)
            CHECKS[kind](folder, files)
        except PublishingError as error:  # name what the user has, not our copy of it
            raise PublishingError(str(error).replace(str(folder), str(source))) from error
        if dry_run:
            return Publication(files, None, private)
        return upload(kind, folder, files, repo_id, private)


def check_repo_id(repo_id: str) -> None:
    """Raise `PublishingError` if this is not the name of a repository, with its owner."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError:
        is_valid = False
    else:
        is_valid = repo_id.count("/") == 1
    if not is_valid:
        raise PublishingError(f"'{repo_id}' is not a repository name; write it as owner/name.")


def check_push(repo_id: str, private: bool) -> None:
    """Raise `PublishingError` if a corpus could not be pushed there: by its name, because the Hub does not know who we are, or since it
    is public already and that was not asked for. Better before a long run than after it."""
    check_repo_id(repo_id)
    api = HfApi()
    try:
        api.whoami()
        exists = api.repo_exists(repo_id, repo_type=RepoKind.DATASET)
        is_public = exists and not api.dataset_info(repo_id).private
    except LocalTokenNotFoundError as error:
        raise PublishingError(
            "--push_to_hub needs a token that may write: run 'hf auth login', or set HF_TOKEN"
        ) from error
    except (HfHubHTTPError, HTTPError, OfflineModeIsEnabled, ConnectionError, TimeoutError) as error:
        raise PublishingError(
            f"--push_to_hub: the Hub cannot be reached or refuses the token ({type(error).__name__}); "
            "leave the option out and publish later with 'unirain publish dataset'"
        ) from error
    if private and is_public:
        raise PublishingError(f"--push_to_hub: {repo_id} exists and is public; say --private false to upload to it")


def list_files(folder: Path) -> dict[str, int]:
    """Every file to upload, path -> size; raises at the first that must not be."""
    files = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if IGNORED_FOLDERS.intersection(name.parts):
            continue
        if path.is_symlink():
            raise PublishingError(
                f"{path} is a link, and what it points to may lie outside the folder; copy the file."
            )
        if path.is_file():
            if name.name == ".env":
                raise PublishingError(f"{path} may hold keys, which must not be published; move it elsewhere.")
            if is_pickle(path):
                raise PublishingError(
                    f"{path} is a pickle, which runs code when loaded; save tensors as safetensors, or remove it."
                )
            files[name.as_posix()] = path.stat().st_size
    if not files:
        raise PublishingError(f"{folder} holds no files.")
    return files


def is_pickle(path: Path) -> bool:
    """By name and by content: a renamed pickle is still one. `torch.save` writes a zip with a pickle in it."""
    if path.suffix.lower() in PICKLE_SUFFIXES:
        return True
    with path.open("rb") as file:
        start = file.read(4)
    if start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return True
    if start == b"PK\x03\x04":
        try:
            with zipfile.ZipFile(path) as archive:
                return any(name.endswith(".pkl") for name in archive.namelist())
        except zipfile.BadZipFile as error:
            raise PublishingError(f"{path} is a damaged archive, in which a pickle could be; remove it.") from error
    return False


def check_card(folder: Path) -> None:
    card = folder / "README.md"
    if not card.is_file():
        raise PublishingError(f"{folder} has no card; write README.md with a licence in its header.")
    try:
        header = metadata_load(card) or {}
    except (ValueError, yaml.YAMLError) as error:
        raise PublishingError(f"The header of {card} is not valid YAML; correct it.") from error
    if not header.get("license") or header["license"] == "unknown":
        raise PublishingError(f"{card} names no licence; add a line such as 'license: apache-2.0' to its header.")


def check_model(folder: Path, files: dict[str, int]) -> None:
    if "preprocessor_config.json" not in files:
        raise PublishingError(f"{folder} is no checkpoint to publish: it has no preprocessor_config.json.")
    if not any(name.endswith(".safetensors") for name in files):
        raise PublishingError(f"{folder} is no checkpoint to publish: it has no weights in safetensors.")
    config = folder / "config.json"
    try:
        settings = json.loads(config.read_text(encoding="utf-8"))
    except ValueError as error:
        raise PublishingError(f"{config} is not valid JSON: {error}; export the checkpoint again.") from error
    if not isinstance(settings, dict) or not isinstance(settings.get("auto_map", {}), dict):
        raise PublishingError(f"{config} is not a checkpoint's config; export the checkpoint again.")
    classes = settings.get("auto_map", {})
    modules = {name.split(".")[0] + ".py" for name in classes.values() if isinstance(name, str)}
    missing = sorted(modules - set(files))
    if not modules or missing:
        named = ", ".join(missing) or "an auto_map in config.json"
        raise PublishingError(f"{folder} does not carry its code ({named} missing); export the checkpoint first.")


def check_dataset(folder: Path, files: dict[str, int]) -> None:
    if not any(name.endswith(".parquet") for name in files):
        raise PublishingError(f"{folder} holds no Parquet files; publish the output folder of distill_dataset.py.")
    if MARKER not in files or any(name.startswith(BUILDING) for name in files):
        raise PublishingError(
            f"{folder} is not complete, its distillation was broken off; run the same command of distill_dataset.py again."
        )


def check_space(folder: Path, files: dict[str, int]) -> None:
    header = metadata_load(folder / "README.md")
    if header.get("sdk") != "gradio" or header.get("app_file") not in files:
        raise PublishingError(f"The header of {folder / 'README.md'} must say 'sdk: gradio' and name its app_file.")


CHECKS = {RepoKind.MODEL: check_model, RepoKind.DATASET: check_dataset, RepoKind.SPACE: check_space}


def assemble_model(source: Path, staging: Path, repo_id: str) -> Path:
    """The checkpoint with the repository's name filled in where its card shows how to load it."""
    if not (source / "config.json").is_file():  # first: in a run's folder, pickles are what it goes on from
        export = source / "export"
        advice = f"; publish {export}" if (export / "config.json").is_file() else ""
        raise PublishingError(f"{source} is no checkpoint to publish: it has no config.json{advice}.")
    list_files(source)  # refuses links before anything is copied
    shutil.copytree(source, staging, ignore=shutil.ignore_patterns(*IGNORED_FOLDERS), dirs_exist_ok=True)
    card = staging / "README.md"
    if card.is_file():
        try:
            text = card.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise PublishingError(f"{source / card.name} is not UTF-8; save it as such.") from error
        card.write_text(text.replace("REPOSITORY", repo_id), encoding="utf-8")
    config = staging / "config.json"
    if any(staging.glob("*.safetensors")):
        try:
            settings = json.loads(config.read_text(encoding="utf-8"))
            # The package's checkpoints have none, those that strangers to it saved may lack the pipeline.
            has_pipeline = isinstance(settings, dict) and "custom_pipelines" in settings
            if not has_pipeline or not (staging / "pipeline_unirain.py").is_file():
                _add_code(staging)
        except (OSError, ValueError) as error:
            reason = one_line(error).replace(str(staging), str(source))
            raise PublishingError(f"{source} cannot be loaded as a checkpoint of unirain: {reason}") from error
    return staging


def _add_code(folder: Path) -> None:
    """The code and what names it in the config, as an export has them; the package has them, on the Hub they are needed."""
    from .hub import save_model  # imports torch, which nothing else here needs
    from .loading import load_model

    with tempfile.TemporaryDirectory() as complete:
        save_model(load_model(folder), Path(complete))
        for file in Path(complete).iterdir():
            if file.suffix == ".py" or file.name == "config.json":
                shutil.copyfile(file, folder / file.name)


def assemble_space(source: Path, staging: Path) -> Path:
    """Put together what the Space runs: the app, the part of this package that it calls, the example photographs."""
    package = Path(__file__).parent
    examples = source / "examples" if (source / "examples").is_dir() else source.absolute().parent / "examples"
    list_files(source)  # refuses links before anything is copied
    if (source / package.name).exists():
        raise PublishingError(
            f"{source} holds {package.name} already, as a published Space does; give the folder space/ of a clone."
        )
    skip = shutil.ignore_patterns(*IGNORED_FOLDERS)
    shutil.copytree(source, staging, ignore=skip, dirs_exist_ok=True)
    shutil.copytree(
        package, staging / package.name, ignore=shutil.ignore_patterns(*IGNORED_FOLDERS, *NOT_IN_SPACE), symlinks=True
    )
    if not examples.is_dir():
        raise PublishingError(f"{examples} does not exist; the demo shows its example photographs.")
    shutil.copytree(examples, staging / "examples", ignore=skip, symlinks=True, dirs_exist_ok=True)
    return staging


def upload(kind: RepoKind, folder: Path, files: dict[str, int], repo_id: str, private: bool) -> Publication:
    if get_token() is None:
        raise PublishingError("You are not logged in to the Hub; run 'hf auth login' with a token that may write.")
    api = HfApi()
    try:
        url = api.create_repo(
            repo_id,
            repo_type=kind,
            private=private,
            exist_ok=True,
            space_sdk="gradio" if kind == RepoKind.SPACE else None,
        )
        is_private = api.repo_info(repo_id, repo_type=kind).private
        if private and not is_private:
            raise PublishingError(f"{repo_id} exists and is public; say --public to upload to it.")
        if is_private and not private:
            logger.warning("%s exists and stays private; its visibility is changed in its settings.", repo_id)
        api.upload_folder(
            repo_id=repo_id,
            repo_type=kind,
            folder_path=folder,
            commit_message=f"Upload the {kind}",
            allow_patterns=[_literal_pattern(name) for name in files],
            delete_patterns=REPLACED_PATTERNS,
        )
    except HfHubHTTPError as error:
        raise PublishingError(_explain(error, kind, repo_id)) from error
    except (HTTPError, OfflineModeIsEnabled, ConnectionError, TimeoutError) as error:
        raise PublishingError(
            f"The Hub at {api.endpoint} cannot be reached ({type(error).__name__}); "
            "check the network and run the command again, what has arrived is not sent twice."
        ) from error
    return Publication(files, str(url), is_private)


def _literal_pattern(name: str) -> str:
    """`fnmatch` pattern that only `name` matches."""
    return "".join(f"[{character}]" if character in "*?[" else character for character in name)


def _explain(error: HfHubHTTPError, kind: RepoKind, repo_id: str) -> str:
    """One sentence for an answer of the Hub. It quotes nothing of the request, whose headers hold the token."""
    status = error.response.status_code
    if status == 401:
        reason = "the Hub does not accept your token; run 'hf auth login' again"
    elif status == 403:
        reason = f"your token may not write to {repo_id.split('/')[0]}; use one with write access, or another owner"
    elif status == 404:
        reason = "there is no such repository, or your token cannot see it; check the name"
    elif status in (409, 412):
        reason = "somebody else changed the repository at the same time; run the command again"
    elif status == 429:
        reason = "the Hub asks for a pause; run the command again in some minutes"
    elif status >= 500:
        reason = "the Hub has a fault at the moment; run the command again later, what has arrived is not sent twice"
    else:
        reason = "the Hub refused the upload" + (f" ({error.server_message})" if error.server_message else "")
    return f"The {kind} was not published to {repo_id} (HTTP {status}): {reason}."
