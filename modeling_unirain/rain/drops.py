"""Drops on the lens or on a pane before it: small spherical caps through which the whole scene is seen upside down.

The model is Roser & Geiger (ICCV workshops 2009) and Halimeh & Roser (IV 2009) without ray tracing the pane: seen straight on, the
surface of a cap of contact angle tau is tilted by beta with sin(beta) = rho sin(tau) at the relative radius rho, and Snell's law turns
the ray by delta = asin(n sin(beta)) - beta towards the axis. So that pixel sees the scene at -tan(delta) focal lengths from the centre.
Near the rim of a steep drop total reflection leaves it dark. Defocus follows von Bernuth et al. (ITSC 2018): the camera is focused on the
scene, so the drops' colours and outlines are blurred together.
"""

import math

import numpy as np
from PIL import Image

from modeling_unirain.rain.filters import gaussian_blur, luminance, resize, smooth_noise
from modeling_unirain.rain.night import LAMP_COLOURS
from modeling_unirain.rain.parameters import Drops
from modeling_unirain.rain.streaks import CHUNK


REFRACTIVE_INDEX = 1.33
OUTLINE = 0.24
"""Level of the summed falloffs at which one drop's outline lies at its radius: (1 - 1 / REACH^2)^2."""
REACH = 1.4
"""How far a drop's falloff reaches, in radii; where two overlap their outlines merge."""


def add_drops(
    image: np.ndarray, scene: np.ndarray, drops: Drops, scale: float, night: bool, rng: np.random.Generator
) -> np.ndarray:
    """Puts one population of drops in front of `image`; they refract `scene`, the whole photograph at any size."""
    height, width = image.shape[:2]
    surface = _surface(drops, height, width, scale, rng)
    if drops.film > 0:
        image = _wet(image, drops.film * scale, rng)
    pixels = np.flatnonzero(surface[0] > 0)
    if len(pixels) == 0:
        return image
    cover, local_x, local_y, steepness = surface.reshape(4, -1)[:, pixels]
    seen = _seen_scene(scene, drops, night, scale, rng)
    layer = np.zeros((height * width, 4), np.float32)
    layer[pixels, :3] = _refract(local_x, local_y, steepness, seen, drops, rng) * cover[:, None]
    layer[pixels, 3] = cover
    layer = gaussian_blur(layer.reshape(height, width, 4), drops.defocus * scale) * np.float32(drops.opacity)
    return image * (1 - layer[..., 3:]) + layer[..., :3]


def _surface(drops: Drops, height: int, width: int, scale: float, rng: np.random.Generator) -> np.ndarray:
    """Four planes, (4, height, width): cover (0 to 1), position (x, y) inside the drop in its radii, and relative steepness."""
    radius = drops.radius * scale
    margin = 1.5 * radius
    area = (height + 2 * margin) * (width + 2 * margin)
    mean_area = math.pi * radius**2 * math.exp(2 * drops.spread**2) * drops.elongation
    count = int(rng.poisson(min(drops.coverage * area / mean_area, 2e5)))
    count = max(count, 1)
    x, y = rng.uniform(-margin, width + margin, count), rng.uniform(-margin, height + margin, count)
    r = radius * np.exp(drops.spread * rng.standard_normal(count)).clip(0.25, 2.5)
    # some drops run into a neighbour
    joined = np.flatnonzero(rng.random(count) < drops.clustering)
    partner = rng.integers(0, count, len(joined))
    offset = rng.uniform(0, 2 * np.pi, len(joined))
    distance = 0.8 * (r[joined] + r[partner])
    x[joined], y[joined] = x[partner] + distance * np.cos(offset), y[partner] + distance * np.sin(offset)
    x, y, r = _with_trails(x, y, r, drops.trails, rng)
    downwards = np.argsort(y, kind="stable")  # so that a chunk of drops touches a band of rows
    x, y, r = x[downwards], y[downwards], r[downwards]
    return _merge(x, y, r, drops, height, width, rng)


