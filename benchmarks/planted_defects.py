"""Defects planted in sound pairs, for `benchmarks/distillation.py`.

Limits of the `local` preset are set on sound pairs alone, and what it measures was chosen with the `TUNING` kinds in view. Five sets of
kinds that were fresh once (`fresh_defects.py` holds today's) joined them after they had given their figures (docs/distillation.md),
because a kind that was looked at can no longer tell how unknown kinds fare.
Every defect is a pure function of the pair, a seeded generator and, for some, another pair of the same source. Pairs are
`uint8` RGB arrays of shape (height, width, 3); results of a pair have equal sizes, so that no kind is caught by the size
check alone.
"""

import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps


Pair = tuple[np.ndarray, np.ndarray]


def shifted_target(rainy: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> Pair:
    """The target lies 2 to 10 pixels away, diagonally."""
    dy, dx = rng.integers(2, 11, 2)
    if rng.random() < 0.5:
        return rainy[dy:, dx:], target[:-dy, :-dx]
    return rainy[dy:, :-dx], target[:-dy, dx:]


def blurred_target(rainy: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> Pair:
    """The target is out of focus: a Gaussian of sigma 1.5 to 3."""
    return rainy, np.asarray(Image.fromarray(target).filter(ImageFilter.GaussianBlur(rng.uniform(1.5, 3))))


def rain_left_in_target(rainy: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> Pair:
    """The target keeps 40 to 90 % of the rain."""
    share = rng.uniform(0.4, 0.9)
    return rainy, to_uint8(target + share * (rainy.astype(np.float32) - target))


def coloured_rain(rainy: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> Pair:
    """The rain layer is painted in one saturated colour."""
    layer = np.abs(rainy.astype(np.float32) - target).max(2, keepdims=True)
    colour = np.eye(3, dtype=np.float32)[rng.integers(3)]
    if rng.random() < 0.5:  # yellow, cyan, magenta
        colour = 1 - colour
    return to_uint8(target + layer * (2 * colour - 1) * 0.8), target


def crushed_jpeg(rainy: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> Pair:
    """The target, or both images, went through JPEG of quality 3 to 10."""
    quality = int(rng.integers(3, 11))
    return (_jpeg(rainy, quality) if rng.random() < 0.5 else rainy), _jpeg(target, quality)


def wrong_exposure(rainy: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> Pair:
    """The target was exposed 0.6 to 1.2 stops longer or shorter."""
    gain = 2.0 ** (rng.uniform(0.6, 1.2) * rng.choice([-1, 1]))
    return rainy, to_uint8(target * np.float32(gain))


def swapped_target(rainy: np.ndarray, target: np.ndarray, rng: np.random.Generator, other: Pair) -> Pair:
    """The target is that of another pair of the same source, brought to the rainy image's size."""
    return rainy, fitted(other[1], rainy)


def upscaled_thumbnail(rainy: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> Pair:
    """Both images were enlarged three to five times from thumbnails."""
    height, width = rainy.shape[:2]
    factor = rng.uniform(3, 5)
    small = (round(width / factor), round(height / factor))

    def enlarge(image: np.ndarray) -> np.ndarray:
        thumbnail = Image.fromarray(image).resize(small, Image.Resampling.BICUBIC)
        return np.asarray(thumbnail.resize((width, height), Image.Resampling.BICUBIC))

    return enlarge(rainy), enlarge(target)


def impossible_rain(rainy: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> Pair:
    """What was added cannot be rain: streaks and drops that take light away, coloured confetti, or a regular mesh."""
    height, width = target.shape[:2]
    variant = rng.integers(3)
    if variant == 0:
        layer = -1.5 * np.abs(rainy.astype(np.float32) - target).max(2, keepdims=True)
        return to_uint8(target + layer), target
    painted = target.copy()
    if variant == 1:
        for _ in range(height * width // 600):
            y, x = rng.integers(0, height - 3), rng.integers(0, width - 3)
            painted[y : y + 3, x : x + 3] = rng.integers(0, 256, 3)
    else:
        step = int(rng.integers(6, 16))
        painted[::step] = 255
        painted[:, ::step] = 255
    return painted, target


def rotated_target(rainy: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> Pair:
    """The target is turned by 1 to 3 degrees about its centre; the border that this leaves is cut from both."""
    angle = rng.uniform(1, 3) * rng.choice([-1, 1])
    turned = np.asarray(Image.fromarray(target).rotate(angle, Image.Resampling.BICUBIC))
    height, width = target.shape[:2]
    margin = int(np.ceil(max(height, width) / 2 * np.tan(np.radians(abs(angle))))) + 1
    inner = (slice(margin, height - margin), slice(margin, width - margin))
    return rainy[inner], turned[inner]


def colour_cast(rainy: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> Pair:
    """The target's white balance is another: red and blue scaled apart by 1.35 to 1.8."""
    ratio = rng.uniform(1.35, 1.8) ** (0.5 * rng.choice([-1, 1]))
    return rainy, to_uint8(target * np.float32([ratio, 1, 1 / ratio]))


def twice_saved(rainy: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> Pair:
    """A sound pair once more, saved again as a good JPEG; the copy that comes first by name is the one to keep."""
    return _jpeg(rainy, 92), _jpeg(target, 92)


def mirrored_target(rainy: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> Pair:
    """Only one of the two images was flipped, left to right, as a faulty augmentation does."""
    return rainy, target[:, ::-1]


def zoomed_target(rainy: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> Pair:
    """The target was taken at a focal length 2 to 6 % longer."""
    height, width = target.shape[:2]
    factor = rng.uniform(1.02, 1.06)
    margin_y, margin_x = height * (1 - 1 / factor) / 2, width * (1 - 1 / factor) / 2
    box = (margin_x, margin_y, width - margin_x, height - margin_y)
    return rainy, np.asarray(Image.fromarray(target).resize((width, height), Image.Resampling.LANCZOS, box=box))


def exchanged_pair(rainy: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> Pair:
    """The folders were exchanged: the rainy image is the target."""
    return target, rainy


def ghosted_target(rainy: np.ndarray, target: np.ndarray, rng: np.random.Generator, other: Pair) -> Pair:
    """The target is an average over frames between which the scene changed: another shows through by 25 to 45 %."""
    share = rng.uniform(0.25, 0.45)
    return rainy, to_uint8((1 - share) * target + share * fitted(other[1], target).astype(np.float32))


def pasted_rain(rainy: np.ndarray, target: np.ndarray, rng: np.random.Generator, other: Pair) -> Pair:
    """A rectangle of another rainy picture, 10 to 35 % of the area, lies opaque over the rainy image."""
    height, width = rainy.shape[:2]
    share = np.sqrt(rng.uniform(0.1, 0.35))
    tall, wide = int(height * share), int(width * share)
    top, left = rng.integers(0, height - tall + 1), rng.integers(0, width - wide + 1)
    painted = rainy.copy()
    painted[top : top + tall, left : left + wide] = fitted(other[0], rainy)[top : top + tall, left : left + wide]
    return painted, target


def posterised_target(rainy: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> Pair:
    """The target went through a palette: 6 to 16 levels a channel are left."""
    step = 255 / (int(rng.integers(6, 17)) - 1)
    return rainy, to_uint8(np.rint(target / step) * step)


def haloed_target(rainy: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> Pair:
    """The target was sharpened until its edges have halos: an unsharp mask of radius 2 to 4 and 150 to 300 %."""
    mask = ImageFilter.UnsharpMask(radius=rng.uniform(2, 4), percent=int(rng.integers(150, 301)), threshold=0)
    return rainy, np.asarray(Image.fromarray(target).filter(mask))


def coarse_pixels_target(rainy: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> Pair:
    """The target was enlarged two to four times from its nearest neighbours."""
    height, width = target.shape[:2]
    factor = int(rng.integers(2, 5))
    small = Image.fromarray(target).resize((width // factor, height // factor), Image.Resampling.BOX)
    return rainy, np.asarray(small.resize((width, height), Image.Resampling.NEAREST))


def noisy_target(rainy: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> Pair:
    """The target was taken at a far higher sensitivity: Gaussian noise of 12 to 30 grey levels."""
    return rainy, to_uint8(target + rng.normal(0, rng.uniform(12, 30), target.shape))


def colourless_target(rainy: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> Pair:
    """The target lost 70 to 100 % of its colour."""
    share = rng.uniform(0.7, 1)
    grey = np.asarray(Image.fromarray(target).convert("L"), dtype=np.float32)[..., None]
    return rainy, to_uint8((1 - share) * target + share * grey)


def median_target(rainy: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> Pair:
    """The target is no photograph: a median filter of 5 or 7 pixels over the rainy image, to stand in for one."""
    return rainy, np.asarray(Image.fromarray(rainy).filter(ImageFilter.MedianFilter(int(rng.choice([5, 7])))))


def motion_blurred_target(rainy: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> Pair:
    """The camera moved while the target was taken: a mean over 7 to 15 pixels of a row."""
    length = 2 * int(rng.integers(3, 8)) + 1
    padded = np.pad(target.astype(np.float32), ((0, 0), (length // 2, length // 2), (0, 0)), mode="edge")
    width = target.shape[1]
    return rainy, to_uint8(sum(padded[:, start : start + width] for start in range(length)) / length)


def warped_target(rainy: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> Pair:
    """The target was taken from beside: its corners lie 4 to 12 pixels away, each in a direction of its own."""
    height, width = target.shape[:2]
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64)
    angles = rng.uniform(0, 2 * np.pi, 4)
    away = rng.uniform(4, 12, (4, 1)) * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    rows, values = [], []
    for (x, y), (u, v) in zip(corners, corners + away, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    perspective = np.linalg.solve(np.array(rows), np.array(values))
    warped = Image.fromarray(target).transform(
        (width, height), Image.Transform.PERSPECTIVE, perspective, Image.Resampling.BICUBIC
    )
    inner = (slice(13, height - 13), slice(13, width - 13))
    return rainy[inner], np.asarray(warped)[inner]


def interlaced_target(rainy: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> Pair:
    """Every other row of the target is from another moment of a moving camera: 2 to 6 pixels to the side."""
    combed = target.copy()
    combed[1::2] = np.roll(target[1::2], int(rng.integers(2, 7)), axis=1)
    return rainy, combed


def gamma_target(rainy: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> Pair:
    """The target was encoded once too often or too seldom: a gamma of 1.5 to 2.2, or its inverse."""
    gamma = rng.uniform(1.5, 2.2) ** rng.choice([-1, 1])
    return rainy, to_uint8(255 * (target / np.float32(255)) ** np.float32(gamma))


def hazed_target(rainy: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> Pair:
    """The target was taken in mist: 25 to 50 % of it are one light grey."""
    share = rng.uniform(0.25, 0.5)
    return rainy, to_uint8((1 - share) * target.astype(np.float32) + share * rng.uniform(190, 235))


def channel_swapped_target(rainy: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> Pair:
    """The target's red and blue are exchanged, as when a reader takes BGR for RGB."""
    return rainy, target[..., ::-1]


def letterboxed_target(rainy: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> Pair:
    """The target has black bars, of 8 to 16 % of its height, above and below."""
    bar = int(target.shape[0] * rng.uniform(0.08, 0.16))
    barred = target.copy()
    barred[:bar] = barred[-bar:] = 0
    return rainy, barred


def burnt_in_text(rainy: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> Pair:
    """The target bears a watermark: lines of letters across it, half opaque."""
    height, width = target.shape[:2]
    mask = Image.new("L", (width, height))
    font = ImageFont.load_default(size=max(12, width // 12))
    letters = "".join(rng.choice(list("ABCDEFGHIKLMNOPRSTUVWXYZ"), 24))
    for line in range(3):
        ImageDraw.Draw(mask).text((width // 20, int(height * (0.15 + 0.3 * line))), letters, fill=128, font=font)
    alpha = np.asarray(mask, dtype=np.float32)[..., None] / 255
    return rainy, to_uint8((1 - alpha) * target + alpha * 255 * rng.integers(2))


def smeared_patch(rainy: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> Pair:
    """Something was painted out of the target: 10 to 30 % of its area, around the middle, are a smear of their surroundings."""
    height, width = target.shape[:2]
    share = np.sqrt(rng.uniform(0.1, 0.3))
    tall, wide = int(height * share), int(width * share)
    top, left = (height - tall) // 2 + rng.integers(-20, 21), (width - wide) // 2 + rng.integers(-20, 21)
    smeared = np.asarray(Image.fromarray(target).filter(ImageFilter.GaussianBlur(min(tall, wide) / 6)))
    patched = target.copy()
    patched[top : top + tall, left : left + wide] = smeared[top : top + tall, left : left + wide]
    return rainy, patched


def overprocessed_target(rainy: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> Pair:
    """The target is a restorer's guess, not a photograph: an edge-preserving (guided) filter of radius 6 to 10 took its texture."""
    radius, threshold = int(rng.integers(6, 11)), rng.uniform(300, 900)
    image = target.astype(np.float32)
    mean = _mean(image, radius)
    gain = np.maximum(_mean(image**2, radius) - mean**2, 0)
    gain = gain / (gain + threshold)
    return rainy, to_uint8(_mean(gain, radius) * image + _mean((1 - gain) * mean, radius))


def intruder_in_target(rainy: np.ndarray, target: np.ndarray, rng: np.random.Generator, other: Pair) -> Pair:
    """Something stood in the scene when the target was taken: an ellipse of another picture, 5 to 12 % of the area."""
    height, width = target.shape[:2]
    share = np.sqrt(rng.uniform(0.05, 0.12) / np.pi)
    y, x = np.ogrid[:height, :width]
    middle_y, middle_x = rng.uniform(0.3, 0.7) * height, rng.uniform(0.3, 0.7) * width
    inside = ((y - middle_y) / (share * height)) ** 2 + ((x - middle_x) / (share * width)) ** 2 < 1
    return rainy, np.where(inside[..., None], fitted(other[1], target), target)


def banded_target(rainy: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> Pair:
    """The target was taken under flickering light: bands of 24 to 80 rows that are 15 to 30 % brighter and darker."""
    rows = np.arange(target.shape[0], dtype=np.float32)
    wave = np.sin(2 * np.pi * (rows / np.float32(rng.uniform(24, 80)) + rng.uniform()))
    return rainy, to_uint8(target * (1 + rng.uniform(0.15, 0.3) * wave)[:, None, None])


def vignetted_target(rainy: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> Pair:
    """The target was taken with another lens: its corners have 25 to 50 % of their light."""
    height, width = target.shape[:2]
    y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    return rainy, to_uint8(target * (1 - (1 - rng.uniform(0.25, 0.5)) * (x**2 + y**2) / 2)[..., None])


def torn_target(rainy: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> Pair:
    """A frame of a video torn in transmission: a band of 20 to 40 % of the target's rows lies 8 to 40 pixels to the side."""
    height = target.shape[0]
    tall = int(height * rng.uniform(0.2, 0.4))
    top = int(rng.integers(0, height - tall + 1))
    torn = target.copy()
    torn[top : top + tall] = np.roll(target[top : top + tall], int(rng.integers(8, 41)), axis=1)
    return rainy, torn


def tone_mapped_target(rainy: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> Pair:
    """The target went through a local tone mapper: differences from the surroundings, of 20 to 40 pixels, are twice to three times as large."""
    image = target.astype(np.float32)
    return rainy, to_uint8(image + rng.uniform(1, 2) * (image - _mean(image, int(rng.integers(10, 21)))))


def misregistered_target(rainy: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> Pair:
    """The target's red and blue lie 2 to 5 pixels to either side of its green."""
    shift = int(rng.integers(2, 6))
    split = target.copy()
    split[..., 0] = np.roll(target[..., 0], shift, axis=1)
    split[..., 2] = np.roll(target[..., 2], -shift, axis=1)
    return rainy[:, shift:-shift], split[:, shift:-shift]


def dithered_target(rainy: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> Pair:
    """The target was saved as a GIF: 12 to 48 colours, dithered."""
    palette = Image.fromarray(target).quantize(int(rng.integers(12, 49)))
    picture = Image.fromarray(target).quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)
    return rainy, np.asarray(picture.convert("RGB"))


def mosaicked_target(rainy: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> Pair:
    """A part of the target was made unrecognisable: 5 to 15 % of its area in squares of 10 to 20 pixels."""
    height, width = target.shape[:2]
    side, share = int(rng.integers(10, 21)), np.sqrt(rng.uniform(0.05, 0.15))
    tall, wide = int(height * share) // side * side, int(width * share) // side * side
    top, left = int(height * rng.uniform(0.3, 0.7 - share / 2)), int(width * rng.uniform(0.3, 0.7 - share / 2))
    patch = Image.fromarray(target[top : top + tall, left : left + wide])
    small = patch.resize((max(1, wide // side), max(1, tall // side)), Image.Resampling.BOX)
    hidden = target.copy()
    hidden[top : top + tall, left : left + wide] = np.asarray(small.resize((wide, tall), Image.Resampling.NEAREST))
    return rainy, hidden


def hot_pixels_target(rainy: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> Pair:
    """The target's sensor has faults: 0.5 to 3 % of its pixels are black or white."""
    faulty = rng.random(target.shape[:2]) < rng.uniform(0.005, 0.03)
    values = 255 * rng.integers(0, 2, (*target.shape[:2], 1), dtype=np.uint8)
    return rainy, np.where(faulty[..., None], values, target)


def bleeding_colours_target(rainy: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> Pair:
    """The target came from a tape: its colours, but not its luma, are smeared over 20 to 40 pixels of a row and 6 too far right."""
    luma, *colours = (np.asarray(plane, np.float32) for plane in Image.fromarray(target).convert("YCbCr").split())
    length = 2 * int(rng.integers(10, 21)) + 1
    smeared = []
    for plane in colours:
        padded = np.pad(plane, ((0, 0), (length // 2 + 6, length // 2)), mode="edge")
        sums = np.pad(padded.cumsum(1, dtype=np.float64), ((0, 0), (1, 0)))
        smeared.append(((sums[:, length:] - sums[:, :-length]) / length)[:, : luma.shape[1]])
    return rainy, np.asarray(Image.fromarray(to_uint8(np.stack([luma, *smeared], -1)), "YCbCr").convert("RGB"))


def rainless_pair(rainy: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> Pair:
    """There is no rain to remove: the rainy image is the target under a faint veil, with a little noise of its own."""
    share = rng.uniform(0.03, 0.12)
    return to_uint8((1 - share) * target + share * 200 + rng.normal(0, 3, target.shape)), target


def stretched_target(rainy: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> Pair:
    """The target's aspect ratio is wrong: 3 to 8 % higher or wider, the middle cut out."""
    height, width = target.shape[:2]
    factors = (1 + rng.uniform(0.03, 0.08), 1.0)
    tall, wide = factors if rng.random() < 0.5 else factors[::-1]
    size = (round(width * wide), round(height * tall))
    larger = np.asarray(Image.fromarray(target).resize(size, Image.Resampling.BICUBIC))
    top, left = (size[1] - height) // 2, (size[0] - width) // 2
    return rainy, larger[top : top + height, left : left + width]


def barrel_target(rainy: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> Pair:
    """The target's lens distorts, the rainy image's does not: its corners lie 2 to 6 % of the half diagonal away."""
    height, width = target.shape[:2]
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    y, x = y - (height - 1) / 2, x - (width - 1) / 2
    bend = 1 - rng.uniform(0.02, 0.06) * (y * y + x * x) / ((height * height + width * width) / 4)
    rows, columns = y * bend + (height - 1) / 2, x * bend + (width - 1) / 2
    top, left = rows.astype(int), columns.astype(int)
    below, right = np.minimum(top + 1, height - 1), np.minimum(left + 1, width - 1)
    down, over = (rows - top)[..., None], (columns - left)[..., None]
    upper = target[top, left] * (1 - over) + target[top, right] * over
    lower = target[below, left] * (1 - over) + target[below, right] * over
    return rainy, to_uint8(upper * (1 - down) + lower * down)


def upside_down_target(rainy: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> Pair:
    """The camera's orientation was read for one of the two images only: the target is turned by 180 degrees."""
    return rainy, target[::-1, ::-1]


def half_cleaned_target(rainy: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> Pair:
    """Only a part was cleaned: 35 to 60 % of the target, on one side, keep all of the rain."""
    kept = np.zeros(target.shape[:2], bool)
    share = rng.uniform(0.35, 0.6)
    if rng.random() < 0.5:
        kept[:, : round(target.shape[1] * share)] = True
    else:
        kept[: round(target.shape[0] * share)] = True
    if rng.random() < 0.5:
        kept = kept[::-1, ::-1]
    return rainy, np.where(kept[..., None], rainy, target)


def overcorrected_target(rainy: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> Pair:
    """The target is an algorithm's, which subtracted too much: the rain is there as its negative, 30 to 70 % as strong."""
    return rainy, to_uint8(target - rng.uniform(0.3, 0.7) * (rainy.astype(np.float32) - target))


def other_rain_in_target(rainy: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> Pair:
    """Both are frames of one shower: the target has rain of its own, here the layer mirrored, 60 to 100 % as strong."""
    layer = rainy.astype(np.float32) - target
    return rainy, to_uint8(target + rng.uniform(0.6, 1.0) * layer[:, ::-1])


def tiled_rain(rainy: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> Pair:
    """The rain was composed from one small picture: its richest square of 48 to 96 pixels, over and over."""
    layer = rainy.astype(np.float32) - target
    side = int(rng.integers(48, 97))
    corners = [
        (top, left)
        for top in range(0, layer.shape[0] - side + 1, side // 2)
        for left in range(0, layer.shape[1] - side + 1, side // 2)
    ]
    top, left = max(corners, key=lambda at: np.abs(layer[at[0] : at[0] + side, at[1] : at[1] + side]).sum())
    square = layer[top : top + side, left : left + side]
    times = (-(-layer.shape[0] // side), -(-layer.shape[1] // side), 1)
    return to_uint8(target + np.tile(square, times)[: layer.shape[0], : layer.shape[1]]), target


def coarse_rain(rainy: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> Pair:
    """The rain was composed from a thumbnail: its pixels are four to eight of the picture's."""
    layer = rainy.astype(np.float32) - target
    factor = int(rng.integers(4, 9))
    large = layer[::factor, ::factor].repeat(factor, 0).repeat(factor, 1)
    return to_uint8(target + large[: layer.shape[0], : layer.shape[1]]), target


def shadowed_target(rainy: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> Pair:
    """A cloud came between: 25 to 50 % of the target, behind a soft edge, have 40 to 65 % of their light."""
    height, width = target.shape[:2]
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    along = (x / width - 0.5) * np.cos(angle) + (y / height - 0.5) * np.sin(angle)
    edge = np.quantile(along, 1 - rng.uniform(0.25, 0.5))
    shade = 1 / (1 + np.exp(-(along - edge) / 0.02))
    return rainy, to_uint8(target * (1 - rng.uniform(0.35, 0.6) * shade[..., None]))


def equalised_target(rainy: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> Pair:
    """The target was made more pleasant: 50 to 100 % of the way to an even histogram of its luma."""
    luma = Image.fromarray(target).convert("YCbCr").split()
    even = np.asarray(Image.merge("YCbCr", (ImageOps.equalize(luma[0]), *luma[1:])).convert("RGB"))
    share = rng.uniform(0.5, 1.0)
    return rainy, to_uint8(target + share * (even.astype(np.float32) - target))


def streamed_target(rainy: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> Pair:
    """The target is a frame of a thin stream: half the size, JPEG of quality 12 to 30, enlarged."""
    size = target.shape[1::-1]
    half = Image.fromarray(target).resize((size[0] // 2, size[1] // 2), Image.Resampling.BOX)
    thin = Image.fromarray(_jpeg(np.asarray(half), int(rng.integers(12, 31))))
    return rainy, np.asarray(thin.resize(size, Image.Resampling.BICUBIC))


def stamped_input(rainy: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> Pair:
    """The rainy image bears a station's opaque caption, 3 to 8 % of its area in a corner; the target does not."""
    height, width = rainy.shape[:2]
    area = rng.uniform(0.03, 0.08) * height * width
    tall = round((area / 4) ** 0.5)
    wide = min(4 * tall, width)
    top, left = (0 if rng.random() < 0.5 else height - tall), (0 if rng.random() < 0.5 else width - wide)
    stamped = Image.fromarray(rainy)
    draw = ImageDraw.Draw(stamped)
    back, ink = ("black", "white") if rng.random() < 0.5 else ("white", "navy")
    draw.rectangle((left, top, left + wide - 1, top + tall - 1), fill=back)
    font = ImageFont.load_default(size=round(tall * 0.6))
    draw.text((left + tall // 4, top + tall // 6), "CAM 07  18:42", fill=ink, font=font)
    return np.asarray(stamped), target


TUNING: dict[str, Callable] = {
    function.__name__: function
    for function in (
        shifted_target,
        blurred_target,
        rain_left_in_target,
        coloured_rain,
        crushed_jpeg,
        wrong_exposure,
        swapped_target,
        upscaled_thumbnail,
        impossible_rain,
        rotated_target,
        colour_cast,
        twice_saved,
        mirrored_target,
        zoomed_target,
        exchanged_pair,
        ghosted_target,
        pasted_rain,
        posterised_target,
        haloed_target,
        coarse_pixels_target,
        noisy_target,
        colourless_target,
        median_target,
        motion_blurred_target,
        warped_target,
        interlaced_target,
        gamma_target,
        hazed_target,
        channel_swapped_target,
        letterboxed_target,
        burnt_in_text,
        smeared_patch,
        overprocessed_target,
        intruder_in_target,
        banded_target,
        vignetted_target,
        torn_target,
        tone_mapped_target,
        misregistered_target,
        dithered_target,
        mosaicked_target,
        hot_pixels_target,
        bleeding_colours_target,
        rainless_pair,
        stretched_target,
        barrel_target,
        upside_down_target,
        half_cleaned_target,
        overcorrected_target,
        other_rain_in_target,
        tiled_rain,
        coarse_rain,
        shadowed_target,
        equalised_target,
        streamed_target,
        stamped_input,
    )
}
NEED_ANOTHER = frozenset({"swapped_target", "ghosted_target", "pasted_rain", "intruder_in_target"})
"""Kinds that take another pair of the same source as a fourth argument."""


def fitted(image: np.ndarray, like: np.ndarray) -> np.ndarray:
    height, width = like.shape[:2]
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


def _mean(image: np.ndarray, radius: int) -> np.ndarray:
    """Mean over the square of 2 radius + 1 pixels a side about every pixel, edges repeated; `float32` (height, width, channels)."""
    sums = np.pad(image, ((radius, radius), (radius, radius), (0, 0)), mode="edge").astype(np.float64)
    side = 2 * radius + 1
    for axis in (0, 1):
        sums = np.pad(sums.cumsum(axis), [(1, 0) if axis == other else (0, 0) for other in range(3)])
        length = sums.shape[axis] - side
        sums = sums.take(range(side, side + length), axis) - sums.take(range(length), axis)
    return (sums / side**2).astype(np.float32)


def to_uint8(image: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))
