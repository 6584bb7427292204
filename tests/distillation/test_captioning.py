"""Captions by a real (tiny, random) BLIP, and sentences measured from pictures that are drawn to have what they say."""

import numpy as np
import pytest
from distillation.tiny_checkpoints import tiny_blip

from modeling_unirain.distillation.captioning import AttributeCaptioner, PretrainedCaptioner


def scene(brightness, seed=0, size=(240, 240)):
    """A textured scene of the given mean brightness."""
    rng = np.random.default_rng(seed)
    rough = np.kron(rng.standard_normal((size[0] // 8 + 1, size[1] // 8 + 1)), np.ones((8, 8))) * 12
    grey = brightness + rough[: size[0], : size[1]] + rng.standard_normal(size) * 3
    return np.clip(grey, 0, 255)[..., None].repeat(3, 2)


def with_streaks(image, lean, number=400, length=24, seed=1):
    """Bright one-pixel lines leaning `lean` degrees from the vertical, to the right going down where positive."""
    rng = np.random.default_rng(seed)
    image = image.copy()
    height, width = image.shape[:2]
    for _ in range(number):
        y, x = rng.uniform(0, height), rng.uniform(0, width)
        for step in range(length):
            row, column = int(y + step * np.cos(np.radians(lean))), int(x + step * np.sin(np.radians(lean)))
            if 0 <= row < height and 0 <= column < width:
                image[row, column] = np.minimum(image[row, column] + 90, 255)
    return image


def with_drops(image, number=40, radius=24, seed=2):
    """Discs with soft edges, bright above and dark below, that hide the texture behind them."""
    rng = np.random.default_rng(seed)
    image = image.copy()
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
    for _ in range(number):
        y, x = rng.uniform(0, image.shape[0]), rng.uniform(0, image.shape[1])
        opacity = np.clip((radius - np.hypot(rows - y, columns - x)) / 10, 0, 1)[..., None]
        image = (1 - opacity) * image + opacity * np.clip(120 - 3 * (rows - y), 0, 255)[..., None]
    return image


def said(image):
    return AttributeCaptioner().caption([image.astype(np.uint8)])[0]


@pytest.mark.parametrize(("brightness", "words"), [(25, "at night"), (88, "at dusk"), (150, "in daylight")])
def test_the_light_is_named(brightness, words):
    assert words in said(scene(brightness))


@pytest.mark.parametrize(
    ("lean", "words"), [(0, "straight down"), (-15, "slanting to the left"), (45, "slanting strongly to the right")]
)
def test_streaks_and_their_direction_are_named(lean, words):
    caption = said(with_streaks(scene(100), lean))
    assert "rain streaks" in caption and words in caption


def test_more_streaks_are_called_denser():
    sparse, dense = (said(with_streaks(scene(60), 0, number)) for number in (8, 400))
    assert "light, sparse" in sparse and "heavy, dense" in dense


def test_drops_are_told_from_streaks():
    drops = said(with_drops(scene(100)))
    assert "raindrops" in drops and "streaks" not in drops
    assert "raindrops" not in said(with_streaks(scene(100), 0))


def test_captions_do_not_depend_on_the_batch():
    images = [scene(30).astype(np.uint8), with_drops(scene(120)).astype(np.uint8)]
    captioner = AttributeCaptioner()
    assert captioner.caption(images) == [captioner.caption([image])[0] for image in images]


def test_a_real_blip_captions_pictures_of_any_size(tmp_path):
    captioner = PretrainedCaptioner(str(tiny_blip(tmp_path / "blip")), "cpu")
    captioner.check()
    images = [scene(50 * k, seed=k, size=(40 + 8 * k, 64)).astype(np.uint8) for k in range(3)]
    together = captioner.caption(images)
    assert together == [captioner.caption([image])[0] for image in images]
    assert len(together) == 3 and all(together)
