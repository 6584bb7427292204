"""What a checkpoint does to photographs without rain, which it should leave alone:

    python benchmarks/no_harm.py data/clean/day/kodak24 data/clean/night/nightscapes [--checkpoint unirain] [--side 1024]

Prints, for every folder, how close the output stays to the input (PSNR in RGB over 8-bit values; 38 dB is the bar) and
how far its mean colour moves (in levels of 255, the channel that moves most).
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from modeling_unirain import load_derainer
from modeling_unirain.images import pictures_below, read_rgb
from modeling_unirain.metrics import psnr


IDENTICAL = 78.13
"""Stands for an unchanged photograph, whose PSNR is infinite, in the means: a mean square error of 0.001 levels."""


def closeness(before: np.ndarray, after: np.ndarray) -> float:
    tensors = (torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None] / 255 for pixels in (before, after))
    return min(float(psnr(*tensors)), IDENTICAL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--checkpoint", default="unirain")
    parser.add_argument("--side", type=int, default=1024, help="larger photographs are reduced to it")
    arguments = parser.parse_args()
    derain = load_derainer(arguments.checkpoint)
    print("| photographs | number | mean PSNR | lowest | below 38 dB | largest shift of the mean colour |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for folder in arguments.folders:
        close, shifts = [], []
        for path in tqdm(pictures_below(folder), desc=folder.name, leave=False):
            image = Image.fromarray(read_rgb(path))
            image.thumbnail((arguments.side, arguments.side), Image.Resampling.BOX)
            before, after = np.asarray(image), np.asarray(derain(image))
            close.append(closeness(before, after))
            shifts.append(np.abs(after.mean((0, 1)) - before.mean((0, 1))).max())
        below = sum(value < 38 for value in close)
        print(
            f"| {folder.name} | {len(close)} | {np.mean(close):.2f} | {min(close):.2f} | {below} | {max(shifts):.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
