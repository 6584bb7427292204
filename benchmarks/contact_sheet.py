"""Rainy pictures beside what the released checkpoint makes of them, many on one sheet, for a person to look at:

    python benchmarks/contact_sheet.py data/test/DRD/qian2018/input data/real/DRS data/real/NRS data/real/DRD --output sheet.webp

Without folders, rain is rendered over the public-domain photographs in `examples/clean`: that sheet may be shown.
"""

import argparse
from pathlib import Path

from PIL import Image
from rain_sheet import rained_on
from tqdm import tqdm

from modeling_unirain import load_derainer
from modeling_unirain.images import pictures_below, read_rgb
from modeling_unirain.sheets import comparison_sheet
from modeling_unirain.types import RainType


ROOT = Path(__file__).parents[1]
SEVERITIES = (0.35, 0.55, 0.75, 0.9)
SEED = 1000
SIDE = 1024
"""Larger photographs are reduced to this before deraining."""


def found(folder: Path, each: int) -> list[tuple[str, Image.Image]]:
    """At most `each` pictures below a folder, evenly spread over the names."""
    paths = pictures_below(folder)
    pictures = []
    for path in paths[:: max(1, len(paths) // each)][:each]:
        picture = Image.fromarray(read_rgb(path))
        picture.thumbnail((SIDE, SIDE), Image.Resampling.BOX)
        pictures.append((path.stem, picture))
    return pictures


def rendered(photographs: Path) -> list[tuple[str, Image.Image]]:
    """Rain of the four types, from light to heavy."""
    pool = [read_rgb(path) for path in sorted(photographs.glob("*.jpg"))]
    return [
        (f"{rain_type}, severity {severity}, {style}", rainy)
        for rain_type in RainType
        for severity, (style, rainy) in zip(SEVERITIES, rained_on(pool, rain_type, SEVERITIES, SEED), strict=True)
    ]


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
