"""Which rain: every quantity that is drawn for an image, and the distributions they are drawn from.

`draw_parameters` turns (type, severity, generator) into one frozen `RainParameters`; the other modules only draw what it says.
Lengths are pixels of a photograph whose shorter side is `REFERENCE_SIDE`; `RainParameters.scale` converts them.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from modeling_unirain.rain.grading import Grade, draw_grade
from modeling_unirain.types import RainType


REFERENCE_SIDE = 512
"""Published benchmarks are about 480 x 320; larger photographs get larger streaks and drops, smaller ones do not get smaller."""
SCALE_EXPONENT = 0.7
"""Below 1 because large photographs also come from wider fields of view and shorter exposures, not only from denser sensors."""

# Shares of the styles among streak images, unless a caller has its own. Each is modelled on what it is named after (PSNR of the input in
# RGB, dB, from faint to heavy).
STREAK_STYLES = {
    # name: (share, (PSNR at severity 0+, PSNR at severity 1))
    "sharp": (0.22, (36.0, 19.0)),  # Rain100L, Yang et al., CVPR 2017: one direction, sharp, additive; mean input 25.5
    "storm": (0.30, (19.0, 8.5)),  # Rain100H, same: several directions of strong line streaks; mean input 12.1
    "photoshop": (0.17, (31.0, 13.0)),  # Rain800, Zhang et al., ID-CGAN: blurred noise, screened; mean input 21.2
    "driving": (0.05, (38.0, 21.0)),  # NiteDR, Shi et al.: thin, long, faint; mean input 26 to 29
    "physical": (0.08, (36.0, 16.0)),  # particles at several depths with Marshall-Palmer sizes, and haze
    "rods": (0.04, (34.0, 18.0)),  # CARLARain: short opaque rods of one width; mean input 24 to 28
    # Outdoor-Rain, Li et al., CVPR 2019; RainCityscapes, Hu et al., CVPR 2019: streaks in thick airlight
    "fog": (0.09, (38.0, 22.0)),
    "wild": (0.10, (34.0, 11.0)),  # any mixture, for rain that no one foresaw
    # Rain800's darkened third: a tone curve over all, which comes on top. Only where asked for
    "graded": (0.0, (31.0, 13.0)),
}
PHOTOSHOP_BLENDS = {
    "photoshop": {"screen": 0.3, "add": 0.15, "alpha": 0.15, "soft light": 0.4},
    "graded": {"screen": 0.5, "add": 0.15, "alpha": 0.25, "soft light": 0.1},
}
"""The styles that have Photoshop's blurred noise, and how it is blended with the scene."""
LAYER_FILE_SHARE = 0.15
"""How often one layer comes from `streak_layers`, when there are any."""
NEAR_CLEAN_SHARE = 0.06
"""Share of images with hardly any rain, so that a model learns to leave clean photographs alone."""
SOFT_LIGHT_BLACK = 0.5
"""A black layer in soft light, at full opacity, squares what it covers: `image - 2 * 0.5 * image * (1 - image)`."""
JPEG_SHARE = 0.22
SOFT_SHARE = 0.06
GRADED_FROM = 0.15
"""Severity from which the style "graded" has its tone curve, by day: of a curve fainter rain tells nothing."""
VEIL_SHARES = {"fog": 1.0, "physical": 0.5, "wild": 0.35, "rods": 0.05}
"""How often airlight lies over the scene; 0.12 for every other style."""
STREAKS_BEHIND_DROPS_SHARE = 0.15
"""How often light streaks fall behind drops on the lens (as in RainDS, Quan et al., CVPR 2021)."""


