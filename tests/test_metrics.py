"""PSNR and SSIM against scikit-image, and their defined corners."""

import numpy as np
import pytest
import torch
from skimage import data
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from modeling_unirain import metrics


def as_tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image).permute(2, 0, 1).unsqueeze(0).float() / 255


@pytest.fixture(scope="module")
def pair() -> tuple[np.ndarray, np.ndarray]:
    """A photograph and a noisy, darkened copy: uint8, odd and unequal sides."""
    clean = data.astronaut()[:101, 30:177]
    noise = np.random.default_rng(0).normal(0, 20, clean.shape)
    return np.clip(clean * 0.9 + noise, 0, 255).astype(np.uint8), clean


def test_psnr_equals_scikit_image(pair):
    noisy, clean = pair
    expected = peak_signal_noise_ratio(clean, noisy, data_range=255)
    assert metrics.psnr(as_tensor(noisy), as_tensor(clean)).item() == pytest.approx(expected, abs=1e-5)


def test_ssim_equals_scikit_image(pair):
    noisy, clean = pair
    expected = structural_similarity(
        clean, noisy, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255, channel_axis=-1
    )
    assert metrics.ssim(as_tensor(noisy), as_tensor(clean)).item() == pytest.approx(expected, abs=1e-6)


def test_y_equals_scikit_image(pair):
    image, _ = pair
    expected = rgb2ycbcr(image)[..., 0] / 255
    assert np.allclose(metrics.rgb_to_y(as_tensor(image))[0, 0].numpy(), expected, atol=1e-6)


def test_y_spans_16_to_235():
    black_and_white = torch.stack([torch.zeros(3, 2, 2), torch.ones(3, 2, 2)])
    y = metrics.rgb_to_y(black_and_white) * 255
    assert y[0].unique().tolist() == pytest.approx([16], abs=1e-4)
    assert y[1].unique().tolist() == pytest.approx([235], abs=1e-4)


def test_a_batch_gives_what_its_images_give_one_by_one(pair):
    noisy, clean = (as_tensor(image) for image in pair)
    predictions, targets = torch.cat([noisy, noisy.flip(3) * 0.5]), torch.cat([clean, clean.flip(3)])
    for metric in (metrics.psnr, metrics.ssim):
        together = metric(predictions, targets)
        assert together.shape == (2,) and together.dtype == torch.float64
        alone = [metric(predictions[i : i + 1], targets[i : i + 1]).item() for i in range(2)]
        assert together.tolist() == pytest.approx(alone, abs=1e-12)


def test_equal_images_are_infinitely_good(pair):
    clean = as_tensor(pair[1])
    assert metrics.psnr(clean, clean).item() == float("inf")
    assert metrics.ssim(clean, clean).item() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (3, 2), (10, 10), (11, 5)])
def test_ssim_is_defined_below_the_window(size):
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 3, *size, generator=generator)
    assert metrics.ssim(image, image).item() == pytest.approx(1, abs=1e-9)
    assert metrics.ssim(image, 1 - image).item() < 0.99


def test_quantize_gives_the_levels_of_a_byte():
    image = torch.tensor([-0.5, 0.0, 0.5 / 255, 100.4 / 255, 1.7])
    assert (metrics.quantize(image) * 255).tolist() == pytest.approx([0, 0, 0, 100, 255])


def test_shapes_that_differ_are_named():
    with pytest.raises(ValueError, match=r"\(1, 3, 4, 4\) and \(1, 3, 4, 5\)"):
        metrics.psnr(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 5))
    overshot = torch.full((1, 3, 4, 4), 1.7)
    assert metrics.psnr(overshot, torch.ones(1, 3, 4, 4)).item() == pytest.approx(-20 * np.log10(0.7))
    for levels in (torch.full((1, 3, 4, 4), 255, dtype=torch.uint8), torch.full((1, 3, 4, 4), 255.0)):
        for metric in (metrics.psnr, metrics.ssim):
            with pytest.raises(ValueError, match="divide by 255"):
                metric(levels, levels)
    with pytest.raises(ValueError, match="batch, channels, height, width"):
        metrics.ssim(torch.zeros(3, 4, 4), torch.zeros(3, 4, 4))
    with pytest.raises(ValueError, match="RGB"):
        metrics.rgb_to_y(torch.zeros(1, 1, 4, 4))
