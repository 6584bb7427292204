"""Three judges that need no download: they measure a pair instead of looking at it (preset `local`).

The paper asks three vision language models; these are ours, for machines without them. Each looks at the pair from its own side, and
since two votes of three decide, their sides overlap: a blurred target is unlike a photograph to the first, leaves scene detail in the
rain layer of the second, and has lost the input's sharpness to the third. No judge can veto.

A judge measures named scores, and votes yes when together they lie as near to those of sound pairs as nine in ten sound pairs do
(`sound_pairs.py`). It has learned no defect. The second and the third also ask a network where it sees rain (`rain_seen.py`).
All scores are kept with the vote.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from modeling_unirain.distillation.layer_shape import layer_channels, layer_drawn, layer_repeats, layer_spectrum
from modeling_unirain.distillation.measurements import (
    blockiness,
    box_blur,
    correlation,
    displacement,
    level_share,
    line_filter,
    luma,
    orientation,
    repeated_pixels,
    spectral_slopes,
    working_crop,
)
from modeling_unirain.distillation.pair_measurements import (
    block_agreement,
    border_agreement,
    colour_changes,
    layout_kept,
    line_agreement,
    noise_gain,
    texture_gain,
)
from modeling_unirain.distillation.picture_parts import (
    parts_colour_directions,
    parts_coloured,
    parts_constant,
    parts_contrasted,
    parts_gained,
    parts_lit,
    parts_moved,
    parts_noise,
    parts_of_squares,
    parts_rained_on,
)
from modeling_unirain.distillation.protocols import Judge, JudgeCase, Triplet, Vote
from modeling_unirain.distillation.rain_physics import (
    amount_removed,
    constants,
    detail_change,
    edges_shared,
    fine_colours,
    light_added,
    scene_in_layer,
    scene_transfer,
    structure_shared,
    tone,
    veil,
)
from modeling_unirain.distillation.rain_seen import RainSeen
from modeling_unirain.distillation.sound_pairs import COLUMNS, bundled


MIN_SIDE = 96
"""Below this many pixels a side there is too little to measure, and all three judges abstain."""
TESTED_SIZE = 512
"""Largest side of the crop in which a pair's two images are held against each other: parts of a picture need room."""
MEANINGS = {
    "scene_change": "the target is no nearer to the rainy image than other scenes are",
    "colour_gain": "the target is far less, or more, colourful",
    "noise_gain": "the target is noisier than the rainy image",
    "repeated_pixels": "the target's pixels repeat, as in an enlarged or posterised picture",
    "psnr": "next to nothing, or nearly everything, was removed",
    "scene_match": "the scene's detail is not that of the rainy image",
    "texture_gain": "the scene's detail is much weaker or stronger in the target",
    "scene_in_layer": "the scene's detail shows in the rain layer",
    "border_agreement": "the target shows the rain's outlines",
    "colour": "the rain layer is colourful",
    "saturation": "the rain saturates what it covers",
    "added_light": "the rain darkens what is dark already",
    "coverage": "the layer covers the whole picture",
    "explained_by_scene": "the layer is a multiple of the scene",
    "fine_colour_gain": "the target's fine detail is far less, or more, colourful",
    "layout_kept": "a part of the target is another scene",
    "shift": "the target is shifted",
    "part_shift": "a part of the target is shifted",
    "agreement": "the target is another picture",
    "line_slope": "rain is left in the target",
    "line_correlation": "rain is left in the target",
    "line_agreement": "rain is left in the target",
    "blob_agreement": "rain is left in the target",
    "sharpness_lost": "the target is less sharp than the rainy image",
    "detail_lost": "the target has far less, or more, detail than the rainy image",
    "exposure_slope": "the target is exposed differently",
    "bright_end": "the target is exposed differently at its bright end",
    "dark_end": "the target is exposed differently at its dark end",
    "bright_marks": "the rain darkens more than it lightens",
    "cast": "the target's colours are cast",
    "colour_kept": "the target's colours are not those of the rainy image",
    "levels": "the target has few levels left",
    "change": "rain does not change a photograph's statistics so",
    "query": "the rainy image is unlike the real ones that were retrieved",
    "target": "the target is unlike a photograph",
    "input": "the rainy image was enlarged, blurred or compressed",
    "layer": "the layer is not one of rain: it has the scene's detail in it, or none of its own",
    "red": "the target's white balance is another",
    "removed": "another amount was removed than the rest fits to",
    "transfer": "the scene's detail is not carried over pixel by pixel: blurred, sharpened, moved or resampled",
    "return": "the target's detail is not the rainy image's pixel by pixel",
    "edges": "edges of one image are missing from the other",
    "light": "the layer darkens and lightens as rain does not",
    "colours": "the fine colours are not those of the scene under grey rain",
    "veil": "areas differ in light or colour by more than a veil does",
    "tone": "the tones are other ones",
    "constants": "the target has areas without any variation, or clipped",
    "structure": "the scene's structure is missing in a part",
    "detail": "detail of some direction or size was lost or gained",
    "moved": "a part of the target fits the rainy image better elsewhere",
    "gained": "a part of one image is weaker or stronger than in the other, or missing",
    "contrast": "the scene's contrast differs from place to place as no veil makes it",
    "grain": "the noise of a part was lost or gained",
    "lit": "the light of the two images differs unevenly over the picture",
    "stripes": "rows or columns are lighter or darker than their neighbours",
    "steps": "the layer has a straight edge along a row or column",
    "colour-detail": "the detail of the colours was lost, gained or moved",
    "colour-edges": "the target's colours do not end where its shapes do",
    "recoloured": "a part of the target has other colours",
    "squares": "a part of one image is made of squares of equal pixels",
    "spread": "the rain is spread over the picture as rain is not",
    "drawn": "the layer's marks are not those of rain: too few, too many, too even, or in other directions",
    "repeats": "the layer repeats itself",
    "copies": "the layer holds a copy of the scene",
    "spectrum": "the layer is blurred, coarse or sharp as rain in this picture is not",
    "channels": "the layer's colour channels do not tell the same",
    "seen": "what the network would remove is not what was removed",
    "left": "the network sees rain in the target",
}
"""What it means that a score is far from those of sound pairs, by the score's name or its first word."""


