"""What the physics of rain asks of a sound pair, measured: the input is the target with light added to it.

Rain knows nothing of the scene behind it. So wherever it does not fall the input is the target under a smooth veil, pixel by pixel and in
each colour; what was added is light, nearly grey, and tied to none of the scene's edges; and no part of the picture is an exception.
Each function measures one of these consequences and none of them a particular defect, so that defects that nobody thought of break
some, too. What sound pairs score, drops that bend and blur the scene included, is in `sound_pairs.json`.

All take RGB float tensors (3, height, width) in grey levels [0, 255], of at least 96 pixels a side, and return named scores; a name's
first word is a key of `local_judges.MEANINGS`.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from modeling_unirain.distillation.measurements import blocks, box_blur, luma, quantiles, rms, window


KERNEL = 5
"""Side of the neighbourhood from which a pixel is predicted."""
KERNEL_PIXELS = 40_000
TILE = 64
"""Side of the parts of the picture none of which may be an exception."""
EDGE = 10.0
"""Grey levels over two pixels from which on a step of colour is an edge."""
SPECTRUM_SIDE = 320
RINGS = ((0.03, 0.08), (0.08, 0.2), (0.2, 0.35), (0.35, 0.5))
"""Cycles per pixel."""


def amount_removed(rainy: Tensor, target: Tensor) -> dict[str, float]:
    """How strong the layer is: what the other scores must be seen against."""
    grey = luma(rainy) - luma(target)
    return {
        "removed_all": math.log2(rms(rainy - target) + 0.5),
        "removed_fine": math.log2(rms(grey - box_blur(grey, 5)) + 0.5),
    }


def scene_transfer(rainy: Tensor, target: Tensor) -> dict[str, float]:
    """Is a pixel's best prediction the same pixel of the other image?

    Rain is independent of the scene, so the linear filter that best predicts the input's fine detail from the target's is the pixel itself,
    weakened at most, and the other way round. Blur, movement, sharpening, displacement and resampling of one image show as other taps.
    """
    detail = luma(torch.stack([rainy, target], 1))
    detail = detail - box_blur(detail, 9)
    return {
        **_transfer_scores("transfer", *_transfer_kernel(detail[0], detail[1])),
        **_transfer_scores("return", *_transfer_kernel(detail[1], detail[0])),
    }


def edges_shared(rainy: Tensor, target: Tensor) -> dict[str, float]:
    """Is an edge of colour in one image one in the other, with the same strength, in every part of the picture?

    The target's edges show through all but opaque drops; those of the input that are no edges of the target are the rain's.
    """
    smooth = box_blur(torch.cat([rainy, target]), 3)
    along_x, along_y = smooth[:, 1:-1, 2:] - smooth[:, 1:-1, :-2], smooth[:, 2:, 1:-1] - smooth[:, :-2, 1:-1]
    shared = (along_x[:3] * along_x[3:] + along_y[:3] * along_y[3:]).sum(0)
    of_input, of_target = (
        (along_x[part].square() + along_y[part].square()).sum(0) for part in (slice(3), slice(3, 6))
    )
    return {**_edge_scores("edges_target", shared, of_target), **_edge_scores("edges_input", shared, of_input)}


def scene_in_layer(rainy: Tensor, target: Tensor) -> dict[str, float]:
    """Does the layer know the scene: its fine detail, its outlines, its coarser detail? Rain's layer does not."""
    grey = luma(torch.stack([rainy, target], 1))
    small, large = box_blur(grey, 5), box_blur(grey, 15)
    (_, fine), (_, middle) = grey - small, small - large
    layer, middle_layer = (part[0] - part[1] for part in (grey - small, small - large))
    outlines = F.conv2d(F.pad(grey[1:, None], (1, 1, 1, 1), mode="reflect"), _PEAK)[0, 0]
    return {
        **quantiles("layer_fine", _block_cosines(layer, fine, 32, 64), (0.05, 0.5, 0.9, 0.99)),
        **quantiles("layer_outlines", _block_cosines(layer, outlines, 32, 128), (0.05, 0.5, 0.95)),
        **quantiles("layer_middle", _block_cosines(middle_layer, middle, 64, 192), (0.05, 0.5, 0.95)),
    }


