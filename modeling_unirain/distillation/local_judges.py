"""Three judges that need no download: they measure a pair instead of looking at it (preset `local`).

Each looks at the pair from its own side, and every common defect can be seen from at least two sides, because two votes of
three decide: a blurred target is unlike a photograph to the first, leaves scene detail in the rain layer of the second, and has
lost the input's sharpness to the third. No judge can veto.

A judge measures named scores and holds a `Limit` for each; its vote is yes when every score lies within. How each limit was set
is said where it stands. All scores are kept with the vote, so limits can be changed without measuring again.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from modeling_unirain.distillation.measurements import (
    BLOCK,
    blockiness,
    blocks,
    box_blur,
    correlation,
    displacement,
    gradients,
    line_filter,
    luma,
    orientation,
    spectral_slopes,
    working_crop,
)
from modeling_unirain.distillation.protocols import Judge, JudgeCase, Triplet, Vote


MIN_SIDE = 96
"""Below this many pixels a side there is too little to measure, and all three judges abstain."""


@dataclass(frozen=True)
class Limit:
    """The range of a score in sound pairs, and what it means to lie outside."""

    low: float
    high: float
    meaning: str

    def holds(self, score: float) -> bool:
        return self.low <= score <= self.high


class MeasuringJudge(Judge):
    """A judge whose vote is yes when each of its scores lies within that score's limit."""

    name = ""
    limits: Mapping[str, Limit] = {}

    @property
    def fingerprint(self) -> str:
        return f"{self.name} {sorted((key, limit.low, limit.high) for key, limit in self.limits.items())}"

    def judge(self, cases: Sequence[JudgeCase]) -> list[Vote]:
        return [self._vote(case) for case in cases]

    def measure(self, case: JudgeCase) -> dict[str, float]:
        raise NotImplementedError

    def _vote(self, case: JudgeCase) -> Vote:
        if min(case.target.shape[:2]) < MIN_SIDE:
            return Vote(self.name, None, reason=f"too small to measure: under {MIN_SIDE} pixels a side")
        with torch.inference_mode():
            scores = self.measure(case)
        broken = [
            f"{limit.meaning} ({key} {scores[key]:.3g})"
            for key, limit in self.limits.items()
            if not limit.holds(scores[key])
        ]
        return Vote(self.name, not broken, reason="; ".join(broken) or "all within limits", scores=scores)


class ReferenceDistanceJudge(MeasuringJudge):
    """Is the pair as near to the retrieved real photographs as a photograph would be?"""

    name = "reference-distance"
    PHOTOGRAPHIC = ("low_slope", "middle_slope", "high_slope", "blockiness")
    """Statistics that rain leaves alone, so that the clean target must have them like a photograph too."""

    def __init__(self) -> None:
        self._spread: dict[str, float] | None = None
        self._known: dict = {}

    def fit(self, references: Iterable[Triplet]) -> dict[str, np.ndarray]:
        """Every reference's statistics, and the spread of each over all references (half the 16 to 84 % range)."""
        with torch.inference_mode():
            rows = {
                r.image_id: photograph_statistics(working_crop(r.image))
                for r in references
                if min(r.image.shape[:2]) >= MIN_SIDE
            }
        if not rows:
            raise ValueError(f"No reference is at least {MIN_SIDE} pixels a side: give larger real rainy photographs.")
        names = list(next(iter(rows.values())))
        table = np.array([[row[name] for name in names] for row in rows.values()])
        low, high = np.quantile(table, [0.16, 0.84], axis=0)
        return {"names": np.array(names), "spread": np.maximum(0.5 * (high - low), 1e-3)}

    def load_statistics(self, statistics: Mapping[str, np.ndarray]) -> None:
        self._spread = {str(n): float(s) for n, s in zip(statistics["names"], statistics["spread"], strict=True)}

    def measure(self, case: JudgeCase) -> dict[str, float]:
        query, target = working_crop(case.query.image), working_crop(case.target)
        of_query, of_target = photograph_statistics(query), photograph_statistics(target)
        references = [self._of_reference(r.reference) for r in case.references]
        scores = {f"query_{k}": self._gap(k, v, references) for k, v in of_query.items()}
        scores |= {f"target_{k}": self._gap(k, of_target[k], references) for k in self.PHOTOGRAPHIC}
        layout = _layout(query)
        others = [float((layout - _layout(working_crop(r.reference.image))).norm()) for r in case.references]
        scores["scene_change"] = float((layout - _layout(target)).norm()) / (min(others) + 1e-3)
        for key in ("brightness", "red_green", "yellow_blue"):
            scores[f"change_{key}"] = (of_query[key] - of_target[key]) / self._spread[key]
        return scores

    def _gap(self, key, value, references):
        nearest = min(((value - r[key]) for r in references), key=abs)
        return nearest / self._spread[key]

    def _of_reference(self, reference: Triplet) -> dict[str, float]:
        if reference.image_id not in self._known:
            if len(self._known) >= 4096:
                self._known.clear()
            self._known[reference.image_id] = photograph_statistics(working_crop(reference.image))
        return self._known[reference.image_id]


