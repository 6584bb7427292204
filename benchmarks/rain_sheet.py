"""What the renderer draws: a sheet of the four types, and tables of how heavy and how fast it is.

python benchmarks/rain_sheet.py [--photographs examples/clean] [--output docs/rain_types.webp]
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from modeling_unirain.images import Picture, read_rgb, save_image
from modeling_unirain.rain import render_rain
from modeling_unirain.rain.night import is_night
from modeling_unirain.sheets import comparison_sheet
from modeling_unirain.types import RainType


ROOT = Path(__file__).parents[1]
SEVERITIES = (0.35, 0.5, 0.65, 0.8)
CROP = 96
THIRDS = {"light": (0.0, 1 / 3), "medium": (1 / 3, 2 / 3), "heavy": (2 / 3, 1.0)}


def rained_on(
    photographs: list[np.ndarray], rain_type: RainType, severities: Sequence[float], seed: int
) -> list[tuple[str, Image.Image]]:
    """Rain of one type over one photograph after the other, and the style drawn; day types over those by day only."""
    if rain_type in (RainType.DRS, RainType.DRD):
        photographs = [image for image in photographs if not is_night(image.astype(np.float32) / 255)]
    pictures = []
    for number, severity in enumerate(severities):
        photograph = photographs[(number + 1) % len(photographs)]
        rain = render_rain(photograph, rain_type, seed + number, severity=severity)
        pictures.append((rain.parameters.style, Image.fromarray((rain.rainy * 255).round().astype(np.uint8))))
    return pictures


def types_sheet(photographs: list[np.ndarray]) -> Image.Image:
    """A row of streaks or drops for every type, from light to heavy."""
    rows = [[picture for _, picture in rained_on(photographs, rain_type, SEVERITIES, 40)] for rain_type in RainType]
    titles = [f"severity {severity:.2f}" for severity in SEVERITIES]
    return comparison_sheet(rows, titles, [str(rain_type) for rain_type in RainType], cell_width=360)


def measure(photographs: list[np.ndarray], samples: int) -> None:
    """Prints the PSNR of rainy crops against their targets per type and style, and the processor time of a crop."""
    rng = np.random.default_rng(0)
    times = {}
    print("| type | style | samples | " + " | ".join(THIRDS) + " | 10 % | median | 90 % |\n|" + " --- |" * 9)
    for rain_type in RainType:
        found = defaultdict(list)
        start = time.process_time()
        for seed in tqdm(range(samples), desc=rain_type, leave=False, disable=None):
            photograph = photographs[seed % len(photographs)]
            y, x = (int(rng.integers(side - CROP + 1)) for side in photograph.shape[:2])
            crop = photograph[y : y + CROP, x : x + CROP]
            rendered = render_rain(crop, rain_type, seed, scale=1.0, context=photograph[::8, ::8])
            error = float(((rendered.rainy - rendered.clean) ** 2).mean())
            drawn = rendered.parameters
            for style in (drawn.style, "all"):
                found[style].append((drawn.severity, -10 * np.log10(error + 1e-6)))
        times[rain_type] = (time.process_time() - start) / samples
        for style, values in sorted(found.items()):
            severity, psnr = np.array(values).T
            thirds = [psnr[(severity >= low) & (severity <= high)] for low, high in THIRDS.values()]
            cells = [f"{np.median(third):.1f}" if len(third) else "" for third in thirds]
            cells += [f"{value:.1f}" for value in np.percentile(psnr, [10, 50, 90])]
            print(f"| {rain_type} | {style} | {len(values)} | " + " | ".join(cells) + " |")
    print(f"\nProcessor time of a {CROP} x {CROP} crop, means in ms:", end=" ")
    print(", ".join(f"{rain_type} {1000 * seconds:.1f}" for rain_type, seconds in times.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photographs", type=Path, default=ROOT / "examples" / "clean")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "rain_types.webp")
    parser.add_argument("--samples", type=int, default=400, help="Crops a type for the tables.")
    arguments = parser.parse_args()
    photographs = [read_rgb(path) for path in sorted(arguments.photographs.glob("*.jpg"))]
    save_image(Picture.from_pil(types_sheet(photographs)), arguments.output)
    measure(photographs, arguments.samples)


if __name__ == "__main__":
    main()
