"""No part of the picture is an exception: what `rain_physics.py` asks of a pair, asked of every part of it.

Rain falls about evenly over a picture, while a patch, a tear or something that moved is in one place. Each function maps a picture's tiles
to a number each and returns the outermost ones and how far they stray from the picture's own usual; drops, which are local too, are among
the sound pairs (`sound_pairs.json`) that say how far is usual.

All take RGB float tensors (3, height, width) in grey levels [0, 255], of at least 96 pixels a side, and return named scores; a name's
first word is a key of `local_judges.MEANINGS`.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from modeling_unirain.distillation.measurements import LAPLACIAN, blocks, box_blur, luma, quantiles, rms, window


TILE = 64
SMALL_TILE = 32
REACH = 20
"""Pixels by which a tile is looked for elsewhere."""


def parts_moved(rainy: Tensor, target: Tensor) -> dict[str, float]:
    """Does a tile of the target fit the input better elsewhere than in its place? By correlation of detail of 3 to 15 pixels."""
    grey = luma(torch.stack([rainy, target], 1))
    ours, theirs = box_blur(grey, 3) - box_blur(grey, 15)
    taper = window((TILE, TILE))
    ours, theirs = (blocks(part, TILE).reshape(-1, TILE, TILE) * taper for part in (ours, theirs))
    norms = (ours.norm(dim=(1, 2)), theirs.norm(dim=(1, 2)))
    surface = torch.fft.irfft2(torch.fft.rfft2(ours) * torch.fft.rfft2(theirs).conj(), s=(TILE, TILE))
    surface = surface / (norms[0] * norms[1] + 2 * TILE * TILE / 4)[:, None, None]
    near = surface.roll((REACH, REACH), (1, 2))[:, : 2 * REACH + 1, : 2 * REACH + 1]
    here = near[:, REACH, REACH]
    gain = near.flatten(1).amax(1) - here
    lopsided = torch.hypot(
        near[:, REACH, REACH + 1] - near[:, REACH, REACH - 1], near[:, REACH + 1, REACH] - near[:, REACH - 1, REACH]
    )
    return {
        **_spread("moved_gain", gain, 0.02),
        **_spread("moved_lopsided", lopsided, 0.02),
        **_spread("moved_agreement", here, 0.05),
    }


def parts_gained(rainy: Tensor, target: Tensor) -> dict[str, float]:
    """Least-squares factors from one image's detail to the other's in tiles that have any, fine and coarser."""
    grey = luma(torch.stack([rainy, target], 1))
    small, large = box_blur(grey, 5), box_blur(grey, 15)
    scores = {}
    for band, detail in (("fine", grey - small), ("coarse", small - large)):
        ours, theirs = (blocks(part, SMALL_TILE) for part in detail)
        shared = (ours * theirs).sum(1)
        floor = 2.0 * SMALL_TILE**2
        for name, part in (("target", theirs), ("input", ours)):
            energy = part.square().sum(1)
            factors = (shared + floor) / (energy + floor)
            scores |= _spread(f"gained_{name}_{band}", factors, 0.05)
    return scores


def parts_noise(rainy: Tensor, target: Tensor) -> dict[str, float]:
    """log2 of the target's finest detail over the input's, tile by tile; medians, which edges and streaks hardly move."""
    grey = luma(torch.stack([rainy, target], 1))
    response = F.conv2d(grey[:, None], LAPLACIAN)[:, 0].abs() / 6
    ours, theirs = (blocks(part, SMALL_TILE).median(1).values for part in response)
    change = torch.log2((theirs + 0.3) / (ours + 0.3))
    return {
        **_spread("grain_change", change, 0.1),
        "grain_lost_parts": float(((theirs < 0.3 * ours) & (ours > 0.7)).float().mean()),
        "grain_gained_parts": float(((ours < 0.3 * theirs) & (theirs > 0.7)).float().mean()),
        **quantiles("grain_of_target", torch.log2(theirs + 0.1), (0.02, 0.5)),
        **quantiles("grain_of_input", torch.log2(ours + 0.1), (0.02, 0.5)),
    }


def parts_lit(rainy: Tensor, target: Tensor) -> dict[str, float]:
    """How evenly the veil lies: light added in stops, its slant and roundness over the picture, its steps along rows and columns."""
    grey = luma(torch.stack([rainy, target], 1))
    areas = box_blur(grey, 15)[:, 4::8, 4::8]
    stops = torch.log2((areas[0] + 12) / (areas[1] + 12))
    height, width = stops.shape
    y, x = torch.linspace(-1, 1, height)[:, None], torch.linspace(-1, 1, width)[None]
    shapes = torch.stack([s.expand(height, width).flatten() for s in (torch.ones(1, 1), x, y, x * x + y * y)], 1)
    # Normal equations by plain sums: LAPACK's least squares differs in its last digit from one process to the next.
    shapes, wanted = shapes.double(), stops.flatten().double()
    gram = (shapes[:, :, None] * shapes[:, None]).sum(0)
    taken = torch.linalg.solve(gram, (shapes * wanted[:, None]).sum(0))
    rest = stops - (shapes @ taken).float().reshape(stops.shape)
    layer = (grey[0] - grey[1]).clamp(-40, 40)
    spread = float(layer.std()) + 0.5
    scores = {
        "lit_across": abs(float(taken[1])),
        "lit_down": float(taken[2]),
        "lit_round": float(taken[3]),
        "lit_rest": rms(rest),
        "lit_smoothness": rms(rest[1:] - rest[:-1]) / (rms(rest) + 0.02),
    }
    for name, lines in (("rows", layer.mean(1)), ("columns", layer.mean(0))):
        usual = F.avg_pool1d(F.pad(lines[None, None], (40, 40), mode="reflect"), 81, 1)[0, 0]
        away = lines - usual
        scores[f"stripes_{name}"] = rms(away) / spread
        scores[f"stripes_{name}_light"] = rms(away)
        scores[f"stripes_{name}_step"] = float((lines[1:] - lines[:-1]).abs().max()) / spread
    for name, plane in (("down", layer[1:] - layer[:-1]), ("across", (layer[:, 1:] - layer[:, :-1]).T)):
        lines = F.avg_pool2d(plane[None, None], (1, TILE), (1, TILE // 2))[0, 0].abs()
        scores[f"steps_{name}"] = float(lines.max())
        scores[f"steps_{name}_beyond"] = float(lines.max() / (lines.quantile(0.99) + 0.3))
    return scores


def parts_coloured(rainy: Tensor, target: Tensor) -> dict[str, float]:
    """Colours of areas and of detail: the same in both images, at the same places, and at luma's edges."""
    both = torch.stack([rainy, target])
    red, green, blue = both.unbind(1)
    planes = torch.stack([red - green, 0.5 * (red + green) - blue], 1)
    small, large = box_blur(planes, 5), box_blur(planes, 15)
    scores = {}
    for band, part in (
        ("fine", planes - small),
        ("middle", small - large),
        ("area", large - planes.mean((2, 3), True)),
    ):
        ours, theirs = part
        scores[f"colour-detail_{band}_change"] = math.log2((rms(theirs) + 0.5) / (rms(ours) + 0.5))
        scores[f"colour-detail_{band}_kept"] = float((ours * theirs).sum() / (ours.norm() * theirs.norm() + 300))
    ours, theirs = (small - large)[:, :, ::2, ::2]
    norm = float(ours.norm() * theirs.norm()) + 150
    for name, axis in (("across", 2), ("down", 1)):
        ahead, back = ((ours * theirs.roll(step, axis)).sum() / norm for step in (2, -2))
        scores[f"colour-detail_lopsided_{name}"] = abs(float(ahead - back))
    grey = luma(both.transpose(0, 1))
    steps = [_steps(box_blur(part, 3)) for part in (grey, planes[:, 0], planes[:, 1])]
    of_luma, of_colour = steps[0], steps[1] + steps[2]
    bound = [_centred_cosine(torch.log1p(of_luma[k]), torch.log1p(of_colour[k])) for k in (0, 1)]
    scores |= {"colour-edges_target": bound[1], "colour-edges_change": bound[1] - bound[0]}
    means = torch.stack([blocks(plane, SMALL_TILE).mean(1) for plane in planes.flatten(0, 1)]).reshape(2, 2, -1)
    bright = torch.stack([blocks(part, SMALL_TILE).mean(1) for part in grey]).mean(0)
    away = (means[1] - means[0]) / (bright + 24)
    away = (away - away.median(1, keepdim=True).values).norm(dim=0)
    return {**scores, **_spread("recoloured", away, 0.01)}


