"""Each test of a pair sees what breaks its physics, and rain alone does not."""

import numpy as np
import pytest
import torch

from modeling_unirain.distillation.measurements import box_blur
from modeling_unirain.distillation.rain_physics import (
    amount_removed,
    constants,
    detail_change,
    edges_shared,
    fine_colours,
    light_added,
    scene_in_layer,
    scene_transfer,
    structure_shared,
    tone,
    veil,
)


ALL = (amount_removed, constants, detail_change, edges_shared, fine_colours, light_added, scene_in_layer)
ALL += (scene_transfer, structure_shared, tone, veil)


def test_the_transfer_kernel_is_the_pixel_under_rain_and_tells_movement_and_blur(scene, rainy):
    sound = scene_transfer(rainy, scene)
    assert sound["transfer_same"] == pytest.approx(1, abs=0.1)
    assert sound["transfer_others"] < 0.1 and sound["transfer_lopsided"] < 0.05
    moved = scene_transfer(rainy, scene.roll(1, 2))
    assert moved["transfer_lopsided"] > 0.5
    blurred = scene_transfer(rainy, box_blur(scene, 3))
    assert blurred["transfer_lowest"] < -0.3 < sound["transfer_lowest"]
    along_rows = (scene + scene.roll(1, 2) + scene.roll(-1, 2)) / 3
    assert scene_transfer(rainy, along_rows)["transfer_directed"] > 5 * sound["transfer_directed"]


def test_edges_are_lost_where_the_target_shows_something_else(scene, rainy):
    other = scene.clone()
    other[:, 64:128, 64:128] = scene.flip(2)[:, 100:164, 20:84]
    sound, pasted = edges_shared(rainy, scene), edges_shared(rainy, other)
    assert sound["edges_target_lost"] < 0.05 and sound["edges_target_50"] == pytest.approx(1, abs=0.1)
    assert pasted["edges_target_lost_worst_tile"] > sound["edges_target_lost_worst_tile"] + 0.2
    assert structure(rainy, other) < structure(rainy, scene) - 0.2


def structure(rainy, target):
    return structure_shared(rainy, target)["structure_target_0"]


def test_a_hazed_target_shows_in_the_layer_and_in_the_tones(scene, rainy):
    hazed = 0.6 * scene + 80
    assert scene_in_layer(rainy, hazed)["layer_fine_50"] > scene_in_layer(rainy, scene)["layer_fine_50"] + 0.15
    assert tone(rainy, hazed)["tone_most"] == pytest.approx(1 / 0.6, abs=0.2)
    assert tone(rainy, scene)["tone_most"] == pytest.approx(1, abs=0.1)


def test_rain_adds_light_and_darkening_streaks_do_not(scene, rainy):
    darkened = (2 * scene - rainy).clamp(min=0)
    assert light_added(rainy, scene)["light_fine"] < -1 < 1 < light_added(darkened, scene)["light_fine"]


def test_rain_is_grey_and_the_scenes_colours_are_kept(scene, rainy):
    swapped = scene.flip(0)
    sound, wrong = fine_colours(rainy, scene), fine_colours(rainy, swapped)
    assert sound["colours_gain_50"] == pytest.approx(1, abs=0.1) and wrong["colours_gain_50"] < 0.5
    assert wrong["colours_of_layer"] > 2 * sound["colours_of_layer"]
    warmer = scene * torch.tensor([1.3, 1.0, 0.8])[:, None, None]
    assert veil(rainy, warmer)["veil_cast"] > 0.2 > 0.05 > veil(rainy, scene)["veil_cast"]


def test_flat_and_clipped_areas_are_counted(scene, rainy):
    barred = scene.clone()
    barred[:, :64] = 0
    assert constants(rainy, barred)["constants_extreme"] > 0.1 > constants(rainy, scene)["constants_extreme"]
    coarse = scene[:, ::2, ::2].repeat_interleave(2, 1).repeat_interleave(2, 2)
    assert constants(rainy, coarse)["constants_flattened"] > constants(rainy, scene)["constants_flattened"] + 0.1


def test_lost_detail_has_its_direction(scene, rainy):
    along_rows = sum(scene.roll(k, 2) for k in range(-3, 4)) / 7
    change, sound = detail_change(rainy, along_rows), detail_change(rainy, scene)
    assert change["detail_least_3"] < sound["detail_least_3"] - 0.5


@pytest.mark.parametrize("value", [0.0, 128.0, 255.0])
@pytest.mark.parametrize("side", [96, 200])
def test_flat_pictures_of_any_size_give_finite_scores(value, side):
    flat = torch.full((3, side, 96), value)
    for test in ALL:
        assert np.isfinite(list(test(flat, flat).values())).all()
