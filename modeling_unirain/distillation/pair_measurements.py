"""What the `local` preset measures between the two images of a pair, beside `measurements.py`, which looks at one.

All on float32 tensors in grey levels [0, 255], (height, width) for luma and (3, height, width) for RGB.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from modeling_unirain.distillation.measurements import (
    BLOCK,
    blocks,
    box_blur,
    gradients,
    luma,
    noise_levels,
    rms,
    working_crop,
)


LAYOUT_SIZE = 1024
LAYOUT_CELL = 8
LAYOUT_WINDOW = 12
"""Cells a side of the windows in which the layout is compared: 96 pixels."""


def texture_gain(fine: Tensor, fine_clean: Tensor) -> float:
    """How strong the scene's texture is in `fine` for 1 in `fine_clean`: the median over the most textured quarter of blocks."""
    ours, theirs = blocks(fine), blocks(fine_clean)
    energy = theirs.square().sum(1)
    slopes = (ours * theirs).sum(1) / (energy + BLOCK**2)
    return float(slopes[energy >= energy.quantile(0.75)].median())


def block_agreement(a: Tensor, b: Tensor) -> Tensor:
    """Correlation of `a` and `b` in each block where `b` has at least median texture; two grey levels of noise count as none."""
    a, b = blocks(a), blocks(b)
    norm = b.norm(dim=1)
    return ((a * b).sum(1) / (a.norm(dim=1) * norm + 2 * BLOCK))[norm >= norm.median()]


def border_agreement(layer: Tensor, clean: Tensor, reach: int = 5) -> float:
    """Mean cosine between the gradients of layer and clean image along the layer's outlines, in [-1, 1].

    Outlines are where changed and unchanged pixels meet within `reach`. Next to them a clean image knows nothing of the rain: the cosine
    is about 0, or negative where rain replaces the scene instead of adding to it. With rain left in the target it is positive.
    """
    top = float(np.quantile(layer.abs().numpy()[::3, ::3], 0.98))
    changed = (layer.abs() > max(2.0, 0.3 * top)).float()
    unchanged = (layer.abs() < max(1.0, 0.12 * top)).float()
    changed, unchanged = box_blur(torch.stack([changed, unchanged]), reach) > 0.02
    layer_x, layer_y = gradients(layer)
    clean_x, clean_y = gradients(clean)
    energy = layer_x.square() + layer_y.square()
    outline = (changed & unchanged)[:-1, :-1] & (energy > (0.1 * top) ** 2)
    if outline.sum() < 50:
        return 0.0
    dot = layer_x * clean_x + layer_y * clean_y
    cosine = dot / (energy.sqrt() * (torch.hypot(clean_x, clean_y) + 0.5) + 1e-3)
    return float(cosine[outline].mean())


def line_agreement(lines: Tensor, lines_clean: Tensor) -> float:
    """Mean sign with which the clean image follows the layer's strongest lines, in [-1, 1]."""
    strong = lines > 2 * lines.abs().mean() + 0.5
    if strong.sum() < 50:
        return 0.0
    return float((lines_clean / (lines_clean.abs() + 0.5))[strong].mean())


def noise_gain(rainy: Tensor, target: Tensor) -> float:
    """log2 of how much noisier the luma `target` is than `rainy` in the target's flattest quarter; rain makes it negative."""
    noise, _ = noise_levels(rainy)
    noise_target, deviation = noise_levels(target)
    flat = deviation <= deviation.quantile(0.25)
    return math.log2((float(noise_target[flat].median()) + 0.5) / (float(noise[flat].median()) + 0.5))


def colour_changes(rainy: Tensor, target: Tensor) -> dict[str, float]:
    """How the colours of the RGB `target` relate to those of `rainy`.

    Returns:
        `dict[str, float]`: `colour_gain` and `fine_colour_gain` (log2 of the target's colourfulness over the rainy image's, of areas and of
        fine detail), `colour_kept` (least-squares factor from the rainy image's colours to the target's; 0 for other colours),
        `red_blue_shift` and `red_blue_everywhere` (how far the ratio of red to blue moved, in log2: the median, and what three quarters of
        the picture exceed).
    """
    both = torch.stack([rainy, target])
    areas = box_blur(both, 15)
    coarse = areas[..., ::3, ::3]
    a, b = (_colour_planes(image) for image in coarse)
    fine_a, fine_b = (_colour_planes(image) for image in both - areas)
    ratio = torch.log2((coarse[0] + 8) / (coarse[1] + 8))
    moved = ratio[0] - ratio[2]
    prior = 16.0 * a.numel()
    return {
        "colour_gain": math.log2((rms(b) + 2) / (rms(a) + 2)),
        "fine_colour_gain": math.log2((rms(fine_b) + 1) / (rms(fine_a) + 1)),
        "colour_kept": float(((a * b).sum() + prior) / (a.square().sum() + prior)),
        "red_blue_shift": abs(float(moved.median())),
        "red_blue_everywhere": float(moved.abs().quantile(0.25)),
    }


def layout_kept(rainy: np.ndarray, target: np.ndarray) -> float:
    """How much of the target's layout the rainy image still shows where it shows least: 1 where nothing hides it, 0 for another scene.

    Windows of `LAYOUT_WINDOW` cells over nearly the whole picture, at a size where streaks have averaged out; the least-squares factor from
    target to rainy image in each that has a layout, and of these the lower decile.

    Args:
        rainy, target (`np.ndarray`): RGB (height, width, 3), `uint8`.
    """
    images = torch.stack([luma(working_crop(image, LAYOUT_SIZE)) for image in (rainy, target)])
    cells = F.avg_pool2d(images[:, None], LAYOUT_CELL)
    size = min(LAYOUT_WINDOW, *cells.shape[2:])

    def mean(values: Tensor) -> Tensor:
        return F.avg_pool2d(values, size, stride=max(1, size // 3)).flatten()

    a, b = cells[:1], cells[1:]
    covariance = mean(a * b) - mean(a) * mean(b)
    variance = (mean(b * b) - mean(b) ** 2).clamp(min=0)
    has_layout = variance > min(100.0, 0.999 * float(variance.max()))
    factor = (covariance + 8) / (variance + 8)
    return float(factor[has_layout].quantile(0.1)) if has_layout.any() else 1.0


def _colour_planes(image: Tensor) -> Tensor:
    """(3, ...) -> (2, ...): red against green, yellow against blue."""
    red, green, blue = image
    return torch.stack([red - green, 0.5 * (red + green) - blue])
