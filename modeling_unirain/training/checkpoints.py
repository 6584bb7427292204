"""The checkpoints of a run: each is complete or absent, the best and the latest are kept, older ones removed."""

import json
import shutil
from pathlib import Path
from typing import Any

from modeling_unirain.files import as_path, replace_folder, write_json


PREFIX = "checkpoint-"
BEST_FILE = "best.json"
AVERAGE_FOLDER = "ema"
"""The averaged weights inside a checkpoint: a model folder, usable as it is while the run goes on."""


class Checkpoints:
    """Folders `<output_dir>/checkpoint-<step>`; `best.json` beside them names the best and its figures.

    A checkpoint is written into a folder called `*.tmp` and renamed, so that a run killed at any moment leaves only
    complete ones. Only the main process may call what writes.

    Args:
        output_dir (`Path`): the run's folder.
        total_limit (`int`): how many of the latest are kept, besides the best.
    """

    def __init__(self, output_dir: Path, total_limit: int):
        self.output_dir = output_dir
        self.total_limit = total_limit

    def list(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        found = [p for p in self.output_dir.glob(f"{PREFIX}*") if p.name.removeprefix(PREFIX).isdigit()]
        return sorted(found, key=lambda path: int(path.name.removeprefix(PREFIX)))

    def best(self) -> dict[str, Any] | None:
        """What was given to `mark_best` last, with the checkpoint's name under `checkpoint`; `None` before that."""
        file = self.output_dir / BEST_FILE
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None

    def find(self, name: str) -> Path | None:
        """The folder meant by `last`, `best` or a path; `None` for `last` where there is none yet.

        Raises:
            ValueError: there is no such checkpoint.
        """
        if name == "last":
            return self.list()[-1] if self.list() else None
        if name == "best":
            best = self.best()
            if best is None:
                raise ValueError(
                    f"{self.output_dir} has no best checkpoint to resume from: no validation round was run."
                )
            return self.output_dir / best["checkpoint"]
        folder = as_path(name)
        if not folder.is_dir():
            raise ValueError(
                f"There is no checkpoint '{name}': --resume_from takes last, best or a checkpoint's folder."
            )
        return folder

    def path(self, step: int) -> Path:
        return self.output_dir / f"{PREFIX}{step:08d}"

    def prepare(self, step: int) -> Path:
        """An empty temporary folder for the checkpoint of this step."""
        folder = self.temporary(step)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def temporary(self, step: int) -> Path:
        return self.output_dir / f"{self.path(step).name}.tmp"

    def commit(self, step: int) -> None:
        """Give the temporary folder its name: from here on the checkpoint exists.

        Checkpoints of later steps belong to a future that the run went back from and will redo; they go.
        """
        replace_folder(self.temporary(step), self.path(step))
        self._forget_after(step)

    def mark_best(self, step: int, results: dict[str, Any]) -> None:
        """Name the best checkpoint; it must have been committed."""
        write_json(self.output_dir / BEST_FILE, {"checkpoint": self.path(step).name, **results})

    def rotate(self) -> None:
        """Remove all but the latest and the best."""
        best = (self.best() or {}).get("checkpoint")
        for folder in self.list()[: -self.total_limit]:
            if folder.name != best:
                shutil.rmtree(folder)

    def remove_leftovers(self) -> None:
        """Remove what a killed run left half-written."""
        for folder in self.output_dir.glob(f"{PREFIX}*.tmp"):
            shutil.rmtree(folder)

    def _forget_after(self, step: int) -> None:
        best = self.best()
        if best is not None and best["step"] > step:
            (self.output_dir / BEST_FILE).unlink()
        for folder in self.list():
            if int(folder.name.removeprefix(PREFIX)) > step:
                shutil.rmtree(folder)
