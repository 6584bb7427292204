"""NIQE's parts against scipy, and the behaviour the measure is for."""

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFilter
from scipy import ndimage, optimize, special
from skimage import data

from modeling_unirain import niqe as module
from modeling_unirain.niqe import fit_pristine, niqe


def as_tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.atleast_3d(np.array(image))).permute(2, 0, 1)[None].float() / 255


@pytest.fixture(scope="module")
def photograph() -> Image.Image:
    """Public-domain photograph that the bundled model was not fitted on."""
    return Image.fromarray(data.chelsea())


def test_local_normalisation_equals_scipy(photograph):
    grey = np.array(photograph.convert("L"), dtype=float)
    window = np.exp(-(np.arange(-3, 4) ** 2) / (2 * (7 / 6) ** 2))
    window /= window.sum()

    def blur(image):
        return ndimage.correlate1d(ndimage.correlate1d(image, window, 0, mode="nearest"), window, 1, mode="nearest")

    deviation = np.sqrt(np.abs(blur(grey**2) - blur(grey) ** 2))
    normalized, measured = module.normalize_locally(torch.from_numpy(grey)[None, None])
    assert np.allclose(measured[0, 0].numpy(), deviation, atol=1e-6)
    assert np.allclose(normalized[0, 0].numpy(), (grey - blur(grey)) / (deviation + 1), atol=1e-6)


def moment_of(shape: float) -> float:
    """E|x|^2 / E x^2 of a generalised Gaussian."""
    return special.gamma(2 / shape) ** 2 / (special.gamma(1 / shape) * special.gamma(3 / shape))


@pytest.mark.parametrize("shape, left, right", [(2, 1, 1), (0.8, 0.5, 1.5), (4, 2, 0.7)])
def test_asymmetric_gaussian_is_recovered_and_equals_a_root_search(shape, left, right):
    rng = np.random.default_rng(0)
    # |x / beta|^shape of a generalised Gaussian is a Gamma(1 / shape) variate; a side's share is its beta.
    magnitude = rng.gamma(1 / shape, size=200_000) ** (1 / shape)
    positive = rng.random(200_000) < right / (left + right)
    samples = np.where(positive, right * magnitude, -left * magnitude)

    sigma_left = np.sqrt((samples[samples < 0] ** 2).mean())
    sigma_right = np.sqrt((samples[samples > 0] ** 2).mean())
    ratio = sigma_left / sigma_right
    moment = np.abs(samples).mean() ** 2 / (samples**2).mean()
    moment *= (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1) ** 2
    root = optimize.brentq(lambda candidate: moment_of(candidate) - moment, 0.2, 10)
    scale = np.sqrt(special.gamma(1 / root) / special.gamma(3 / root))
    expected_mean = (sigma_right - sigma_left) * scale * special.gamma(2 / root) / special.gamma(1 / root)

    fitted = [value.item() for value in module.fit_asymmetric_gaussian(torch.from_numpy(samples)[None])]
    assert fitted == pytest.approx([root, sigma_left * scale, sigma_right * scale, expected_mean], abs=3e-3)
    assert fitted[:3] == pytest.approx([shape, left, right], rel=0.04)


@pytest.mark.parametrize("direction", range(4))
def test_products_see_the_neighbour_they_are_named_for(direction):
    """Noise that is nearly constant along one direction has a positive product there and nowhere else."""
    down, across = module.NEIGHBOURS[direction]
    y, x = np.mgrid[:192, :192]
    rng = np.random.default_rng(0)
    noise = 0.8 * rng.random(400)[(y * across - x * down) % 400] + 0.2 * rng.random((192, 192))
    features, _ = module.patch_features(torch.from_numpy(noise)[None, None])
    means = features[:, [3, 7, 11, 15]]
    assert features.shape == (4, 36)
    assert (means[:, direction] > 0.3).all()
    assert (means[:, [other for other in range(4) if other != direction]] < 0.1).all()


def noisy(image: Image.Image, deviation: float) -> Image.Image:
    pixels = np.array(image, dtype=float)
    pixels += np.random.default_rng(0).normal(0, deviation, pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def compressed(image: Image.Image, quality: float) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=int(quality))
    return Image.open(file)


def streaked(image: Image.Image, count: float) -> Image.Image:
    rain = Image.new("L", image.size)
    draw, rng = ImageDraw.Draw(rain), np.random.default_rng(0)
    for x, y in rng.uniform(0, 1, (int(count), 2)) * image.size:
        draw.line((x, y, x + 4, y + 25), fill=160, width=1)
    return Image.composite(Image.new("RGB", image.size, "white"), image, rain)


@pytest.mark.parametrize(
    "harm, doses",
    [
        (noisy, (5, 15, 40)),
        (lambda image, radius: image.filter(ImageFilter.GaussianBlur(radius)), (0.5, 1.5, 3)),
        (compressed, (60, 25, 8)),
        (streaked, (100, 400, 1600)),
    ],
    ids=["noise", "blur", "jpeg", "rain streaks"],
)
def test_score_rises_with_every_dose_of_harm(photograph, harm, doses):
    scores = [niqe(as_tensor(photograph)).item(), *(niqe(as_tensor(harm(photograph, dose))).item() for dose in doses)]
    assert scores == sorted(scores)
    assert scores[-1] > 1.5 * scores[0]


def test_a_photograph_is_closer_to_a_model_of_sharp_photographs_than_of_blurred_ones(photograph):
    others = [Image.fromarray(picture()) for picture in (data.astronaut, data.coffee)]
    crops = [other.crop((x, x, *other.size)) for other in others for x in range(0, 144, 16)]
    sharp, blurred = (
        fit_pristine(as_tensor(crop.filter(ImageFilter.GaussianBlur(radius))) for crop in crops) for radius in (0, 2)
    )
    assert niqe(as_tensor(photograph), sharp).item() < niqe(as_tensor(photograph), blurred).item()


def test_grey_pictures_and_batches(photograph):
    grey = as_tensor(photograph.convert("L"))
    assert niqe(grey).item() == pytest.approx(niqe(grey.expand(-1, 3, -1, -1)).item(), rel=0.01)
    pair = torch.cat([grey, grey.flip(3)])
    together = niqe(pair)
    assert together.shape == (2,) and together.dtype == torch.float64
    assert together.tolist() == [niqe(image[None]).item() for image in pair]


def test_a_picture_without_texture_has_no_score():
    assert niqe(torch.zeros(1, 3, 96, 96)).isnan().all()


def test_flat_patches_are_left_out(photograph):
    picture = as_tensor(photograph)[..., :192, :288]
    padded = torch.cat([picture, torch.zeros_like(picture)[..., :96]], dim=3)
    # The patch beside the edge sees it through the window, hence no exact equality.
    assert niqe(padded).item() == pytest.approx(niqe(picture).item(), rel=0.15)


def test_what_cannot_be_measured_is_named(photograph):
    with pytest.raises(ValueError, match="at least 96 x 96 pixels; this image is 200 x 95"):
        niqe(torch.rand(1, 3, 95, 200))
    with pytest.raises(ValueError, match="RGB or grey"):
        niqe(torch.rand(1, 4, 96, 96))
    with pytest.raises(ValueError, match="sharp patches cannot determine"):
        fit_pristine([as_tensor(photograph)[..., :96, :96]])
