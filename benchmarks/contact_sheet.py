"""Rainy pictures beside what the released checkpoint makes of them, many on one sheet, for a person to look at:

    python benchmarks/contact_sheet.py data/test/DRD/qian2018/input data/real/DRS data/real/NRS data/real/DRD --output sheet.webp

Without folders, rain is rendered over the public-domain photographs in `examples/clean`: that sheet may be shown.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from modeling_unirain import load_derainer
from modeling_unirain.images import read_rgb
from modeling_unirain.rain import render_rain
from modeling_unirain.rain.night import is_night
from modeling_unirain.sheets import comparison_sheet
from modeling_unirain.types import RainType


ROOT = Path(__file__).parents[1]
SEVERITIES = (0.35, 0.55, 0.75, 0.9)
SIDE = 1024
"""Larger photographs are reduced to this before deraining."""


def found(folder: Path, each: int) -> list[tuple[str, Image.Image]]:
    """At most `each` pictures below a folder, evenly spread over the names."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    pictures = []
    for path in paths[:: max(1, len(paths) // each)][:each]:
        picture = Image.fromarray(read_rgb(path))
        picture.thumbnail((SIDE, SIDE), Image.Resampling.BOX)
        pictures.append((path.stem, picture))
    return pictures


def rendered(photographs: Path) -> list[tuple[str, Image.Image]]:
    """Rain of the four types, from light to heavy."""
    everything = [read_rgb(path) for path in sorted(photographs.glob("*.jpg"))]
    by_day = [photograph for photograph in everything if not is_night(photograph.astype(np.float32) / 255)]
    pictures = []
    for rain_type in RainType:
        pool = by_day if rain_type in (RainType.DRS, RainType.DRD) else everything
        for number, severity in enumerate(SEVERITIES):
            rain = render_rain(pool[number % len(pool)], rain_type, 1000 + number, severity=severity)
            rainy = Image.fromarray((rain.rainy * 255).round().astype(np.uint8))
            pictures.append((f"{rain_type}, severity {severity}, {rain.parameters.style}", rainy))
    return pictures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="*")
    parser.add_argument("--each", type=int, default=20, help="pictures of every folder, at most")
    parser.add_argument("--columns", type=int, default=2, help="pictures beside each other, each with its result")
    parser.add_argument("--width", type=int, default=320, help="of a picture on the sheet, in pixels")
    parser.add_argument("--checkpoint", default="unirain")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "contact_sheet.webp")
    arguments = parser.parse_args()
    pictures = [picture for folder in arguments.folders for picture in found(folder, arguments.each)]
    pictures = pictures or rendered(ROOT / "examples" / "clean")
    derain = load_derainer(arguments.checkpoint)
    cells = [(name, [rainy, derain(rainy)]) for name, rainy in tqdm(pictures, desc="deraining")]
    groups = [cells[first : first + arguments.columns] for first in range(0, len(cells), arguments.columns)]
    sheet = comparison_sheet(
        [[picture for _, pair in group for picture in pair] for group in groups],
        ["rainy", "derained"] * arguments.columns,
        ["   |   ".join(name for name, _ in group) for group in groups],
        cell_width=arguments.width,
    )
    sheet.save(arguments.output, quality=80)


if __name__ == "__main__":
    main()
