"""Rain transfer: the rain of one pair over the background of another, or over a photograph. Not in the paper.

A paired set is small and its rain comes with a tone: one picture was brightened by its rain, another darkened and given more
contrast. A network that sees each scene in one tone only learns the scenes by heart and guesses the tone of a new one. A
pair is therefore taken apart into a tone curve c and what is left, `rainy = c(clean) + rain`, and `c(background) + rain` is
another picture in the same rain.
"""

import numpy as np


LEVELS = 256
BIN = 8
"""Levels that share a point of the curve; between points it is straight."""
BETWEEN_STREAKS = 0.25
"""Quantile of what a level becomes that is taken for its tone: rain brightens, so these pixels have little of it. With the mean, dense
streaks over dark ground would count as tone, and darken a bright background between them."""
PRIOR = 0.002
"""Share of the picture's pixels at which a bin's own offset counts as much as that of the picture."""
PIXELS = 20_000
"""Of a pair that are looked at: a few milliseconds."""


def tone_curve(rainy: np.ndarray, clean: np.ndarray) -> np.ndarray:
    """What the clean picture's levels become between the streaks.

    Args:
        rainy, clean (`np.ndarray` of shape `(height, width, 3)`, uint8): A pair, whole.

    Returns:
        `np.ndarray` of shape `(256, 3)`, float32: The level of the rainy picture for every level and channel of the clean one;
        levels that do not occur are shifted like their neighbours, or like the picture as a whole.
    """
    stride = max(1, int((clean.shape[0] * clean.shape[1] / PIXELS) ** 0.5))
    before = clean[::stride, ::stride].reshape(-1, 3)
    change = rainy[::stride, ::stride].reshape(-1, 3).astype(np.int16) - before
    levels, middles = np.arange(LEVELS), np.arange(BIN // 2, LEVELS, BIN)
    curve = np.empty((LEVELS, 3), np.float32)
    for channel in range(3):
        bins, changes = before[:, channel] // BIN, change[:, channel]
        order = np.argsort(bins, kind="stable")  # of bytes: a radix sort
        by_bin = np.split(changes[order], np.searchsorted(bins[order], np.arange(1, len(middles))))
        counts = np.array([len(own) for own in by_bin])
        overall = _between_streaks(changes)
        offsets = np.array([_between_streaks(own) if len(own) else overall for own in by_bin])
        prior = PRIOR * len(changes)
        points = (counts * offsets + prior * overall) / (counts + prior)
        curve[:, channel] = levels + np.interp(levels, middles, points)
    return curve


def _between_streaks(changes: np.ndarray) -> int:
    index = int(BETWEEN_STREAKS * (len(changes) - 1))
    return np.partition(changes, index)[index]


def lay_rain(
    rainy: np.ndarray, clean: np.ndarray, background: np.ndarray, curve: np.ndarray, strength: float = 1.0
) -> np.ndarray:
    """The background in the rain of a pair: `c(background) + (rainy - c(clean))`, clipped to 0..255.

    Args:
        rainy, clean, background (`np.ndarray` of shape `(height, width, 3)`, uint8): Crops of one size.
        curve (`np.ndarray` of shape `(256, 3)`): Of the whole pair, from `tone_curve`.
        strength (`float`): Of rain and tone; 1 as in the pair, 0 for none.

    Returns:
        `np.ndarray` of the same shape, uint8.
    """
    channels = np.arange(3)
    change = curve[background, channels] - background + rainy - curve[clean, channels]
    return np.clip(background + strength * change, 0, 255).round().astype(np.uint8)