def light_added(rainy: Tensor, target: Tensor) -> dict[str, float]:
    """Is the layer light? Streaks are bright on what is dark; what darkens, as drops do, also smooths the input there."""
    grey = luma(torch.stack([rainy, target], 1))
    fine = grey - box_blur(grey, 5)
    layer = fine[0] - fine[1]
    tiles = blocks(layer, TILE)
    tiles = tiles - tiles.median(1, keepdim=True).values
    bright, dark = tiles.clamp(min=0).square().mean(1), tiles.clamp(max=0).square().mean(1)
    balance = torch.log2((dark + 1) / (bright + 1))
    of_input, of_target = (blocks(part, TILE).square().mean(1).sqrt() for part in fine)
    rained_on = torch.log2((of_input + 1) / (of_target + 1)) > 0.3
    strongly = rained_on & (bright + dark > 16)
    difference = grey[0] - grey[1]
    areas = blocks(box_blur(difference, 5), 32).mean(1)
    areas, usual = areas - areas.median(), float(areas.median())
    relative = areas / (blocks(grey[1], 32).mean(1) + 16)
    over_veil = difference - box_blur(difference, 31)
    return {
        "light_fine": math.log2((float(dark.sum()) + 4) / (float(bright.sum()) + 4)),
        "light_darkest_tile": float(balance[rained_on].max()) if rained_on.any() else -2.0,
        "light_usual_tile": float(balance[rained_on].median()) if rained_on.any() else -2.0,
        "light_darkest_rainy_tile": float(balance[strongly].max()) if strongly.any() else -2.0,
        "light_skew": float((layer**3).mean() / (layer.square().mean() + 1) ** 1.5),
        "light_over_veil": math.log2((rms(over_veil.clamp(max=0)) + 1) / (rms(over_veil.clamp(min=0)) + 1)),
        "light_area_usual": usual,
        "light_area_lowest": float(areas.quantile(0.02)),
        "light_area_highest": float(areas.quantile(0.98)),
        "light_area_relative": float(relative.quantile(0.02)),
    }


def fine_colours(rainy: Tensor, target: Tensor) -> dict[str, float]:
    """Is the rain grey in its fine detail, and the scene's fine colour what it was?"""
    colour = torch.cat([rainy - luma(rainy), target - luma(target)])
    fine = colour - box_blur(colour, 9)
    ours, theirs = fine[:3], fine[3:]
    grey = luma(rainy) - luma(target)
    layer = ours - theirs
    energy, energy_target, shared = (
        blocks(part.sum(0), 32).mean(1) for part in (ours.square(), theirs.square(), ours * theirs)
    )
    colourful = energy_target >= energy_target.quantile(0.5)
    agreement = shared / ((energy * energy_target).sqrt() + 1.5)
    gain = (shared + 1) / (energy_target + 1)
    return {
        "colours_of_layer": rms(layer) / (rms(grey - box_blur(grey, 5)) + 0.7),
        "colours_added": math.log2((rms(layer) + 0.5) / (rms(theirs) + 0.5)),
        **quantiles("colours_agreement", agreement[colourful], (0.1, 0.5, 0.9)),
        **quantiles("colours_gain", gain[colourful], (0.1, 0.5, 0.9)),
    }


def veil(rainy: Tensor, target: Tensor) -> dict[str, float]:
    """Between areas of 15 pixels: how much light was added where least and most, in stops, and how far its colour strays from grey."""
    areas = box_blur(torch.cat([rainy, target]), 15)[:, ::8, ::8]
    stops = torch.log2((areas[:3] + 12) / (areas[3:] + 12))
    light = stops.mean(0)
    cast = (stops - light).flatten(1)
    usual = cast.median(1, keepdim=True).values
    strays = (cast - usual).norm(dim=0)
    scores = quantiles("veil_light", light.flatten(), (0.01, 0.05, 0.5, 0.95, 0.99))
    return {
        **scores,
        "veil_light_below": scores["veil_light_1"] - scores["veil_light_50"],
        "veil_light_above": scores["veil_light_99"] - scores["veil_light_50"],
        "veil_cast": float(usual.abs().max()),
        "veil_strays_95": float(strays.quantile(0.95)),
        "veil_strays_99": float(strays.quantile(0.99)),
    }


def tone(rainy: Tensor, target: Tensor) -> dict[str, float]:
    """The slope of the input over the target, per channel, and in the dark, the middle and the bright third: a veil's is 1 or less."""
    areas = box_blur(torch.cat([rainy, target]), 15)[:, ::8, ::8].flatten(1)
    gains = [_slope(areas[channel], areas[channel + 3], 16) for channel in range(3)]
    ours, theirs = areas[:3].mean(0), areas[3:].mean(0)
    order, third = theirs.argsort(), theirs.numel() // 3
    dark, middle, bright = (
        _slope(ours[part], theirs[part], 9) for part in (order[k * third : (k + 1) * third] for k in range(3))
    )
    return {
        "tone_least": min(gains),
        "tone_most": max(gains),
        "tone_spread": max(gains) - min(gains),
        "tone_dark": dark,
        "tone_middle": middle,
        "tone_bright": bright,
        "tone_bend": bright - dark,
    }


