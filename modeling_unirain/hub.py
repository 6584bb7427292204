"""Export of a trained network as a folder that is ready for the Hub: weights, code, processor and card."""

import json
import shutil
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from safetensors import SafetensorError

from .files import replace_folder
from .image_processing_unirain import UniRainImageProcessor
from .messages import one_line
from .modeling_unirain import UniRainForImageDeraining
from .pipeline_unirain import UniRainPipeline


CARD = """---
{header}
---

# {title}

Removes rain from photographs: streaks or raindrops, by day or by night. UniRain (CVPR 2026,
[arXiv 2603.03967](https://arxiv.org/abs/2603.03967)), an independent implementation; the architecture is
`{model}` with {parameters:.1f} M parameters.

## Use

```python
from transformers import AutoModelForImageToImage, pipeline

model = AutoModelForImageToImage.from_pretrained("REPOSITORY", trust_remote_code=True)
derain = pipeline("image-to-image", model="REPOSITORY", trust_remote_code=True)
clean = derain("rainy.jpg")
```

It needs transformers 5.18 or a later 5.x.

Input and output are RGB in [0, 1]; height and width must be multiples of {size_divisor}, which the image processor sees to.

## Results

The run's own validation pictures at step {step} of {max_steps}, RGB, on 8-bit values. Where the sources below render
their rain, these pictures do as well: figures on public test sets come from `unirain evaluate`.

{results}

## Training data

{data}

The licence of these weights is given above; whether the data allows more or less is for whoever trains to clear.

## Settings

The averaged weights (EMA) of the best validation round are exported.

```json
{settings}
```

## Limits

Trained on the data above: rain that looks unlike it may stay or leave traces, and detail that looks like rain may go.
Night photographs gain most where lights are not clipped. It does not restore what a drop hides entirely.

## Citation

UniRain, CVPR 2026, arXiv 2603.03967.
"""


def export_checkpoint(
    model_folder: str | Path, folder: str | Path, settings: dict[str, Any], results: dict[str, Any]
) -> None:
    """Write what the Hub needs; a folder that is there already is replaced once the new one is complete.

    Args:
        model_folder (`str` or `Path`): weights and config, from `save_pretrained`.
        folder (`str` or `Path`): where the export goes.
        settings (`dict`): the run's arguments, as `training.arguments.Arguments.as_dict` gives them.
        results (`dict`): of the validation round of these weights, as `ValidationResult.as_dict` gives them.

    Raises:
        OSError: it could not be written; what was there is as it was.
    """
    folder = Path(folder)
    temporary = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    model = UniRainForImageDeraining.from_pretrained(model_folder)
    try:
        save_model(model, temporary)
        model_card(model, folder.parent.name, settings, results).save(temporary / "README.md")
    except (OSError, SafetensorError) as error:  # safetensors has its own for a full disk
        shutil.rmtree(temporary, ignore_errors=True)
        raise OSError(f"The export could not be written to {folder}: {one_line(error)}") from error
    replace_folder(temporary, folder)


def save_model(model: UniRainForImageDeraining, folder: Path) -> None:
    """Weights, config, image processor and the code of all three and of the pipeline, as `from_pretrained` takes them."""
    processor = UniRainImageProcessor(size_divisor=model.config.size_divisor)
    # Where it is: a pipeline would otherwise move the model to the first GPU.
    UniRainPipeline(model=model, image_processor=processor, device=model.device).save_pretrained(folder)
    for file in folder.iterdir():
        file.chmod(0o644)  # safetensors writes 0600, which others who share the folder cannot read


def model_card(
    model: UniRainForImageDeraining, title: str, settings: dict[str, Any], results: dict[str, Any]
) -> ModelCard:
    """The card of an export; see `export_checkpoint`."""
    header = ModelCardData(
        license=settings["license"],
        library_name="transformers",
        pipeline_tag="image-to-image",
        tags=["deraining", "image-restoration", "mixture-of-experts", "unirain"],
    )
    return ModelCard(
        CARD.format(
            header=header.to_yaml(),
            title=title,
            model=settings["model"],
            parameters=model.num_parameters() / 1e6,
            size_divisor=model.config.size_divisor,
            step=results["step"],
            max_steps=settings["max_steps"],
            results=results_table(results),
            data=data_list(settings["data"]),
            settings=json.dumps(without_places(settings), indent=2, default=str),
        )
    )


def results_table(results: dict[str, Any]) -> str:
    """Markdown, a line a type, of what `ValidationResult.as_dict` gives."""
    lines = [
        "| type | images | input PSNR (dB) / SSIM | output PSNR (dB) / SSIM | gain (dB) |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, r in results["per_type"].items():
        before, after = (f"{r[f'{prefix}psnr']:.2f} / {r[f'{prefix}ssim']:.4f}" for prefix in ("input_", ""))
        lines.append(f"| {name} | {r['images']} | {before} | {after} | {r['psnr'] - r['input_psnr']:+.2f} |")
    return "\n".join(lines)


def data_list(data: dict[str, Any]) -> str:
    """The recipe's sources, a line each; paths are cut to the part that names a data set, the last that is no half of pairs."""
    lines = []
    for source in data["sources"]:
        places = []
        for group in ("root", "path", "day", "night", "streaks", "backgrounds"):  # a list, or a single place
            there = source.get(group, [])
            places += there if isinstance(there, list) else [there]
        names = ", ".join(name_of(Path(str(place))) for place in places if place is not None)
        lines.append(f"- {source['kind']}: {names}, weight {source.get('weight', 1.0)}")
    return "\n".join(lines)


def name_of(place: Path) -> str:
    return place.parent.name if place.name in ("input", "target") else place.name


def without_places(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings without what only means something on the machine that trained."""
    places = ("data", "validation", "output_dir", "resume_from")
    settings = {name: value for name, value in settings.items() if name not in places}
    return settings | ({"init_from": Path(settings["init_from"]).name} if settings.get("init_from") else {})
