"""What the `local` preset measures in pictures: spectra, compression, alignment, and the rain between a pair's two images.

Pure functions on float32 tensors in grey levels [0, 255], shapes (height, width) or (channels, height, width). They run on a
central crop, never on a resized copy: resampling would hide the very defects that are looked for. How many pairs a second a judge
measures is in docs/distillation.md.
"""

import math
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


WORKING_SIZE = 320
"""Largest side of the crop where a measurement asks for no other; a bound on time and memory per image."""
LUMA_WEIGHTS = torch.tensor([0.299, 0.587, 0.114])
LAPLACIAN = torch.tensor([[1.0, -2.0, 1.0], [-2.0, 4.0, -2.0], [1.0, -2.0, 1.0]])[None, None]
BLOCK = 32
"""Side of the blocks over which local agreement is measured."""
SMALL_BLOCK = 16
"""Of those in which noise and repeated pixels are measured."""
LINE_TAPS = 11
LINE_LENGTH = 15
"""Pixels a line filter averages over: shorter than most streaks, longer than most texture."""
SPECTRAL_BANDS = ((0.06, 0.125), (0.125, 0.25), (0.25, 0.35), (0.35, 0.5))
"""Radial frequencies in cycles per pixel; 0.5 is Nyquist's."""
NOISE_FLOOR = 0.02
"""Added to spectral power, in squared grey levels: below what rounding to 8 bits adds (1 / 12)."""


def working_crop(image: np.ndarray, size: int = WORKING_SIZE) -> Tensor:
    """The central crop as a float tensor (3, h, w); its corner lies on a multiple of 8, so that JPEG's blocks stay in phase."""
    height, width = image.shape[:2]
    crop_height, crop_width = min(height, size), min(width, size)
    top, left = (height - crop_height) // 16 * 8, (width - crop_width) // 16 * 8
    crop = image[top : top + crop_height, left : left + crop_width]
    return torch.from_numpy(np.array(crop.transpose(2, 0, 1), dtype=np.float32))


def luma(image: Tensor) -> Tensor:
    """(3, h, w) -> (h, w), BT.601 weights, full range."""
    return torch.tensordot(LUMA_WEIGHTS, image, 1)


def box_blur(image: Tensor, size: int) -> Tensor:
    """Mean over a `size` x `size` window (odd), reflected at the border; any leading shape. Costs the same for every size."""
    planes = image.reshape(1, -1, *image.shape[-2:])
    half = size // 2
    sums = F.pad(planes, (half, half, half, half), mode="reflect").double()
    for axis in (-1, -2):
        sums = F.pad(sums.cumsum(axis), (1, 0, 0, 0) if axis == -1 else (0, 0, 1, 0))
        length = sums.shape[axis] - size
        sums = sums.narrow(axis, size, length) - sums.narrow(axis, 0, length)
    return (sums / size**2).to(image.dtype).reshape(image.shape)


def correlation(a: Tensor, b: Tensor) -> float:
    """Cosine of two signals, in [-1, 1]; 0 when either is empty."""
    return float((a * b).sum() / (a.norm() * b.norm() + 1e-3))


