"""Looks for test scenes among the training pictures: `python benchmarks/leaks.py DATA [--threshold 0.8]`.

`DATA` holds `test/`, `train/` and `clean/`. The middle of every test picture, at several scales and mirrored, is searched
for in every training picture by normalised cross-correlation of their high-passed grey thumbnails, so that crops,
rescaled and mirrored copies are found as well as the same frame. Prints the best matches as a table and, with `--sheet
FILE`, draws them, since a person sees at once which are the same scene. Exits with 1 when a match is above the threshold. Chance matches
of smooth pictures reach 0.87, other moments of the same scene come down to 0.64: look at the sheet, and at `--rows` enough of it.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from modeling_unirain.images import pictures_below, read_rgb
from modeling_unirain.sheets import comparison_sheet


SIDE = 64
"""Thumbnails have this many pixels along their longer side."""
SCALES = (0.5, 0.7, 1.0, 1.4, 2.0)
"""How much larger the test scene may stand in the training picture than in its own."""
TEMPLATE = 0.6
"""Share of the test picture's sides that is searched for."""
CHUNK = 16
"""Training pictures at a time."""


def scenes(data: Path) -> tuple[list[Path], list[Path]]:
    """Clean pictures of the test sets; every picture a training run may see, the rainy twins left out."""
    test = [path for path in pictures_below(data / "test") if path.parent.name in ("target", "pair")]
    train = [path for path in pictures_below(data / "train") if path.parent.name == "target"]
    return test, train + pictures_below(data / "clean")


def thumbnail(path: Path) -> Tensor:
    """Grey, high-passed, `(height, width)` with the longer side `SIDE`. Side-by-side pairs give their clean left half."""
    rgb = read_rgb(path)
    if path.parent.name == "pair":
        rgb = rgb[:, : rgb.shape[1] // 2]
    image = Image.fromarray(rgb).convert("L")
    image.thumbnail((SIDE, SIDE), Image.Resampling.BOX)
    grey = torch.from_numpy(np.asarray(image, np.float32).copy())
    blurred = F.avg_pool2d(grey[None, None], 9, stride=1, padding=4, count_include_pad=False)[0, 0]
    return grey - blurred


def centred(image: Tensor) -> Tensor:
    """Zero mean, unit norm."""
    image = image - image.mean()
    return image / image.norm().clamp(min=1e-6)


def templates(scene: Tensor) -> Iterator[Tensor]:
    """The middle of a test scene at every scale that fits a thumbnail, plain and mirrored."""
    for scale in SCALES:
        # Searched for at twice its size, less of the scene fits into a training picture.
        share = TEMPLATE / max(1.0, scale)
        height, width = scene.shape
        top, left = int(height * (1 - share) / 2), int(width * (1 - share) / 2)
        middle = scene[top : height - top, left : width - left]
        size = [max(10, round(side * scale)) for side in middle.shape]
        middle = F.interpolate(middle[None, None], size, mode="bilinear", antialias=True, align_corners=False)[0, 0]
        yield centred(middle)
        yield centred(middle.flip(1))


def best_correlations(templates: Tensor, canvases: Tensor, inside: Tensor) -> Tensor:
    """Highest normalised cross-correlation of every template `(m, height, width)` with every canvas `(n, SIDE, SIDE)`.

    `inside` marks the canvases' real pixels; only positions wholly within them count. Returns `(m, n)`.
    """
    _, height, width = templates.shape
    kernels = templates.flatten(1)
    best = []
    for canvas, real in zip(canvases.split(CHUNK), inside.split(CHUNK), strict=True):
        windows = F.unfold(canvas[:, None], (height, width))  # (chunk, height * width, positions)
        deviation = (windows.square().sum(1) - windows.sum(1).square() / height / width).clamp(min=1e-3).sqrt()
        whole = F.unfold(real[:, None], (height, width)).amin(1) > 0.5
        correlation = torch.where(whole[:, None], kernels @ windows / deviation[:, None], -1.0)
        best.append(correlation.amax(2).T)
    return torch.cat(best, dim=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--threshold", type=float, default=0.8)
    parser.add_argument("--rows", type=int, default=40, help="matches to print")
    parser.add_argument("--sheet", type=Path, help="picture of the printed matches")
    arguments = parser.parse_args()

    test, train = scenes(arguments.data)
    if not test or not train:
        sys.exit(f"{arguments.data} needs test/ and train/ or clean/ with pictures in them.")
    canvases, inside = torch.zeros(len(train), SIDE, SIDE), torch.zeros(len(train), SIDE, SIDE)
    for i, path in enumerate(tqdm(train, desc="training pictures")):
        picture = thumbnail(path)
        canvases[i, : picture.shape[0], : picture.shape[1]] = picture
        inside[i, : picture.shape[0], : picture.shape[1]] = 1

    # Templates of one size are searched for together.
    of_size: dict[tuple[int, int], list[tuple[int, Tensor]]] = {}
    for number, path in enumerate(tqdm(test, desc="test scenes")):
        for template in templates(thumbnail(path)):
            of_size.setdefault(tuple(template.shape), []).append((number, template))
    scores = torch.full((len(test), len(train)), -1.0)
    for members in tqdm(of_size.values(), desc="searching"):
        numbers = torch.tensor([number for number, _ in members])
        found = best_correlations(torch.stack([template for _, template in members]), canvases, inside)
        scores.scatter_reduce_(0, numbers[:, None].expand_as(found), found, "amax")
    highest, nearest = scores.max(dim=1)
    best = [(float(score), path, train[index]) for score, path, index in zip(highest, test, nearest, strict=True)]
    best.sort(key=lambda match: match[0], reverse=True)

    print(f"{len(test)} test scenes, {len(train)} training pictures; the nearest:\n")
    print("| correlation | test | training |\n| --- | --- | --- |")
    for score, scene, picture in best[: arguments.rows]:
        print(f"| {score:.3f} | {scene.relative_to(arguments.data)} | {picture.relative_to(arguments.data)} |")
    if arguments.sheet:
        rows = [[Image.fromarray(read_rgb(path)) for path in match[1:]] for match in best[: arguments.rows]]
        titles = [f"{match[0]:.3f}" for match in best[: arguments.rows]]
        comparison_sheet(rows, ["test", "training"], titles).save(arguments.sheet)
    found = sum(score > arguments.threshold for score, _, _ in best)
    print(f"\n{found} above {arguments.threshold}")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
