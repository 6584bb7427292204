"""AdamW, and Muon for those weights that are matrices."""

from collections import defaultdict

import torch
from torch import Tensor, nn

from .arguments import TrainingArguments
from .precision import computes_in_bf16


NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic that moves singular values towards one (Jordan et al., 2024)."""
NEWTON_SCHULZ_STEPS = 5
MOMENTUM = 0.95
LEAST_SIDE = 8
"""Fewer inputs or outputs make no matrix worth the name: depth-wise kernels, the image's channels, the routers' logits."""
LARGEST_SIDE = 256
"""Orthogonalising a matrix takes 10 times its size times its shorter side in multiply-accumulates, and more: the released size's one kernel above
this would take nearly as much as all others together."""


class Muon(torch.optim.AdamW):
    """Muon (Jordan et al., 2024) in the groups with `orthogonal=True`, AdamW in the others.

    A matrix moves by its momentum with all singular values set to about one, times 0.2 √(longer side), which is as far as
    AdamW moves it at the same learning rate (Liu et al., 2025). `torch.optim.Muon` does the same to one matrix after another,
    and to parameters of two dimensions only; here 1 x 1 and other dense kernels are matrices `(out, in · height · width)`, and
    those of one shape are orthogonalised together: the released size has 211 of 36 shapes.
    """

    @torch.no_grad()
    def step(self, closure=None):
        groups = self.param_groups
        self.param_groups = [group for group in groups if not group.get("orthogonal")]
        try:
            loss = super().step(closure)
        finally:
            self.param_groups = groups
        for group in groups:
            if group.get("orthogonal"):
                self._orthogonal_step(group)
        return loss

    def _orthogonal_step(self, group: dict) -> None:
        by_shape = defaultdict(list)
        for parameter in group["params"]:
            if parameter.grad is not None:
                by_shape[parameter.shape].append(parameter)
        for shape, parameters in by_shape.items():
            gradients = [parameter.grad for parameter in parameters]
            for parameter in parameters:
                if parameter not in self.state:  # under AdamW's names, which its loading of states asks for
                    self.state[parameter] = {"step": torch.zeros(()), "exp_avg": torch.zeros_like(parameter)}
                self.state[parameter]["step"] += 1
            momenta = [self.state[parameter]["exp_avg"] for parameter in parameters]
            torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
            nesterov = torch._foreach_lerp(gradients, momenta, MOMENTUM)
            directions = orthogonalised(torch.stack(nesterov).flatten(2)).reshape(-1, *shape)
            longer_side = max(shape[0], shape[1:].numel())
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(parameters, directions.unbind(), alpha=-group["lr"] * 0.2 * longer_side**0.5)


def orthogonalised(matrices: Tensor) -> Tensor:
    """The nearest matrices with orthonormal rows or columns, nearly: singular values come out
    between 0.7 and 1.2, but those below a hundredth of the largest smaller. In bfloat16 where that is faster.

    Args:
        matrices (`Tensor` of shape `(..., rows, columns)`)
    """
    a, b, c = NEWTON_SCHULZ
    is_tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if is_tall else matrices
    x = x.bfloat16() if computes_in_bf16(x.device) else x
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if is_tall else x).to(matrices.dtype)


def build_optimizer(model: nn.Module, options: TrainingArguments) -> torch.optim.AdamW:
    """Of `options.optimizer`; biases, norms and scales (vectors) are not decayed."""
    matrices, kernels, vectors = [], [], []
    for parameter in model.parameters():
        if parameter.ndim <= 1:
            vectors.append(parameter)
        elif options.optimizer == "muon" and _is_matrix(parameter):
            matrices.append(parameter)
        else:
            kernels.append(parameter)
    groups = [{"params": kernels, "weight_decay": options.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    if options.optimizer == "muon":
        groups.append({"params": matrices, "weight_decay": options.weight_decay, "orthogonal": True})
    kind = Muon if options.optimizer == "muon" else torch.optim.AdamW
    return kind(groups, lr=options.learning_rate, betas=(options.adam_beta1, options.adam_beta2), fused=True)


def _is_matrix(parameter: Tensor) -> bool:
    return min(parameter.shape[:2]) >= LEAST_SIDE and min(parameter.flatten(1).shape) <= LARGEST_SIDE
