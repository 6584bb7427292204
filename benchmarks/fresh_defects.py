"""Defects of kinds that no judge has seen, for the final half of `benchmarks/distillation.py`.

Written by someone who had not looked at how the judges work, and committed before any of them saw one. The rule: a mistake that really
happens to data sets, and so plain that whoever flips between the two images for ten seconds would not train on the pair.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from planted_defects import Pair, fitted, to_uint8


LABEL_COLOURS = np.uint8(
    [
        [128, 64, 128],
        [244, 35, 232],
        [70, 70, 70],
        [107, 142, 35],
        [70, 130, 180],
        [220, 20, 60],
        [0, 0, 142],
        [152, 251, 152],
        [220, 220, 0],
        [250, 170, 30],
    ]
)
"""Road, pavement, building, plants, sky, person, car, grass, sign and traffic light, as street data sets paint their labels."""


def lost_packets_target(rainy: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> Pair:
    """Packets of the target's stream were lost: 30 to 50 % of its rows of 16-pixel blocks end early, in grey or green."""
    height, width = target.shape[:2]
    rows = -(-height // 16)
    fill = (128, 128, 128) if rng.random() < 0.5 else (0, 135, 0)
    holed = target.copy()
    for row in rng.choice(rows, round(rows * rng.uniform(0.3, 0.5)), replace=False):
        holed[16 * row : 16 * row + 16, int(width * rng.uniform(0, 0.6)) // 16 * 16 :] = fill
    return rainy, holed


def blended_frames_target(rainy: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> Pair:
    """The target's frame rate was converted: it is the mean of two frames, between which the camera moved 10 to 25 pixels."""
    shift = int(rng.integers(10, 26))
    frames = target[:, shift:].astype(np.float32), target[:, :-shift].astype(np.float32)
    return rainy[:, shift:], to_uint8((frames[0] + frames[1]) / 2)


def vibrating_target(rainy: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> Pair:
    """The camera's mount vibrated under a rolling shutter: rows swing 6 to 12 pixels to either side, every 40 to 100 rows."""
    height, width = target.shape[:2]
    wave = np.sin(2 * np.pi * (np.arange(height) / rng.uniform(40, 100) + rng.uniform()))
    swing = np.rint(rng.uniform(6, 12) * wave).astype(int)
    columns = np.arange(12, width - 12) + swing[:, None]
    return rainy[:, 12:-12], target[np.arange(height)[:, None], columns]


def rephotographed_target(rainy: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> Pair:
    """The target was photographed off a screen: its black glows and coloured, bent moire stripes of 30 to 50 grey levels cross it."""
    height, width = target.shape[:2]
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    angle, spacing = rng.uniform(0, np.pi), rng.uniform(10, 24)
    along = x * np.cos(angle) + y * np.sin(angle)
    bend = rng.uniform(1, 3) * np.sin(2 * np.pi * (x * np.sin(angle) - y * np.cos(angle)) / max(height, width))
    phases = 2 * np.pi * (along / spacing + bend)[..., None] + np.float32([0, 2.1, 4.2])
    return rainy, to_uint8(0.75 * target + 40 + rng.uniform(30, 50) * np.sin(phases))


def overflowed_target(rainy: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> Pair:
    """An augmentation made the target brighter in eight bits: 70 to 130 grey levels more, and what passes 255 starts at 0 again."""
    return rainy, target + np.uint8(rng.integers(70, 131))


def unsplit_target(rainy: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> Pair:
    """The target is the whole sheet of a set that stores pairs in one file: both images side by side or stacked, squeezed into one."""
    halves = (rainy, target) if rng.random() < 0.5 else (target, rainy)
    return rainy, fitted(np.concatenate(halves, axis=int(rng.integers(2))), target)


def screenshot_target(rainy: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> Pair:
    """The target is a screenshot of a picture viewer: its window's frame and title bar, and the picture at 75 to 90 % of its size."""
    height, width = target.shape[:2]
    share = rng.uniform(0.75, 0.9)
    size = (round(width * share), round(height * share))
    left, bar = (width - size[0]) // 2, round((height - size[1]) * 0.6)
    shade = int(rng.choice([60, 225]))
    screen = Image.new("RGB", (width, height), (shade, shade, shade + 12))
    screen.paste(Image.fromarray(target).resize(size, Image.Resampling.BICUBIC), (left, bar))
    draw, radius = ImageDraw.Draw(screen), bar // 5
    for number, colour in enumerate(("red", "orange", "green")):
        draw.circle((left + radius + 3 * radius * number, bar // 2), radius, fill=colour)
    draw.text((left + 12 * radius, bar // 2 - 5), "IMG_0417.png", fill="grey")
    return rainy, np.asarray(screen)


def label_map_target(rainy: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> Pair:
    """The target was read from the folder of segmentations: flat areas in 6 to 10 colours of labels."""
    smooth = Image.fromarray(target).filter(ImageFilter.GaussianBlur(3))
    labels = np.asarray(smooth.quantize(int(rng.integers(6, 11))).filter(ImageFilter.ModeFilter(7)))
    return rainy, rng.permutation(LABEL_COLOURS)[labels]


def rain_without_picture(rainy: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> Pair:
    """The renderer lost the photograph: the rainy image is the rain over one grey."""
    return to_uint8(rng.uniform(90, 170) + (rainy.astype(np.float32) - target)), target


def opaque_rain_picture(rainy: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> Pair:
    """The rain's picture was too small and its ground not transparent: a rectangle of 50 to 80 % a side, 50 to 75 % grey, has all the rain."""
    height, width = rainy.shape[:2]
    tall, wide = int(height * rng.uniform(0.5, 0.8)), int(width * rng.uniform(0.5, 0.8))
    top, left = rng.integers(0, height - tall + 1), rng.integers(0, width - wide + 1)
    inside = slice(top, top + tall), slice(left, left + wide)
    share = rng.uniform(0.5, 0.75)
    painted = target.copy()
    painted[inside] = to_uint8((1 - share) * rainy[inside] + share * rng.uniform(110, 160))
    return painted, target


def wiper_in_input(rainy: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> Pair:
    """The rainy image was taken from a car: a windscreen wiper, 7 to 11 % of the shorter side thick, stands across it."""
    height, width = rainy.shape[:2]
    thick = min(height, width) * rng.uniform(0.07, 0.11)
    foot, tip = rng.uniform(0.2, 0.4), rng.uniform(0.55, 0.85)
    if rng.random() < 0.5:
        foot, tip = 1 - foot, 1 - tip
    blade = [(width * foot, height), (width * tip, height * rng.uniform(0.1, 0.35))]
    wiped = Image.fromarray(rainy)
    draw = ImageDraw.Draw(wiped)
    for share, colour in ((1, (24, 24, 26)), (0.5, (165, 165, 170)), (0.15, (70, 70, 74))):
        draw.line(blade, fill=colour, width=max(2, round(thick * share)))
    return np.asarray(wiped), target


def shuffled_input(rainy: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> Pair:
    """The rainy image was put together from its patches in a wrong order: 3 to 5 a side, each in the place of another."""
    count = int(rng.integers(3, 6))
    tall, wide = rainy.shape[0] // count, rainy.shape[1] // count
    rainy, target = rainy[: count * tall, : count * wide], target[: count * tall, : count * wide]
    places = rng.permutation(count * count)
    shuffled = np.empty_like(rainy)
    for place, source in zip(places, np.roll(places, 1), strict=True):
        (down, right), (row, column) = divmod(place, count), divmod(source, count)
        patch = rainy[row * tall : (row + 1) * tall, column * wide : (column + 1) * wide]
        shuffled[down * tall : (down + 1) * tall, right * wide : (right + 1) * wide] = patch
    return shuffled, target


FINAL: dict[str, Callable] = {
    function.__name__: function
    for function in (
        lost_packets_target,
        blended_frames_target,
        vibrating_target,
        rephotographed_target,
        overflowed_target,
        unsplit_target,
        screenshot_target,
        label_map_target,
        rain_without_picture,
        opaque_rain_picture,
        wiper_in_input,
        shuffled_input,
    )
}