def _with_trails(
    x: np.ndarray, y: np.ndarray, r: np.ndarray, share: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Some drops have run down and left a wavering chain of ever smaller drops above them."""
    runners = np.flatnonzero(rng.random(len(x)) < share)
    steps = 14
    up = np.arange(1, steps + 1)
    waver = np.cumsum(rng.normal(0, 0.12, (len(runners), steps)), axis=1)
    keep = rng.random((len(runners), steps)) < 0.85
    trail_r = r[runners, None] * np.maximum(0.2, 0.6 - 0.04 * up) * rng.uniform(0.7, 1.1, (len(runners), steps))
    trail_x, trail_y = x[runners, None] + waver * r[runners, None], y[runners, None] - 0.7 * up * r[runners, None]
    return tuple(np.concatenate([a, b[keep]]) for a, b in ((x, trail_x), (y, trail_y), (r, trail_r)))


def _merge(
    x: np.ndarray, y: np.ndarray, r: np.ndarray, drops: Drops, height: int, width: int, rng: np.random.Generator
) -> np.ndarray:
    """Sums every drop's falloff over its own pixels; the outline is a level set of the sum, so neighbours run together."""
    reach = REACH * r * (1 + drops.irregularity)
    rx, ry = reach, reach * drops.elongation
    left, right = np.clip(np.floor(x - rx), 0, width), np.clip(np.ceil(x + rx) + 1, 0, width)
    top, bottom = np.clip(np.floor(y - ry), 0, height), np.clip(np.ceil(y + ry) + 1, 0, height)
    columns, rows = (right - left).astype(np.int64), (bottom - top).astype(np.int64)
    size = columns * rows
    waves = np.arange(2, 5)
    strength = drops.irregularity * rng.standard_normal((len(x), 3)) / waves
    phase = rng.uniform(0, 2 * np.pi, (len(x), 3))
    steepness = rng.uniform(0.6, 1.2, len(x))  # drops of one rain differ in contact angle
    total = np.zeros((4, height, width), np.float32)
    for chunk in np.array_split(np.arange(len(x)), max(1, int(size.sum()) // CHUNK)):
        first, last = int(top[chunk].min()), int(bottom[chunk].max())
        if last <= first:
            continue
        owner = np.repeat(chunk, size[chunk])
        order = np.arange(len(owner)) - np.repeat(np.cumsum(size[chunk]) - size[chunk], size[chunk])
        px = left[owner] + order % columns[owner]
        py = top[owner] + order // columns[owner]
        u, v = (px - x[owner]) / r[owner], (py - y[owner]) / (r[owner] * drops.elongation)
        if drops.irregularity > 0.02:
            theta = np.arctan2(v, u)
            shape = 1 + sum(strength[owner, k] * np.cos(waves[k] * theta + phase[owner, k]) for k in range(3))
            # heavier below, as gravity pulls a drop on an upright pane
            shape = np.maximum(shape + 0.4 * drops.irregularity * v / np.sqrt(u * u + v * v + 1e-6), 0.3)
            u, v = u / shape, v / shape
        falloff = np.maximum(0, 1 - (u * u + v * v) / REACH**2) ** 2
        index = ((py - first) * width + px).astype(np.int64)
        sums = (falloff, falloff * u, falloff * v, falloff * steepness[owner])
        for plane, weight in zip(total, sums, strict=True):
            plane[first:last] += np.bincount(index, weight, minlength=(last - first) * width).reshape(-1, width)
    total[1:] /= np.maximum(total[0], 1e-6)
    # about one pixel of soft outline: the falloff's slope there is about 1.4 / radius
    softness = max(0.04, 1.4 / (float(np.median(r)) + 1))
    total[0] = np.clip((total[0] - OUTLINE) / softness + 0.5, 0, 1)
    return total


def _seen_scene(scene: np.ndarray, drops: Drops, night: bool, scale: float, rng: np.random.Generator) -> np.ndarray:
    """The scene as a drop sees it: reduced to the drop's resolution, with the sky (or the lamps) that lie beyond the frame."""
    size = int(np.clip(2.5 * drops.radius * scale, 8, 160))
    height, width = scene.shape[:2]
    factor = size / max(height, width)
    rows, columns = max(4, round(height * factor)), max(4, round(width * factor))
    seen = np.clip(resize(scene, rows, columns, Image.Resampling.BOX), 0, 1)
    if night:
        # Lamps are clipped in the photograph but not in what a drop gathers, and some of them are beyond its frame.
        seen = seen * (1 + 2.5 * luminance(seen)[..., None] ** 2)
        y, x = np.mgrid[0:rows, 0:columns].astype(np.float32)
        for _ in range(drops.lamps):
            square = (x - rng.uniform(0, columns)) ** 2 + (y - rng.uniform(0, rows)) ** 2
            spot = (
                min(1.0, size / 40)
                * rng.uniform(0.2, 1.5)
                * np.exp(-square / (size * rng.uniform(0.02, 0.12) + 0.5) ** 2)
            )
            seen = seen + spot[..., None] * np.array(LAMP_COLOURS[rng.integers(len(LAMP_COLOURS))], np.float32)
        return seen
    if drops.sky > 0:
        sky = np.array([0.93, 0.96, 1.0], np.float32) * np.float32(rng.uniform(0.75, 1.05))
        fade = np.clip(1 - np.arange(rows) / (0.55 * rows), 0, 1).astype(np.float32)[:, None, None] * drops.sky
        seen = seen + (sky - seen) * fade
    return seen


def _refract(
    local_x: np.ndarray,
    local_y: np.ndarray,
    steepness: np.ndarray,
    seen: np.ndarray,
    drops: Drops,
    rng: np.random.Generator,
) -> np.ndarray:
    """The colour, (pixels, 3), at each of the given positions inside drops."""
    rho = np.minimum(np.hypot(local_x, local_y), 1.15)
    sin_beta = rho * steepness * math.sin(math.radians(drops.contact_angle))
    sin_out = np.minimum(REFRACTIVE_INDEX * sin_beta, 0.999)
    delta = np.arcsin(sin_out) - np.arcsin(np.minimum(sin_beta, 1))
    reach = -np.tan(delta) * drops.focal_length / np.maximum(rho, 1e-4)
    rows, columns = seen.shape[:2]
    longest = max(rows, columns)
    x = np.clip((columns - 1) / 2 + reach * local_x * longest, 0, columns - 1.001)
    y = np.clip((rows - 1) / 2 + reach * local_y * longest, 0, rows - 1.001)
    left, top = x.astype(np.int64), y.astype(np.int64)
    fx, fy = (x - left)[..., None].astype(np.float32), (y - top)[..., None].astype(np.float32)
    flat = seen.reshape(-1, 3)
    corner = top * columns + left
    upper = flat[corner] * (1 - fx) + flat[corner + 1] * fx
    lower = flat[corner + columns] * (1 - fx) + flat[corner + columns + 1] * fx
    colour = upper * (1 - fy) + lower * fy
    # Fresnel (Schlick): what is not transmitted is reflected back from the dark inside of the camera
    cos_out = np.sqrt(1 - sin_out**2)
    transmitted = 1 - (0.02 + 0.98 * (1 - cos_out) ** 5)
    colour *= (0.12 + 0.88 * transmitted)[..., None]
    if drops.highlight > 0:
        towards = rng.normal(0, 0.25)
        spot = (local_x - 0.55 * math.sin(towards)) ** 2 + (local_y + 0.55 * math.cos(towards)) ** 2
        light = seen.reshape(-1, 3).max(axis=0)
        colour = colour + (drops.highlight * np.exp(-spot / 0.02))[..., None].astype(np.float32) * light
    return colour


def _wet(image: np.ndarray, amplitude: float, rng: np.random.Generator) -> np.ndarray:
    """A film of water bends the scene by up to a few pixels."""
    height, width = image.shape[:2]
    wavelength = max(12.0, 10 * amplitude)
    y, x = np.mgrid[0:height, 0:width]
    rows = np.rint(y + amplitude * smooth_noise(height, width, wavelength, rng)).astype(np.int64)
    columns = np.rint(x + amplitude * smooth_noise(height, width, wavelength, rng)).astype(np.int64)
    return image[np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1)]