def constants(rainy: Tensor, target: Tensor) -> dict[str, float]:
    """Shares of the target that no sensor gives: at an end of the scale where the input is not, or equal to its neighbours."""
    grey, clean = luma(rainy), luma(target)
    clipped = (target <= 2) | (target >= 253)

    def flat(image: Tensor) -> Tensor:
        here = image[:, 1:, 1:]
        return ((here == image[:, :-1, 1:]) & (here == image[:, 1:, :-1])).all(0)

    inside = (clean[1:, 1:] > 4) & (clean[1:, 1:] < 250)
    return {
        "constants_extreme": float((clipped.all(0) & (grey > 20) & (grey < 235)).float().mean()),
        "constants_clipped": float((clipped.any(0) & ((rainy > 12) & (rainy < 243)).all(0)).float().mean()),
        "constants_flat": float((flat(target) & inside).float().mean()),
        "constants_flattened": float((flat(target) & inside & ~flat(rainy)).float().mean()),
    }


def structure_shared(rainy: Tensor, target: Tensor) -> dict[str, float]:
    """Correlation of detail of 5 to 15 pixels, tile by tile, where the target has such, and where the input has."""
    grey = luma(torch.stack([rainy, target], 1))
    middle = box_blur(grey, 5) - box_blur(grey, 15)
    ours, theirs = (blocks(part, TILE) for part in middle)
    cosines = (ours * theirs).sum(1) / (ours.norm(dim=1) * theirs.norm(dim=1) + 3 * TILE)
    scores = {}
    for name, tiles in (("target", theirs), ("input", ours)):
        textured = cosines[tiles.norm(dim=1) > 3 * TILE]
        scores |= quantiles(f"structure_{name}", textured if textured.numel() else torch.ones(1), (0, 0.1, 0.5, 0.9))
    return scores


def detail_change(rainy: Tensor, target: Tensor) -> dict[str, float]:
    """log10 of the target's power over the input's in four directions and four bands: rain's own leaves, the scene's stays."""
    of_input, of_target = (sector_powers(luma(image)) for image in (rainy, target))
    change = of_target - of_input
    scores = {}
    for ring in range(len(RINGS)):
        scores[f"detail_least_{ring}"] = float(change[:, ring].min())
        scores[f"detail_most_{ring}"] = float(change[:, ring].max())
        scores[f"detail_usual_{ring}"] = float(change[:, ring].median())
    bend = change[:, 3] - change[:, 1]
    return {**scores, "detail_least_bend": float(bend.min()), "detail_most_bend": float(bend.max())}


# ---- What they are made of ----------------------------------------------------------------------------------------------

_PEAK = torch.tensor([[0.0, -1.0, 0.0], [-1.0, 4.0, -1.0], [0.0, -1.0, 0.0]])[None, None]


def _transfer_kernel(predicted: Tensor, source: Tensor) -> tuple[Tensor, float, float]:
    """Robust least squares: `predicted` from the `KERNEL` x `KERNEL` neighbourhoods of `source`, over its most active pixels.

    Pixels that rain changed count less and less in three rounds (Cauchy's weights).

    Returns:
        `tuple[Tensor, float, float]`: the kernel, the weighted share of power that it does not explain, and the median residual.
    """
    half = KERNEL // 2
    activity = F.max_pool2d(source.abs()[None, None], KERNEL, 1)[0, 0].flatten()
    count = min(KERNEL_PIXELS, activity.numel())
    least = activity.kthvalue(activity.numel() - count + 1 if count < activity.numel() else 1).values
    chosen = (activity >= least).nonzero()[:, 0][:count]
    height, width = source.shape
    y, x = chosen // (width - 2 * half), chosen % (width - 2 * half)
    taps = torch.stack([source[y + dy, x + dx] for dy in range(KERNEL) for dx in range(KERNEL)]).double()
    wanted = predicted[y + half, x + half].double()
    weights = torch.ones_like(wanted)
    prior = (len(wanted) / 100 + 1e-3) * torch.eye(KERNEL**2, dtype=torch.float64)
    for _ in range(3):
        weighted = taps * weights
        kernel = torch.linalg.solve(weighted @ taps.T + prior, weighted @ wanted)
        residual = wanted - kernel @ taps
        spread = float(residual.abs().median())
        weights = 1 / (1 + (residual / (1.5 * spread + 0.5)).square())
    unexplained = float((weights * residual.square()).sum() / ((weights * wanted.square()).sum() + 1))
    return kernel.reshape(KERNEL, KERNEL), unexplained, spread


