"""Rain transfer: the rain of one pair over the background of another. Not in the paper.

A paired set is small and its rain comes with a tone: one picture was brightened by its rain, another darkened and given more
contrast. A network that sees each scene in one tone only learns the scenes by heart and guesses the tone of a new one. A
pair is therefore taken apart into a tone curve c and what is left, `rainy = c(clean) + rain`, and `c(background) + rain` is
another picture in the same rain.
"""

import numpy as np


LEVELS = 256
SPREAD = 12.0
"""Levels over which the curve is averaged: streaks differ from level to level, a tone does not."""
PRIOR = 0.002
"""Share of the picture's pixels at which a level's own offset counts as much as the mean offset of the picture."""
PIXELS = 50_000
"""Of a pair that are looked at: a millisecond."""


def tone_curve(rainy: np.ndarray, clean: np.ndarray) -> np.ndarray:
    """What the clean picture's levels become in the rain, on average over the picture.

    Args:
        rainy, clean (`np.ndarray` of shape `(height, width, 3)`, uint8): A pair, whole.

    Returns:
        `np.ndarray` of shape `(256, 3)`, float32: The level of the rainy picture for every level and channel of the clean one;
        levels that do not occur are shifted like their neighbours, or like the picture as a whole.
    """
    stride = max(1, int((clean.shape[0] * clean.shape[1] / PIXELS) ** 0.5))
    levels = np.arange(LEVELS)
    kernel = np.exp(-0.5 * ((levels[:, None] - levels) / SPREAD) ** 2)
    curve = np.empty((LEVELS, 3), np.float32)
    for channel in range(3):
        before = clean[::stride, ::stride, channel].ravel()
        after = rainy[::stride, ::stride, channel].ravel()
        counts = np.bincount(before, minlength=LEVELS)
        offsets = np.bincount(before, after, minlength=LEVELS) - counts * levels
        prior = PRIOR * counts.sum()
        curve[:, channel] = levels + (kernel @ offsets + prior * offsets.sum() / counts.sum()) / (
            kernel @ counts + prior
        )
    return curve


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
