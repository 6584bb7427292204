"""The module of the `evaluate` library works alone, wherever its folder is, and agrees with scikit-image."""

import shutil
from pathlib import Path
from statistics import fmean

import evaluate
import numpy as np
import pytest
import torch
from evaluation.rainy_pictures import clean_picture, rainy_picture
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

import modeling_unirain


PACKAGE = Path(modeling_unirain.__file__).parent
FOLDER = PACKAGE / "evaluation" / "unirain_metrics"


@pytest.fixture
def metrics(tmp_path):
    """Loaded from a copy, as someone would who has nothing but the folder."""
    shutil.copytree(FOLDER, tmp_path / "unirain_metrics")
    return evaluate.load(str(tmp_path / "unirain_metrics"), cache_dir=str(tmp_path / "cache"))


@pytest.fixture
def pictures():
    cleans = [clean_picture(index, (64 + 8 * index, 48)) for index in range(3)]
    return [rainy_picture(clean, index) for index, clean in enumerate(cleans)], cleans


def expected(pictures) -> dict[str, float]:
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    arrays = [(np.asarray(rainy), np.asarray(clean)) for rainy, clean in zip(*pictures, strict=True)]
    lumas = [[rgb2ycbcr(picture)[..., 0] for picture in pair] for pair in arrays]
    return {
        "psnr_rgb": fmean(peak_signal_noise_ratio(clean, rainy) for rainy, clean in arrays),
        "ssim_rgb": fmean(structural_similarity(clean, rainy, channel_axis=-1, **options) for rainy, clean in arrays),
        "psnr_y": fmean(peak_signal_noise_ratio(clean, rainy, data_range=255) for rainy, clean in lumas),
        "ssim_y": fmean(structural_similarity(clean, rainy, **options) for rainy, clean in lumas),
    }


def test_pictures_of_different_sizes_are_added_one_by_one(metrics, pictures):
    for prediction, reference in zip(*pictures, strict=True):
        metrics.add(prediction=prediction, reference=reference)
    assert metrics.compute() == pytest.approx(expected(pictures), abs=1e-6)


def test_lists_give_the_same(metrics, pictures):
    predictions, references = pictures
    assert metrics.compute(predictions=predictions, references=references) == pytest.approx(
        expected(pictures), abs=1e-6
    )
    metrics.add_batch(predictions=predictions[:1], references=references[:1])
    rest = metrics.compute(predictions=predictions[1:], references=references[1:])
    assert rest == pytest.approx(expected(pictures), abs=1e-6)


def test_arrays_and_tensors_are_pictures_too(metrics, pictures):
    rainy, clean = np.asarray(pictures[0][0]), np.asarray(pictures[1][0])
    of_bytes = metrics.compute(predictions=[rainy], references=[clean])
    as_float = [torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255 for picture in (rainy, clean)]
    assert metrics.compute(predictions=[as_float[0]], references=[as_float[1]]) == pytest.approx(of_bytes)
    assert metrics.compute(predictions=[rainy / 255 + 0.001], references=[clean]) == pytest.approx(of_bytes)


def test_what_is_no_pair_of_pictures_is_refused(metrics, pictures):
    clean = np.asarray(pictures[1][0])
    with pytest.raises(ValueError, match="different shapes"):
        metrics.add(prediction=clean[:-1], reference=clean)
    for values in (clean.astype(float), clean / 127.5 - 1):
        with pytest.raises(ValueError, match=r"float pictures lie in \[0, 1\]"):
            metrics.add(prediction=clean, reference=values)
    with pytest.raises(ValueError, match="RGB"):
        metrics.add(prediction=clean[..., 0], reference=clean[..., 0])
    with pytest.raises(ValueError, match="2 predictions cannot be compared with 1"):
        metrics.add_batch(predictions=[clean, clean], references=[clean])


def test_the_folder_carries_the_packages_own_metrics():
    assert (FOLDER / "metrics.py").read_bytes() == (PACKAGE / "metrics.py").read_bytes()
