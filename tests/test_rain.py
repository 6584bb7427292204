"""Rendered rain: what is drawn is what was asked for, it comes from the seed alone, and it obeys the models it cites."""

import dataclasses
import hashlib
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from modeling_unirain.rain import RainParameters, apply_rain, draw_parameters, render_rain
from modeling_unirain.rain.filters import gaussian_blur, luminance
from modeling_unirain.rain.grading import Grade
from modeling_unirain.rain.night import is_night, scene_light
from modeling_unirain.rain.parameters import Drops, Night, StreakLayer, Veil, scale_of
from modeling_unirain.types import RainType


ROOT = Path(__file__).parents[1]
DAY = (RainType.DRS, RainType.DRD)
NIGHT = (RainType.NRS, RainType.NRD)


def photograph(height: int = 96, width: int = 96, seed: int = 0) -> np.ndarray:
    """A bright smooth scene with some texture, RGB float32 in [0, 1]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    smooth = 0.45 + 0.25 * np.cos(5 * x + 2) * np.sin(4 * y + 1)
    colours = smooth[..., None] * np.array([1.0, 0.9, 0.8]) + 0.05 * rng.standard_normal((height, width, 3))
    return np.clip(colours, 0, 1).astype(np.float32)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return -10 * math.log10(float(((a.astype(np.float64) - b) ** 2).mean()) + 1e-12)


def parameters(**changes) -> RainParameters:
    """Rain of no layers at all, to which a test adds what it looks at."""
    plain = {
        "rain_type": RainType.DRS,
        "severity": 0.5,
        "style": "wild",
        "scale": 1.0,
        "layers": (),
        "drops": (),
        "veil": None,
        "night": None,
        "contrast": 1.0,
        "brightness": 0.0,
        "noise": 0.0,
        "blur": 0.0,
        "jpeg_quality": None,
    }
    return RainParameters(**plain | changes)


def layer(**changes) -> StreakLayer:
    settings = {
        "kind": "line",
        "angle": 0.0,
        "length": 30.0,
        "width": 1.5,
        "coverage": 0.1,
        "gain": 0.5,
        "blend": "add",
    }
    return StreakLayer(**settings | changes)


def drops(**changes) -> Drops:
    settings = {
        "coverage": 0.2,
        "radius": 16.0,
        "spread": 0.0,
        "irregularity": 0.0,
        "elongation": 1.0,
        "clustering": 0.0,
        "trails": 0.0,
        "contact_angle": 45.0,
        "focal_length": 0.6,
        "defocus": 0.0,
        "opacity": 1.0,
        "highlight": 0.0,
        "sky": 0.0,
        "lamps": 0,
        "film": 0.0,
    }
    return Drops(**settings | changes)


def digest(seed: int) -> str:
    sha = hashlib.sha256()
    for rain_type in RainType:
        rendered = render_rain(photograph(80, 100), rain_type, seed)
        sha.update(rendered.rainy.tobytes() + rendered.clean.tobytes())
    return sha.hexdigest()


class TestSeed:
    def test_the_same_seed_gives_the_same_bytes_in_another_process(self):
        command = [sys.executable, "-c", "from tests.test_rain import digest; print(digest(7))"]
        other = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
        assert other == digest(7)

    def test_the_global_generator_is_neither_read_nor_moved(self):
        np.random.seed(1)
        before = digest(3)
        expected = np.random.random()
        np.random.seed(1)
        assert np.random.random() == expected
        assert digest(3) == before

    def test_other_seeds_give_other_rain(self):
        assert len({digest(seed) for seed in range(6)}) == 6

    def test_a_generator_moves_on_so_that_one_stream_gives_many_rains(self):
        rng = np.random.default_rng(0)
        first, second = (render_rain(photograph(), "DRS", rng, severity=0.7).rainy for _ in range(2))
        assert not np.array_equal(first, second)


class TestContract:
    @pytest.mark.parametrize("size", [(8, 8), (64, 64), (37, 211), (300, 64)])
    @pytest.mark.parametrize("rain_type", list(RainType))
    def test_any_size_gives_float32_rgb_in_the_unit_range(self, rain_type, size):
        for seed in range(8):
            rendered = render_rain(photograph(*size), rain_type, seed)
            for image in (rendered.rainy, rendered.clean):
                assert image.shape == (*size, 3) and image.dtype == np.float32
                assert np.isfinite(image).all() and image.min() >= 0 and image.max() <= 1

    @pytest.mark.parametrize("rain_type", list(RainType))
    def test_a_larger_photograph_works_and_gets_larger_rain(self, rain_type):
        assert render_rain(photograph(700, 1100), rain_type, 3).parameters.scale == scale_of(700, 1100) > 1

    def test_small_photographs_do_not_get_smaller_rain(self):
        assert scale_of(64, 64) == scale_of(321, 481) == 1 < scale_of(1080, 1920) < scale_of(4000, 6000) < 8

    def test_bytes_and_floats_give_the_same(self):
        pixels = (photograph() * 255).round().astype(np.uint8)
        floats = pixels.astype(np.float32) / 255
        assert np.array_equal(render_rain(pixels, "DRD", 5).rainy, render_rain(floats, "DRD", 5).rainy)

    @pytest.mark.parametrize("rain_type", list(RainType))
    def test_the_given_picture_is_left_as_it_was(self, rain_type):
        image = photograph()
        copy = image.copy()
        for seed in range(5):
            render_rain(image, rain_type, seed)
        assert np.array_equal(image, copy)

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"rain_type": "SNOW"}, "DRS, DRD, NRS, NRD"),
            ({"severity": 1.5}, "severity"),
            ({"scale": 0.0}, "scale"),
            ({"image": np.zeros((64, 64), np.float32)}, "RGB"),
            ({"image": np.zeros((64, 64, 4), np.float32)}, "RGB"),
            ({"image": np.zeros((4, 64, 3), np.float32)}, "8 pixels"),
            ({"image": np.full((64, 64, 3), 255.0, np.float32)}, r"\[0, 1\]"),
            ({"image": np.full((64, 64, 3), np.nan, np.float32)}, r"\[0, 1\]"),
            ({"image": np.zeros((64, 64, 3), np.int32)}, "int32"),
            ({"image": [[0]]}, "list"),
            ({"streak_layers": [np.zeros((20, 20, 3), np.uint8)]}, "grey"),
            ({"styles": {"sharp": 1, "hail": 1}}, "'hail'.*sharp, storm"),
            ({"styles": {"sharp": -1, "storm": 2}}, "not all 0"),
            ({"styles": {"sharp": 0}}, "not all 0"),
        ],
    )
    def test_bad_input_is_one_clear_sentence(self, changes, words):
        arguments = {"image": photograph(), "rain_type": "DRS", "seed": 0} | changes
        image, rain_type, seed = (arguments.pop(name) for name in ("image", "rain_type", "seed"))
        with pytest.raises(ValueError, match=words) as error:
            render_rain(image, rain_type, seed, **arguments)
        assert "\n" not in str(error.value)


class TestWhatIsDrawn:
    def test_parameters_depend_on_type_severity_and_generator_only(self):
        first, second = (draw_parameters(RainType.DRS, np.random.default_rng(4), 0.6) for _ in range(2))
        assert first == second
        with pytest.raises(dataclasses.FrozenInstanceError):
            first.severity = 1.0

    def test_only_the_styles_asked_for_are_drawn_in_their_shares(self):
        drawn = [
            render_rain(photograph(), "NRS", seed, styles={"rods": 3, "fog": 1}).parameters.style for seed in range(60)
        ]
        assert set(drawn) == {"rods", "fog"}
        assert 35 <= drawn.count("rods") <= 55

    def test_pictures_are_graded_only_where_asked_for_by_day_and_in_rain_that_shows(self):
        def grades(rain_type, **options):
            return [render_rain(photograph(), rain_type, seed, **options).parameters.grade for seed in range(40)]

        assert not any(grades("DRS")) and not any(grades("NRS", styles={"graded": 1}))
        assert not any(grades("DRS", styles={"graded": 1}, severity=0.1))
        assert all(grades("DRS", styles={"graded": 1}, severity=0.2))

    def test_types_hold_what_their_name_says(self):
        for seed in range(40):
            for rain_type in RainType:
                drawn = draw_parameters(rain_type, np.random.default_rng(seed))
                assert bool(drawn.drops) == (rain_type in (RainType.DRD, RainType.NRD))
                assert (drawn.night is not None) == (rain_type in NIGHT)
                assert drawn.layers or drawn.drops

    @pytest.mark.parametrize("rain_type", list(RainType))
    def test_heavier_rain_is_farther_from_the_clean_picture(self, rain_type):
        means = [
            np.mean([psnr(*_pair(render_rain(photograph(64, 64), rain_type, seed, severity=s))) for seed in range(24)])
            for s in (0.02, 0.2, 0.5, 1.0)
        ]
        assert means == sorted(means, reverse=True) and means[0] - means[-1] > 8

    @pytest.mark.parametrize("rain_type", list(RainType))
    def test_no_severity_is_no_rain(self, rain_type):
        for seed in range(10):
            rendered = render_rain(photograph(), rain_type, seed, severity=0.0)
            assert np.array_equal(rendered.rainy, rendered.clean)

    @pytest.mark.parametrize("rain_type", list(RainType))
    def test_inputs_span_light_to_heavy(self, rain_type):
        values = [psnr(*_pair(render_rain(photograph(64, 64), rain_type, seed))) for seed in range(120)]
        low, first, median, third, high = np.percentile(values, [3, 25, 50, 75, 97])
        assert low < 21 and 18 < median < 34 and high > 38 and third - first > 5

    def test_some_are_nearly_clean_and_then_nothing_else_is_wrong_either(self):
        drawn = [draw_parameters(RainType.DRS, np.random.default_rng(seed)) for seed in range(300)]
        quiet = [p for p in drawn if p.severity < 0.05]
        assert 0.05 < len(quiet) / len(drawn) < 0.2
        assert all(p.jpeg_quality is None and p.blur == p.noise == 0 and p.veil is None for p in quiet)


class TestGrading:
    LEVELS = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8, 1).repeat(3, axis=2)

    def graded(self, **changes) -> np.ndarray:
        grade = Grade(**{"black": 0.0, "darkening": 0.0, "contrast": 0.0, "gain": 1.0} | changes)
        return apply_rain(self.LEVELS, parameters(grade=grade), np.random.default_rng(0)).rainy

    def test_each_part_does_what_it_says(self):
        x = self.LEVELS
        assert np.array_equal(self.graded(), x)
        assert self.graded(black=0.2) == pytest.approx(np.interp(x, [0.2, 1], [0, 1]), abs=1e-6)
        assert self.graded(darkening=1.0) == pytest.approx(x**2, abs=1e-6)
        assert self.graded(gain=1.1) == pytest.approx(np.minimum(1.1 * x, 1), abs=1e-6)
        s_curve = self.graded(contrast=1.0)  # flat at both ends, steepest in the middle, and symmetric
        assert s_curve + s_curve[::-1, ::-1] == pytest.approx(np.ones_like(x), abs=1e-6)
        slopes = np.diff(s_curve[..., 0].ravel()) * 63
        assert slopes[[0, -1]] == pytest.approx([0, 0], abs=0.05) and slopes[31] == pytest.approx(1.5, abs=0.01)

    def test_it_lies_over_rain_and_scene_alike_and_leaves_the_target(self):
        plain = parameters(layers=(layer(),))
        rained = apply_rain(photograph(), plain, np.random.default_rng(0)).rainy
        grade = Grade(black=0.0, darkening=1.0, contrast=0.0, gain=1.0)
        both = apply_rain(photograph(), dataclasses.replace(plain, grade=grade), np.random.default_rng(0))
        assert both.rainy == pytest.approx(rained**2, abs=1e-5)
        assert np.array_equal(both.clean, photograph())


class TestDayAndNight:
    @pytest.mark.parametrize("rain_type", DAY)
    def test_by_day_the_clean_picture_is_the_photograph(self, rain_type):
        image = photograph()
        assert all(np.array_equal(render_rain(image, rain_type, seed).clean, image) for seed in range(6))

    @pytest.mark.parametrize("rain_type", NIGHT)
    def test_a_day_photograph_becomes_night(self, rain_type):
        for seed in range(10):
            assert (
                luminance(render_rain(photograph(), rain_type, seed).clean).mean()
                < luminance(photograph()).mean() - 0.05
            )

    @pytest.mark.parametrize("rain_type", NIGHT)
    def test_a_night_photograph_is_used_as_it_is_unless_told_otherwise(self, rain_type):
        image = photograph() * np.float32(0.3)
        assert is_night(image)
        assert np.array_equal(render_rain(image, rain_type, 1).clean, image)
        assert not np.array_equal(render_rain(image, rain_type, 1, darken=True).clean, image)
        assert np.array_equal(render_rain(photograph(), rain_type, 1, darken=False).clean, photograph())

    def test_a_dark_crop_of_a_day_photograph_is_judged_by_its_context(self):
        crop = photograph() * np.float32(0.3)
        assert not np.array_equal(render_rain(crop, "NRS", 1, context=photograph()).clean, crop)

    def test_sensor_noise_is_in_both_pictures(self):
        night = Night(exposure=0.05, cast=(1.0, 1.0, 1.0), lights=0, glow=0.0, noise=0.02)
        rendered = apply_rain(photograph(), parameters(night=night), np.random.default_rng(0), darken=True)
        assert np.array_equal(rendered.rainy, rendered.clean)
        silent = dataclasses.replace(night, noise=0.0)
        smooth = apply_rain(photograph(), parameters(night=silent), np.random.default_rng(0), darken=True).clean
        assert 0.001 < float((rendered.clean - smooth).std()) < 0.1

    def test_streaks_by_night_are_brighter_near_a_lamp(self):
        image = np.full((96, 96, 3), 0.02, np.float32)
        image[40:56, 4:20] = 1.0
        rain = parameters(layers=(layer(coverage=0.5, lit=1.0),))
        added = luminance(apply_rain(image, rain, np.random.default_rng(0)).rainy - image)
        assert added[:, 22:34].mean() > 2 * added[:, 80:].mean() > 0
        light = luminance(scene_light(image, 96, 96))
        assert light[48, 12] > 0.8 and light[48, 90] < 0.6


class TestStreaks:
    @pytest.mark.parametrize("kind", ["line", "noise"])
    @pytest.mark.parametrize("angle", [-50.0, -20.0, 0.0, 15.0, 40.0])
    def test_streaks_fall_at_the_angle_asked_for(self, kind, angle):
        rain = parameters(layers=(layer(kind=kind, angle=angle, coverage=0.2, spread=0.1),))
        difference = _over_black(rain, 160, 128)
        gy, gx = np.gradient(gaussian_blur(difference, 1.5))  # thin lines alone would favour the pixel grid
        # structure tensor: streaks run across the direction of the strongest gradients
        across = 0.5 * math.degrees(math.atan2(2 * float((gx * gy).mean()), float((gx * gx - gy * gy).mean())))
        assert abs((across - (-angle) + 90) % 180 - 90) < 4

    def test_coverage_is_the_share_of_the_picture_under_streaks(self):
        light, heavy = (
            _over_black(parameters(layers=(layer(coverage=c, spread=0.0, taper=0.0, gain=1.0),)), 200, 200).mean()
            for c in (0.05, 0.2)
        )
        assert 0.035 < light < 0.065 and 0.15 < heavy < 0.23

    def test_a_streak_has_its_length_and_width(self):
        image = np.zeros((200, 200, 3), np.float32)
        for seed in range(200):
            rain = parameters(layers=(layer(coverage=1e-4, length=40.0, width=3.0, spread=0.0, taper=0.0, gain=1.0),))
            drawn = luminance(apply_rain(image, rain, np.random.default_rng(seed)).rainy) > 0.25
            rows, columns = np.flatnonzero(drawn.any(axis=1)), np.flatnonzero(drawn.any(axis=0))
            whole = len(rows) > 0 and rows[0] > 2 and rows[-1] < 197 and len(columns) < 6
            if whole and columns[0] > 2 and columns[-1] < 197:
                assert 37 <= len(rows) <= 42 and 2 <= len(columns) <= 5
                return
        pytest.fail("no seed put one whole streak inside the picture")

    def test_brightness_may_exceed_one_before_clipping(self):
        rain = parameters(layers=(layer(gain=1.5, coverage=0.3, spread=0.0, taper=0.0, width=4.0),))
        rainy = apply_rain(np.full((64, 64, 3), 0.1, np.float32), rain, np.random.default_rng(0)).rainy
        assert 0.1 < (rainy == 1).mean() < 0.5

    @pytest.mark.parametrize("blend", ["add", "screen"])
    def test_adding_and_screening_never_darken(self, blend):
        image = photograph()
        rainy = apply_rain(image, parameters(layers=(layer(blend=blend),)), np.random.default_rng(0)).rainy
        assert (rainy >= image - 1e-6).all() and (rainy > image + 0.05).any()

    def test_alpha_brings_the_scene_towards_the_streaks_own_brightness(self):
        rain = parameters(layers=(layer(blend="alpha", level=0.5, gain=1.0),))
        for background in (0.1, 0.9):
            image = np.full((64, 64, 3), background, np.float32)
            rainy = apply_rain(image, rain, np.random.default_rng(0)).rainy
            assert np.sign((rainy - image).mean()) == np.sign(0.5 - background)

    def test_soft_light_both_brightens_and_darkens(self):
        image = np.full((64, 64, 3), 0.5, np.float32)
        rain = parameters(layers=(layer(kind="noise", blend="soft light", coverage=0.5),))
        change = apply_rain(image, rain, np.random.default_rng(0)).rainy - image
        assert change.min() < -0.05 and change.max() > 0.05

    def test_a_black_layer_in_soft_light_squares_the_picture(self):
        image = photograph()
        black = layer(kind="noise", blend="soft light", gain=0.0, base=0.5)
        rainy = apply_rain(image, parameters(layers=(black,)), np.random.default_rng(0)).rainy
        assert np.allclose(rainy, image.astype(np.float64) ** 2, atol=1e-6)

    def test_only_soft_light_darkens_between_its_streaks(self):
        drawn = [draw_parameters(RainType.DRS, np.random.default_rng(seed)) for seed in range(400)]
        layers = [one for rain in drawn for one in rain.layers]
        assert any(one.base > 0 for one in layers)
        assert all(one.blend == "soft light" and one.base <= 0.5 for one in layers if one.base)

    def test_far_streaks_of_one_rain_are_thinner_and_shorter(self):
        found = 0
        for seed in range(200):
            drawn = draw_parameters(RainType.DRS, np.random.default_rng(seed), 0.5)
            if drawn.style == "physical":
                found += 1
                far, near = drawn.layers[0], drawn.layers[-1]
                assert far.width <= near.width * 1.8 and far.length <= near.length * 1.8
        assert found > 5

    def test_a_given_streak_picture_is_what_is_added(self):
        source = np.zeros((64, 64), np.float32)
        source[::8] = 0.7
        rain = parameters(layers=(layer(kind="file", length=1.0, gain=1.0),))
        image = np.zeros((64, 64, 3), np.float32)
        rainy = apply_rain(image, rain, np.random.default_rng(0), streak_layers=[source]).rainy
        assert set(np.unique(rainy.round(3))) == {np.float32(0.0), np.float32(0.7)}

    def test_given_streak_pictures_are_used_sometimes(self):
        used = [
            any(
                item.kind == "file"
                for item in draw_parameters(RainType.DRS, np.random.default_rng(s), num_files=3).layers
            )
            for s in range(200)
        ]
        assert 0.05 < np.mean(used) < 0.3
        assert render_rain(photograph(), "DRS", 1, streak_layers=[np.full((40, 40), 200, np.uint8)]).rainy.max() <= 1

    def test_a_veil_hides_contrast(self):
        image = photograph()
        veil = Veil(strength=0.5, level=0.8, slope=0.0, unevenness=0.0)
        rainy = apply_rain(image, parameters(veil=veil), np.random.default_rng(0)).rainy
        assert np.allclose(rainy, 0.5 * image + 0.4, atol=1e-6)  # Koschmieder's law at unit depth


class TestDrops:
    def test_a_drop_shows_the_scene_upside_down(self):
        gradient = np.linspace(0.9, 0.1, 128, dtype=np.float32)[:, None, None] * np.ones((1, 128, 3), np.float32)
        slopes = self._slopes_inside(gradient, axis=0)
        assert len(slopes) > 200 and np.quantile(slopes, 0.1) > 0  # the scene itself falls by 0.006 a pixel

    def test_a_drop_shows_the_scene_left_to_right(self):
        gradient = np.linspace(0.1, 0.9, 128, dtype=np.float32)[None, :, None] * np.ones((128, 1, 3), np.float32)
        slopes = self._slopes_inside(gradient, axis=1)
        assert len(slopes) > 200 and np.quantile(slopes, 0.9) < 0

    def _slopes_inside(self, scene: np.ndarray, axis: int) -> np.ndarray:
        rain = parameters(drops=(drops(coverage=0.1),))
        rainy = apply_rain(scene, rain, np.random.default_rng(2)).rainy
        alone = apply_rain(np.zeros_like(scene), rain, np.random.default_rng(2), context=np.ones_like(scene)).rainy
        inside = gaussian_blur((luminance(alone) > 0.5).astype(np.float32), 2.0) > 0.999
        return np.gradient(luminance(rainy), axis=axis)[inside]

    def test_a_steep_drop_has_a_dark_rim_by_total_reflection_and_a_flat_one_has_none(self):
        white = np.ones((128, 128, 3), np.float32)
        steep, flat = (
            apply_rain(white, parameters(drops=(drops(contact_angle=a),)), np.random.default_rng(1)).rainy
            for a in (75, 15)
        )
        assert steep.min() < 0.3 and flat.min() > 0.8

    def test_defocus_makes_the_outline_soft(self):
        black, white = np.zeros((128, 128, 3), np.float32), np.ones((128, 128, 3), np.float32)
        steepest = [
            np.abs(np.diff(luminance(self._seen(black, white, defocus)), axis=0)).max() for defocus in (0.0, 3.0, 8.0)
        ]
        assert steepest[0] > 0.3 and steepest[0] > 2 * steepest[1] > 3 * steepest[2]

    def _seen(self, image, context, defocus):
        rain = parameters(drops=(drops(contact_angle=15.0, defocus=defocus),))
        return apply_rain(image, rain, np.random.default_rng(0), context=context).rainy

    def test_coverage_is_the_share_of_the_picture_behind_drops(self):
        black, white = np.zeros((200, 200, 3), np.float32), np.ones((200, 200, 3), np.float32)
        for coverage in (0.05, 0.3):
            rain = parameters(drops=(drops(coverage=coverage, radius=6.0, contact_angle=15.0),))
            means = [
                luminance(apply_rain(black, rain, np.random.default_rng(s), context=white).rainy).mean()
                for s in range(5)
            ]
            assert 0.6 * coverage < np.mean(means) < 1.3 * coverage

    def test_a_context_in_bytes_is_the_same_context(self):
        context = (photograph() * 255).round().astype(np.uint8)
        in_bytes, in_floats = (
            render_rain(photograph(), "NRD", 3, severity=0.8, context=each, darken=False).rainy
            for each in (context, context.astype(np.float32) / 255)
        )
        np.testing.assert_array_equal(in_bytes, in_floats)

    def test_drops_show_the_context_they_are_given(self):
        crop, red = np.full((96, 96, 3), 0.5, np.float32), np.zeros((30, 40, 3), np.float32)
        red[..., 0] = 0.9
        change = apply_rain(crop, parameters(drops=(drops(),)), np.random.default_rng(0), context=red).rainy - crop
        assert change[..., 0].max() > 0.2 and change[..., 1].max() < 1e-3

    def test_between_the_drops_the_scene_is_untouched(self):
        image = photograph(128, 128)
        rainy = apply_rain(image, parameters(drops=(drops(coverage=0.1),)), np.random.default_rng(0)).rainy
        assert 0.5 < (rainy == image).all(axis=-1).mean() < 0.99


class TestFilters:
    @pytest.mark.parametrize("sigma", [0.6, 1.0, 2.0, 3.0, 6.0, 12.0])
    def test_a_blurred_point_has_the_variance_asked_for(self, sigma):
        point = np.zeros((151, 151), np.float32)
        point[75, 75] = 1
        blurred = gaussian_blur(point, sigma).astype(np.float64)
        y, x = np.mgrid[0:151, 0:151] - 75
        assert blurred.sum() == pytest.approx(1, abs=0.02)
        assert math.sqrt((blurred * (x * x + y * y)).sum() / blurred.sum() / 2) == pytest.approx(sigma, rel=0.15)

    def test_a_constant_picture_stays_constant_up_to_its_border(self):
        constant = np.full((50, 70, 3), 0.4, np.float32)
        for sigma in (0.1, 1.0, 5.0, 40.0):
            assert np.allclose(gaussian_blur(constant, sigma), 0.4, atol=1e-5)


def _pair(rendered) -> tuple[np.ndarray, np.ndarray]:
    return rendered.rainy, rendered.clean


def _over_black(rain: RainParameters, height: int, width: int) -> np.ndarray:
    return luminance(apply_rain(np.zeros((height, width, 3), np.float32), rain, np.random.default_rng(0)).rainy)