@dataclass(frozen=True)
class StreakLayer:
    """One layer of streaks at one depth.

    `kind` is "line" (particles drawn one by one), "noise" (thresholded noise, motion-blurred) or "file" (a given picture).
    `angle` is in degrees from the vertical, positive when the rain falls to the right; `jitter` its standard deviation.
    `coverage` is the expected share of the image under streaks, `gain` their brightness (it may exceed 1), `spread` the log standard
    deviation of the particles' lengths, widths and brightnesses, `taper` how much of a streak fades at its ends (0 to 1), `ripple`
    the modulation by the drop's oscillation, `lit` how far the scene's light, not a constant, sets the brightness, `base` how much a layer
    in soft light darkens between its streaks.
    """

    kind: str
    angle: float
    length: float
    width: float
    coverage: float
    gain: float
    blend: str
    jitter: float = 0.0
    spread: float = 0.3
    taper: float = 0.5
    ripple: float = 0.0
    defocus: float = 0.0
    level: float = 1.0
    tint: float = 0.0
    lit: float = 0.0
    base: float = 0.0


@dataclass(frozen=True)
class Drops:
    """One population of drops on the lens or on a pane before it.

    `coverage` is the expected share of the image behind them; `radius` and the blur `defocus` are in pixels, `spread` is the log standard
    deviation of the radii; `irregularity` bends the outlines, `elongation` stretches them downwards; `clustering` is the share that runs
    into a neighbour, `trails` the share that left a trail. `contact_angle` in degrees and `focal_length` in image widths set the
    refraction; `sky` is how bright the sky beyond the frame is by day, `lamps` how many lamps are beyond it by night; `film` is the
    bending, in pixels, by the wet glass between the drops.
    """

    coverage: float
    radius: float
    spread: float
    irregularity: float
    elongation: float
    clustering: float
    trails: float
    contact_angle: float
    focal_length: float
    defocus: float
    opacity: float
    highlight: float
    sky: float
    lamps: int
    film: float


@dataclass(frozen=True)
class Veil:
    """Airlight scattered by distant rain or fog (Koschmieder's law): at unit depth it replaces `strength` of the scene by `level`.

    No depth is known: a pseudo-depth grows upwards by `slope` and varies smoothly by `unevenness`.
    """

    strength: float
    level: float
    slope: float
    unevenness: float


@dataclass(frozen=True)
class Night:
    """How a day photograph is turned into night: mean linear luminance `exposure`, colour `cast`, `lights` lamps with a `glow`, sensor `noise`."""

    exposure: float
    cast: tuple[float, float, float]
    lights: int
    glow: float
    noise: float


@dataclass(frozen=True)
class RainParameters:
    """Everything drawn for one image except where single particles fall."""

    rain_type: RainType
    severity: float
    style: str
    scale: float
    layers: tuple[StreakLayer, ...]
    drops: tuple[Drops, ...]
    veil: Veil | None
    night: Night | None
    contrast: float
    brightness: float
    noise: float
    blur: float
    jpeg_quality: int | None
    grade: Grade | None = None


def scale_of(height: int, width: int) -> float:
    """Size of rain features for a photograph of that size, relative to the reference."""
    return max(1.0, min(height, width) / REFERENCE_SIDE) ** SCALE_EXPONENT


