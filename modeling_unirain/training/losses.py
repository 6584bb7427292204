"""How far restored images are from their targets, one figure a sample: what the objective then weighs by type."""

from typing import Literal, get_args

import torch
from torch import Tensor


Loss = Literal["l1", "psnr"]

PSNR_FLOOR = 1e-3
"""Mean square (30 dB) below which the loss of a sample falls off, so that light rain does not outweigh heavy rain and drops, of
which much more is to be gained."""
PSNR_SCALE = 0.01
"""Makes the gradient about as large as that of L1, which clipping and the routers' balance are set for."""


def sample_losses(restored: Tensor, clean: Tensor, loss: Loss) -> Tensor:
    """The loss of every sample.

    `l1` is the paper's (section 3.4). `psnr` is `0.01 * ln(1 + MSE / 1e-3)`, so that a decibel is worth as much wherever it is gained, but
    for what is beyond 30 dB (after HINet, Chen et al., CVPR Workshops 2021, who train on the negative PSNR itself): a departure
    that brought more PSNR in as many steps (docs/checkpoint.md).

    Args:
        restored, clean (`Tensor` of shape `(batch, channels, height, width)`): in [0, 1]; `restored` may lie beyond.
        loss (`str`): `l1` or `psnr`.

    Returns:
        `Tensor` of shape `(batch,)`: float32, at least 0.

    Raises:
        ValueError: there is no such loss.
    """
    difference = restored.float() - clean
    if loss == "l1":
        return difference.abs().mean(dim=(1, 2, 3))
    if loss == "psnr":
        return PSNR_SCALE * torch.log1p(difference.square().mean(dim=(1, 2, 3)) / PSNR_FLOOR)
    raise ValueError(f"loss must be one of {', '.join(get_args(Loss))}, not {loss!r}.")
