"""Writes test sets of rain that was drawn otherwise than `modeling_unirain.rain` draws it.

    python benchmarks/unforeseen_sets.py unforeseen --day data/clean/day/kodak24 --night data/clean/night/nightscapes \\
        data/test/NRS/nitedr_night/target --streets data/test/DRS/nitedr_day/target
    unirain evaluate unforeseen --output report

Streaks are Pillow's lines, fog grows with a depth made of a road below a horizon (Koschmieder's law), drops are ellipses that show the
blurred photograph upside down. What training on rendered rain is worth beyond it can be seen by them: nothing is shared with the
renderer but the photographs, which training has to leave out.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from rendered_sets import photographs, reduced, save
from tqdm import tqdm


Drawing = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def streaks(
    height: int, width: int, count: int, length: float, angle: float, thickness: float, rng: np.random.Generator
) -> np.ndarray:
    """Light (height, width, 1) in [0, 1] of `count` lines, drawn at twice the size."""
    plane = Image.new("L", (2 * width, 2 * height))
    draw = ImageDraw.Draw(plane)
    for _ in range(count):
        x, y = rng.uniform(-50, width + 50), rng.uniform(-50, height + 50)
        tilt, reach = np.radians(angle + rng.normal(0, 2)), length * rng.uniform(0.6, 1.4)
        end = (2 * (x + reach * np.sin(tilt)), 2 * (y + reach * np.cos(tilt)))
        draw.line(
            [(2 * x, 2 * y), end], int(rng.uniform(90, 255)), max(1, round(2 * thickness * rng.uniform(0.6, 1.4)))
        )
    return _float(plane.resize((width, height), Image.Resampling.BOX).filter(ImageFilter.GaussianBlur(0.6)))[..., None]


def rainy_street(image: np.ndarray, rng: np.random.Generator, thickness: tuple[float, float]) -> np.ndarray:
    """Streaks before fog; `thickness` is the range of its optical thickness at depth 1, the horizon's on the average."""
    height, width = image.shape[:2]
    row = np.linspace(0, 1, height)[:, None]
    horizon, beta, airlight = rng.uniform(0.35, 0.6), rng.uniform(*thickness), rng.uniform(0.75, 1)
    road = np.clip((1 - row) / (1 - horizon), 0.05, 1) ** 1.5
    farther = 0.6 + 0.6 * _blurred(image, 6).mean(axis=2)  # what is bright is mostly sky
    depth = np.where(row < horizon, 1.0, road) * farther
    seen = np.exp(-beta * depth)[..., None]
    rain = streaks(
        height, width, rng.integers(150, 500), rng.uniform(12, 35), rng.uniform(-20, 20), rng.uniform(0.7, 1.5), rng
    )
    rain *= rng.uniform(0.25, 0.7)
    return (image * seen + airlight * (1 - seen)) * (1 - rain) + 0.95 * rain


def night_rain(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Two layers of streaks that are bright near lamps, and a glow."""
    height, width = image.shape[:2]
    light = _blurred(image, 25)
    rainy = image
    for _ in range(2):
        rain = streaks(
            height,
            width,
            rng.integers(200, 700),
            rng.uniform(10, 45),
            rng.uniform(-25, 25),
            rng.uniform(0.6, 1.8),
            rng,
        )
        rainy = rainy + rain * (0.15 + rng.uniform(0.3, 1.2) * light) * rng.uniform(0.3, 0.8)
    return rainy + rng.uniform(0, 0.08) * (0.5 + light)


def drops(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Ellipses that show the photograph blurred, upside down and lighter or darker."""
    height, width = image.shape[:2]
    plane = Image.new("L", (2 * width, 2 * height))
    draw = ImageDraw.Draw(plane)
    for _ in range(int(rng.integers(20, 90))):
        x, y, radius = rng.uniform(0, 2 * width), rng.uniform(0, 2 * height), 18 * np.exp(rng.normal(0, 0.5))
        longer = radius * rng.uniform(0.8, 1.5)
        draw.ellipse([x - radius, y - longer, x + radius, y + longer], 255)
    plane = plane.resize((width, height), Image.Resampling.BOX).filter(ImageFilter.GaussianBlur(rng.uniform(0.8, 3)))
    inside = _blurred(image, rng.uniform(3, 8))[::-1, ::-1] * rng.uniform(0.8, 1.15) + rng.uniform(-0.05, 0.12)
    cover = rng.uniform(0.6, 0.95) * _float(plane)[..., None]
    return image * (1 - cover) + cover * np.clip(inside, 0, 1)


def sets(day: list[Path], night: list[Path], streets: list[Path]) -> Iterator[tuple[str, list[Path], Drawing]]:
    """Folder, photographs and drawing of each set."""
    yield "DRS/streets", streets, lambda image, rng: rainy_street(image, rng, (0, 0))
    yield "DRS/streets_fog", streets, lambda image, rng: rainy_street(image, rng, (0.3, 0.8))
    yield "DRS/streets_thick_fog", streets, lambda image, rng: rainy_street(image, rng, (0.8, 1.8))
    yield "NRS/lamps", night, night_rain
    yield "DRD/ellipses", day, drops
    yield "NRD/ellipses", night, drops


def write(folder: Path, paths: list[Path], drawing: Drawing) -> None:
    for seed, path in enumerate(tqdm(paths, desc=folder.name)):
        clean = reduced(path) / np.float32(255)
        rainy = np.clip(drawing(clean, np.random.default_rng(seed)), 0, 1)
        save(rainy, folder / "input" / f"{path.stem}.png")
        save(clean, folder / "target" / f"{path.stem}.png")


def _float(image: Image.Image) -> np.ndarray:
    return np.asarray(image, np.float32) / 255


def _blurred(image: np.ndarray, sigma: float) -> np.ndarray:
    return _float(Image.fromarray((image * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(sigma)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--day", type=Path, nargs="+", required=True, help="folders of photographs by day")
    parser.add_argument("--night", type=Path, nargs="+", required=True, help="folders of photographs by night")
    parser.add_argument("--streets", type=Path, nargs="+", required=True, help="folders of photographs of streets")
    arguments = parser.parse_args()
    for folder, paths, drawing in sets(*map(photographs, (arguments.day, arguments.night, arguments.streets))):
        write(arguments.output / folder, paths, drawing)


if __name__ == "__main__":
    main()