def draw_parameters(
    rain_type: RainType,
    rng: np.random.Generator,
    severity: float | None = None,
    scale: float = 1.0,
    num_files: int = 0,
    styles: Mapping[str, float] | None = None,
) -> RainParameters:
    """Draws the rain of one image.

    `severity` in [0, 1] (None draws it); `num_files` given streak layers may be used; `styles` are shares of streak styles, by default
    those of `STREAK_STYLES`.
    """
    styles = styles or {name: share for name, (share, _) in STREAK_STYLES.items()}
    near_clean, drawn = rng.random() < NEAR_CLEAN_SHARE, rng.random()
    if severity is None:
        severity = 0.04 * drawn if near_clean else drawn
    night = rain_type in (RainType.NRS, RainType.NRD)
    streaks = rain_type in (RainType.DRS, RainType.NRS)
    style = _choose(rng, styles) if streaks else "drops"
    contrast, brightness, noise, blur, quality = _draw_capture(rng, style)
    layers = _draw_layers(rng, style, severity, night, num_files) if streaks else ()
    drops = () if streaks else _draw_drops(rng, severity)
    if drops and rng.random() < STREAKS_BEHIND_DROPS_SHARE:
        behind = _choose(rng, {"sharp": 0.4, "driving": 0.3, "physical": 0.3})
        layers = _draw_layers(rng, behind, 0.6 * severity, night, num_files)
    veil = _draw_veil(rng, style, severity, night)
    quiet = severity < 0.05  # hardly any rain: nothing else may be wrong with the image either
    return RainParameters(
        rain_type=rain_type,
        severity=severity,
        style=style,
        scale=scale,
        layers=layers,
        drops=drops,
        veil=None if quiet else veil,
        night=_draw_night(rng) if night else None,
        contrast=1.0 if quiet else contrast,
        brightness=0.0 if quiet else brightness,
        noise=0.0 if quiet else noise,
        blur=0.0 if quiet else blur,
        jpeg_quality=None if quiet else quality,
        grade=draw_grade(rng) if style == "graded" and severity > GRADED_FROM and not night else None,
    )


def _choose(rng: np.random.Generator, shares: Mapping[str, float]) -> str:
    weights = np.array(list(shares.values()))
    return list(shares)[int(np.searchsorted(np.cumsum(weights), rng.random() * weights.sum(), side="right"))]


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return math.exp(rng.uniform(math.log(low), math.log(high)))


def _draw_angle(rng: np.random.Generator) -> float:
    spread = (10.0, 18.0, 28.0, 40.0)[rng.integers(4)]
    return float(np.clip(rng.normal(0, spread), -75, 75))


def _draw_capture(rng: np.random.Generator, style: str) -> tuple[float, float, float, float, int | None]:
    """Tone change, noise, softness and compression of the rainy picture alone."""
    contrast, brightness = 1.0, 0.0
    photoshop = style in PHOTOSHOP_BLENDS
    draws = rng.random(4)
    values = rng.uniform(-1, 1, 5)
    if style == "photoshop" and draws[0] < 0.45:  # Rain800 inputs are often darker, contrastier or washed out
        contrast, brightness = 1 + 0.22 * float(values[0]), 0.06 * float(values[1]) - 0.01
    noise = 0.012 * abs(float(values[2])) if draws[1] < 0.15 else 0.0
    blur = 0.5 + 0.3 * float(values[3]) if draws[2] < SOFT_SHARE else 0.0
    quality = int(70 + 25 * float(values[4])) if draws[3] < JPEG_SHARE * (1.8 if photoshop else 1.0) else None
    return contrast, brightness, noise, blur, quality


