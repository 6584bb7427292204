"""Crops, turns and padding of uint8 or float pictures (height, width, 3), and the way into a tensor."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def crop_window(height: int, width: int, size: int, rng: np.random.Generator) -> tuple[slice, slice]:
    top = rng.integers(max(height - size, 0) + 1)
    left = rng.integers(max(width - size, 0) + 1)
    return slice(top, top + size), slice(left, left + size)


def pad_to(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Reflects a picture that is too small, as often as it takes, equally on both sides."""
    rows, columns = max(height - pixels.shape[0], 0), max(width - pixels.shape[1], 0)
    if rows == columns == 0:
        return pixels
    return np.pad(pixels, ((rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2), (0, 0)), "reflect")


def turn(pixels: np.ndarray, symmetry: int) -> np.ndarray:
    """One of the eight symmetries of the square, 0 to 7."""
    turned = np.rot90(pixels, symmetry % 4)
    return turned[:, ::-1] if symmetry >= 4 else turned


def random_patch(pixels: np.ndarray, size: int, min_scale: float, rng: np.random.Generator) -> np.ndarray:
    """Crop of a photograph reduced by a random factor; only the crop's own area is resized."""
    scale = max(rng.uniform(min_scale, 1.0), min(1.0, size / min(pixels.shape[:2])))
    wide = round(size / scale)
    patch = pad_to(pixels[crop_window(*pixels.shape[:2], wide, rng)], wide, wide)
    return patch if wide == size else np.asarray(Image.fromarray(patch).resize((size, size), Image.Resampling.BOX))


def to_tensor(pixels: np.ndarray) -> Tensor:
    """(height, width, 3), uint8 or float in [0, 1] -> float (3, height, width) in [0, 1]."""
    tensor = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
    return tensor.float() / 255 if tensor.dtype == torch.uint8 else tensor.float()