class MeasuringJudge(Judge):
    """A judge whose vote is yes when its scores lie among those of sound pairs."""

    @property
    def fingerprint(self) -> str:
        model = bundled()[self.name]
        numbers = [getattr(model, column) for column in COLUMNS] + [model.precision]
        digest = hashlib.sha256(b"".join(array.tobytes() for array in numbers)).hexdigest()
        return f"{self.name} 5 {model.names} {model.limit} {digest}"

    def judge(self, cases: Sequence[JudgeCase]) -> list[Vote]:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # sums depend on how many there are, and votes must not
        try:
            return [self._vote(case) for case in cases]
        finally:
            torch.set_num_threads(threads)

    def measure(self, case: JudgeCase) -> dict[str, float]:
        """The scores of one case."""
        raise NotImplementedError

    def _vote(self, case: JudgeCase) -> Vote:
        if min(case.target.shape[:2]) < MIN_SIDE:
            return Vote(self.name, None, reason=f"too small to measure: less than {MIN_SIDE} pixels a side")
        with torch.inference_mode():
            scores = self.measure(case)
        model = bundled()[self.name]
        parts = model.contributions(scores)
        scores = {"distance": float(parts.sum()), **scores}
        if scores["distance"] <= 1:
            return Vote(self.name, True, reason="like sound pairs in all that was measured", scores=scores)
        return Vote(self.name, False, reason=_objection(model.names, parts, scores), scores=scores)


class RainSeeingJudge(MeasuringJudge):
    """A judge that also asks the network where it sees rain."""

    rain_seen = RainSeen()
    """One for all of them: what it told one judge of a pair it knows when the next one asks."""

    @property
    def fingerprint(self) -> str:
        return f"{super().fingerprint} {self.rain_seen.fingerprint()}"

    def check(self) -> None:
        self.rain_seen.check()

    def release(self) -> None:
        self.rain_seen.release()


