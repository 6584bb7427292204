"""Finding what to measure on: folders of pairs, side-by-side pictures, `datasets` corpora, real photographs without a twin."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from huggingface_hub import HfApi, constants

from ..corpora import is_saved, load_corpus, type_of
from ..files import as_path, as_text, folders_below
from ..images import pictures_below, pictures_by_stem, read_rgb, rgb_of
from ..messages import one_line
from ..types import RainType


UNKNOWN_TYPE = "unknown"
CORPUS_SUFFIXES = (".parquet", ".arrow")
HUB_TIMEOUT = 5.0
DEFAULT_SPLITS = ("test", "validation")
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")

ReadPair = Callable[[], tuple[np.ndarray, np.ndarray | None]]


@dataclass(frozen=True)
class EvaluationPair:
    """One rainy picture and, where there is one, its clean twin; decoded when its turn comes.

    Attributes:
        dataset (`str`): the set it counts for.
        rain_type (`str`): `DRS`, `DRD`, `NRS`, `NRD` or any other name.
        name (`str`): unique within its dataset and type.
        read (`Callable`): gives (rainy, clean), uint8 RGB of equal shape (height, width, 3); clean is None without twin.
        changed (`int`): when its files last were, in nanoseconds, so that old figures are not taken for theirs; 0 if unknown.
    """

    dataset: str
    rain_type: str
    name: str
    read: ReadPair
    changed: int = 0

    def __post_init__(self):
        for field in ("dataset", "rain_type", "name"):  # reports are text, which names of files need not be
            object.__setattr__(self, field, as_text(getattr(self, field)))

    @property
    def key(self) -> tuple[str, str, str]:
        return self.dataset, self.rain_type, self.name


def find_pairs(
    data: str | Path, split: str | None = None, leave_out: str | Path | None = None
) -> list[EvaluationPair]:
    """Everything measurable at one place, in a fixed order.

    - Folders of pairs, `<TYPE>/<dataset>/{input,target}` at any depth; pairs have the same file name but for the
      extension. A folder `pair` instead of the two holds side-by-side pictures, clean left and rainy right.
    - A `datasets` corpus with the columns `input`, `target` and `type`: Parquet or saved to disk, or an id on the Hub.
    - Where there are no pairs, every picture is a real one without a twin: `<TYPE>/*`.

    Links below `data` are followed; what they lead to goes by their names. Hidden folders are passed over.

    Args:
        data (`str` or `Path`): a folder, or a dataset's id on the Hub.
        split (`str`, *optional*): of a corpus. Default: `test`, `validation` or the only one.
        leave_out (`str` or `Path`, *optional*): a folder below `data`, not `data` itself, that is not looked at: where a
            report is written.

    Raises:
        ValueError: nothing to measure there, `leave_out` is all of it, a picture or folder without its twin, two pictures of one name, no such split.
        OSError: the Hub cannot be reached.
    """
    root = as_path(data)
    if root.is_file() and root.suffix not in CORPUS_SUFFIXES:
        raise ValueError(f"{data} is a file: give the folder that holds the pictures.")
    if not root.exists() and not HUB_ID.fullmatch(str(data)):
        raise ValueError(f"{data} does not exist: give a folder of pictures or the id of a corpus on the Hub.")
    if not root.exists() or _is_corpus(root):
        return _corpus_pairs(str(data), split)
    if split is not None:
        raise ValueError(f"{data} is a folder of pictures, which has no split {split!r}: leave --split out.")
    left_out = leave_out and Path(leave_out)
    if left_out and left_out.is_dir() and left_out.samefile(root):
        raise ValueError(
            f"{left_out} is where the pictures are, and the report's sheets would be taken for more of them: choose another "
            "--output."
        )
    folders = sorted(folders_below(root, left_out))
    pairs = [pair for folder in folders for pair in _folder_pairs(folder, root)]
    if pairs:
        for folder in folders:
            _check_not_half(folder)
    else:
        pairs = _unpaired(root, left_out)
    if not pairs:
        raise ValueError(f"{data} holds no pictures: expected <TYPE>/<dataset>/input and target, or <TYPE>/*.")
    return pairs


def _folder_pairs(folder: Path, root: Path) -> list[EvaluationPair]:
    """The pairs that lie directly in `folder`."""
    place = root.resolve() / folder.relative_to(root)
    parent = place.parent.name
    nested = len(folder.relative_to(root).parts) >= 2
    rain_type = parent if nested or parent in set(RainType) else UNKNOWN_TYPE
    make = partial(EvaluationPair, place.name, rain_type)
    if (folder / "pair").is_dir():
        return [
            make(stem, partial(_read_side_by_side, path), _changed(path))
            for stem, path in pictures_by_stem(folder / "pair").items()
        ]
    if not ((folder / "input").is_dir() and (folder / "target").is_dir()):
        return []
    inputs, targets = pictures_by_stem(folder / "input"), pictures_by_stem(folder / "target")
    if not inputs and (pictures_below(folder / "input") or pictures_below(folder / "target")):
        raise ValueError(
            f"{folder / 'input'} holds no pictures itself: those of pairs lie directly in input and target."
        )
    if missing := sorted(inputs.keys() - targets.keys()):
        raise ValueError(
            f"{inputs[missing[0]]} has no target of the same name in {folder / 'target'}"
            + (f", nor have {len(missing) - 1} others" if len(missing) > 1 else "")
            + ": pairs need equal file names."
        )
    return [
        make(stem, partial(_read_pair, path, targets[stem]), _changed(path, targets[stem]))
        for stem, path in inputs.items()
    ]


def _check_not_half(folder: Path) -> None:
    """Beside pairs, an input or target without the other is one that something is wrong with."""
    there = [name for name in ("input", "target") if (folder / name).is_dir()]
    if len(there) == 1 and pictures_below(folder / there[0]):
        raise ValueError(f"{folder} has the folder {there[0]} alone: add its twin, or move it elsewhere.")


def _unpaired(root: Path, leave_out: Path | None) -> list[EvaluationPair]:
    """Real photographs: `<TYPE>/**`, or a folder of them whose type only its own name can tell."""
    place = root.resolve()
    pairs = []
    for path in pictures_below(root, leave_out):
        *folders, _ = path.relative_to(root).parts
        if place.name in set(RainType):
            dataset, rain_type = place.parent.name, place.name
        else:
            dataset, rain_type = place.name, folders[0] if folders else UNKNOWN_TYPE
        name = path.relative_to(root / rain_type if folders and folders[0] == rain_type else root).as_posix()
        pairs.append(EvaluationPair(dataset, rain_type, name, partial(_read_unpaired, path), _changed(path)))
    return pairs


def _changed(*paths: Path) -> int:
    return max(path.stat().st_mtime_ns for path in paths)


def _read_pair(rainy: Path, clean: Path) -> tuple[np.ndarray, np.ndarray]:
    pictures = read_rgb(rainy), read_rgb(clean)
    _check_equal_sizes(*pictures, str(rainy), str(clean))
    return pictures


def _read_side_by_side(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Clean left, rainy right, as ID-CGAN's test set has it."""
    both = read_rgb(path)
    if both.shape[1] % 2:
        raise ValueError(f"{path} is {both.shape[1]} pixels wide, which two pictures side by side cannot be.")
    clean, rainy = np.split(both, 2, axis=1)
    return rainy, clean