def _transfer_scores(prefix: str, kernel: Tensor, unexplained: float, residual: float) -> dict[str, float]:
    centre = KERNEL // 2
    same = float(kernel[centre, centre])
    others = kernel.clone()
    others[centre, centre] = 0
    scale = abs(same) + 0.2
    return {
        f"{prefix}_same": same,
        f"{prefix}_others": float(others.norm()) / scale,
        f"{prefix}_lopsided": float((kernel - kernel.flip(0, 1)).norm()) / 2 / scale,
        f"{prefix}_lowest": float(others.min()) / scale,
        f"{prefix}_highest": float(others.max()) / scale,
        f"{prefix}_sum": float(kernel.sum()),
        f"{prefix}_directed": abs(float(others[centre].sum() - others[:, centre].sum())) / scale,
        f"{prefix}_unexplained": unexplained,
        f"{prefix}_residual": math.log2(residual + 0.5),
    }


def _edge_scores(prefix: str, shared: Tensor, energy: Tensor) -> dict[str, float]:
    """`shared / energy` is the share of an edge that the other image has; over the strongest tenth of pixels, and in the worst tile."""
    strongest = energy >= max(float(torch.quantile(energy[::3, ::3].flatten(), 0.9)), 3 * EDGE**2)
    share = shared / (energy + 50)
    on_edges = share[strongest] if strongest.sum() >= 50 else torch.ones(50)
    thinned = on_edges[:: max(1, on_edges.numel() // 20_000)]
    edges, lost, kept = (
        blocks(part.float(), TILE).sum(1)
        for part in (strongest, strongest & (share < 0.25), strongest & (share > 0.7))
    )
    tiles = edges >= 40
    rates = ((lost + 2) / (edges + 40))[tiles] if tiles.any() else torch.zeros(1)
    worst = float(rates.max())
    return {
        **quantiles(prefix, thinned, (0.1, 0.5, 0.9)),
        f"{prefix}_lost": float((on_edges < 0.25).float().mean()),
        f"{prefix}_kept": float((on_edges > 0.7).float().mean()),
        f"{prefix}_stronger": float((on_edges > 1.6).float().mean()),
        f"{prefix}_lost_worst_tile": worst,
        f"{prefix}_lost_beyond_usual": worst - float(rates.median()),
        f"{prefix}_lost_together": float((lost.max() + 5) / (lost.sum() + 20 * len(lost) ** 0.5 + 5)),
        f"{prefix}_kept_worst_tile": float(((kept + 20) / (edges + 40))[tiles].min()) if tiles.any() else 0.5,
    }


def _block_cosines(a: Tensor, b: Tensor, size: int, floor: float) -> Tensor:
    """Cosine of two planes in each block; `floor` is the product of norms that counts as nothing."""
    a, b = blocks(a, size), blocks(b, size)
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + floor)


def sector_powers(grey: Tensor) -> Tensor:
    """log10 power in (directions, `RINGS`) of the middle, windowed."""
    height, width = (min(side, SPECTRUM_SIDE) for side in grey.shape)
    top, left = (grey.shape[0] - height) // 2, (grey.shape[1] - width) // 2
    grey = grey[top : top + height, left : left + width]
    shape = grey.shape
    taper = window(shape)
    power = torch.fft.rfft2((grey - grey.mean()) * taper).abs().square() / taper.square().sum()
    y, x = torch.fft.fftfreq(shape[0])[:, None], torch.fft.rfftfreq(shape[1])[None]
    radius, angle = torch.hypot(y, x), torch.atan2(y, x.expand(len(y), -1))
    sectors = [
        angle.abs() < math.pi / 8,
        (angle - math.pi / 4).abs() < math.pi / 8,
        angle.abs() > 3 * math.pi / 8,
        (angle + math.pi / 4).abs() < math.pi / 8,
    ]
    rings = [(radius >= low) & (radius < high) for low, high in RINGS]
    return torch.stack([torch.stack([(power[s & r].mean() + 0.02).log10() for r in rings]) for s in sectors])


def _slope(y: Tensor, x: Tensor, prior: float) -> float:
    """Least squares, drawn towards 1 where x hardly varies."""
    dx, dy = x - x.mean(), y - y.mean()
    return float(((dx * dy).mean() + prior) / (dx.square().mean() + prior))