class ReferenceDistanceJudge(MeasuringJudge):
    """Do query and target look like photographs, as far as the retrieved real ones show what those look like?

    A statistic's gap is its distance from the nearest of the retrieved references, in units of its spread over all references. The
    query's own statistics are compared, and those of the target that rain leaves alone. The target must also be the query's scene: nearer
    in layout than any reference is, no brighter, and of like colours.
    """

    name = "reference-distance"
    PHOTOGRAPHIC = ("low_slope", "middle_slope", "high_slope", "blockiness")

    def __init__(self) -> None:
        self._spread: dict[str, float] = {}
        self._references: dict[str, tuple[dict[str, float], Tensor]] = {}

    def fit(self, references: Iterable[Triplet]) -> dict[str, np.ndarray]:
        """The spread of every statistic over the references: half the range from the 16 % to the 84 % quantile."""
        with torch.inference_mode():
            rows = [
                photograph_statistics(working_crop(reference.image))
                for reference in references
                if min(reference.image.shape[:2]) >= MIN_SIDE
            ]
        if not rows:
            raise ValueError(f"no reference has at least {MIN_SIDE} pixels a side: give larger real rainy photographs")
        low, high = np.quantile([list(row.values()) for row in rows], [0.16, 0.84], axis=0)
        spread = np.maximum(0.5 * (high - low), 1e-2)
        return {name: np.array([value]) for name, value in zip(rows[0], spread, strict=True)}

    def load_statistics(self, statistics: Mapping[str, np.ndarray]) -> None:
        self._spread = {name: float(value[0]) for name, value in statistics.items()}

    def release(self) -> None:
        self._references.clear()

    def measure(self, case: JudgeCase) -> dict[str, float]:
        query, target = working_crop(case.query.image), working_crop(case.target)
        of_query, of_target = photograph_statistics(query), photograph_statistics(target)
        references = [self._described(retrieved.reference) for retrieved in case.references]

        def gap(name: str, value: float) -> float:
            return min((value - described[name] for described, _ in references), key=abs) / self._spread[name]

        layout = _layout(query)
        nearest = min(float((layout - other).norm()) for _, other in references)
        return {
            **{f"query_{name}": gap(name, value) for name, value in of_query.items()},
            **{f"target_{name}": gap(name, of_target[name]) for name in self.PHOTOGRAPHIC},
            **{f"change_{name}": (of_query[name] - of_target[name]) / self._spread[name] for name in of_query},
            "scene_change": float((layout - _layout(target)).norm()) / (nearest + 1e-3),
            **colour_changes(query, target),
            "noise_gain": noise_gain(luma(query), luma(target)),
            "repeated_pixels": repeated_pixels(target),
            "levels": level_share(target),
            **_tested(
                case,
                *(amount_removed, detail_change, structure_shared, edges_shared, fine_colours, constants),
                *(parts_noise, parts_coloured, parts_colour_directions, parts_constant, parts_of_squares, parts_lit),
                *(parts_rained_on, layer_drawn, layer_spectrum, layer_channels),
            ),
        }

    def _described(self, reference: Triplet) -> tuple[dict[str, float], Tensor]:
        """A reference's statistics and layout; the same few are retrieved again and again."""
        if reference.image_id not in self._references:
            if len(self._references) >= 4096:
                self._references.clear()
            crop = working_crop(reference.image)
            self._references[reference.image_id] = photograph_statistics(crop), _layout(crop)
        return self._references[reference.image_id]


