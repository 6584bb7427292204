"""The Gaussian of sound pairs, against an independent computation."""

import numpy as np
import pytest

from modeling_unirain.distillation.sound_pairs import EXTREME_WEIGHT, MOST_EXTREME, RIDGE, bundled, fitted, save


def correlated(count, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((count, 3)) @ np.array([[2.0, 1.8, 0.0], [0.0, 0.4, 0.0], [0.0, 0.0, 5.0]])


def distance(model, row):
    return model.contributions(dict(zip(model.names, row, strict=True))).sum()


def test_the_distance_is_mahalanobis_with_a_ridge():
    scores = correlated(20_000)
    model = fitted(["a", "b", "c"], scores)
    precision = np.linalg.inv(np.corrcoef(scores.T) + RIDGE * np.eye(3))
    for row in scores[:50]:
        if (np.abs(row) < 2.4 * scores.std(0)).all():
            away = (row - scores.mean(0)) / scores.std(0)
            assert distance(model, row) == pytest.approx(away @ precision @ away, rel=0.1, abs=0.1)


def test_scores_that_do_not_go_together_are_far_though_each_is_usual():
    scores = correlated(5000)
    model = fitted(["a", "b", "c"], scores)
    together, apart = np.array([2.0, 1.8, 0.0]), np.array([2.0, -1.8, 0.0])
    assert distance(model, apart) > 5 * distance(model, together)
    parts = model.contributions({"a": 2.0, "b": -1.8, "c": 0.0})
    assert parts[2] < 0.1 * parts[:2].min()


def test_one_wild_score_adds_a_logarithm():
    model = fitted(["a", "b", "c"], correlated(5000))
    near, far = (distance(model, [0, 0, 5 * factor]) for factor in (10, 1000))
    assert near < far < 10 * near


def test_a_score_beyond_nearly_all_sound_pairs_is_not_diluted_by_the_usual_ones():
    rng = np.random.default_rng(0)
    many = rng.standard_normal((5000, 200))
    model = fitted([str(number) for number in range(200)], many)
    sound = np.quantile([distance(model, row) for row in rng.standard_normal((300, 200))], 0.93)
    inside, outside = np.zeros(200), np.zeros(200)
    inside[7], outside[7] = 2.0, 9.0
    gaussian = inside[7] ** 2 / (1 + RIDGE)
    assert distance(model, inside) == pytest.approx(gaussian, rel=0.2, abs=2)
    extreme = np.log(outside[7] / np.quantile(np.abs(many[:, 7]), 0.99))
    assert 0.5 < extreme < MOST_EXTREME
    parts = model.contributions(dict(zip(model.names, outside, strict=True)))
    assert parts[7] > EXTREME_WEIGHT * extreme and parts[7] > 0.9 * parts.sum()
    added = rng.standard_normal(200)
    added[[7, 20, 31]] = 40.0
    assert distance(model, added) > sound


def test_a_saved_model_gives_the_same_distances(tmp_path, monkeypatch):
    scores = correlated(500)
    model = fitted(["a", "b", "c"], scores, limit=7.5)
    file = tmp_path / "sound.json"
    save({"judge": model}, "fingerprint", file)
    monkeypatch.setattr("modeling_unirain.distillation.sound_pairs.FILE", file)
    loaded = bundled.__wrapped__()["judge"]
    assert loaded.names == model.names and loaded.limit == 7.5
    for row in scores[:20]:
        assert distance(loaded, row) == pytest.approx(distance(model, row), rel=1e-3)


def test_the_bundled_gaussians_are_sound():
    for model in bundled().values():
        np.testing.assert_array_equal(model.precision, model.precision.T)
        assert np.linalg.eigvalsh(model.precision).min() > 0
        assert (model.below > 0).all() and (model.above > 0).all()
        assert (model.lowest <= -1).all() and (model.highest >= 1).all()