def _read_unpaired(path: Path) -> tuple[np.ndarray, None]:
    return read_rgb(path), None


def _check_equal_sizes(rainy: np.ndarray, clean: np.ndarray, rainy_name: str, clean_name: str) -> None:
    if rainy.shape != clean.shape:
        sizes = [f"{width} x {height}" for height, width, _ in (rainy.shape, clean.shape)]
        raise ValueError(
            f"{rainy_name} is {sizes[0]}, but its target {clean_name} is {sizes[1]}: a pair must be equal."
        )


# ---- datasets corpora ----------------------------------------------------------------------------------------------


def _is_corpus(root: Path) -> bool:
    if root.is_file():
        return root.suffix in CORPUS_SUFFIXES
    return is_saved(root) or (root / "dataset_info.json").is_file() or any(root.rglob("*.parquet"))


def _corpus_pairs(data: str, split: str | None) -> list[EvaluationPair]:
    try:
        import datasets
    except ImportError as error:
        raise ValueError(
            f"{data} is not a folder of pictures; reading it as a corpus needs `datasets`: pip install 'unirain[train]'."
        ) from error
    splits = _load_splits(data)
    if split is None:
        split = next((name for name in DEFAULT_SPLITS if name in splits), None) or (
            next(iter(splits)) if len(splits) == 1 else None
        )
    if split not in splits:
        asked = "needs --split" if split is None else f"has no split {split!r}"
        raise ValueError(f"{data} {asked}: it has {', '.join(sorted(splits))}.")
    rows = splits[split]
    if missing := {"input", "target", "type"} - set(rows.column_names):
        raise ValueError(f"{data} has no column {sorted(missing)[0]!r}: evaluation needs input, target and type.")
    if not len(rows):
        raise ValueError(f"The split {split!r} of {data} is empty.")
    for column in ("input", "target"):  # written by other programs, a picture is a struct that nothing says to decode
        try:
            rows = rows.cast_column(column, datasets.Image())
        except (TypeError, ValueError, NotImplementedError) as error:  # pyarrow's own are among them
            raise ValueError(f"The column {column!r} of {data} holds no pictures ({error}).") from error
    columns = set(rows.column_names)
    labels = getattr(rows.features["type"], "names", None)
    types = [type_of(value, labels, f"row {row} of {data}") or UNKNOWN_TYPE for row, value in enumerate(rows["type"])]
    names = rows["pair_id"] if "pair_id" in columns else [f"{index:06d}" for index in range(len(rows))]
    sources = rows["source"] if "source" in columns else [Path(data).stem] * len(rows)
    return [
        EvaluationPair(str(source), rain_type, str(name), partial(_read_row, rows, index, f"row {index} of {data}"))
        for index, (source, rain_type, name) in enumerate(zip(sources, types, names, strict=True))
    ]


