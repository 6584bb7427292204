"""Small image filters on float32 arrays of shape (height, width) or (height, width, channels), with numpy and Pillow only."""

import io
import math

import numpy as np
from PIL import Image


def resize(image: np.ndarray, height: int, width: int, resample: Image.Resampling) -> np.ndarray:
    """Resizes without leaving float32 (Pillow filters one float channel at a time)."""
    if image.ndim == 3:
        return np.stack([resize(image[..., c], height, width, resample) for c in range(image.shape[2])], axis=-1)
    plane = Image.fromarray(np.ascontiguousarray(image, dtype=np.float32))
    return np.asarray(plane.resize((width, height), resample))


def affine(plane: np.ndarray, height: int, width: int, matrix: tuple[float, ...]) -> np.ndarray:
    """Samples a (height, width) plane at `matrix` times each output pixel (x, y, 1), bilinearly; outside is 0."""
    source = Image.fromarray(np.ascontiguousarray(plane, dtype=np.float32))
    return np.asarray(source.transform((width, height), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR))


def gaussian_blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of `sigma` pixels. Above 2.5 px it runs on a reduced copy, so its cost does not grow with sigma."""
    if sigma < 0.25:
        return image
    height, width = image.shape[:2]
    factor = min(int(sigma / 1.25), min(height, width) // 2)
    if factor < 2:
        return _separable(image, _gaussian_kernel(sigma))
    rows, columns = -(-height // factor), -(-width // factor)
    y, x = np.minimum(np.arange(rows * factor), height - 1), np.minimum(np.arange(columns * factor), width - 1)
    # means over whole blocks: Pillow's box filter is uneven where the sizes do not divide
    small = image[y][:, x].reshape(rows, factor, columns, factor, -1).mean(axis=(1, 3))
    block = (factor**2 - 1) / 12  # variance that the block means have added
    small = _separable(small, _gaussian_kernel(math.sqrt(sigma**2 - block) / factor))
    large = resize(small, rows * factor, columns * factor, Image.Resampling.BICUBIC)[:height, :width]
    return large.reshape(image.shape)


def luminance(image: np.ndarray) -> np.ndarray:
    """Luma of an RGB image (BT.601 weights, full range), (height, width)."""
    return image @ np.array([0.299, 0.587, 0.114], dtype=np.float32)


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """The image after one JPEG compression of that quality."""
    buffer = io.BytesIO()
    Image.fromarray((image * 255 + 0.5).astype(np.uint8)).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer), dtype=np.float32) / 255


def smooth_noise(height: int, width: int, wavelength: float, rng: np.random.Generator) -> np.ndarray:
    """A smooth random field, (height, width), of about zero mean and unit variance and no detail below `wavelength` px."""
    rows, columns = int(height / wavelength) + 2, int(width / wavelength) + 2
    return resize(rng.standard_normal((rows, columns), np.float32), height, width, Image.Resampling.BICUBIC) * 1.3


def _gaussian_kernel(sigma: float) -> np.ndarray:
    radius = max(1, int(2.5 * sigma + 0.5))
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    return (kernel / kernel.sum()).astype(np.float32)


def _separable(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    radius = len(kernel) // 2
    for axis in (0, 1):
        size = image.shape[axis]
        index = np.clip(np.arange(-radius, size + radius), 0, size - 1)
        padded = np.take(image, index, axis=axis)
        image = kernel[radius] * np.take(image, range(size), axis=axis)
        for offset, weight in enumerate(kernel):
            if offset != radius:
                window = padded[offset : offset + size] if axis == 0 else padded[:, offset : offset + size]
                image += weight * window
    return image
