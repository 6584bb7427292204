"""One validation round: loss, PSNR and SSIM per type, and the same figures for the input that was to be improved."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from modeling_unirain.metrics import IDENTICAL_PSNR, psnr, quantize, ssim
from modeling_unirain.sheets import comparison_sheet


@dataclass
class TypeResult:
    """Means over a type's validation images; PSNR in dB, on 8-bit values in RGB, as papers report it."""

    images: int
    loss: float
    psnr: float
    ssim: float
    input_psnr: float
    input_ssim: float


@dataclass
class ValidationResult:
    """A round's figures per type, in the order of the types; and a few pictures, on the main process only."""

    step: int
    per_type: dict[str, TypeResult]
    sheet: Image.Image | None = field(default=None, repr=False)

    @property
    def psnr(self) -> float:
        """Mean over the types, every type counting alike: what `best` means."""
        return fmean(result.psnr for result in self.per_type.values())

    def losses(self) -> dict[str, float]:
        return {name: result.loss for name, result in self.per_type.items()}

    def as_dict(self) -> dict[str, Any]:
        per_type = {name: asdict(result) for name, result in self.per_type.items()}
        return {"step": self.step, "psnr": self.psnr, "per_type": per_type}

    def is_of_the_pictures_of(self, other: dict[str, Any]) -> bool:
        """Whether another round, as `as_dict` gives it, measured the same pictures: by how many, and how far their inputs
        are from their targets, since paths may change where pictures do not, and the other way round."""
        return self.per_type.keys() == other["per_type"].keys() and all(
            other["per_type"][name]["images"] == result.images
            and math.isclose(other["per_type"][name]["input_psnr"], result.input_psnr, rel_tol=1e-5)
            for name, result in self.per_type.items()
        )

    def scalars(self) -> dict[str, float]:
        """Flat names for a tracker: `validation/psnr/NRD`, ..."""
        flat = {
            f"validation/{name}/{rain_type}": getattr(result, name)
            for rain_type, result in self.per_type.items()
            for name in ("loss", "psnr", "ssim")
        }
        return flat | {"validation/psnr": self.psnr}


class ValidationInterrupted(Exception):
    """The round was given up on request; there is no result."""


@torch.no_grad()
def validate(
    accelerator: Accelerator,
    model: nn.Module,
    dataset: Sequence,
    types: list[str],
    step: int,
    interrupted: Callable[[], bool] = lambda: False,
) -> ValidationResult:
    """Measure `model` on every sample of `dataset`, each process on its share; all processes get the same result.

    Args:
        accelerator (`Accelerator`): gives device, precision and the share.
        model (`nn.Module`): in evaluation mode.
        dataset (sequence of dicts): `pixel_values` and `labels`, float RGB in [0, 1], (3, height, width), sides multiples of
            the model's divisor; `rain_type`, an index into `types`.
        types (`list[str]`): names of the types, in the order of the result.
        step (`int`): noted in the result.
        interrupted (callable): asked before every picture; `True` on any process ends the round on all.

    Raises:
        ValidationInterrupted: the round was given up.
    """
    mine = range(accelerator.process_index, len(dataset), accelerator.num_processes)
    bar = tqdm(mine, desc="validation", leave=False, delay=2, disable=not accelerator.is_main_process or len(mine) < 8)
    rows, pictures = [], {}
    for index in bar:
        if interrupted():
            rows = [None]
            break
        sample = dataset[index]
        rainy, clean = (sample[key].unsqueeze(0).to(accelerator.device) for key in ("pixel_values", "labels"))
        with accelerator.autocast():
            derained = model(rainy.contiguous(memory_format=torch.channels_last)).reconstruction.float()
        name = types[sample["rain_type"]]
        output, target, source = quantize(derained), quantize(clean), quantize(rainy)
        figures = [
            (derained - clean).abs().mean(),
            psnr(output, target).clamp(max=IDENTICAL_PSNR),
            ssim(output, target),
            psnr(source, target).clamp(max=IDENTICAL_PSNR),
            ssim(source, target),
        ]
        rows.append((index, name, [float(figure) for figure in figures]))
        if accelerator.is_main_process and name not in pictures:
            pictures[name] = [_to_picture(image) for image in (source, output, target)]
    if accelerator.num_processes > 1:
        rows = gather_object(rows)
    if None in rows:
        raise ValidationInterrupted
    rows.sort()
    per_type = {name: _mean([figures for _, other, figures in rows if other == name]) for name in types}
    return ValidationResult(step, {name: r for name, r in per_type.items() if r}, _sheet(pictures))


def _mean(rows: Iterable[list[float]]) -> TypeResult | None:
    rows = list(rows)
    return TypeResult(len(rows), *(fmean(column) for column in zip(*rows, strict=True))) if rows else None


def _to_picture(image: Tensor) -> Image.Image:
    return Image.fromarray((image[0] * 255).round().byte().permute(1, 2, 0).cpu().numpy())


def _sheet(pictures: dict[str, list[Image.Image]]) -> Image.Image | None:
    if not pictures:
        return None
    return comparison_sheet(list(pictures.values()), ["input", "output", "target"], list(pictures))
