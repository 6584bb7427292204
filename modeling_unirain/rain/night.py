"""Night from a day photograph, and the light that rain scatters."""

import math

import numpy as np
from PIL import Image

from modeling_unirain.rain.filters import gaussian_blur, luminance, resize
from modeling_unirain.rain.parameters import Night


NIGHT_LUMINANCE = 0.27
"""A photograph darker than this on average is taken for a night photograph and left as it is."""
LAMP_COLOURS = (
    (1.0, 0.72, 0.38),
    (1.0, 0.9, 0.7),
    (0.9, 0.95, 1.0),
    (1.0, 0.35, 0.2),
    (0.5, 1.0, 0.75),
    (1.0, 0.8, 0.3),
)
GAMMA = 2.2
LIGHT_GRID = 24
"""The light on the rain is so smooth that a grid of this many cells a side holds it."""


def is_night(image: np.ndarray) -> bool:
    """Whether the photograph is dark enough to be one taken at night."""
    return float(luminance(image).mean()) < NIGHT_LUMINANCE


def darken(image: np.ndarray, night: Night, rng: np.random.Generator) -> np.ndarray:
    """A day photograph as a sensor would record it at night, in linear light: exposure, cast, lamps with their halos, noise.

    The noise belongs to the exposure (shot and read noise), so it is in the clean target too, as it is in real night pairs.
    """
    height, width = image.shape[:2]
    linear = image**GAMMA
    light = np.broadcast_to(np.array(night.cast, np.float32), image.shape).copy()
    glow = np.zeros_like(image)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    size = math.hypot(height, width)
    for _ in range(night.lights):
        colour = np.array(LAMP_COLOURS[rng.integers(len(LAMP_COLOURS))], np.float32)
        # lamps stand mostly in the upper half, some of them outside the frame
        cx, cy = rng.uniform(-0.1, 1.1) * width, height * rng.uniform(-0.15, 0.75)
        core = size * math.exp(rng.uniform(math.log(0.0008), math.log(0.008))) + 0.5
        square = (x - cx) ** 2 + (y - cy) ** 2
        pool = 1 / (1 + square / (size * rng.uniform(0.08, 0.35)) ** 2)
        spread = 1 + square / (rng.uniform(2, 6) * core) ** 2
        halo = night.glow * 0.15 / (spread * np.sqrt(spread))
        light += (rng.uniform(0.5, 6) * pool)[..., None] * colour
        glow += (1.5 * np.exp(-square / (2 * core**2)))[..., None] * (0.3 * colour + 0.7) + halo[..., None] * colour
    lit = linear * light
    linear = lit * min(1.0, night.exposure / max(float(luminance(lit).mean()), 1e-6)) + glow
    if night.noise > 0:
        linear = linear + night.noise * np.sqrt(np.maximum(linear, 0) + 0.01) * rng.standard_normal(
            image.shape, np.float32
        )
    return np.clip(linear, 0, 1) ** (1 / GAMMA)


def scene_light(scene: np.ndarray, height: int, width: int) -> np.ndarray:
    """The light that falls on rain at every pixel: the scene's bright parts, widely blurred; (height, width, 3), about 1 at its brightest."""
    rows, columns = min(scene.shape[0], LIGHT_GRID), min(scene.shape[1], LIGHT_GRID)
    light = np.maximum(resize(scene, rows, columns, Image.Resampling.BOX), 0) ** GAMMA
    light = np.maximum(gaussian_blur(light, 0.1 * LIGHT_GRID), 0) ** (1 / GAMMA)
    light = light / max(float(luminance(light).max()), 0.05)
    return resize(light, height, width, Image.Resampling.BICUBIC)
