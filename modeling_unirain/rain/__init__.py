"""Physically based, seeded rendering of the four rain types over a clean photograph.

`render_rain` draws which rain (`parameters`), turns a day photograph into night where asked (`night`) and puts streaks (`streaks`) or
drops (`drops`) over it. Everything random comes from the given seed, and a crop of a hundred pixels takes milliseconds, so a training
loop calls it for every sample.

Streak photometry follows Garg & Nayar, "Vision and Rain" (IJCV 2007) and "Photorealistic Rendering of Rain Streaks" (SIGGRAPH 2006): a
drop refracts light from most of the hemisphere, so a streak is brighter than what it hides and has the colour of the surrounding light,
and its blend with the background is by the share of the exposure the drop took to pass ("alpha"). Synthetic benchmarks add or screen
streaks instead; all of these are drawn, since a network has to meet each of them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from modeling_unirain.rain import night
from modeling_unirain.rain.drops import add_drops
from modeling_unirain.rain.filters import gaussian_blur, jpeg, luminance, smooth_noise
from modeling_unirain.rain.grading import apply_grade, draw_grade
from modeling_unirain.rain.parameters import (
    STREAK_STYLES,
    RainParameters,
    StreakLayer,
    Veil,
    draw_parameters,
    scale_of,
)
from modeling_unirain.rain.streaks import draw_layer
from modeling_unirain.types import RainType


__all__ = [
    "RainParameters",
    "RenderedRain",
    "apply_grade",
    "apply_rain",
    "check_styles",
    "draw_grade",
    "draw_parameters",
    "render_rain",
]

MIN_SIDE = 8


@dataclass(frozen=True)
class RenderedRain:
    """A rendered pair: `rainy` and `clean` are float32 (height, width, 3) RGB in [0, 1]; `parameters` says what was drawn.

    For night types over a day photograph `clean` is the photograph at night, without rain; otherwise it is the photograph.
    """

    rainy: np.ndarray
    clean: np.ndarray
    parameters: RainParameters


def render_rain(
    image: np.ndarray,
    rain_type: RainType | str,
    seed: int | np.random.Generator,
    *,
    severity: float | None = None,
    streak_layers: Sequence[np.ndarray] | None = None,
    darken: bool | None = None,
    scale: float | None = None,
    context: np.ndarray | None = None,
    styles: Mapping[str, float] | None = None,
) -> RenderedRain:
    """Renders rain over a clean photograph.

    Args:
        image (`np.ndarray`): RGB, (height, width, 3), float in [0, 1] or uint8; at least 8 pixels a side.
        rain_type (`RainType` or `str`): DRS, DRD, NRS or NRD.
        seed (`int` or `np.random.Generator`): the only source of randomness.
        severity (`float`, *optional*): 0 (no rain) to 1 (the heaviest); drawn when not given.
        streak_layers (`Sequence[np.ndarray]`, *optional*): grey pictures of streaks on black, (h, w), float in [0, 1] or uint8, some of
            which are used in place of drawn layers.
        darken (`bool`, *optional*): whether a night type first turns the photograph into night; by default when it is bright. Pass it when
            `image` is a crop: one dark or bright corner does not tell day from night.
        scale (`float`, *optional*): size of streaks and drops; by default it grows with the image. Pass 1 for crops.
        context (`np.ndarray`, *optional*): the whole photograph that `image` is a crop of, at any (small) size: it is what drops refract.
        styles (`Mapping[str, float]`, *optional*): shares of the streak styles to draw from, of those in `STREAK_STYLES`, in any
            proportion; by default its own.

    Returns:
        `RenderedRain`

    Raises:
        ValueError: when an argument is not as described.
    """
    image = _checked(image, "image")
    try:
        rain_type = RainType(rain_type)
    except ValueError:
        raise ValueError(f"rain_type must be one of {', '.join(RainType)}, not {rain_type!r}.") from None
    if severity is not None and not 0 <= severity <= 1:
        raise ValueError(f"severity must lie in [0, 1], not {severity}.")
    if scale is not None and not 0 < scale <= 100:
        raise ValueError(f"scale must be positive and at most 100, not {scale}.")
    context = None if context is None else _checked(context, "context")
    check_styles(styles or {})
    rng = np.random.default_rng(seed)
    files = [_checked_layer(layer) for layer in streak_layers or ()]
    scale = scale_of(*image.shape[:2]) if scale is None else scale
    parameters = draw_parameters(rain_type, rng, severity, scale, len(files), styles)
    if darken is None:
        darken = not night.is_night(image if context is None else context)
    return apply_rain(image, parameters, rng, streak_layers=files, darken=darken, context=context)


def apply_rain(
    image: np.ndarray,
    parameters: RainParameters,
    rng: np.random.Generator,
    *,
    streak_layers: Sequence[np.ndarray] = (),
    darken: bool = False,
    context: np.ndarray | None = None,
) -> RenderedRain:
    """Draws the rain that `parameters` describe over `image`, float32 in [0, 1]; `rng` places the single particles."""
    height, width = image.shape[:2]
    clean = image
    if parameters.night is not None and darken:
        clean = night.darken(image, parameters.night, rng)
        context = None  # the night and its lamps are in the image only
    if parameters.severity == 0:
        return RenderedRain(clean.copy(), clean, parameters)
    scene = clean if context is None else context
    rainy = clean
    if parameters.veil is not None:
        rainy = _veiled(rainy, parameters.veil, rng)
    light = None
    for layer in parameters.layers:
        streaks = draw_layer(layer, height, width, parameters.scale, rng, streak_layers)
        if light is None and (layer.lit > 0 or layer.tint > 0):
            light = night.scene_light(clean, height, width)
        rainy = _blended(rainy, streaks, layer, light)
    for drops in parameters.drops:
        rainy = add_drops(rainy, scene, drops, parameters.scale, parameters.night is not None, rng)
    return RenderedRain(_captured(rainy, parameters, rng), clean, parameters)


def check_styles(styles: Mapping[str, float]) -> None:
    """Raises ValueError unless `styles` are shares of known streak styles; none at all means the renderer's own."""
    unknown = sorted(set(styles) - set(STREAK_STYLES))
    if unknown:
        raise ValueError(f"There is no streak style {unknown[0]!r}; there are {', '.join(STREAK_STYLES)}.")
    if styles and not (min(styles.values()) >= 0 and 0 < sum(styles.values()) < math.inf):
        raise ValueError(f"Shares of streak styles must be at least 0 and not all 0, got {dict(styles)}.")


