"""Opening a corpus of the Hub or of this disk with `datasets`, and its pictures as they are stored."""

import glob
from pathlib import Path
from typing import Any

from .files import as_path


def load_corpus(place: str | Path, split: str | None = None, streaming: bool = False) -> Any:
    """What lies at a place now, by `datasets`.

    Of a local folder whose card lists its files, `datasets` tells the rows in its cache by the folder's name and the
    card's header alone: it would give those that another folder of that name held, or this one before it was written
    anew. Files that are named to it are told by their paths and times.

    Args:
        place (`str` or `Path`): what `Dataset.save_to_disk` wrote, another folder that `datasets` knows, a Parquet or Arrow
            file, or a dataset's id on the Hub.
        split (`str`, *optional*): default all, by name. What was saved without splits has the one that is asked for.
        streaming (`bool`): see `datasets.load_dataset`; what was saved to disk is there and is not streamed.

    Raises:
        ValueError: a saved data set has no such split, or a folder's name is a pattern to `datasets`.
        Whatever `datasets` raises for what it cannot load.
    """
    import datasets  # only corpora need it

    folder = as_path(place)
    if is_saved(folder):
        saved = datasets.load_from_disk(folder)
        if split is None or isinstance(saved, datasets.Dataset):
            return saved
        if split not in saved:
            raise ValueError(f"{place} has no split {split!r}, only {', '.join(saved)}.")
        return saved[split]
    if folder.is_file():
        kind = "arrow" if folder.suffix.lower() == ".arrow" else "parquet"
        files = {split or "train": glob.escape(str(folder))}
        return datasets.load_dataset(kind, data_files=files, split=split, streaming=streaming)
    if not folder.is_dir():
        return datasets.load_dataset(str(place), split=split, streaming=streaming)
    if glob.has_magic(str(folder.resolve())):
        raise ValueError(
            f"{place}: datasets takes brackets and stars in a folder's name for a pattern: rename the folder."
        )
    files = datasets.load_dataset_builder(str(folder)).config.data_files
    return datasets.load_dataset(str(folder), data_files=files, split=split, streaming=streaming)


def is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` wrote it, with splits or without."""
    return any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))


def undecoded(data: Any, columns: list[str]) -> Any:
    """A data set, or a stream of one, whose pictures come as they are stored: `{"bytes", "path"}`, one of them perhaps `None`."""
    import datasets

    if isinstance(data, datasets.IterableDataset):
        data = data.decode(False)  # a stream of an image folder decodes by itself, whatever its columns are cast to
    for column in columns:
        data = data.cast_column(column, datasets.Image(decode=False))
    return data


def type_of(value: Any, names: list[str] | None, where: str) -> str | None:
    """A pair's type by its cell: any name, or the number of one of `names`, a ClassLabel's; `None` for a pair without a type, be
    the cell or the name empty or the label -1.

    Raises:
        ValueError: the cell holds something else; the message begins with `where` it is.
    """
    if value is None or value == "" or (names is not None and value == -1):
        return None
    if isinstance(value, str):
        return value
    if names is not None and isinstance(value, int) and 0 <= value < len(names):
        return names[value]
    known = "names like DRS are needed" if names is None else f"the column names {', '.join(names)} by their numbers"
    raise ValueError(f"{where} has {value!r} for its type, but {known}: mend the column")


def read_stored(path: str) -> bytes:
    """The file that a stored picture's `path` names, which may be one on the Hub (`hf://...`)."""
    import fsspec  # comes with `datasets`

    with fsspec.open(path, "rb") as file:
        return file.read()
