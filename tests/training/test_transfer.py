"""Rain transfer: the tone comes back, nothing changes over one's own background, and a source deals it as asked."""

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_unirain.training.data import CorpusSource, DataConfig, DataError, PairedSource, RainDataset
from modeling_unirain.training.transfer import lay_rain, tone_curve


def scene(seed: int, height: int = 96, width: int = 120) -> np.ndarray:
    """Smooth areas in many levels."""
    coarse = np.random.default_rng(seed).integers(20, 236, (height // 12, width // 12, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def streaks(seed: int, height: int = 96, width: int = 120) -> np.ndarray:
    """Upright lines of one pixel, a tenth of the picture, 40 levels bright."""
    layer = np.zeros((height, width, 1))
    layer[:, np.random.default_rng(seed).choice(width, width // 10, replace=False)] = 40
    return layer


TONES = {"darkened": lambda x: 0.9 * x - 12, "brightened": lambda x: x + 15, "contrast": lambda x: 1.2 * x - 30}


@pytest.mark.parametrize("tone", TONES)
def test_the_curve_is_the_tone(tone):
    clean = scene(1)
    rainy = np.clip(TONES[tone](clean.astype(float)), 0, 255).round().astype(np.uint8)
    occurring = np.unique(clean)
    wanted = np.clip(TONES[tone](occurring.astype(float)), 0, 255)
    assert np.abs(tone_curve(rainy, clean)[occurring] - wanted[:, None]).mean() < 2


def test_rain_over_its_own_background_is_the_pair():
    clean = scene(2)
    rainy = np.clip(clean * 0.8 + 10 + streaks(2), 0, 255).round().astype(np.uint8)
    assert np.array_equal(lay_rain(rainy, clean, clean, tone_curve(rainy, clean)), rainy)


def test_tone_and_streaks_move_to_another_background():
    clean, background, rain = scene(3), scene(4), streaks(3)
    rainy = np.clip(0.9 * clean.astype(float) - 12 + rain, 0, 255).round().astype(np.uint8)
    moved = lay_rain(rainy, clean, background, tone_curve(rainy, clean)).astype(float)
    wanted = np.clip(0.9 * background.astype(float) - 12 + rain, 0, 255)
    assert np.abs(moved - wanted).mean() < 2
    assert np.abs(moved - background).mean() > 8


def test_dense_streaks_over_dark_ground_are_no_tone():
    """Half of the dark pixels are under bright streaks, the sky is saturated: nothing may become darker over another scene."""
    clean = np.full((96, 120, 3), 40, np.uint8)
    clean[:32] = 240
    rainy = clean.copy()
    rainy[:, ::2] = np.minimum(rainy[:, ::2].astype(int) + 90, 255)
    background = np.full_like(clean, 180)
    moved = lay_rain(rainy, clean, background, tone_curve(rainy, clean)).astype(int)
    assert np.abs(moved[40:, 1::2] - 180).max() <= 2  # between the streaks it is the background
    assert moved[40:, ::2].min() >= 240


def test_strength_scales_what_the_rain_changes():
    clean, background = scene(5), scene(6) // 2 + 60
    rainy = np.clip(0.9 * clean.astype(float) + streaks(5), 0, 255).round().astype(np.uint8)
    full, half, none = (
        lay_rain(rainy, clean, background, tone_curve(rainy, clean), strength).astype(float)
        for strength in (1.0, 0.5, 0.0)
    )
    assert np.array_equal(none, background)
    assert np.abs((full - background) / 2 - (half - background)).max() <= 1


def test_levels_that_do_not_occur_are_shifted_like_the_picture():
    clean = np.full((30, 30, 3), 128, np.uint8)
    assert tone_curve(clean + 20, clean) == pytest.approx(np.arange(256)[:, None] + np.full(3, 20), abs=1e-3)


@pytest.fixture
def pairs(tmp_path):
    for number in range(3):
        for folder, pixels in (("input", scene(number) // 2), ("target", scene(number))):
            path = tmp_path / "DRS" / "set" / folder / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return tmp_path


def samples(root, transferred: float, **options) -> list[dict]:
    source = PairedSource(root, transferred=transferred, **options)
    dataset = RainDataset(DataConfig([source], types=["DRS"], patch_size=96, samples_per_epoch=24, rotate=False))
    return [dataset[index] for index in range(24)]


def own_background(sample: dict) -> bool:
    """Whether the target is part of the named pair's own."""
    number = int(sample["name"].rsplit("/", 1)[1].split(".")[0])
    target = torch.from_numpy(scene(number).copy()).permute(2, 0, 1) / 255
    windows = [target, target.flip(-1)]
    return any(
        torch.equal(window[:, :, left : left + 96], sample["labels"]) for window in windows for left in range(25)
    )


def test_a_source_transfers_as_often_as_asked_and_always_the_same(pairs):
    assert all(own_background(sample) for sample in samples(pairs, 0.0))
    once, again = samples(pairs, 1.0), samples(pairs, 1.0)
    assert 10 <= sum(not own_background(sample) for sample in once) <= 22  # two in three backgrounds are another's
    for one, other in zip(once, again, strict=True):
        assert torch.equal(one["pixel_values"], other["pixel_values"]) and torch.equal(one["labels"], other["labels"])
    for sample in once:  # darkened by half, in other strengths, on whatever background
        assert 0.35 < 1 - sample["pixel_values"].mean() / sample["labels"].mean() < 0.65


def test_rain_is_transferred_to_photographs_as_often_as_to_targets(pairs, tmp_path):
    folder = tmp_path / "photographs"
    folder.mkdir()
    for number in range(3):
        Image.fromarray(np.full((100, 140, 3), 120 + 20 * number, np.uint8)).save(folder / f"{number}.png")
    drawn = samples(pairs, 1.0, backgrounds=folder)
    plain = [sample["labels"] for sample in drawn if sample["labels"].min() == sample["labels"].max()]
    assert {round(255 * float(labels[0, 0, 0])) for labels in plain} == {120, 140, 160}
    assert 6 <= len(plain) <= 18  # three photographs beside three targets
    for sample in drawn:
        assert 0.3 < 1 - sample["pixel_values"].mean() / sample["labels"].mean() < 0.7


def test_a_source_grades_as_often_as_asked_and_only_the_rainy_picture(pairs):
    def levels(sample):
        assert own_background(sample)
        return ((255 * sample[key]).round().long() for key in ("pixel_values", "labels"))

    def is_graded(sample):
        rainy, clean = levels(sample)
        return not torch.equal(clean // 2, rainy)  # the inputs are their targets, halved

    assert not any(map(is_graded, samples(pairs, 0.0)))
    assert 4 <= sum(map(is_graded, samples(pairs, 0.0, graded=0.4))) <= 16
    for sample in samples(pairs, 0.0, graded=1.0):
        assert is_graded(sample)
        rainy, clean = levels(sample)
        for value in clean.unique()[::16]:  # a curve: the same for equal levels
            assert rainy[clean == value].unique().numel() == 1


def test_what_cannot_be_transferred_is_said(tmp_path):
    with pytest.raises(DataError, match="graded is a probability between 0 and 1, got -1"):
        PairedSource(tmp_path, graded=-1)
    with pytest.raises(DataError, match="rain of a stream cannot be graded"):
        CorpusSource("me/rain", streaming=True, graded=0.5)
    with pytest.raises(DataError, match="No rain goes to the backgrounds of .*: set transferred"):
        PairedSource(tmp_path, backgrounds=[tmp_path])
    with pytest.raises(DataError, match="backgrounds must be a path"):
        CorpusSource("me/rain", transferred=0.5, backgrounds=3)
    with pytest.raises(DataError, match="transferred is a probability between 0 and 1, got 2"):
        PairedSource(tmp_path, transferred=2.0)
    with pytest.raises(DataError, match="rain of a stream cannot be transferred"):
        CorpusSource("me/rain", streaming=True, transferred=0.5)
