"""Where the network sees rain: in targets that were cleaned in part, not or wrongly."""

import numpy as np
import pytest
import skimage.data

from modeling_unirain.distillation.local_judges import PairIntegrityJudge, RainLayerJudge
from modeling_unirain.distillation.protocols import JudgeCase, Triplet
from modeling_unirain.distillation.rain_seen import RainSeen
from modeling_unirain.rain import render_rain


@pytest.fixture(scope="module")
def pair():
    clean = np.ascontiguousarray(skimage.data.rocket()[100:388, 100:420])
    rendered = render_rain(clean, "DRS", 3, severity=0.6)
    return tuple((image * 255 + 0.5).astype(np.uint8) for image in (rendered.rainy, rendered.clean))


@pytest.fixture(scope="module")
def measure():
    return RainSeen().measure


def test_what_was_removed_is_what_the_network_would_remove(pair, measure):
    scores = measure(*pair)
    assert scores["seen_query_alike_layer"] > 0.7
    assert scores["seen_rest_beside_layer"] < -0.3
    assert scores["left_target_beside_query"] < -1


def test_rain_left_in_the_target_is_seen_again(pair, measure):
    rainy, target = pair
    left = np.rint(target + 0.7 * (rainy.astype(np.float32) - target)).astype(np.uint8)
    clean, scores = measure(rainy, target), measure(rainy, left)
    assert scores["left_target_alike_query"] > 0.7 > clean["left_target_alike_query"]
    assert scores["left_target_beside_query"] > clean["left_target_beside_query"] + 1


def test_a_part_that_was_not_cleaned_stands_out_among_the_tiles(pair, measure):
    rainy, target = pair
    half = target.copy()
    half[:, : half.shape[1] // 2] = rainy[:, : half.shape[1] // 2]
    clean, scores = measure(rainy, target), measure(rainy, half)
    assert scores["left_tiles_target_90"] > clean["left_tiles_target_90"] + 2
    assert scores["left_tiles_target_10"] < scores["left_tiles_target_90"] - 2


def test_strengths_are_octaves_of_grey_levels(pair, measure):
    rainy, target = pair
    layer = (rainy.astype(np.float32) - target)[16:272, 32:288] @ [0.299, 0.587, 0.114]
    assert measure(rainy, target)["seen_layer"] == pytest.approx(np.log2(np.sqrt((layer**2).mean()) + 0.7), abs=0.02)


@pytest.mark.parametrize("height, width", [(96, 96), (97, 250), (288, 101)])
def test_any_size_gives_finite_scores(pair, measure, height, width):
    rainy, target = (image[:height, :width] for image in pair)
    assert np.isfinite(list(measure(rainy, target).values())).all()


def test_the_second_judge_is_told_what_the_first_was_without_the_network(pair, monkeypatch, tmp_path):
    rainy, target = pair
    case = JudgeCase("pair", Triplet("pair", rainy, "", np.zeros(1), np.zeros(1)), target, ())
    measured = RainSeen().measure(rainy, target)
    first, second = RainLayerJudge(), PairIntegrityJudge()
    first.judge([case])
    first.release()
    monkeypatch.setattr("modeling_unirain.distillation.rain_seen.WEIGHTS", tmp_path / "none")
    (vote,) = second.judge([case])
    assert {name: vote.scores[name] for name in measured} == pytest.approx(measured)
    with pytest.raises(OSError, match="none"):  # what was told twice is forgotten
        second.judge([case])


def test_the_judges_were_fitted_with_the_weights_they_ask():
    RainSeen.check()  # after others: benchmarks/sound_pairs.py


def test_judges_fitted_with_other_weights_are_refused_before_any_work(monkeypatch, tmp_path):
    (tmp_path / "sound.json").write_text('{"checkpoint": "another", "judges": {}}')
    monkeypatch.setattr("modeling_unirain.distillation.sound_pairs.FILE", tmp_path / "sound.json")
    with pytest.raises(ValueError, match="fitted with other weights"):
        RainLayerJudge().check()