def photograph_statistics(image: Tensor) -> dict[str, float]:
    """Statistics of one picture (3, h, w)."""
    grey = luma(image)
    low, middle, high = spectral_slopes(grey)
    fine = image - box_blur(image, 5)
    fine_grey = luma(fine)
    colour = (fine - fine_grey).norm() / (math.sqrt(3) * fine_grey.norm() + 50)
    mean = image.mean((1, 2))
    return {
        "low_slope": low,
        "middle_slope": middle,
        "high_slope": high,
        "blockiness": blockiness(grey),
        "fine_colour": float(colour),
        "fine_skew": float((fine_grey**3).mean() / (fine_grey.square().mean() + 1) ** 1.5),
        "brightness": math.log2(float(grey.mean()) + 8),
        "red_green": float((mean[0] - mean[1]) / (mean.mean() + 8)),
        "yellow_blue": float((mean[:2].mean() - mean[2]) / (mean.mean() + 8)),
    }


def _layout(image: Tensor) -> Tensor:
    return torch.nn.functional.adaptive_avg_pool2d(image, 12).sub(image.mean((1, 2), keepdim=True)).flatten()


class RainLayerJudge(MeasuringJudge):
    """Could what was removed (input minus target) be rain?"""

    name = "rain-layer"

    def measure(self, case: JudgeCase) -> dict[str, float]:
        rainy, target = working_crop(case.query.image), working_crop(case.target)
        grey, clean = luma(rainy), luma(target)
        layer, colours = grey - clean, (rainy - target)
        fine, fine_clean = (g - box_blur(g, 5) for g in (grey, clean))
        mid, mid_clean = (box_blur(g, 5) - box_blur(g, 15) for g in (grey, clean))
        gain = texture_gain(fine, fine_clean)
        tuned = fine - gain * fine_clean
        colour = colours - layer
        strong = layer.abs() + colour.norm(dim=0)
        weight = strong * (strong > 12)
        saturation = (rainy - grey).norm(dim=0) - (target - clean).norm(dim=0)
        dark = clean <= clean.flatten()[::7].quantile(0.35)
        added, taken = layer[dark].clamp(min=0).sum(), layer[dark].clamp(max=0).abs().sum()
        low, middle, high = spectral_slopes(layer)
        slope, corr, n = border_leak(layer, clean, gain)
        leak = block_agreement(fine - fine_clean, fine_clean)
        leakm = block_agreement(mid - mid_clean, mid_clean)
        mse = float((rainy - target).square().mean())
        return {
            "psnr": 10 * math.log10(255**2 / max(mse, 1e-3)),
            "gain": gain,
            "border_slope": slope,
            "border_corr": corr,
            "border_n": n,
            "leak": float(leak.quantile(0.75)),
            "leak_m": float(leakm.quantile(0.75)),
            "leak_lo": float(leak.quantile(0.5)),
            "leak_tuned": correlation(tuned, fine_clean),
            "match": float(block_agreement(fine, fine_clean).quantile(0.75)),
            "match_m": float(block_agreement(mid, mid_clean).quantile(0.75)),
            "colour": float(colour.norm() / (math.sqrt(3) * layer.norm() + 10)),
            "saturation": float((saturation * weight).sum() / ((strong * weight).sum() + 100)),
            "added": float((added + 50) / (added + taken + 100)),
            "coverage": float((layer.abs() > 20).float().mean()),
            "layer_low": low,
            "layer_middle": middle,
            "layer_high": high,
            "layer_blockiness": blockiness(layer),
            "coherence": orientation(fine - fine_clean)[1],
            "layer_skew": float((tuned**3).mean() / (tuned.square().mean() + 1) ** 1.5),
        }


def texture_gain(fine: Tensor, fine_clean: Tensor) -> float:
    """By how much the scene's texture is stronger in `fine` than in `fine_clean`: the median over the most textured blocks."""
    a, b = blocks(fine), blocks(fine_clean)
    energy = b.square().sum(1)
    textured = energy >= energy.quantile(0.75)
    slopes = ((a * b).sum(1) / (energy + BLOCK**2))[textured]
    return float(slopes.median())


def block_agreement(a: Tensor, b: Tensor) -> Tensor:
    """Correlation of `a` and `b` in each block where `b` has at least median texture; two grey levels of noise count as none."""
    a, b = blocks(a), blocks(b)
    norm = b.norm(dim=1)
    textured = norm >= norm.median()
    return ((a * b).sum(1) / (a.norm(dim=1) * norm + 2 * BLOCK))[textured]


