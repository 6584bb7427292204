"""How far the hard routers' choices lie apart before training starts.

A linear router over averages of normalised features starts with nearly equal logits: every expert gets a third of the
weight, and which one an image is given hangs on the fourth decimal. The experts then share all images by chance, have
no reason to differ, and the tiles of one image fall out over them.
"""

import torch
from torch import Tensor

from modeling_unirain.modeling_unirain import UniRainForImageDeraining, UniRainHardMoE


BATCH = 8
"""Images a forward pass: as many as a training step has, so that no more memory is needed."""


@torch.no_grad()
def spread_routers(model: UniRainForImageDeraining, images: Tensor, deviation: float, seed: int) -> None:
    """Draw the hard routers anew so that their logits differ between images; not in the paper.

    Each gets random directions whose logits over `images` have the mean 0 and the standard deviation `deviation`, one
    expert like the other. (A data-dependent start, as Mishkin and Matas, ICLR 2016, have it for layers.) The experts'
    outputs are scaled by the factor by which the mean weight applied to them grew or shrank, so that the network stays
    near what it was.

    Args:
        model ([`UniRainForImageDeraining`]): changed in place.
        images (`Tensor` of shape `(images, 3, height, width)`): rainy ones; two or more, the more the better.
        deviation (`float`): of the logits. 2 gives the chosen one of three experts weights of 0.5 to 1.
        seed (`int`): of the directions.
    """
    moes = [module for module in model.modules() if isinstance(module, UniRainHardMoE)]
    generator = torch.Generator().manual_seed(seed)
    pooled: list[list[Tensor]] = [[] for _ in moes]

    # Hooks see what routers are asked; running block by block would need the network's inside.
    def keep_in(seen: list[Tensor]):
        return lambda router, inputs, _: seen.append(inputs[0])

    hooks = [moe.router.register_forward_hook(keep_in(seen)) for moe, seen in zip(moes, pooled, strict=True)]
    was_training = model.training
    try:
        model.eval()
        for batch in images.split(BATCH):
            model(batch)
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    for moe, features in zip(moes, map(torch.cat, pooled), strict=True):
        project = moe.router.project
        before = _mean_applied(moe, features @ project.weight.T + project.bias)
        mean = features.mean(0)
        weight = torch.randn(project.weight.shape, generator=generator).to(features)
        weight *= (deviation / ((features - mean) @ weight.T).std(0).clamp(min=1e-12))[:, None]
        project.weight.copy_(weight)
        project.bias.copy_(-weight @ mean)
        factor = before / _mean_applied(moe, features @ weight.T + project.bias)
        for expert in moe.experts:
            expert.project_out.weight.mul_(factor)
            expert.project_out.bias.mul_(factor)


def _mean_applied(moe: UniRainHardMoE, logits: Tensor) -> Tensor:
    """The mean of the weights that are not zero."""
    weights = moe.router.select(logits.softmax(-1))
    return weights.sum() / (weights > 0).sum()
