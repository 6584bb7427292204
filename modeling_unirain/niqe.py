"""NIQE, a measure of naturalness that needs no clean twin, written from its paper.

Mittal, Soundararajan and Bovik, "Making a 'Completely Blind' Image Quality Analyzer", IEEE Signal Processing Letters
2013. Statistics of locally normalised luminance are gathered from patches at two scales; the distance of their
Gaussian to that of sharp patches of good photographs is the score. Lower is more natural.

The authors' pristine Gaussian is not ours to ship, so `niqe_pristine.json` holds one fitted on openly licensed
photographs, which the file names (`benchmarks/niqe_pristine.py` made it). The scores therefore compare pictures with
one another, here; they are **not comparable with published NIQE figures**.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor


__all__ = ["PATCH_SIZE", "PristineModel", "fit_pristine", "niqe"]

PATCH_SIZE = 96
"""Side of a patch in pixels at full scale (section II.C gives 32 to 160 as equally good; the authors' code has 96)."""
SHARPNESS_THRESHOLD = 0.75
"""T of section II.B: a pristine patch has at least this share of its photograph's sharpest patch's activity."""
LUMA = (0.2989, 0.5870, 0.1140)
NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))
PRISTINE_FILE = Path(__file__).with_name("niqe_pristine.json")


@dataclass(frozen=True)
class PristineModel:
    """The multivariate Gaussian of good photographs' patches: `mean` (36,), `covariance` (36, 36), float64."""

    mean: Tensor
    covariance: Tensor


@cache
def bundled_pristine() -> PristineModel:
    """The Gaussian fitted on the photographs that `niqe_pristine.json` names."""
    fitted = json.loads(PRISTINE_FILE.read_text(encoding="utf-8"))
    return PristineModel(*(torch.tensor(fitted[key], dtype=torch.float64) for key in ("mean", "covariance")))


def niqe(image: Tensor, pristine: PristineModel | None = None) -> Tensor:
    """Distance of each image's patch statistics to those of good photographs (equation 10); lower is more natural.

    Args:
        image (`Tensor`): RGB or grey in [0, 1], (batch, 3 or 1, height, width), at least 96 pixels on each side.
        pristine (`PristineModel`, *optional*): default: ours, fitted on openly licensed photographs.

    Returns:
        `Tensor`: (batch,), float64; NaN for an image without any texture, such as a black one.

    Raises:
        ValueError: the image is no batch of RGB or grey images, or smaller than one patch.
    """
    pristine = pristine or bundled_pristine()
    return torch.stack([_distance(patch_features(sample[None])[0], pristine) for sample in image])


def fit_pristine(images: Iterable[Tensor]) -> PristineModel:
    """Fit the Gaussian to the sharp patches of good photographs (section II.D).

    Args:
        images (iterable of `Tensor`): each (1, 3 or 1, height, width) in [0, 1].

    Raises:
        ValueError: fewer sharp patches than the 36 features they must determine.
    """
    sharp = []
    for image in images:
        features, sharpness = patch_features(image)
        sharp.append(features[sharpness > SHARPNESS_THRESHOLD * sharpness.max()])
    features = torch.cat(sharp) if sharp else torch.empty(0, 36, dtype=torch.float64)
    features = features[features.isfinite().all(dim=1)]
    if len(features) <= features.shape[1]:
        raise ValueError(
            f"{len(features)} sharp patches cannot determine a model of 36 features: give more photographs"
        )
    return PristineModel(features.mean(dim=0), features.T.cov())