class RainLayerJudge(RainSeeingJudge):
    """Could what was removed, input minus target, be rain?

    Rain adds light where the scene is dark, has next to no colour of its own, covers part of the picture, and knows nothing of the scene
    behind it: the layer must not hold the scene's detail (misaligned, blurred or wrongly exposed targets), and the target must show
    nothing at the layer's borders (rain left in it).
    """

    name = "rain-layer"

    def measure(self, case: JudgeCase) -> dict[str, float]:
        rainy, target = working_crop(case.query.image), working_crop(case.target)
        grey, clean = luma(rainy), luma(target)
        layer = grey - clean
        fine, fine_clean = grey - box_blur(grey, 5), clean - box_blur(clean, 5)
        smooth, smooth_clean = box_blur(torch.stack([layer, clean]), 15)
        open_range = smooth_clean < 245  # a clipped sky tells nothing of exposure
        colour = rainy - target - layer
        strength = layer.abs() + colour.norm(dim=0)
        weight = strength * (strength > 12)
        saturation = (rainy - grey).norm(dim=0) - (target - clean).norm(dim=0)
        dark = clean <= float(np.quantile(clean.numpy()[::4, ::4], 0.35))
        # Some sets darken the sky with their rain: a tone change is forgiven, dark streaks in it are not.
        over_tone = layer[dark] - min(0.0, float(np.median(layer[dark].numpy()[::5])))
        added, taken = over_tone.clamp(min=0).sum(), (-over_tone).clamp(min=0).sum()
        low, middle, high = spectral_slopes(layer)
        return {
            "psnr": 10 * math.log10(255**2 / max(float((rainy - target).square().mean()), 1e-3)),
            "scene_match": float(block_agreement(fine, fine_clean).quantile(0.75)),
            "texture_gain": texture_gain(fine, fine_clean),
            "scene_in_layer": float(block_agreement(fine - fine_clean, fine_clean).median()),
            "border_agreement": border_agreement(layer, clean),
            "colour": float(colour.norm() / (math.sqrt(3) * layer.norm() + 10)),
            "saturation": float((saturation * weight).sum() / ((strength * weight).sum() + 100)),
            "added_light": float((added + 50) / (added + taken + 100)),
            "coverage": float((layer.abs() > 20).float().mean()),
            "explained_by_scene": _centred_correlation(smooth[open_range], smooth_clean[open_range]),
            "layer_low_slope": low,
            "layer_middle_slope": middle,
            "layer_high_slope": high,
            "layer_blockiness": blockiness(layer),
            "layer_coherence": orientation(fine - fine_clean)[1],
            **colour_changes(rainy, target),
            "layout_kept": layout_kept(case.query.image, case.target),
            **self.rain_seen.measure(case.query.image, case.target),
            **_tested(
                case,
                *(amount_removed, scene_in_layer, light_added, veil, fine_colours, scene_transfer),
                *(parts_rained_on, parts_lit, parts_gained, parts_contrasted, parts_coloured, parts_colour_directions),
                *(layer_drawn, layer_repeats, layer_spectrum, layer_channels),
            ),
        }


class PairIntegrityJudge(RainSeeingJudge):
    """Is the target the same picture: in place, equally exposed, undamaged, as sharp, and cleaner?"""

    name = "pair-integrity"

    def measure(self, case: JudgeCase) -> dict[str, float]:
        rainy, target = working_crop(case.query.image), working_crop(case.target)
        grey, clean = both = torch.stack([luma(rainy), luma(target)])
        small, large = box_blur(both, 5), box_blur(both, 15)
        fine, fine_clean = both - small
        middle, middle_clean = small - large
        shift, agreement = displacement(middle, middle_clean)
        parts = [displacement(*part) for part in zip(_quarters(middle), _quarters(middle_clean), strict=True)]
        rain = fine - fine_clean
        angle, _ = orientation(rain)
        lines, lines_clean = line_filter(rain, angle), line_filter(fine_clean, angle)
        slope, offset = _fit(large[1], large[0])
        dark, bright = np.quantile(large[1].numpy()[::4, ::4], [0.05, 0.95])
        smooth = box_blur(torch.cat([rainy, target]), 15)[:, ::3, ::3]
        change = (small[0] - small[1])[small[1] <= small[1].mean()].numpy()
        weakest, usual, strongest = np.quantile(change[::7], [0.02, 0.5, 0.98]) if change.size else (0.0, 0.0, 0.0)
        darkening = min(0.0, usual)  # of a set that darkens the sky with its rain
        ratios = torch.log2((smooth[:3] + 8) / (smooth[3:] + 8)).flatten(1)
        of_input, of_target = spectral_slopes(grey), spectral_slopes(clean)
        return {
            "shift": shift,
            "agreement": agreement,
            "part_shift": max((distance for distance, peak in parts if peak > 0.6), default=0.0),
            "line_slope": float((lines * lines_clean).sum() / (lines.square().sum() + 1)),
            "line_correlation": correlation(lines, lines_clean),
            "line_agreement": line_agreement(lines, lines_clean),
            "blob_agreement": border_agreement(*box_blur(torch.stack([grey - clean, clean]), 3), reach=9),
            "sharpness_lost": of_input[0] - of_target[0],
            "detail_lost": math.log2(float(fine.norm() + 50) / float(fine_clean.norm() + 50)),
            "exposure_slope": slope,
            "bright_end": float((offset + (slope - 1) * bright) / (bright + 8)),
            "dark_end": float(offset + (slope - 1) * dark),
            "bright_marks": math.log2((max(strongest - darkening, 0) + 4) / (max(darkening - weakest, 0) + 4)),
            "cast": float((ratios - ratios.mean(0)).median(1).values.abs().max()),
            "input_blockiness": blockiness(grey),
            "target_blockiness": blockiness(clean),
            "input_low_slope": of_input[0],
            "input_middle_slope": of_input[1],
            "target_low_slope": of_target[0],
            "target_middle_slope": of_target[1],
            **colour_changes(rainy, target),
            "noise_gain": noise_gain(grey, clean),
            "repeated_pixels": repeated_pixels(target),
            "levels": level_share(target),
            "layout_kept": layout_kept(case.query.image, case.target),
            **self.rain_seen.measure(case.query.image, case.target),
            **_tested(
                case,
                *(scene_transfer, edges_shared, fine_colours, tone, constants, structure_shared, detail_change),
                *(parts_moved, parts_gained, parts_contrasted, parts_noise, parts_coloured, parts_colour_directions),
                *(parts_constant, parts_of_squares, parts_lit, layer_drawn, layer_channels),
            ),
        }


