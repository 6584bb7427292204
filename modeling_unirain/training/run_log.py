"""What a run leaves to look at: two JSON-lines files, pictures, curves, and the trackers that were asked for."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from matplotlib.figure import Figure
from PIL import Image

from modeling_unirain.files import written
from modeling_unirain.messages import one_line


TRAIN_LOG = "train_log.jsonl"
VALIDATION_LOG = "validation_log.jsonl"
CURVES = "curves.png"


def check_trackers(names: list[str]) -> None:
    """Accelerate passes over a tracker whose package is missing; a run of days would then leave no record.

    Raises:
        ValueError: a package is missing.
    """
    available = {str(tracker.value) for tracker in get_available_trackers()}
    for name in names:
        if name not in available:
            raise ValueError(
                f"--report_to {name} needs the package {name}: pip install {name}, or leave the tracker out."
            )


class RunLog:
    """Writes on the main process only; every method may be called on all.

    Args:
        accelerator (`Accelerator`): built with `log_with` and a logging folder.
        output_dir (`Path`): the run's folder.
    """

    def __init__(self, accelerator: Accelerator, output_dir: Path):
        self.accelerator = accelerator
        self.output_dir = output_dir

    def start(self, settings: dict[str, Any], step: int, validated_step: int) -> None:
        """Open the trackers, which store `settings`, the run's arguments; forget what a killed run logged beyond the step
        and the round that it resumes from."""
        if self.accelerator.is_main_process:
            self._truncate(self.output_dir / TRAIN_LOG, step)
            self._truncate(self.output_dir / VALIDATION_LOG, validated_step)
        flat = {name: value if isinstance(value, (int, float)) else str(value) for name, value in settings.items()}
        options = {
            "tensorboard": {"purge_step": step + 1} if step else {},
            "wandb": {"name": self.output_dir.name, "dir": str(self.output_dir)},
        }
        try:
            self.accelerator.init_trackers("unirain", config=flat, init_kwargs=options)
        except Exception as error:  # every tracker has its own: no account, no network, ...
            raise ValueError(f"A tracker of --report_to cannot be started: {one_line(error)}") from error

    def training(self, step: int, values: dict[str, float]) -> None:
        self._append(TRAIN_LOG, {"step": step, **values})
        self.accelerator.log({f"train/{name}": value for name, value in values.items()}, step=step)

    def validation(self, step: int, record: dict[str, Any], scalars: dict[str, float]) -> None:
        self._append(VALIDATION_LOG, record)
        self.accelerator.log(scalars, step=step)

    def pictures(self, step: int, sheet: Image.Image | None) -> None:
        """Keep the validation's pictures and redraw the curves."""
        if not self.accelerator.is_main_process:
            return
        named = {}
        if sheet is not None:
            folder = self.output_dir / "samples"
            folder.mkdir(exist_ok=True)
            with written(folder / f"step-{step:08d}.png") as temporary:
                sheet.save(temporary, format="PNG")
            named["samples"] = sheet
        records = read_records(self.output_dir / VALIDATION_LOG)
        with written(self.output_dir / CURVES) as temporary:
            draw_curves(records, temporary)
        with Image.open(self.output_dir / CURVES) as curves:
            named["curves"] = curves.convert("RGB")
        self._log_images(step, named)

    def finish(self) -> None:
        self.accelerator.end_training()

    def _log_images(self, step: int, images: dict[str, Image.Image]) -> None:
        for tracker in self.accelerator.trackers:
            if tracker.name == "tensorboard":
                arrays = {name: np.asarray(image)[None] for name, image in images.items()}
                tracker.log_images(arrays, step=step, dataformats="NHWC")
            elif tracker.name == "wandb":
                tracker.log_images({name: [image] for name, image in images.items()}, step=step)

    def _append(self, name: str, record: dict[str, Any]) -> None:
        if self.accelerator.is_main_process:
            line = json.dumps(_without_nan(record), allow_nan=False) + "\n"
            try:
                with (self.output_dir / name).open("a", encoding="utf-8") as file:
                    file.write(line)
            except OSError as error:  # which does not name the file where the disk is full
                raise OSError(f"{self.output_dir / name} cannot be written: {error.strerror or error}.") from error

    @staticmethod
    def _truncate(file: Path, step: int) -> None:
        if file.exists():
            kept = [json.dumps(record) + "\n" for record in read_records(file) if record["step"] <= step]
            with written(file) as temporary:
                temporary.write_text("".join(kept), encoding="utf-8")


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: a figure that was not measured is null."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_records(file: Path) -> list[dict[str, Any]]:
    """The lines of a log; a last line that a killed run did not finish is left out."""
    records = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else []:
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def draw_curves(records: list[dict[str, Any]], file: Path) -> None:
    """Validation loss, PSNR and weight of every type, and the adaptivity factor, over the steps."""
    figure = Figure(figsize=(11, 7), layout="constrained")
    axes = figure.subplots(2, 2).flat
    steps = [record["step"] for record in records]
    types = list(dict.fromkeys(name for record in records for name in record["per_type"]))
    panels = {
        "validation loss / first": lambda r, t: r["objective"]["normalized_loss"].get(t),
        "PSNR (dB)": lambda r, t: r["per_type"].get(t, {}).get("psnr"),
        "weight": lambda r, t: r["objective"]["weight"].get(t),
    }
    for axis, (title, read) in zip(axes, panels.items(), strict=False):
        for name in types:
            values = [read(record, name) for record in records]
            axis.plot(steps, [float("nan") if v is None else v for v in values], marker=".", label=name)
        axis.set_title(title)
        axis.legend()
    last = figure.axes[-1]
    last.plot(steps, [record["objective"]["adaptivity_factor"] for record in records], marker=".", color="black")
    last.set_title("adaptivity factor")
    for axis in figure.axes:
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
    figure.savefig(file, format="png", dpi=80)
