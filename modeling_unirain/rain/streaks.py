"""Streak layers: how bright rain is at every pixel, before it is blended with the scene."""

import math
from collections.abc import Sequence

import numpy as np

from modeling_unirain.rain.filters import affine, gaussian_blur
from modeling_unirain.rain.parameters import StreakLayer


SAMPLE_SPACING = 0.75
"""Streaks are splatted as points this many pixels apart; below 1 so that a bilinear splat leaves no gaps."""
CHUNK = 1_000_000
"""Points splatted at once: bounds memory on large photographs."""


def draw_layer(
    layer: StreakLayer, height: int, width: int, scale: float, rng: np.random.Generator, files: Sequence[np.ndarray]
) -> np.ndarray:
    """The layer's streak map, (height, width) float32 from 0, about 1 at a typical streak."""
    if layer.kind == "file":
        return _file_layer(layer, height, width, scale, rng, files)
    draw = _line_layer if layer.kind == "line" else _noise_layer
    streaks = draw(layer, height, width, scale, rng)
    return gaussian_blur(streaks, layer.defocus * scale)


def _line_layer(layer: StreakLayer, height: int, width: int, scale: float, rng: np.random.Generator) -> np.ndarray:
    """Particles drawn one by one as short soft-edged lines."""
    length, thickness = layer.length * scale, layer.width * scale
    margin = 0.5 * length * (1 + layer.spread)
    expected = layer.coverage * (height + 2 * margin) * (width + 2 * margin) / (length * thickness)
    count = int(rng.poisson(min(expected, 2e6)))
    streaks = np.zeros((height, width), np.float32)
    if count == 0:
        return streaks
    x = rng.uniform(-margin, width + margin, count)
    y = np.sort(rng.uniform(-margin, height + margin, count))  # sorted, so that a chunk touches a band of rows
    size, wide, bright = np.exp(layer.spread * rng.standard_normal((3, count))).clip(0.3, 3.0)
    angle = np.deg2rad(layer.angle + layer.jitter * rng.standard_normal(count))
    lengths, widths = length * size, thickness * np.sqrt(wide)
    phase, cycles = rng.uniform(0, 2 * np.pi, count), rng.uniform(1, 4, count)
    along = np.maximum(1, np.ceil(lengths / SAMPLE_SPACING)).astype(np.int64)
    across = np.maximum(1, np.ceil(widths / SAMPLE_SPACING)).astype(np.int64)
    points = along * across
    area = lengths * widths / points
    for chunk in np.array_split(np.arange(count), max(1, int(points.sum()) // CHUNK)):
        owner = np.repeat(chunk, points[chunk])
        order = np.arange(len(owner)) - np.repeat(np.cumsum(points[chunk]) - points[chunk], points[chunk])
        t = (order // across[owner] + 0.5) / along[owner]  # 0 at the head, 1 at the tail
        u = (order % across[owner] + 0.5) / across[owner] - 0.5
        value = bright[owner] * area[owner]
        if layer.taper > 0:
            value = value * np.minimum(1.0, np.minimum(t, 1 - t) / (0.5 * layer.taper + 1e-6))
        if layer.ripple > 0:  # a falling drop oscillates, which beads its streak (Garg & Nayar 2006)
            value = value * (1 + layer.ripple * np.sin(2 * np.pi * cycles[owner] * t + phase[owner]))
        value = value * (1.3 - 3.6 * u * u)  # brighter along the middle, mean 1
        s, v = (t - 0.5) * lengths[owner], u * widths[owner]
        sin, cos = np.sin(angle)[owner], np.cos(angle)[owner]
        _splat(streaks, x[owner] + s * sin + v * cos, y[owner] + s * cos - v * sin, value)
    return streaks


def _splat(canvas: np.ndarray, x: np.ndarray, y: np.ndarray, value: np.ndarray) -> None:
    """Adds points to the canvas, each shared by the four pixels around it."""
    height, width = canvas.shape
    inside = (x > -1) & (x < width) & (y > -1) & (y < height)
    if not inside.any():
        return
    x, y, value = x[inside], y[inside], value[inside]
    left, top = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    fx, fy = x - left, y - top
    first, last = max(int(top.min()), 0), min(int(top.max()) + 1, height - 1)
    # one column and row of slack on each side take what falls off the edge
    stride, rows = width + 2, last - first + 3
    index = (top - first + 1) * stride + left + 1
    index = np.concatenate([index, index + 1, index + stride, index + stride + 1])
    value = np.concatenate(
        [value * (1 - fx) * (1 - fy), value * fx * (1 - fy), value * (1 - fx) * fy, value * fx * fy]
    )
    band = np.bincount(index, value, minlength=rows * stride)[: rows * stride].reshape(rows, stride)
    canvas[first : last + 1] += band[1:-1, 1:-1]


def _noise_layer(layer: StreakLayer, height: int, width: int, scale: float, rng: np.random.Generator) -> np.ndarray:
    """Thresholded Gaussian noise, blurred along the vertical and turned: the recipe of many synthetic data sets."""
    grain = layer.width * scale
    angle = math.radians(layer.angle + layer.jitter * rng.standard_normal())
    sin, cos = math.sin(angle), math.cos(angle)
    blur = max(2, round(layer.length * scale / grain))
    columns = int((width * abs(cos) + height * abs(sin)) / grain) + 4
    rows = int((height * abs(cos) + width * abs(sin)) / grain) + 4
    noise = rng.standard_normal((rows + blur, columns), np.float32)
    # one particle's share of an otherwise white noise keeps some streaks standing out, as thresholding does
    noise = np.where(rng.random(noise.shape, np.float32) < 0.3, noise * 1.6, noise * 0.5)
    total = np.cumsum(noise, axis=0, dtype=np.float64)
    streaks = (total[blur:] - total[:-blur]) / (math.sqrt(blur) * 0.95)
    # levels: what lies above the threshold stays; `coverage` sets it through the normal quantile's logistic approximation
    threshold = math.log(layer.coverage / (1 - layer.coverage)) / 1.7
    if layer.blend != "soft light":
        streaks = np.maximum(0, streaks + threshold) * 0.6
    matrix = (cos / grain, -sin / grain, 0.0, sin / grain, cos / grain, 0.0)
    centre_x = (columns - 1) / 2 - (cos * (width - 1) - sin * (height - 1)) / 2 / grain
    centre_y = (rows - 1) / 2 - (sin * (width - 1) + cos * (height - 1)) / 2 / grain
    return affine(streaks, height, width, (*matrix[:2], centre_x, *matrix[3:5], centre_y))


def _file_layer(
    layer: StreakLayer,
    height: int,
    width: int,
    scale: float,
    rng: np.random.Generator,
    files: Sequence[np.ndarray],
) -> np.ndarray:
    """A given streak picture, mirrored at its borders, scaled by `length` and turned by up to 15 degrees at a random place."""
    source = files[int(rng.integers(len(files)))]
    zoom = 1 / (layer.length * scale)
    angle = math.radians(rng.uniform(-15, 15))
    sin, cos = math.sin(angle) * zoom, math.cos(angle) * zoom
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    columns = x * cos - y * sin + rng.uniform(0, source.shape[1])
    rows = x * sin + y * cos + rng.uniform(0, source.shape[0])
    if rng.random() < 0.5:
        columns = -columns
    return source[_mirror(rows, source.shape[0]), _mirror(columns, source.shape[1])]


def _mirror(index: np.ndarray, size: int) -> np.ndarray:
    index = np.floor(index).astype(np.int64) % (2 * size)
    return np.where(index < size, index, 2 * size - 1 - index)