def _draw_layers(
    rng: np.random.Generator, style: str, severity: float, night: bool, num_files: int
) -> tuple[StreakLayer, ...]:
    angle = _draw_angle(rng)
    lit = 0.0 if rng.random() < (0.4 if night else 0.8) else rng.uniform(0.3, 1.0)
    tint = 0.0 if rng.random() < 0.6 else rng.uniform(0.05, 0.6)
    level = rng.uniform(0.75, 1.0)
    shared = {"lit": lit, "tint": tint, "level": level}
    faint, heavy = STREAK_STYLES[style][1]
    # below severity 0.1 every style fades out, so that none of them is left at 0
    decibel = faint + (heavy - faint) * severity + rng.normal(0, 1.0) + 200 * max(0.0, 0.1 - severity)
    layers: list[StreakLayer] = []

    def line(share: float, coverage: float, blend: str, **settings) -> None:
        coverage *= 0.4 + 0.6 * severity
        gain = _gain(decibel, share, coverage * 0.5, blend)
        layers.append(StreakLayer("line", coverage=coverage, gain=gain, blend=blend, **settings, **shared))

    if style == "sharp":
        line(
            1.0,
            angle=angle,
            length=_log_uniform(rng, 8, 70),
            width=_log_uniform(rng, 0.7, 2.2),
            coverage=_log_uniform(rng, 0.03, 0.25),
            jitter=rng.uniform(0, 3),
            spread=rng.uniform(0.1, 0.5),
            taper=rng.uniform(0, 1),
            blend=_choose(rng, {"add": 0.7, "screen": 0.2, "alpha": 0.1}),
        )
    elif style == "storm":
        count = int(rng.integers(1, 6))
        fan = rng.uniform(8, 45)
        density = _log_uniform(rng, 0.25, 1.8) / count**0.5
        blend = _choose(rng, {"add": 0.8, "screen": 0.2})
        for share in rng.dirichlet(np.full(count, 3.0)):
            direction = angle + fan * rng.uniform(-1, 1)
            if rng.random() < 0.2:
                layers.append(_noise_layer(rng, decibel, float(share), direction, blend, shared))
            else:
                line(
                    float(share),
                    angle=direction,
                    length=_log_uniform(rng, 15, 140),
                    width=_log_uniform(rng, 0.8, 4.0),
                    coverage=density * rng.uniform(0.5, 1.5),
                    jitter=rng.uniform(0, 3),
                    spread=rng.uniform(0.1, 0.6),
                    taper=rng.uniform(0, 0.8),
                    blend=blend,
                )
    elif style in PHOTOSHOP_BLENDS:
        count = int(rng.integers(1, 3))
        blend = _choose(rng, PHOTOSHOP_BLENDS[style])
        for share in rng.dirichlet(np.full(count, 3.0)):
            layers.append(_noise_layer(rng, decibel, float(share), angle + rng.normal(0, 4), blend, shared))
    elif style == "driving":
        count = int(rng.integers(1, 3))
        blend = _choose(rng, {"alpha": 0.5, "screen": 0.25, "add": 0.25})
        for share in rng.dirichlet(np.full(count, 3.0)):
            if rng.random() < 0.4:
                layers.append(_noise_layer(rng, decibel, float(share), angle, blend, shared))
            else:
                line(
                    float(share),
                    angle=angle,
                    length=_log_uniform(rng, 12, 70),
                    width=_log_uniform(rng, 0.6, 1.8),
                    coverage=_log_uniform(rng, 0.05, 0.3),
                    jitter=rng.uniform(0, 2),
                    spread=rng.uniform(0.1, 0.4),
                    taper=rng.uniform(0, 0.6),
                    blend=blend,
                )
    elif style == "rods":
        line(
            1.0,
            angle=angle,
            length=_log_uniform(rng, 5, 30),
            width=_log_uniform(rng, 0.8, 2.5),
            coverage=_log_uniform(rng, 0.01, 0.12),
            jitter=rng.uniform(0, 8),
            spread=rng.uniform(0, 0.3),
            taper=rng.uniform(0, 0.2),
            blend=_choose(rng, {"alpha": 0.7, "add": 0.3}),
        )
    elif style in ("physical", "fog"):
        layers += _physical_layers(rng, decibel, severity, angle, shared)
    else:
        count = int(rng.integers(1, 5))
        for share in rng.dirichlet(np.full(count, 2.0)):
            blend = _choose(rng, {"add": 0.35, "screen": 0.3, "alpha": 0.25, "soft light": 0.1})
            direction = angle if rng.random() < 0.5 else _draw_angle(rng)
            if rng.random() < 0.35:
                layers.append(_noise_layer(rng, decibel, float(share), direction, blend, shared))
            else:
                line(
                    float(share),
                    angle=direction,
                    length=_log_uniform(rng, 4, 160),
                    width=_log_uniform(rng, 0.6, 7.0),
                    coverage=_log_uniform(rng, 0.01, 0.5),
                    jitter=rng.uniform(0, 12),
                    spread=rng.uniform(0, 0.6),
                    taper=rng.uniform(0, 1),
                    ripple=rng.uniform(0, 0.6),
                    defocus=0.0 if rng.random() < 0.5 else rng.uniform(0, 2.5),
                    blend="add" if blend == "soft light" else blend,
                )
    if rng.random() < LAYER_FILE_SHARE and num_files and style != "rods":
        last = layers.pop()
        gain = _gain(decibel, 1 / (len(layers) + 1), 0.03, "add")
        layers.append(StreakLayer("file", angle, rng.uniform(0.6, 2.2), 1.0, last.coverage, gain, "add", **shared))
    return tuple(layers)