def parts_constant(rainy: Tensor, target: Tensor) -> dict[str, float]:
    """Equal neighbours and clipped values in the worst tile of either image, where the other has none."""
    grey = luma(torch.stack([rainy, target], 1))
    both = torch.stack([rainy, target])
    here = both[:, :, 1:, 1:]
    equal = ((here == both[:, :, :-1, 1:]).all(1) | (here == both[:, :, 1:, :-1]).all(1)).float()
    equal = equal * ((grey > 4) & (grey < 250))[:, 1:, 1:]
    clipped = ((both <= 1) | (both >= 254)).any(1).float()
    scores = {}
    for name, planes in (("equal", equal), ("clipped", clipped)):
        ours, theirs = (blocks(plane, SMALL_TILE).mean(1) for plane in planes)
        scores[f"constants_{name}_in_target"] = float((theirs - ours).max())
        scores[f"constants_{name}_in_input"] = float((ours - theirs).max())
        scores[f"constants_{name}_of_input"] = float(ours.mean())
    return scores


def parts_contrasted(rainy: Tensor, target: Tensor) -> dict[str, float]:
    """Where the scene's contrast is larger in the input than in the target, which no veil makes it, and how that lies over the picture."""
    grey = luma(torch.stack([rainy, target], 1))
    detail = box_blur(grey, 3) - box_blur(grey, 31)
    height, width = (side // SMALL_TILE for side in grey.shape[1:])
    ours, theirs = (blocks(part, SMALL_TILE) for part in detail)
    energy = theirs.square().sum(1)
    floor = 4.0 * SMALL_TILE**2
    stops = torch.log2(((ours * theirs).sum(1).clamp(min=0) + floor) / (energy + floor))
    weight = (energy / (energy + 8 * floor)).double()
    y, x = torch.linspace(-1, 1, height)[:, None], torch.linspace(-1, 1, width)[None]
    shapes = [s.expand(height, width).flatten() for s in (torch.ones(1, 1), x, y, x * x + y * y)]
    shapes = torch.stack(shapes, 1).double()
    weighted = shapes * weight[:, None]
    prior = torch.diag(torch.tensor([0.1, 2.0, 2.0, 2.0], dtype=torch.float64))
    taken = torch.linalg.solve(weighted.T @ shapes + prior, weighted.T @ stops.double())
    rest = stops - (shapes @ taken).float()
    share = (weight / (weight.sum() + 1)).float()
    return {
        "contrast_usual": float(taken[0]),
        "contrast_across": abs(float(taken[1])),
        "contrast_down": float(taken[2]),
        "contrast_round": float(taken[3]),
        "contrast_raised": float(share[stops > 0.2].sum()),
        "contrast_raised_mean": float((stops.clamp(min=0) * share).sum()),
        "contrast_uneven": float((rest.abs() * share).sum()),
        "contrast_raised_most": float((stops * weight.float()).max()),
    }


def parts_colour_directions(rainy: Tensor, target: Tensor) -> dict[str, float]:
    """Whether colour lost or gained detail in one direction more than in the other, beside luma, and in the worst tile."""
    both = torch.stack([rainy, target])
    red, green, blue = both.unbind(1)
    planes = box_blur(torch.stack([red - green, 0.5 * (red + green) - blue, luma(both.transpose(0, 1))]), 3)
    change = {}
    for name, steps in (
        ("across", planes[..., 4:] - planes[..., :-4]),
        ("down", planes[..., 4:, :] - planes[..., :-4, :]),
    ):
        power = steps.square().mean((2, 3))
        change[name] = 0.5 * torch.log2((power[:, 1] + 2) / (power[:, 0] + 2))
    colour = {name: float(part[:2].mean()) for name, part in change.items()}
    tiles = torch.stack([blocks(plane, TILE).var(1) for plane in planes[:2].flatten(0, 1)]).reshape(2, 2, -1).sum(0)
    tiles = 0.5 * torch.log2((tiles[1] + 6) / (tiles[0] + 6))
    return {
        "colour-detail_across": colour["across"],
        "colour-detail_down": colour["down"],
        "colour-detail_directed": colour["across"] - colour["down"],
        "colour-detail_beside_luma": colour["across"]
        + colour["down"]
        - float(change["across"][2] + change["down"][2]),
        "colour-detail_directed_beside_luma": colour["across"]
        - colour["down"]
        - float(change["across"][2] - change["down"][2]),
        **_spread("colour-detail_tiles", tiles, 0.05),
    }


def parts_of_squares(rainy: Tensor, target: Tensor) -> dict[str, float]:
    """Pixels equal to both neighbours in tiles that have contrast all the same, in the worst tile of either image."""
    both = torch.stack([rainy, target])
    here = both[:, :, 1:, 1:]
    equal = ((here == both[:, :, :-1, 1:]) & (here == both[:, :, 1:, :-1])).all(1).float()
    grey = luma(both.transpose(0, 1))[:, 1:, 1:]
    ours, theirs = (
        blocks(plane, SMALL_TILE).mean(1) * (blocks(light, SMALL_TILE).std(1) > 6)
        for plane, light in zip(equal, grey, strict=True)
    )
    return {
        "squares_of_target": float(theirs.max()),
        "squares_of_input": float(ours.max()),
        "squares_in_target": float((theirs - ours).max()),
        "squares_in_input": float((ours - theirs).max()),
    }


def parts_rained_on(rainy: Tensor, target: Tensor) -> dict[str, float]:
    """How evenly the layer is spread: its strength in tiles, fine and coarser, in octaves."""
    grey = luma(rainy) - luma(target)
    small, large = box_blur(grey, 5), box_blur(grey, 31)
    scores = {}
    for band, part in (("fine", grey - small), ("coarse", small - large)):
        strength = torch.log2(blocks(part, TILE).square().mean(1).sqrt() + 0.5)
        scores |= quantiles(f"spread_{band}", strength, (0, 0.1, 0.5, 1))
        scores[f"spread_{band}_range"] = float(strength.max() - strength.median())
    return scores


def _spread(prefix: str, values: Tensor, floor: float) -> dict[str, float]:
    """The outermost values of tiles, and how far they lie from the usual in units of the picture's own spread."""
    low, middle, high = (float(value) for value in torch.quantile(values, torch.tensor([0.1, 0.5, 0.9])))
    least, most = float(values.min()), float(values.max())
    return {
        f"{prefix}_least": least,
        f"{prefix}_usual": middle,
        f"{prefix}_most": most,
        f"{prefix}_below": math.log2(1 + (middle - least) / (middle - low + floor)),
        f"{prefix}_above": math.log2(1 + (most - middle) / (high - middle + floor)),
    }


def _steps(image: Tensor) -> Tensor:
    """Steepness, two pixels apart; (..., h, w) -> (..., h - 2, w - 2)."""
    across = image[..., 1:-1, 2:] - image[..., 1:-1, :-2]
    return torch.hypot(across, image[..., 2:, 1:-1] - image[..., :-2, 1:-1])


def _centred_cosine(a: Tensor, b: Tensor) -> float:
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / (a.norm() * b.norm() + 1))
