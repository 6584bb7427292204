"""Writes test sets of rendered rain: drops, for which there is no public set by night, or streaks by style.

    python benchmarks/rendered_sets.py rendered --day data/clean/day/kodak24 --night data/clean/night/nightscapes
    unirain evaluate rendered --output report
    python benchmarks/rendered_sets.py styles --day ... --night ... --types DRS NRS --styles sharp storm fog    # a set for each style

Every photograph is used once for each of its types, reduced to 512 pixels; the seed is its number in alphabetical order,
and how heavy the rain is follows from it. The photographs must be kept out of the training, as the recipe `unirain` does.
"""

import argparse
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from modeling_unirain.images import Picture, pictures_below, read_rgb, save_image
from modeling_unirain.rain import render_rain
from modeling_unirain.rain.parameters import STREAK_STYLES
from modeling_unirain.types import RainType


SIDE = 512


def photographs(folders: list[Path]) -> list[Path]:
    found = [path for folder in folders for path in pictures_below(folder)]
    names = Counter(path.stem for path in found)
    if twice := sorted((path for path in found if names[path.stem] > 1), key=lambda path: path.stem):
        raise SystemExit(f"{twice[0]} and {twice[1]} would have the same name in the set: rename one of them.")
    return sorted(found)


def reduced(path: Path) -> np.ndarray:
    image = Image.fromarray(read_rgb(path))
    image.thumbnail((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(image)


def save(values: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_image(Picture((values * 255).round().astype(np.uint8)), path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--day", type=Path, nargs="+", required=True, help="folders of photographs by day")
    parser.add_argument("--night", type=Path, nargs="+", required=True, help="folders of photographs by night")
    parser.add_argument("--types", nargs="+", default=["DRD", "NRD"], choices=[str(name) for name in RainType])
    parser.add_argument(
        "--styles", nargs="+", choices=list(STREAK_STYLES), help="a set of each of these, of the streak types"
    )
    arguments = parser.parse_args()
    if arguments.styles and not {"DRS", "NRS"} & set(arguments.types):
        parser.error("--styles are of streaks: name DRS, NRS or both as --types.")
    day, night = photographs(arguments.day), photographs(arguments.night)
    for rain_type in map(RainType, arguments.types):
        pool = day if rain_type in (RainType.DRS, RainType.DRD) else night
        streaks = rain_type in (RainType.DRS, RainType.NRS)
        for style in arguments.styles if arguments.styles and streaks else [None]:
            folder = arguments.output / rain_type / (style or "rendered")
            for seed, path in enumerate(tqdm(pool, desc=f"{rain_type} {folder.name}")):
                rendered = render_rain(reduced(path), rain_type, seed, styles={style: 1} if style else None)
                save(rendered.rainy, folder / "input" / f"{path.stem}.png")
                save(rendered.clean, folder / "target" / f"{path.stem}.png")


if __name__ == "__main__":
    main()