def _noise_layer(
    rng: np.random.Generator, decibel: float, share: float, angle: float, blend: str, shared: dict[str, float]
) -> StreakLayer:
    """Photoshop's recipe: noise of `width` px grain, thresholded so that `coverage` of it survives, blurred over `length` px."""
    coverage = rng.uniform(0.15, 0.85)
    gain = _gain(decibel, share, 0.3, blend)
    return StreakLayer(
        kind="noise",
        angle=angle,
        length=_log_uniform(rng, 5, 60),
        width=_log_uniform(rng, 0.8, 2.6),
        coverage=coverage,
        gain=gain,
        blend=blend,
        jitter=rng.uniform(0, 4),
        defocus=0.0 if rng.random() < 0.7 else rng.uniform(0, 1.0),
        # White streaks on black, in soft light: a third of Rain800 is darker than its target, most in the middle tones.
        base=min(gain * rng.uniform(0, 1.6), SOFT_LIGHT_BLACK) if blend == "soft light" else 0.0,
        **shared,
    )


def _physical_layers(
    rng: np.random.Generator, decibel: float, severity: float, angle: float, shared: dict[str, float]
) -> list[StreakLayer]:
    """Drops of one rain seen at several depths.

    A drop of diameter D at distance z is D f / z pixels wide and, during the exposure, v(D) T f / z long, with the terminal velocity
    v = 9.65 - 10.3 exp(-0.6 D) m/s, D in mm (Atlas et al. 1973); sizes follow Marshall & Palmer (1948), here through the layer's spread.
    Its brightness falls with the share of the exposure it covers a pixel (Garg & Nayar 2007), so far streaks are thin and faint.
    """
    count = int(rng.integers(2, 5))
    focal = rng.uniform(500, 1200)  # px at the reference size
    exposure = _log_uniform(rng, 1 / 500, 1 / 40)
    nearest = _log_uniform(rng, 0.6, 2.5)
    focus = _log_uniform(rng, 2, 30)
    aperture = _log_uniform(rng, 0.3, 4.0)  # blur disc in px at infinity when focused at 1 m
    blend = _choose(rng, {"alpha": 0.5, "add": 0.3, "screen": 0.2})
    jitter, taper, ripple = rng.uniform(1, 7), rng.uniform(0.3, 1), rng.uniform(0, 0.5)
    layers = []
    for index in range(count):
        distance = nearest * 2.2**index
        diameter = rng.uniform(1.0, 3.5)
        speed = 9.65 - 10.3 * math.exp(-0.6 * diameter)
        width = diameter * 1e-3 * focal / distance
        length = speed * exposure * focal / distance
        coverage = rng.uniform(0.03, 0.2) * (0.4 + 0.6 * severity) * (0.35 + 0.65 * index / (count - 1))
        layers.append(
            StreakLayer(
                kind="line",
                angle=angle + rng.normal(0, 2),
                length=float(np.clip(length, 4, 220)),
                width=float(np.clip(width, 0.5, 9)),
                coverage=coverage,
                gain=_gain(decibel, 1 / count, coverage * 0.4, blend),
                blend=blend,
                jitter=jitter,
                spread=0.4,
                taper=taper,
                ripple=ripple,
                defocus=float(np.clip(aperture * abs(1 / distance - 1 / focus) * 2, 0, 6)),
                **shared,
            )
        )
    return layers[::-1]  # far layers first, near ones in front of them


