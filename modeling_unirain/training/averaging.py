"""Exponential moving average of the weights: what is validated and exported."""

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def averaged_copy(model: nn.Module, decay: float) -> AveragedModel:
    """A copy of `model` that follows it: `ema = d * ema + (1 - d) * weights` at every `update_parameters`.

    d = min(decay, (1 + n) / (10 + n)) after n updates, so that the first steps, whose weights are still far from any
    use, do not linger in a short run.
    """

    @torch.no_grad()
    def follow(averages: list[Tensor], weights: list[Tensor], num_averaged: Tensor) -> None:
        n = int(num_averaged)
        torch._foreach_lerp_(averages, weights, 1 - min(decay, (1 + n) / (10 + n)))

    average = AveragedModel(model, multi_avg_fn=follow)
    return average.requires_grad_(False).eval()
