"""How close a restored image is to its clean twin: PSNR and SSIM, in RGB and on luma.

Pure functions on float tensors of shape (batch, channels, height, width) in [0, 1]. They give one float64 figure an
image and agree with scikit-image. Papers measure 8-bit pictures: whoever compares with papers rounds first
(`quantize`).
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


__all__ = ["FIGURES", "IDENTICAL_PSNR", "compare_pictures", "measure_pair", "psnr", "quantize", "rgb_to_y", "ssim"]

FIGURES = ("psnr_rgb", "ssim_rgb", "psnr_y", "ssim_y")
"""What `measure_pair` gives."""
IDENTICAL_PSNR = 100.0
"""Stands for the infinite PSNR of two equal pictures, which would make a mean say nothing."""

# MATLAB's rgb2ycbcr (BT.601, limited range), which deraining papers use for their Y figures: 16 + 65.481 R + ...
Y_WEIGHTS = (65.481 / 255, 128.553 / 255, 24.966 / 255)
Y_OFFSET = 16 / 255

SSIM_WINDOW = 11
SSIM_SIGMA = 1.5
SSIM_C1 = 0.01**2
SSIM_C2 = 0.03**2


def quantize(image: Tensor) -> Tensor:
    """Clamp to [0, 1] and round to the 256 levels of an 8-bit picture; same shape, still in [0, 1]."""
    return (image.clamp(0, 1) * 255).round() / 255


def rgb_to_y(image: Tensor) -> Tensor:
    """Luma of BT.601 in limited range, as MATLAB's `rgb2ycbcr`, not rounded.

    Args:
        image (`Tensor`): RGB in [0, 1], (batch, 3, height, width).

    Returns:
        `Tensor`: (batch, 1, height, width); black is 16/255, white 235/255.

    Raises:
        ValueError: the image does not have three channels.
    """
    if image.ndim != 4 or image.shape[1] != 3:
        raise ValueError(f"rgb_to_y takes RGB images of shape (batch, 3, height, width), not {tuple(image.shape)}")
    red, green, blue = image.unbind(1)
    return (Y_OFFSET + Y_WEIGHTS[0] * red + Y_WEIGHTS[1] * green + Y_WEIGHTS[2] * blue).unsqueeze(1)


def psnr(prediction: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB for a peak of 1, over all channels and pixels of an image.

    Args:
        prediction (`Tensor`): (batch, channels, height, width) in [0, 1].
        target (`Tensor`): the same shape.

    Returns:
        `Tensor`: (batch,), float64; infinite where the two images are equal.

    Raises:
        ValueError: the shapes differ, or are not those of a batch of images.
    """
    prediction, target = _as_float64(prediction, target)
    return -10 * (prediction - target).square().mean(dim=(1, 2, 3)).log10()


def ssim(prediction: Tensor, target: Tensor) -> Tensor:
    """Structural similarity (Wang et al., 2004): Gaussian window 11 x 11, sigma 1.5, population covariance.

    Every channel is measured and the channels averaged. Only windows that lie inside the image count, which is what
    scikit-image's `structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
    data_range=1)` averages. An image narrower than the window gets the largest odd window that fits; down to a single
    pixel, where only the luminance term is left (scikit-image refuses such images).

    Args:
        prediction (`Tensor`): (batch, channels, height, width) in [0, 1].
        target (`Tensor`): the same shape.

    Returns:
        `Tensor`: (batch,), float64, at most 1.

    Raises:
        ValueError: the shapes differ, or are not those of a batch of images.
    """
    prediction, target = _as_float64(prediction, target)
    # One plane at a time: five float64 maps of a whole batch of large photographs would not fit in memory.
    values = [
        _plane_ssim(prediction[sample, channel], target[sample, channel])
        for sample in range(prediction.shape[0])
        for channel in range(prediction.shape[1])
    ]
    return torch.stack(values).unflatten(0, prediction.shape[:2]).mean(dim=1)


def measure_pair(prediction: Tensor, target: Tensor) -> dict[str, float]:
    """The four `FIGURES` that deraining papers report, of one RGB picture (1, 3, height, width); PSNR up to `IDENTICAL_PSNR`."""
    prediction_y, target_y = rgb_to_y(prediction), rgb_to_y(target)
    values = (
        psnr(prediction, target).clamp(max=IDENTICAL_PSNR),
        ssim(prediction, target),
        psnr(prediction_y, target_y).clamp(max=IDENTICAL_PSNR),
        ssim(prediction_y, target_y),
    )
    return {name: value.item() for name, value in zip(FIGURES, values, strict=True)}


def compare_pictures(prediction: np.ndarray, target: np.ndarray) -> tuple[float, float]:
    """PSNR in dB and SSIM in RGB of two 8-bit pictures, (height, width, 3) uint8."""
    images = [torch.tensor(picture).permute(2, 0, 1)[None] / 255 for picture in (prediction, target)]
    return psnr(*images).item(), ssim(*images).item()


def _plane_ssim(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean SSIM of two (height, width) planes."""
    window = _gaussian_window(min(SSIM_WINDOW, *prediction.shape), prediction)
    moments = torch.stack([prediction, target, prediction**2, target**2, prediction * target])[None]
    # Depth-wise: torch's float64 kernel is ten times faster with the moments as groups than as a batch.
    moments = F.conv2d(moments, window.view(1, 1, -1, 1).expand(5, -1, -1, -1).contiguous(), groups=5)
    moments = F.conv2d(moments, window.view(1, 1, 1, -1).expand(5, -1, -1, -1).contiguous(), groups=5)[0]
    mean_p, mean_t, square_p, square_t, product = moments
    variances = square_p - mean_p**2 + square_t - mean_t**2
    covariance = product - mean_p * mean_t
    luminance = (2 * mean_p * mean_t + SSIM_C1) / (mean_p**2 + mean_t**2 + SSIM_C1)
    return (luminance * (2 * covariance + SSIM_C2) / (variances + SSIM_C2)).mean()


def _gaussian_window(size: int, like: Tensor) -> Tensor:
    """A normalised Gaussian of the largest odd length up to `size`."""
    radius = (size - 1) // 2
    offsets = torch.arange(-radius, radius + 1, dtype=like.dtype, device=like.device)
    weights = torch.exp(-(offsets**2) / (2 * SSIM_SIGMA**2))
    return weights / weights.sum()


def _as_float64(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Check that two batches of images can be compared; in float64, because a variance is a small difference."""
    if prediction.shape != target.shape:
        raise ValueError(
            f"images of different shapes cannot be compared: {tuple(prediction.shape)} and {tuple(target.shape)}"
        )
    if prediction.ndim != 4 or 0 in prediction.shape:
        raise ValueError(
            f"metrics take images of shape (batch, channels, height, width), not {tuple(prediction.shape)}"
        )
    # A network may overshoot, the truth does not.
    if not (prediction.is_floating_point() and target.is_floating_point()) or target.max() > 1.5:
        raise ValueError("metrics take floating point in [0, 1]: divide by 255")
    if prediction.device.type == "mps":  # has no float64
        prediction, target = prediction.cpu(), target.cpu()
    return prediction.double(), target.double()