def _gain(decibel: float, share: float, energy: float, blend: str) -> float:
    """Brightness that gives a layer of mean square `energy` its `share` of the error of an input of `decibel` PSNR."""
    gain = math.sqrt(share * 10 ** (-decibel / 10) / energy)
    if blend == "soft light":
        return min(2.5 * gain, 1.0)
    return min(gain if blend == "add" else 1.7 * gain, 1.6)


def _draw_veil(rng: np.random.Generator, style: str, severity: float, night: bool) -> Veil | None:
    used = rng.random() < VEIL_SHARES.get(style, 0.12)
    thickest = {"fog": 0.6, "physical": 0.4, "wild": 0.4}.get(style, 0.2)
    thinnest = 0.1 if style == "fog" else 0.02
    veil = Veil(
        strength=rng.uniform(thinnest, thickest) * (0.2 + 0.8 * severity),
        level=rng.uniform(0.08, 0.35) if night else rng.uniform(0.55, 0.97),
        slope=rng.uniform(0, 1),
        unevenness=0.0 if rng.random() < 0.5 else rng.uniform(0.1, 0.5),
    )
    return veil if used else None


def _draw_drops(rng: np.random.Generator, severity: float) -> tuple[Drops, ...]:
    """One to three populations: a few large drops, many small ones, a fine mist."""
    count = int(rng.integers(1, 4))
    radii = [_log_uniform(rng, 2.0, 30.0) for _ in range(count)]
    # one lens, one depth of field: the same blur in pixels for all its drops, so the small ones fade first
    focus = _choose(rng, {"sharp": 0.3, "soft": 0.45, "blurred": 0.25})
    sharpest, softest = {"sharp": (0.03, 0.12), "soft": (0.12, 0.4), "blurred": (0.4, 0.9)}[focus]
    defocus = rng.uniform(sharpest, softest) * max(radii)
    shared = {
        "contact_angle": rng.uniform(25, 75),
        "focal_length": rng.uniform(0.5, 1.3),
        "highlight": 0.0 if rng.random() < 0.45 else rng.uniform(0.1, 0.9),
        "sky": 0.0 if rng.random() < 0.35 else rng.uniform(0.2, 1.0),
        "lamps": int(rng.integers(0, 7)),
    }
    film = 0.0 if rng.random() < 0.9 else rng.uniform(0.2, 0.9) * severity
    coverage = 0.03 * min(1.0, 10 * severity) + 0.6 * severity**1.2 * rng.uniform(0.4, 1.0)
    opacity = rng.uniform(0.65, 1.0) * min(1.0, 0.3 + 2 * severity)
    return tuple(
        Drops(
            coverage=coverage * float(share),
            radius=radius,
            spread=rng.uniform(0.15, 0.6),
            irregularity=0.3 * rng.random() ** 2,
            elongation=rng.uniform(0.85, 1.4),
            clustering=0.5 * rng.random() ** 2,
            trails=0.0 if rng.random() < 0.8 else rng.uniform(0.05, 0.4),
            defocus=min(defocus, 0.8 * radius),
            opacity=opacity,
            film=film if index == 0 else 0.0,
            **shared,
        )
        for index, (share, radius) in enumerate(zip(rng.dirichlet(np.full(count, 1.5)), radii, strict=True))
    )


def _draw_night(rng: np.random.Generator) -> Night:
    casts = ((1.0, 0.78, 0.5), (0.75, 0.85, 1.1), (0.95, 1.0, 0.85), (1.0, 0.95, 0.9), (0.9, 0.85, 1.05))
    cast = np.array(casts[rng.integers(len(casts))]) * rng.uniform(0.92, 1.08, 3)
    return Night(
        exposure=_log_uniform(rng, 0.006, 0.09),
        cast=tuple(float(c) for c in cast),
        lights=int(rng.integers(0, 9)),
        glow=rng.uniform(0.1, 1.0),
        noise=0.0 if rng.random() < 0.3 else rng.uniform(0.002, 0.02),
    )