def patch_features(image: Tensor) -> tuple[Tensor, Tensor]:
    """The 36 natural-scene statistics of every patch (sections II.A to II.C), and the patches' sharpness.

    Args:
        image (`Tensor`): (1, 3 or 1, height, width) in [0, 1].

    Returns:
        `tuple[Tensor, Tensor]`: features (patches, 36), 18 of the full scale and 18 of the half; NaN where a patch is
        flat. Sharpness (patches,), the mean local deviation on the scale of 0 to 255 (equation 4).
    """
    if image.ndim != 4 or image.shape[1] not in (1, 3):
        raise ValueError(
            f"niqe takes RGB or grey images of shape (batch, 3 or 1, height, width), not {tuple(image.shape)}"
        )
    height, width = image.shape[-2:]
    if min(height, width) < PATCH_SIZE:
        raise ValueError(f"niqe needs at least {PATCH_SIZE} x {PATCH_SIZE} pixels; this image is {width} x {height}")
    image = image.cpu().double() * 255
    if image.shape[1] == 3:
        image = (image * image.new_tensor(LUMA).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)
    image = image[..., : height - height % PATCH_SIZE, : width - width % PATCH_SIZE]

    normalized, deviation = normalize_locally(image)
    sharpness = _patches(deviation, PATCH_SIZE).mean(dim=(1, 2))
    half, _ = normalize_locally(F.interpolate(image, scale_factor=0.5, mode="bicubic", antialias=True))
    scales = (_patches(normalized, PATCH_SIZE), _patches(half, PATCH_SIZE // 2))
    return torch.cat([_scale_features(patches) for patches in scales], dim=1), sharpness


def normalize_locally(image: Tensor) -> tuple[Tensor, Tensor]:
    """Mean-subtracted contrast-normalised coefficients and local deviation (equations 1 to 3).

    The window is the authors' 7 x 7 Gaussian of sigma 7/6; the border is replicated.

    Args:
        image (`Tensor`): (1, 1, height, width) on the scale of 0 to 255, to which the constant 1 belongs.
    """
    offsets = torch.arange(-3, 4, dtype=image.dtype)
    window = torch.exp(-(offsets**2) / (2 * (7 / 6) ** 2))
    window = (window / window.sum()).view(1, 1, -1, 1).expand(2, -1, -1, -1)
    moments = F.pad(torch.cat([image, image**2], dim=1), (3, 3, 3, 3), mode="replicate")
    moments = F.conv2d(F.conv2d(moments, window, groups=2), window.transpose(2, 3), groups=2)
    mean, square = moments.split(1, dim=1)
    deviation = (square - mean**2).abs().sqrt()
    return (image - mean) / (deviation + 1), deviation


def fit_asymmetric_gaussian(samples: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Shape, left and right scale, and mean of an asymmetric generalised Gaussian, by matching moments.

    Equations 6 to 8 of the paper; the estimator is that of Lasmar et al., ICIP 2009. NaN where one side is empty.

    Args:
        samples (`Tensor`): (patches, samples).

    Returns:
        `tuple[Tensor, Tensor, Tensor, Tensor]`: gamma, beta_left, beta_right and eta, each (patches,).
    """
    squares = samples**2
    left = (torch.where(samples < 0, squares, 0).sum(1) / (samples < 0).sum(1)).sqrt()
    right = (torch.where(samples > 0, squares, 0).sum(1) / (samples > 0).sum(1)).sqrt()
    ratio = left / right
    moment = samples.abs().mean(1) ** 2 / squares.mean(1)
    moment = moment * (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1) ** 2

    # The generalised Gaussian's E|x|^2 / E x^2 rises with its shape: look the shape up.
    shapes = torch.arange(0.2, 10, 0.001, dtype=samples.dtype)
    ratios = (2 * torch.lgamma(2 / shapes) - torch.lgamma(1 / shapes) - torch.lgamma(3 / shapes)).exp()
    shape = shapes[torch.searchsorted(ratios, moment.nan_to_num()).clamp(max=len(shapes) - 1)]

    scale = ((torch.lgamma(1 / shape) - torch.lgamma(3 / shape)) / 2).exp()
    beta_left, beta_right = left * scale, right * scale
    mean = (beta_right - beta_left) * (torch.lgamma(2 / shape) - torch.lgamma(1 / shape)).exp()
    return shape, beta_left, beta_right, mean


def _scale_features(patches: Tensor) -> Tensor:
    """18 features of one scale: 2 of the coefficients, 4 of their products with each of four neighbours.

    The authors' code wraps a patch round to pair its last row with its first; only true neighbours are paired here.
    """
    shape, left, right, _ = fit_asymmetric_gaussian(patches.flatten(1))
    features = [shape, (left + right) / 2]
    size = patches.shape[-1]
    for down, across in NEIGHBOURS:
        first = patches[:, : size - down, max(0, -across) : size - max(0, across)]
        second = patches[:, down:, max(0, across) : size + min(0, across)]
        shape, left, right, mean = fit_asymmetric_gaussian((first * second).flatten(1))
        features += [shape, mean, left, right]
    return torch.stack(features, dim=1)


def _patches(image: Tensor, size: int) -> Tensor:
    """(1, 1, height, width) -> (patches, size, size), without overlap."""
    return image[0, 0].unfold(0, size, size).unfold(1, size, size).reshape(-1, size, size)


def _distance(features: Tensor, pristine: PristineModel) -> Tensor:
    """Equation 10, with the pseudo-inverse, as an image may have fewer patches than features."""
    features = features[features.isfinite().all(dim=1)]
    if not len(features):
        return torch.tensor(torch.nan, dtype=torch.float64)
    difference = features.mean(dim=0) - pristine.mean
    spread = features.T.cov() if len(features) > 1 else torch.zeros_like(pristine.covariance)
    return (difference @ torch.linalg.pinv((pristine.covariance + spread) / 2, hermitian=True) @ difference).sqrt()
