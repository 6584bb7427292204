"""The smallest runs that use the real loop, data and network: seconds on one core."""

import json
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from modeling_unirain.training.arguments import Arguments, parse_arguments


def scene(seed: int, size: int = 48) -> np.ndarray:
    """A uint8 picture (size, size, 3) of soft colours and hard-edged boxes."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:size, 0:size] / size
    picture = np.stack([0.5 + 0.3 * np.sin(5 * x + c + seed) * np.cos(4 * y + c) for c in range(3)], axis=-1)
    for _ in range(8):
        top, left = rng.integers(0, size - 8, 2)
        height, width = rng.integers(4, 20, 2)
        picture[top : top + height, left : left + width] = rng.random(3)
    return (picture.clip(0, 1) * 255).astype(np.uint8)


def write_pairs(root: Path, types: tuple[str, ...] = ("DRS", "NRD"), count: int = 3) -> Path:
    """Paired folders; the input is the target made brighter by a fifth, which a network learns in a few steps."""
    for number, name in enumerate(types):
        for index in range(count):
            target = scene(10 * number + index) * 0.75
            for folder, picture in {"input": target + 51, "target": target}.items():
                file = root / name / "made" / folder / f"{index}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture.astype(np.uint8)).save(file)
    return root


def write_recipe(folder: Path, **changes) -> Path:
    """A recipe over pairs and rendered rain, written with its data into `folder`."""
    pairs = write_pairs(folder / "pairs")
    photograph = folder / "clean" / "photograph.png"
    photograph.parent.mkdir(exist_ok=True)
    Image.fromarray(scene(99, 64)).save(photograph)
    recipe = {
        "model": "unirain-tiny",
        "output_dir": str(folder / "run"),
        "cpu": True,
        "max_steps": 12,
        "batch_size": 4,
        "patch_size": 16,
        "learning_rate": 1e-3,
        "warmup_steps": 2,
        "num_workers": 0,
        "logging_steps": 1,
        "validation_steps": 4,
        "save_steps": 5,
        "objective_warmup_rounds": 1,
        "data": {
            "types": ["DRS", "NRD"],
            "samples_per_epoch": 10,
            "cache_gib": 0.1,
            "sources": [
                {"kind": "paired", "root": str(pairs)},
                {"kind": "clean", "day": [str(photograph)], "weight": 0.5},
            ],
        },
        "validation": {
            "samples_per_type": 2,
            "crop_size": 32,
            "sources": [{"kind": "paired", "root": str(pairs)}],
        },
    }
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe | changes))
    return file


def tiny_arguments(folder: Path, *flags: str, **changes) -> Arguments:
    return parse_arguments(["--recipe", str(write_recipe(folder, **changes)), *flags])


def logged(output_dir: Path, name: str) -> dict[int, float]:
    """Step -> what the training log says; exact, since JSON keeps every digit of a float."""
    lines = (output_dir / "train_log.jsonl").read_text().splitlines()
    return {record["step"]: record[name] for record in map(json.loads, lines)}


def losses(output_dir: Path) -> dict[int, float]:
    return logged(output_dir, "loss")
