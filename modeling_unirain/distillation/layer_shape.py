"""Does what was removed look like rain: streaks or drops, of one direction, as sharp as the picture, once, and grey?

Each function looks at the layer, input minus target, alone or beside the scene. All take RGB float tensors (3, height, width) in grey
levels [0, 255], of at least 96 pixels a side, and return named scores; a name's first word is a key of `local_judges.MEANINGS`.
"""

import math

import torch
from torch import Tensor

from modeling_unirain.distillation.measurements import blocks, box_blur, gradients, luma, window
from modeling_unirain.distillation.rain_physics import sector_powers


FAR = 24
"""Pixels from which on a likeness of the layer to itself is a repetition."""
TILE = 64


def layer_drawn(rainy: Tensor, target: Tensor) -> dict[str, float]:
    """Streaks and drops are few, drawn in lines or blobs, and upright; noise, a scene and dirt are not."""
    layer = luma(rainy) - luma(target)
    fine = layer - box_blur(layer, 5)
    energy = float(fine.square().mean()) + 0.1
    half, most, peak = (
        float(v) for v in torch.quantile(fine.abs()[::2, ::2].flatten(), torch.tensor([0.5, 0.9, 0.99]))
    )
    lags = {
        "across": fine[:, 1:] * fine[:, :-1],
        "down": fine[1:] * fine[:-1],
        "falling": fine[1:, 1:] * fine[:-1, :-1],
        "rising": fine[1:, :-1] * fine[:-1, 1:],
    }
    likeness = {name: float(product.mean()) / energy for name, product in lags.items()}
    dx, dy = gradients(fine)
    xx, yy, xy = (blocks(part, TILE).mean(1) for part in (dx * dx, dy * dy, dx * dy))
    leaning = torch.stack([xx - yy, 2 * xy])
    total = xx + yy
    return {
        "drawn_floor": math.log2(half + 0.3),
        "drawn_peaks": math.log2((peak + 0.5) / (half + 0.5)),
        "drawn_thick": math.log2((peak + 0.5) / (most + 0.5)),
        **{f"drawn_{name}": value for name, value in likeness.items()},
        "drawn_longest": max(likeness.values()),
        "drawn_shortest": min(likeness.values()),
        "drawn_upright": float((xx - yy).sum() / (total.sum() + 5)),
        "drawn_one_way": float(leaning.sum(1).norm() / (leaning.norm(dim=0).sum() + 5)),
        "drawn_lines": float((leaning.norm(dim=0) / (total + 2)).median()),
    }


def layer_repeats(rainy: Tensor, target: Tensor) -> dict[str, float]:
    """Likeness of the layer to itself and to the scene, some way off: rain falls once, and is no copy of the scene."""
    grey = luma(torch.stack([rainy, target], 1))
    fine = grey - box_blur(grey, 9)
    height, width = (min(side, 320) for side in grey.shape[1:])
    top, left = (grey.shape[1] - height) // 2, (grey.shape[2] - width) // 2
    fine = fine[:, top : top + height, left : left + width] * window((height, width))
    layer, scene = fine[0] - fine[1], fine[1]
    of_layer, of_scene = torch.fft.rfft2(layer), torch.fft.rfft2(scene)
    y = torch.fft.fftfreq(height, 1 / height)[:, None]
    x = torch.fft.fftfreq(width, 1 / width)[None]
    distance = torch.hypot(y, x)
    alone = torch.fft.irfft2(of_layer.abs().square(), s=(height, width)) / (layer.square().sum() + 300)
    beside = torch.fft.irfft2(of_layer * of_scene.conj(), s=(height, width)) / (layer.norm() * scene.norm() + 300)
    far = (distance >= FAR) & (distance < min(height, width) / 2)
    sideways = far & (x.abs() > y.abs())
    off = (distance >= 2) & (distance < min(height, width) / 2)
    return {
        "repeats_most": float(alone[far].max()),
        "repeats_sideways": float(alone[sideways].max()),
        "repeats_beyond": math.log2(float(alone[far].max()) / (float(alone[far].std()) + 1e-3) + 1),
        "copies_most": float(beside[off].max()),
        "copies_least": float(beside[off].min()),
        "copies_here": float(beside[0, 0]),
        "copies_beyond": math.log2(float(beside[off].abs().max()) / (float(beside[off].std()) + 1e-3) + 1),
    }


def layer_spectrum(rainy: Tensor, target: Tensor) -> dict[str, float]:
    """The layer's power by size and direction, and beside the target's: rain is as sharp as the picture it is in."""
    ours, theirs = luma(rainy), luma(target)
    of_layer, of_target = (sector_powers(image) for image in (ours - theirs, theirs))
    usual, most = of_layer.median(0).values, of_layer.max(0).values
    beside = (of_layer - of_target).median(0).values
    return {
        **{f"spectrum_steps_{k}": float(usual[k + 1] - usual[k]) for k in range(3)},
        **{f"spectrum_most_{k}": float(most[k + 1] - most[k]) for k in range(3)},
        **{f"spectrum_directed_{k}": float(most[k] - of_layer[:, k].min()) for k in range(4)},
        **{f"spectrum_beside_{k}": float(beside[k]) for k in range(4)},
        "spectrum_turned": float((of_layer[:, 3] - of_layer[:, 1]).max() - (of_layer[:, 3] - of_layer[:, 1]).min()),
    }


def layer_channels(rainy: Tensor, target: Tensor) -> dict[str, float]:
    """The layer's three channels tell the same, of equal strength, at the same places, everywhere."""
    layer = rainy - target
    fine = layer - box_blur(layer, 5)
    flat = fine.flatten(1).double()
    covariance = flat @ flat.T / flat.shape[1]
    deviation = (covariance.diagonal() + 0.5).sqrt()
    likeness = covariance / (deviation[:, None] * deviation[None])
    values, vectors = torch.linalg.eigh(covariance)
    scores = {
        "channels_least": float(likeness[[0, 0, 1], [1, 2, 2]].min()),
        "channels_uneven": math.log2(float(deviation.max() / deviation.min())),
        "channels_grey": float(vectors[:, 2].abs().sum()) / math.sqrt(3),
        "channels_second": float((values[1] + 0.2) / (values[2] + 1)),
    }
    tiles = torch.stack([blocks(plane, TILE) for plane in fine])
    tiles = tiles - tiles.mean(2, keepdim=True)
    mean = tiles.mean(0)
    colour = (tiles - mean).square().sum(0).mean(1).sqrt() / (mean.square().mean(1).sqrt() + 1.5)
    found = torch.quantile(colour, torch.tensor([0.5, 0.9, 1.0]))
    red, blue = fine[0], fine[2]
    norm = float(red.norm() * blue.norm()) + 100
    for name, axis in (("across", 1), ("down", 0)):
        ahead, back = (float((red * blue.roll(step, axis)).sum()) / norm for step in (1, -1))
        scores[f"channels_lopsided_{name}"] = abs(ahead - back)
    return scores | {f"channels_colour_{n}": float(v) for n, v in zip((50, 90, 100), found, strict=True)}
