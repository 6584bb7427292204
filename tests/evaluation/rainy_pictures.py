"""Small rainy pictures over public-domain photographs, and a derainer that is only a filter."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from skimage import data


def clean_picture(index: int, size: tuple[int, int] = (64, 48)) -> Image.Image:
    """A crop of a photograph, another for every index; (width, height)."""
    x, y = 20 + 40 * (index % 6), 20 + 40 * (index // 6)
    return Image.fromarray(data.astronaut()).crop((x, y, x + size[0], y + size[1]))


def rainy_picture(clean: Image.Image, seed: int) -> Image.Image:
    """White streaks one pixel wide, which a median filter takes away."""
    rainy, rng = clean.copy(), np.random.default_rng(seed)
    for x, y in rng.uniform(0, 1, (6 + 3 * seed, 2)) * clean.size:
        ImageDraw.Draw(rainy).line((x, y, x + 2, y + 12), fill=(235, 235, 240), width=1)
    return rainy


def write_pairs(folder: Path, count: int, first: int = 0) -> None:
    """`folder/{input,target}/000.png`, ..."""
    for kind in ("input", "target"):
        (folder / kind).mkdir(parents=True)
    for index in range(count):
        clean = clean_picture(first + index)
        clean.save(folder / "target" / f"{index:03d}.png")
        rainy_picture(clean, index).save(folder / "input" / f"{index:03d}.png")


def median_filter(image: Image.Image) -> Image.Image:
    return image.filter(ImageFilter.MedianFilter(3))