def _checked(image: np.ndarray, name: str) -> np.ndarray:
    if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] != 3 or min(image.shape[:2]) < MIN_SIDE:
        got = f"shape {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ValueError(
            f"{name} must be an RGB array of shape (height, width, 3), at least {MIN_SIDE} pixels a side, not {got}."
        )
    if image.dtype == np.uint8:
        return image.astype(np.float32) / 255
    if not np.issubdtype(image.dtype, np.floating):
        raise ValueError(f"{name} must be uint8 or float in [0, 1], not {image.dtype}.")
    image = image.astype(np.float32)
    low, high = float(image.min()), float(image.max())
    if not (low >= -1e-3 and high <= 1 + 1e-3):
        raise ValueError(f"{name} must hold values in [0, 1], not [{low:.3g}, {high:.3g}].")
    return np.clip(image, 0, 1)


def _checked_layer(layer: np.ndarray) -> np.ndarray:
    if not isinstance(layer, np.ndarray) or layer.ndim != 2 or min(layer.shape) < MIN_SIDE:
        raise ValueError(
            f"Every streak layer must be a grey array (height, width), at least {MIN_SIDE} pixels a side."
        )
    return layer.astype(np.float32) / (255 if layer.dtype == np.uint8 else 1)


def _blended(image: np.ndarray, streaks: np.ndarray, layer: StreakLayer, light: np.ndarray | None) -> np.ndarray:
    """One streak layer over the image."""
    strength = (layer.gain * streaks)[..., None]
    if layer.lit > 0:
        strength = strength * (1 - layer.lit + layer.lit * luminance(light)[..., None])
    if layer.blend == "soft light":  # Pegtop's formula; streaks both brighten and darken
        return image + 2 * (strength - layer.base) * image * (1 - image)
    colour = np.float32(layer.level)
    if layer.tint > 0:
        tint = light / np.maximum(luminance(light)[..., None], 1e-3)
        colour = colour * (1 + layer.tint * (np.minimum(tint, 2) - 1))
    if layer.blend == "add":
        return image + strength * colour
    if layer.blend == "screen":
        return image + np.minimum(strength, 1) * colour * (1 - np.minimum(image, 1))
    return image + np.minimum(strength, 1) * (colour - image)


def _veiled(image: np.ndarray, veil: Veil, rng: np.random.Generator) -> np.ndarray:
    """Airlight over the scene, more of it towards the top, where the scene is mostly farther away."""
    height, width = image.shape[:2]
    depth = 1 + veil.slope * np.linspace(0.8, -0.8, height, dtype=np.float32)[:, None]
    if veil.unevenness > 0:
        depth = depth + veil.unevenness * smooth_noise(height, width, max(height, width) / 3, rng)
    airlight = 1 - np.power(np.float32(1 - veil.strength), np.maximum(depth, 0))[..., None]
    return image + airlight * (veil.level - image)


def _captured(image: np.ndarray, parameters: RainParameters, rng: np.random.Generator) -> np.ndarray:
    """What happens to the rainy picture alone on its way to a file."""
    if parameters.grade is not None:
        image = apply_grade(image, parameters.grade)
    if parameters.contrast != 1 or parameters.brightness != 0:
        image = (image - 0.5) * parameters.contrast + 0.5 + parameters.brightness
    image = gaussian_blur(image, parameters.blur)
    if parameters.noise > 0:
        image = image + parameters.noise * rng.standard_normal(image.shape, np.float32)
    image = np.clip(image, 0, 1).astype(np.float32)
    return image if parameters.jpeg_quality is None else jpeg(image, parameters.jpeg_quality)