def photograph_statistics(image: Tensor) -> dict[str, float]:
    """What tells photographs apart: spectrum, compression, the colour and skew of fine detail, brightness and mean colours.

    Args:
        image (`Tensor` of shape `(3, height, width)`): RGB in [0, 255].
    """
    grey = luma(image)
    low, middle, high = spectral_slopes(grey)
    fine = image - box_blur(image, 5)
    fine_grey = luma(fine)
    red, green, blue = (float(channel) for channel in image.mean((1, 2)))
    mean = (red + green + blue) / 3
    return {
        "low_slope": low,
        "middle_slope": middle,
        "high_slope": high,
        "blockiness": blockiness(grey),
        "fine_colour": float((fine - fine_grey).norm() / (math.sqrt(3) * fine_grey.norm() + 50)),
        "fine_skew": float((fine_grey**3).mean() / (fine_grey.square().mean() + 1) ** 1.5),
        "brightness": math.log2(mean + 8),
        "red_green": (red - green) / (mean + 8),
        "yellow_blue": (0.5 * (red + green) - blue) / (mean + 8),
    }


def _tested(case: JudgeCase, *tests: Callable) -> dict[str, float]:
    """Some of the tests of a pair in `rain_physics.py`, `picture_parts.py` and `layer_shape.py`."""
    rainy, target = (working_crop(image, TESTED_SIZE) for image in (case.query.image, case.target))
    return {name: score for test in tests for name, score in test(rainy, target).items()}


def _objection(names: Sequence[str], parts: np.ndarray, scores: Mapping[str, float]) -> str:
    """The three scores that add most to the distance, each meaning once."""
    told: dict[str, str] = {}
    for row in np.argsort(-parts, kind="stable"):
        name = names[row]
        told.setdefault(MEANINGS.get(name) or MEANINGS[name.partition("_")[0]], f"{name} {scores[name]:.3g}")
        if len(told) == 3:
            break
    return "; ".join(f"{meaning} ({score})" for meaning, score in told.items())


def _layout(image: Tensor) -> Tensor:
    """The picture on a 12 x 12 grid, without its mean colour."""
    return F.adaptive_avg_pool2d(image - image.mean((1, 2), keepdim=True), 12).flatten()


def _quarters(image: Tensor) -> list[Tensor]:
    return [part for half in image.chunk(2, 0) for part in half.chunk(2, 1)]


def _centred_correlation(a: Tensor, b: Tensor) -> float:
    return correlation(a - a.mean(), b - b.mean()) if a.numel() else 0.0


def _fit(x: Tensor, y: Tensor) -> tuple[float, float]:
    """Least squares y = slope x + offset over what is not clipped, drawn towards slope 1 where x hardly varies."""
    x, y = x[::3, ::3].flatten(), y[::3, ::3].flatten()
    x, y = x[x < 245], y[x < 245]
    if x.numel() < 100:
        return 1.0, 0.0
    dx, dy = x - x.mean(), y - y.mean()
    prior = 4.0 * x.numel()
    slope = float(((dx * dy).sum() + prior) / (dx.square().sum() + prior))
    return slope, float(y.mean()) - slope * float(x.mean())