def _load_splits(data: str) -> dict:
    """Split name -> rows, of whatever `datasets` can load."""
    root = as_path(data)
    try:
        if not root.exists() and not constants.HF_HUB_OFFLINE:
            # load_dataset retries a Hub out of reach for half a minute
            HfApi().dataset_info(data, timeout=HUB_TIMEOUT)
        corpus = load_corpus(data)
        return dict(corpus) if isinstance(corpus, dict) else {"all": corpus}
    except Exception as error:  # of datasets, pyarrow, huggingface_hub or its HTTP library
        reason = one_line(error)
        if root.exists():
            raise ValueError(f"{data} cannot be read as a corpus ({reason}).") from error
        raise OSError(
            f"{data} is neither a folder nor a corpus that the Hub gives ({reason}): check the path, or the id and the network."
        ) from error


def _read_row(rows, index: int, where: str) -> tuple[np.ndarray, np.ndarray]:
    try:
        row = rows[index]
        if empty := [column for column in ("input", "target") if row[column] is None]:
            raise ValueError(f"{empty[0]} is empty")
        pictures = [rgb_of(row[column]) for column in ("input", "target")]
    except Exception as error:  # decoders raise nearly anything on damaged files
        raise ValueError(f"{where} holds a picture that cannot be read ({error}).") from error
    _check_equal_sizes(*pictures, f"The input in {where}", "in the same row")
    return tuple(pictures)
