"""Each test of a pair's parts, and of the layer's shape, sees what breaks it, and rain alone does not."""

import numpy as np
import pytest
import torch

from modeling_unirain.distillation.layer_shape import layer_channels, layer_drawn, layer_repeats, layer_spectrum
from modeling_unirain.distillation.measurements import box_blur, luma
from modeling_unirain.distillation.picture_parts import (
    parts_colour_directions,
    parts_coloured,
    parts_constant,
    parts_contrasted,
    parts_gained,
    parts_lit,
    parts_moved,
    parts_noise,
    parts_of_squares,
    parts_rained_on,
)


ALL = (layer_channels, layer_drawn, layer_repeats, layer_spectrum, parts_colour_directions, parts_coloured)
ALL += (parts_constant, parts_contrasted, parts_gained, parts_lit, parts_moved, parts_noise, parts_of_squares)
ALL += (parts_rained_on,)


def test_a_tile_that_lies_elsewhere_is_found(scene, rainy):
    moved = scene.clone()
    moved[:, 64:128, 64:192] = scene[:, 64:128, 70:198]
    sound, wrong = parts_moved(rainy, scene), parts_moved(rainy, moved)
    assert wrong["moved_gain_most"] > sound["moved_gain_most"] + 0.15
    assert (
        parts_gained(rainy, moved)["gained_input_fine_least"] < parts_gained(rainy, scene)["gained_input_fine_least"]
    )


def test_a_smooth_or_noisy_part_shows_in_its_grain(scene, rainy):
    noisy, smooth = scene.clone(), scene.clone()
    noise = 15 * torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(1))
    noisy[:, 64:128, 64:128] += noise
    smooth[:, 64:128, 64:128] = box_blur(scene, 9)[:, 64:128, 64:128]
    sound = parts_noise(rainy, scene)
    assert parts_noise(rainy, noisy)["grain_change_most"] > sound["grain_change_most"] + 1
    assert parts_noise(rainy, smooth)["grain_change_below"] > sound["grain_change_below"] + 0.3


def test_uneven_light_and_lines_show_and_an_even_veil_does_not(scene, rainy):
    y, x = torch.linspace(-1, 1, 256)[:, None], torch.linspace(-1, 1, 256)[None]
    sound = parts_lit(rainy, scene)
    assert parts_contrasted(0.9 * rainy + 20, scene)["contrast_raised_mean"] < 0.03
    darker_corners = scene * (1 - 0.35 * (x * x + y * y))
    assert parts_lit(rainy, darker_corners)["lit_round"] > sound["lit_round"] + 0.3
    assert (
        parts_contrasted(rainy, darker_corners)["contrast_round"]
        > parts_contrasted(rainy, scene)["contrast_round"] + 0.2
    )
    assert parts_contrasted(rainy, darker_corners)["contrast_raised_mean"] > 0.1
    striped = scene * (1 + 0.2 * torch.sin(torch.arange(256) / 5))[:, None]
    assert parts_lit(rainy, striped)["stripes_rows_light"] > 3 * sound["stripes_rows_light"]
    assert parts_lit(rainy, striped)["stripes_columns_light"] < 2 * sound["stripes_columns_light"]


def test_colours_that_lost_their_place_show_though_luma_is_kept(scene, rainy):
    grey = luma(scene)
    colour = scene - grey
    smeared = grey + sum(colour.roll(k, 2) for k in range(-10, 11)) / 21
    sound, wrong = parts_colour_directions(rainy, scene), parts_colour_directions(rainy, smeared)
    assert wrong["colour-detail_directed"] < sound["colour-detail_directed"] - 0.3
    assert (
        parts_coloured(rainy, smeared)["colour-edges_change"]
        < parts_coloured(rainy, scene)["colour-edges_change"] - 0.05
    )
    dyed = scene.clone()
    dyed[0, 64:128, 64:128] *= 0.6
    assert parts_coloured(rainy, dyed)["recoloured_most"] > parts_coloured(rainy, scene)["recoloured_most"] + 0.1


def test_squares_of_equal_pixels_show_where_the_picture_has_contrast(scene, rainy):
    coarse = scene.clone()
    coarse[:, 64:128, 64:128] = scene[:, 64:128:8, 64:128:8].repeat_interleave(8, 1).repeat_interleave(8, 2)
    assert parts_of_squares(rainy, coarse)["squares_in_target"] > 0.5
    assert parts_of_squares(rainy, scene)["squares_in_target"] < 0.2
    assert (
        parts_constant(rainy, coarse)["constants_equal_in_target"]
        > parts_constant(rainy, scene)["constants_equal_in_target"]
    )


def test_noise_and_a_repeated_layer_are_not_drawn_like_rain(scene, rainy):
    noise = scene + 6 * torch.randn(3, 256, 256, generator=torch.Generator().manual_seed(2))
    sound, noisy = layer_drawn(rainy, scene), layer_drawn(noise, scene)
    assert noisy["drawn_longest"] < 0.1 < 0.4 < sound["drawn_longest"] and noisy["drawn_peaks"] < sound["drawn_peaks"]
    assert (
        layer_channels(noise, scene)["channels_least"]
        < 0.2
        < 0.9
        < layer_channels(scene + luma(rainy - scene), scene)["channels_least"]
    )
    tiled = scene + (rainy - scene)[:, :64, :64].repeat(1, 4, 4)
    assert layer_repeats(tiled, scene)["repeats_most"] > 0.4 > layer_repeats(rainy, scene)["repeats_most"]
    ghost = rainy + 0.4 * (scene - box_blur(scene, 9)).roll((15, 20), (1, 2))
    assert layer_repeats(ghost, scene)["copies_most"] > layer_repeats(rainy, scene)["copies_most"] + 0.1
    blurred = scene + box_blur(rainy - scene, 7)
    assert layer_spectrum(blurred, scene)["spectrum_beside_3"] < layer_spectrum(rainy, scene)["spectrum_beside_3"] - 1


def test_rain_on_a_part_only_is_not_spread(scene, rainy):
    half = rainy.clone()
    half[:, :, :128] = scene[:, :, :128]
    assert parts_rained_on(half, scene)["spread_fine_0"] < parts_rained_on(rainy, scene)["spread_fine_0"] - 1


@pytest.mark.parametrize("value", [0.0, 128.0, 255.0])
@pytest.mark.parametrize("side", [96, 200])
def test_flat_pictures_of_any_size_give_finite_scores(value, side):
    flat = torch.full((3, side, 96), value)
    for test in ALL:
        assert np.isfinite(list(test(flat, flat).values())).all()
