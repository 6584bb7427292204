"""Tone curves over a whole rainy picture, as a third of Rain800 has them."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Grade:
    """A tone curve, channel by channel: clipped shadows, darker middle tones, more contrast, brighter highlights.

    `black` is what becomes 0, `darkening` the part of `x (1 - x)` that is taken away (as black in soft light does), `contrast` how far
    the S-curve `3 x^2 - 2 x^3` replaces what is left, `gain` a factor at the end.
    """

    black: float
    darkening: float
    contrast: float
    gain: float


def draw_grade(rng: np.random.Generator) -> Grade:
    """Wide around what Rain800's training pairs 501 to 700 show: screened streaks, darkened by 0.5 to 0.75 or given contrast."""
    return Grade(
        black=0.0 if rng.random() < 0.7 else rng.uniform(0.0, 0.2),
        darkening=rng.uniform(0.0, 0.85),
        contrast=0.0 if rng.random() < 0.4 else rng.uniform(0.0, 1.0),
        gain=rng.uniform(0.97, 1.12),
    )


def apply_grade(image: np.ndarray, grade: Grade) -> np.ndarray:
    """The curve over `image`, float of any shape, clipped to [0, 1] before and not after."""
    image = np.maximum(np.clip(image, 0, 1) - grade.black, 0) / (1 - grade.black)
    image = image - grade.darkening * image * (1 - image)
    image = image + grade.contrast * (image * image * (3 - 2 * image) - image)
    return grade.gain * image
