"""Muon and AdamW, against torch's own."""

from copy import deepcopy

import pytest
import torch
from torch import nn
from training_runs import losses, tiny_arguments

from modeling_unirain.training.arguments import TrainingArguments
from modeling_unirain.training.optimizer import build_optimizer, orthogonalised
from train_unirain import main


OPTIONS = TrainingArguments(optimizer="muon", learning_rate=1e-2, weight_decay=0.1)


def descend(model: nn.Module, *optimizers: torch.optim.Optimizer, steps: int = 4) -> None:
    torch.manual_seed(0)
    for _ in range(steps):
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        for optimizer in optimizers:
            optimizer.step()


@pytest.mark.parametrize(
    "layer", [nn.Linear(24, 16), nn.Conv2d(24, 16, 1), nn.Conv2d(10, 40, 3)], ids=["linear", "1x1", "3x3"]
)
def test_matrices_move_as_torchs_muon_moves_them_and_vectors_as_adamw(layer):
    model = nn.Sequential(layer, deepcopy(layer))  # two of a shape, which are orthogonalised together
    nn.init.normal_(model[1].weight)
    flat = nn.Sequential(*(nn.Linear(*reversed(part.weight.flatten(1).shape)) for part in model))
    for part, ours in zip(flat, model, strict=True):
        part.load_state_dict({"weight": ours.weight.flatten(1), "bias": ours.bias})

    descend(model, build_optimizer(model, OPTIONS))
    matrices, vectors = ([p for p in flat.parameters() if p.ndim == n] for n in (2, 1))
    muon = torch.optim.Muon(matrices, lr=1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    descend(flat, muon, torch.optim.AdamW(vectors, lr=1e-2, weight_decay=0.0))

    for part, ours in zip(flat, model, strict=True):
        # of steps of 0.05; bfloat16 within
        torch.testing.assert_close(ours.weight.flatten(1), part.weight, rtol=0, atol=1e-3)
        torch.testing.assert_close(ours.bias, part.bias)


def test_kernels_that_are_no_matrices_move_as_adamw_moves_them():
    convolutions = {
        "depth-wise": nn.Conv2d(16, 16, 3, groups=16),
        "of the image": nn.Conv2d(3, 16, 3),
        "to the image": nn.Conv2d(16, 3, 3),
        "too large": nn.Conv2d(32, 257, 3),
    }
    ours = nn.ModuleDict({name.replace(" ", "_"): layer for name, layer in convolutions.items()})
    theirs = deepcopy(ours)
    descend(ours, build_optimizer(ours, OPTIONS))
    descend(theirs, build_optimizer(theirs, TrainingArguments(learning_rate=1e-2, weight_decay=0.1)))
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("shape", [(3, 16, 64), (3, 64, 16)], ids=["wide", "tall"])
def test_singular_values_become_about_one_and_directions_stay(shape):
    torch.manual_seed(0)
    matrices = torch.randn(shape) * 1e-4
    u, _, vh = torch.linalg.svd(matrices, full_matrices=False)
    in_their_directions = u.mT @ orthogonalised(matrices) @ vh.mT
    values = in_their_directions.diagonal(dim1=-2, dim2=-1)
    assert values.min() > 0.6 and values.max() < 1.3
    torch.testing.assert_close(in_their_directions, torch.diag_embed(values), rtol=0, atol=0.05)


def test_a_run_with_muon_goes_on_bit_for_bit_and_not_with_another_optimizer(tmp_path):
    options = {"max_steps": 6, "save_steps": 3, "save_total_limit": 9, "validation_steps": 6}
    main(tiny_arguments(tmp_path, "--optimizer", "muon", **options))
    resume = ("--output_dir", str(tmp_path / "on"), "--resume_from", str(tmp_path / "run" / "checkpoint-00000003"))
    main(tiny_arguments(tmp_path, "--optimizer", "muon", *resume, **options))
    whole, resumed = losses(tmp_path / "run"), losses(tmp_path / "on")
    assert list(resumed) == [4, 5, 6] and all(whole[step] == loss for step, loss in resumed.items())
    main(tiny_arguments(tmp_path, "--output_dir", str(tmp_path / "adamw"), **options))
    assert losses(tmp_path / "adamw")[1] == whole[1] and losses(tmp_path / "adamw")[4] != whole[4]
    with pytest.raises(ValueError, match="checkpoint-00000003 cannot be resumed by this run"):
        main(tiny_arguments(tmp_path, *resume[:1], str(tmp_path / "other"), *resume[2:], **options))
