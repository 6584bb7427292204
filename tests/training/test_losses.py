"""The losses of single samples, against numpy and against what they are for."""

import numpy as np
import pytest
import torch

from modeling_unirain.training.losses import sample_losses


def pictures(deviation: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    clean = torch.rand(2, 3, 24, 24, generator=generator)
    return clean + deviation * torch.randn(clean.shape, generator=generator), clean


def test_losses_are_those_of_their_definitions():
    restored, clean = pictures(0.05)
    restored[1] *= 0.5
    difference = (restored - clean).double().numpy()
    expected = {
        "l1": np.abs(difference).mean((1, 2, 3)),
        "psnr": 0.01 * np.log(1 + (difference**2).mean((1, 2, 3)) / 1e-3),
    }
    for loss, values in expected.items():
        found = sample_losses(restored, clean, loss)
        assert found.shape == (2,)
        assert np.allclose(found, values, rtol=1e-5)


def test_a_decibel_is_worth_as_much_in_heavy_rain_as_in_light_one():
    def gain(deviation):
        worse, better = (sample_losses(*pictures(deviation * factor), "psnr")[0] for factor in (1, 10 ** (-1 / 20)))
        return float(worse - better)

    assert gain(0.3) == pytest.approx(0.01 * np.log(10) / 10, rel=0.02)
    assert gain(0.15) == pytest.approx(gain(0.3), rel=0.05)
    assert gain(0.006) < 0.1 * gain(0.3)


@pytest.mark.parametrize("loss", ["l1", "psnr"])
def test_a_perfect_sample_costs_nothing_and_has_a_finite_gradient(loss):
    clean = torch.rand(1, 3, 8, 8)
    restored = clean.clone().requires_grad_()
    value = sample_losses(restored, clean, loss).sum()
    value.backward()
    assert value == 0
    assert restored.grad.isfinite().all()


def test_half_precision_is_measured_in_full():
    restored, clean = pictures(0.05)
    assert sample_losses(restored.bfloat16(), clean, "psnr").dtype == torch.float32


def test_unknown_loss_is_named():
    with pytest.raises(ValueError, match="one of l1, psnr, not 'l2'"):
        sample_losses(*pictures(0.1), "l2")