def border_leak(layer: Tensor, clean: Tensor, gain):
    layer2 = layer + (1 - gain) * (clean - box_blur(clean, 15))
    changed, unchanged = (layer.abs() > 10).float(), (layer.abs() < 5).float()
    pool = torch.nn.functional.max_pool2d
    border = pool(changed[None], 5, 1, 2)[0] * pool(unchanged[None], 5, 1, 2)[0]
    lx, ly = gradients(layer)
    cx, cy = gradients(clean)
    e = lx.square() + ly.square()
    use = border[:-1, :-1] * (e > 36)
    both = ((lx * cx + ly * cy) * use).sum()
    return (
        float(both / ((e * use).sum() + 1)),
        float(both / (((e * use).sum() * ((cx**2 + cy**2) * use).sum()).sqrt() + 1)),
        float(use.mean()),
    )


class PairIntegrityJudge(MeasuringJudge):
    """Is the target the same picture, aligned, equally exposed, undamaged, and cleaner?"""

    name = "pair-integrity"

    def measure(self, case: JudgeCase) -> dict[str, float]:
        rainy, target = working_crop(case.query.image), working_crop(case.target)
        grey, clean = luma(rainy), luma(target)
        smooth = box_blur(torch.cat([rainy, target]), 15)
        mid, mid_clean = box_blur(grey, 5) - box_blur(grey, 15), box_blur(clean, 5) - box_blur(clean, 15)
        fine, fine_clean = grey - box_blur(grey, 5), clean - box_blur(clean, 5)
        shift, peak = displacement(mid, mid_clean)
        h, w = grey.shape
        quads = [
            displacement(mid[y, x], mid_clean[y, x])
            for y in (slice(0, h // 2), slice(h // 2, h))
            for x in (slice(0, w // 2), slice(w // 2, w))
        ]
        conf = [s for s, p in quads if p > 0.6]
        gain = texture_gain(fine, fine_clean)
        rain = fine - fine_clean
        angle, _ = orientation(rain)
        lr, lt, lg = line_filter(rain, angle), line_filter(fine_clean, angle), line_filter(fine, angle)
        lr_t = lg - gain * lt
        # brightness
        s_in, s_out = luma(smooth[:3]), luma(smooth[3:])
        d = (s_in - s_out).flatten()[::5]
        slope, icept = linear_fit(s_out.flatten()[::5], s_in.flatten()[::5])
        t95 = float(s_out.flatten()[::7].quantile(0.95))
        t05 = float(s_out.flatten()[::7].quantile(0.05))
        rel = torch.log2((s_in.flatten()[::5] + 8) / (s_out.flatten()[::5] + 8))
        cg = [math.log2((float(smooth[c].mean()) + 8) / (float(smooth[3 + c].mean()) + 8)) for c in range(3)]
        cgm = torch.log2((smooth[:3] + 8) / (smooth[3:] + 8)).flatten(1)[:, ::5]
        cast_q = (cgm - cgm.mean(0)).median(1).values.abs().max()
        ti, tt = spectral_slopes(grey), spectral_slopes(clean)
        a, b = fine.norm(), fine_clean.norm()
        return {
            "shift": shift,
            "peak": peak,
            "part_shift": max(conf, default=0.0),
            "part_n": len(conf),
            "part_med": float(np.median([s for s, _ in quads])),
            "line_slope": float((lr * lt).sum() / (lr.square().sum() + 1)),
            "line_corr": correlation(lr, lt),
            "line_slope_t": float((lr_t * lt).sum() / (lr_t.square().sum() + 1)),
            "line_corr_t": correlation(lr_t, lt),
            "d10": float(d.quantile(0.1)),
            "d90": float(d.quantile(0.9)),
            "fit_slope": slope,
            "bright_end": (icept + (slope - 1) * t95) / (t95 + 8),
            "dark_end": (icept + (slope - 1) * t05),
            "rel10": float(rel.quantile(0.1)),
            "rel90": float(rel.quantile(0.9)),
            "rel50": float(rel.median()),
            "cast_mean": max(cg) - min(cg),
            "cast_med": float(cast_q),
            "in_low": ti[0],
            "in_mid": ti[1],
            "in_high": ti[2],
            "t_low": tt[0],
            "t_mid": tt[1],
            "t_high": tt[2],
            "drop_low": ti[0] - tt[0],
            "drop_mid": ti[1] - tt[1],
            "drop_high": ti[2] - tt[2],
            "energy_ratio": math.log2(float(a + 50) / float(b + 50)),
            "texture_gain": gain,
            "in_block": blockiness(grey),
            "t_block": blockiness(clean),
        }


def linear_fit(x: Tensor, y: Tensor) -> tuple[float, float]:
    keep = x < 245
    x, y = x[keep], y[keep]
    if len(x) < 10:
        return 1.0, 0.0
    mx, my = x.mean(), y.mean()
    slope = float(((x - mx) * (y - my)).sum() / ((x - mx).square().sum() + len(x) * 4))
    return slope, float(my) - slope * float(mx)