def blocks(image: Tensor, size: int = BLOCK) -> Tensor:
    """(h, w) -> (n, size * size): the whole blocks of the image, in rows."""
    height, width = (side // size * size for side in image.shape)
    tiles = image[:height, :width].reshape(height // size, size, width // size, size)
    return tiles.transpose(1, 2).reshape(-1, size * size)


def gradients(image: Tensor) -> tuple[Tensor, Tensor]:
    """Forward differences along x and y, both (h - 1, w - 1)."""
    return image[:-1, 1:] - image[:-1, :-1], image[1:, :-1] - image[:-1, :-1]


def orientation(image: Tensor) -> tuple[float, float]:
    """Angle of the dominant lines in radians (0 = along x, pi / 2 = upright) and their coherence in [0, 1].

    From the image's structure tensor: 0 where all directions are equally strong, 1 where there is one.
    """
    dx, dy = gradients(image)
    xx, yy, xy = float((dx * dx).sum()), float((dy * dy).sum()), float((dx * dy).sum())
    coherence = math.hypot(xx - yy, 2 * xy) / (xx + yy + 1e2)
    return 0.5 * math.atan2(2 * xy, xx - yy) + math.pi / 2, coherence


def line_filter(image: Tensor, angle: float) -> Tensor:
    """Mean over short lines at `angle` (radians from the x axis) through every pixel: keeps streaks, dims texture."""
    half = LINE_LENGTH // 2
    padded = F.pad(image[None], (half, half, half, half), mode="reflect")[0]
    height, width = image.shape
    total = torch.zeros_like(image)
    for position in np.linspace(-half, half, LINE_TAPS):
        top, left = half + round(position * math.sin(angle)), half + round(position * math.cos(angle))
        total += padded[top : top + height, left : left + width]
    return total / LINE_TAPS


def power_spectrum(image: Tensor) -> list[float]:
    """Mean power in the `SPECTRAL_BANDS`, windowed; white noise of variance v gives v in each."""
    taper, bands = window(image.shape), _bands(image.shape)
    power = torch.fft.rfft2((image - image.mean()) * taper).abs().square() / taper.square().sum()
    return [float(power[band].mean()) for band in bands]


def spectral_slopes(image: Tensor) -> tuple[float, float, float]:
    """log10 of the power of the three finest bands, each over the band below it: low where fine detail is missing."""
    low, middle, high, highest = (math.log10(power + NOISE_FLOOR) for power in power_spectrum(image))
    return middle - low, high - middle, highest - high


def blockiness(image: Tensor) -> float:
    """How far steps at every eighth column and row exceed those between, over the mean step; about 0 without JPEG blocks.

    The phase of the grid is searched, since a crop may have moved it.
    """
    return 0.5 * (_column_blockiness(image) + _column_blockiness(image.T))


def noise_levels(image: Tensor) -> tuple[Tensor, Tensor]:
    """Noise and deviation of luma (h, w) in blocks of `SMALL_BLOCK` pixels; (n,) each. Noise by Immerkaer's Laplacian (1996), which edges hardly move."""
    response = F.conv2d(image[None, None], LAPLACIAN)[0, 0].abs() * math.sqrt(math.pi / 2) / 6
    return blocks(response, SMALL_BLOCK).mean(1), blocks(image[1:-1, 1:-1], SMALL_BLOCK).std(1)


def repeated_pixels(image: Tensor) -> float:
    """Share of pixels (3, h, w) that equal their neighbour, in the more textured half of blocks: large where pixels were repeated to
    enlarge a picture, or where only a few levels are left."""
    right = (image[:, :-1, 1:] == image[:, :-1, :-1]).all(0)
    below = (image[:, 1:, :-1] == image[:, :-1, :-1]).all(0)
    equal = blocks(0.5 * (right.float() + below.float()), SMALL_BLOCK).mean(1)
    deviation = blocks(luma(image)[:-1, :-1], SMALL_BLOCK).std(1)
    textured = deviation >= max(float(deviation.median()), 4.0)
    return float(equal[textured].mean()) if textured.any() else 0.0


def level_share(image: Tensor) -> float:
    """Share of the values between a channel's darkest and brightest that occur at all, for the channel with most; 1 in photographs."""
    shares = []
    for channel in image.byte().numpy():
        low, high = (int(value) for value in np.quantile(channel[::2, ::2], [0.02, 0.98]))
        counts = np.bincount(channel.ravel(), minlength=256)[low : high + 1]
        shares.append(float((counts > 0).mean()) if high - low >= 16 else 1.0)
    return max(shares)


def displacement(a: Tensor, b: Tensor) -> tuple[float, float]:
    """Distance in pixels (to a fraction) by which `b` must move to fit `a` best, and their correlation there."""
    taper = window(a.shape)
    a, b = a * taper, b * taper
    surface = torch.fft.irfft2(torch.fft.rfft2(a) * torch.fft.rfft2(b).conj(), s=a.shape)
    surface = surface / (a.norm() * b.norm() + 1e-3)
    height, width = a.shape
    row, column = divmod(int(surface.argmax()), width)

    def refined(before: Tensor, peak: Tensor, after: Tensor) -> float:
        curvature = float(before - 2 * peak + after)
        return 0.0 if abs(curvature) < 1e-9 else 0.5 * float(before - after) / curvature

    peak = surface[row, column]
    dy = (row if row <= height // 2 else row - height) + refined(
        surface[(row - 1) % height, column], peak, surface[(row + 1) % height, column]
    )
    dx = (column if column <= width // 2 else column - width) + refined(
        surface[row, (column - 1) % width], peak, surface[row, (column + 1) % width]
    )
    return math.hypot(dx, dy), float(peak)


@lru_cache(maxsize=32)
def window(shape: torch.Size) -> Tensor:
    height, width = shape
    return torch.hann_window(height, periodic=False)[:, None] * torch.hann_window(width, periodic=False)[None]


@lru_cache(maxsize=32)
def _bands(shape: torch.Size) -> list[Tensor]:
    """Which coefficients of a real Fourier transform belong to each of the `SPECTRAL_BANDS`."""
    radius = torch.hypot(torch.fft.fftfreq(shape[0])[:, None], torch.fft.rfftfreq(shape[1])[None])
    return [(radius >= low) & (radius < high) for low, high in SPECTRAL_BANDS]


def _column_blockiness(image: Tensor) -> float:
    steps = (image[:, 1:] - image[:, :-1]).abs()
    excess = (steps[:, 1:-1] - 0.5 * (steps[:, :-2] + steps[:, 2:])).mean(0)
    phases = excess[: excess.numel() // 8 * 8].reshape(-1, 8).mean(0)
    return float((phases.max() - phases.median()) / (steps.mean() + 0.5))


def rain_attributes(image: Tensor) -> dict[str, float]:
    """What can be said of the rain in one picture (3, h, w), with no clean twin.

    Returns:
        `dict[str, float]`: `brightness` and `contrast` (mean and deviation of luma), `sharpness` (mean absolute fine detail), `streaks`
        (strongest mean line response within 60 degrees of the vertical over the median of all directions), `streak_lean` (degrees from
        the vertical, positive to the right going down), `streak_density` (share of pixels on bright lines in that direction), `drops`
        (share of blocks with structure of the size of drops but hardly any fine detail).
    """
    grey = luma(image)
    fine = grey - box_blur(grey, 5)
    leans = np.arange(-75, 91, 15)
    lines = [line_filter(fine, math.radians(90 - lean)) for lean in leans]
    strength = np.array([float(line.clamp(min=0).mean()) for line in lines])
    upright = np.abs(leans) <= 60
    best = int(np.flatnonzero(upright)[strength[upright].argmax()])
    detail = float(fine.abs().mean())
    middle = box_blur(grey, 9) - box_blur(grey, 41)
    fine_energy = blocks(fine).square().mean(1).sqrt()
    drop_energy = blocks(middle).square().mean(1).sqrt()
    return {
        "brightness": float(grey.mean()),
        "contrast": float(grey.std()),
        "sharpness": detail,
        "streaks": float(strength[best] / (np.median(strength) + 1e-2)),
        "streak_lean": float(leans[best]),
        "streak_density": float((lines[best] > 2 * detail + 2).float().mean()),
        "drops": float(((drop_energy > 6) & (fine_energy < 0.25 * drop_energy)).float().mean()),
    }


def quantiles(prefix: str, values: Tensor, shares: tuple[float, ...]) -> dict[str, float]:
    """Quantiles of `values`, named `<prefix>_<per cent>`."""
    found = torch.quantile(values, torch.tensor(shares))
    return {f"{prefix}_{round(100 * share)}": float(value) for share, value in zip(shares, found, strict=True)}


def rms(values: Tensor) -> float:
    """Root mean square."""
    return float(values.square().mean()) ** 0.5
