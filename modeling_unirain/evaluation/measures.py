"""The figures of one picture, each under its own name."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..messages import one_line
from ..metrics import measure_pair
from ..niqe import PATCH_SIZE, niqe


TITLES = {
    "psnr_rgb": "PSNR RGB (dB)",
    "ssim_rgb": "SSIM RGB",
    "psnr_y": "PSNR Y (dB)",
    "ssim_y": "SSIM Y",
    "lpips": "LPIPS (AlexNet)",
    "niqe": "NIQE (our pristine model)",
}
"""Every metric that a report may hold, in its order, with the name it is printed under."""
DECIMALS = {"psnr_rgb": 2, "ssim_rgb": 4, "psnr_y": 2, "ssim_y": 4, "lpips": 4, "niqe": 2}
LOWER_IS_BETTER = {"lpips", "niqe"}

Perceptual = Callable[[Tensor, Tensor], Tensor]


def measure(picture: np.ndarray, clean: np.ndarray | None, perceptual: Perceptual | None = None) -> dict[str, float]:
    """Measure one 8-bit picture against its clean twin, or without reference where there is none.

    Args:
        picture (`np.ndarray`): uint8 RGB, (height, width, 3).
        clean (`np.ndarray` or `None`): the same shape.
        perceptual (`Callable`, *optional*): LPIPS from `load_lpips`; used where there is a twin.

    Returns:
        `dict[str, float]`: with a twin PSNR and SSIM in RGB and on Y (BT.601, 16 to 235, not rounded), and LPIPS if asked;
        without, NIQE: NaN for a picture that is flat or smaller than one patch of 96 x 96 pixels.
    """
    image = _as_tensor(picture)
    if clean is None:
        large_enough = min(picture.shape[:2]) >= PATCH_SIZE
        return {"niqe": niqe(image).item() if large_enough else math.nan}
    target = _as_tensor(clean)
    figures = measure_pair(image, target)
    if perceptual is not None:
        figures["lpips"] = perceptual(image, target).item()
    return figures


def load_lpips() -> Perceptual:
    """LPIPS (Zhang et al., CVPR 2018) on AlexNet, from its authors' package.

    Raises:
        ValueError: the package or its weights cannot be had here; the message says what to install.
    """
    try:
        from lpips import LPIPS

        network = LPIPS(net="alex", verbose=False).eval()
    except (ImportError, RuntimeError, OSError) as error:
        raise ValueError(
            f"LPIPS cannot be measured here ({one_line(error)}): run `pip install lpips torchvision` once with a "
            "network connection, which also fetches AlexNet's weights on first use, or leave --lpips out."
        ) from error

    @torch.no_grad()
    def lpips(image: Tensor, target: Tensor) -> Tensor:
        return network(image.float(), target.float(), normalize=True).flatten()

    return lpips


def _as_tensor(picture: np.ndarray) -> Tensor:
    """(height, width, 3) uint8 -> (1, 3, height, width) in [0, 1]."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].double() / 255
