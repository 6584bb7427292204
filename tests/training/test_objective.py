"""The objective against the paper's equations, written once more in plain floats, and against what the paper promises."""

import logging
import math

import pytest
import torch
import torch.multiprocessing

from modeling_unirain.training.objective import (
    MultiObjectiveReweighting,
    adaptivity_factor,
    convergence_slope,
    type_balance_score,
    type_stability_score,
    type_weights,
)


TYPES = ["DRS", "DRD", "NRS", "NRD"]
WINDOW, TAU = 10, 5.0


def overfitting_run(round_number: int) -> dict[str, float]:
    """Four losses that fall at speeds of their own, each on another scale; NRS, the fastest, rises from round 60 on."""
    t = round_number
    return {
        "DRS": 0.08 * (0.3 + 0.7 * math.exp(-t / 15)),
        "DRD": 0.11 * (0.5 + 0.5 * math.exp(-t / 50)),
        "NRS": 0.03 * (0.2 + 0.8 * math.exp(-t / 8) + 0.004 * max(t - 60, 0)),
        "NRD": 0.14 * (0.4 + 0.6 * math.exp(-t / 30)),
    }


def weights_by_hand(curves: dict[str, list[float]], denominator: str) -> list[dict[str, float]]:
    """METHOD, section 4, symbol by symbol, without tensors: the weights of every round of a run without warm-up."""
    names = list(curves)
    count = len(names)
    normalized = {i: [loss / curves[i][0] for loss in curves[i]] for i in names}
    alpha = {i: [] for i in names}
    alpha_max = []
    omegas = []
    for t in range(1, len(curves[names[0]]) + 1):
        for i in names:
            ys = normalized[i][max(0, t - WINDOW) : t]
            ks = list(range(len(ys)))
            k_mean, y_mean = sum(ks) / len(ks), sum(ys) / len(ys)
            numerator = sum((k - k_mean) * (y - y_mean) for k, y in zip(ks, ys, strict=True))
            alpha[i].append(numerator / sum((k - k_mean) ** 2 for k in ks) if t > 1 else 0.0)
        alpha_max.append(max(alpha[i][-1] for i in names))
        if t == 1:
            omegas.append(dict.fromkeys(names, 1 / count))
            continue
        moved = sum(abs(alpha[j][-1]) for j in names)
        e = {i: math.exp(count * alpha[i][-1] / moved) for i in names}
        tbs = {i: e[i] / sum(e.values()) for i in names}
        span = min(WINDOW, t)
        e = {i: math.exp(-span * alpha[i][-1] / sum(abs(a) for a in alpha[i][-span:])) for i in names}
        tss = {i: e[i] / sum(e.values()) for i in names}
        total = sum(abs(a) if denominator == "abs" else a for a in alpha_max)
        exponents = [-TAU * t * a / total for a in alpha_max]
        top = max(exponents)
        af = min(t * math.exp(exponents[-1] - top) / sum(math.exp(x - top) for x in exponents), 1.0)
        omegas.append({i: af * tbs[i] + (1 - af) * tss[i] for i in names})
    return omegas


def run(rounds: int, losses=overfitting_run, types=TYPES, **options) -> list:
    objective = MultiObjectiveReweighting(types, window=WINDOW, tau=TAU, **{"warmup_rounds": 0, **options})
    return [objective.update(losses(t)) for t in range(1, rounds + 1)]


@pytest.mark.parametrize("denominator", ["abs", "signed"])
def test_weights_equal_the_equations_computed_by_hand(denominator):
    curves = {name: [overfitting_run(t)[name] for t in range(1, 91)] for name in TYPES}
    by_hand = weights_by_hand(curves, denominator)
    for report, expected in zip(run(90, denominator=denominator), by_hand, strict=True):
        assert report.weight == pytest.approx(expected, rel=1e-9), report.round


def test_slope_is_the_least_squares_line():
    history = torch.tensor([[5.0, 1.0], [3.0, 1.0], [4.0, 1.0], [0.0, 1.0]], dtype=torch.float64)
    # ks -1.5 -0.5 0.5 1.5 against 2 0 1 -3: (-3 + 0 + 0.5 - 4.5) / 5
    assert convergence_slope(history).tolist() == pytest.approx([-1.4, 0.0])


def test_slope_leaves_out_rounds_without_measurement_but_keeps_their_distance():
    history = torch.tensor([[6.0], [float("nan")], [2.0], [float("inf")]], dtype=torch.float64)
    assert convergence_slope(history).item() == pytest.approx(-2.0)
    assert convergence_slope(history[:2]).isnan().all()


def test_scores_on_hand_made_slopes():
    e = math.exp
    tbs = type_balance_score(torch.tensor([-0.3, 0.1], dtype=torch.float64))
    assert tbs.tolist() == pytest.approx([e(-1.5) / (e(-1.5) + e(0.5)), e(0.5) / (e(-1.5) + e(0.5))])
    tss = type_stability_score(torch.tensor([[-0.2, 0.1], [-0.2, 0.3]], dtype=torch.float64))
    assert tss.tolist() == pytest.approx([e(1) / (e(1) + e(-1.5)), e(-1.5) / (e(1) + e(-1.5))])
    af = adaptivity_factor(torch.tensor([-0.1, 0.3], dtype=torch.float64), tau=1.0)
    assert af.item() == pytest.approx(2 * e(-1.5) / (e(0.5) + e(-1.5)))
    af = adaptivity_factor(torch.tensor([-0.1, 0.3], dtype=torch.float64), tau=1.0, denominator="signed")
    assert af.item() == pytest.approx(2 * e(-3) / (e(1) + e(-3)))


def test_all_slopes_zero_gives_equal_weights():
    zero = torch.zeros(12, 3, dtype=torch.float64)
    third = pytest.approx([1 / 3] * 3)
    assert type_balance_score(zero[0]).tolist() == third
    assert type_stability_score(zero).tolist() == third
    assert adaptivity_factor(zero[:, 0]).item() == 1
    assert adaptivity_factor(zero[:, 0], denominator="signed").item() == 1
    flat = run(15, lambda t: {"a": 1.0, "b": 0.5, "c": 0.0}, types=["a", "b", "c"])
    assert list(flat[-1].weight.values()) == third


def test_weights_sum_to_one_and_respect_the_minimum():
    for report in run(90, min_weight=0.1):
        assert sum(report.weight.values()) == pytest.approx(1)
        assert min(report.weight.values()) >= 0.1
    balance, stability = torch.tensor([0.9, 0.1]), torch.tensor([0.2, 0.8])
    assert type_weights(balance, stability, torch.tensor(0.25)).tolist() == pytest.approx([0.375, 0.625])


def test_slow_types_rise():
    early = run(20, warmup_rounds=10)[11].weight
    assert early["DRD"] > early["NRD"] > early["DRS"] > early["NRS"]
    assert early["DRD"] > 0.35


def test_diverging_type_falls():
    def losses(t):
        return {"steady": 1 - 0.005 * t, "diverging": 1 - 0.005 * t if t < 20 else 0.9 + 0.02 * (t - 20)}

    reports = run(30, losses, types=["steady", "diverging"])
    before, after = reports[17].weight["diverging"], reports[29].weight["diverging"]
    assert before == pytest.approx(0.5, abs=0.01)
    assert after < 0.15


def test_overfitting_nrs_does_not_win():
    """With the signed denominator, as printed, it does: METHOD reports 0.851 against 0.048 for a run of this kind."""
    assert run(75)[-1].weight["NRS"] == pytest.approx(0.048, abs=0.002)
    signed = run(75, denominator="signed")[-1].weight
    assert signed["NRS"] > 0.75


def test_losses_are_compared_relative_to_each_types_first():
    scaled = run(
        40, lambda t: {name: loss * (100 if name == "DRS" else 1) for name, loss in overfitting_run(t).items()}
    )
    assert scaled[-1].weight == pytest.approx(run(40)[-1].weight)


def test_warm_up_and_fixed_mode_hold_the_weights_equal():
    reports = run(12, warmup_rounds=10)
    assert all(report.weight == dict.fromkeys(TYPES, 0.25) for report in reports[:10])
    assert [report.warming_up for report in reports] == [True] * 10 + [False] * 2
    assert max(reports[11].weight.values()) > 0.3
    assert run(30, mode="fixed")[-1].weight == dict.fromkeys(TYPES, 0.25)


def test_released_variant_is_flatter_and_weighs_by_share_of_the_batch():
    reports = run(90, mode="released", warmup_rounds=10)
    for report in reports[10:]:
        assert 1 < max(report.weight.values()) / min(report.weight.values()) < 2
        assert min(report.weight.values()) > 0.1
        assert sum(report.weight.values()) == pytest.approx(1)
    objective = MultiObjectiveReweighting(["a", "b"], mode="released")
    loss = objective(torch.tensor([1.0, 1.0, 1.0, 5.0]), torch.tensor([0, 0, 0, 1])).loss
    assert loss.item() == pytest.approx(0.5 * 1 * 3 / 4 + 0.5 * 5 * 1 / 4)


def test_loss_is_the_weighted_sum_of_the_types_means():
    objective = MultiObjectiveReweighting(["a", "b", "c"])
    objective.weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    losses = torch.tensor([1.0, 3.0, 10.0, 4.0], requires_grad=True)
    output = objective(losses, torch.tensor([0, 0, 1, 2]))
    assert output.loss.item() == pytest.approx(0.5 * 2 + 0.3 * 10 + 0.2 * 4)
    assert output.type_losses.tolist() == [2.0, 10.0, 4.0]
    output.loss.backward()
    assert losses.grad.tolist() == pytest.approx([0.25, 0.25, 0.3, 0.2])


def test_absent_type_keeps_scale_and_proportion():
    objective = MultiObjectiveReweighting(["a", "b", "c"])
    two = objective(torch.tensor([1.0, 3.0]), torch.tensor([0, 2]))
    assert two.loss.item() == pytest.approx(2.0)  # equal weights: the mean over the types present
    assert two.type_losses.tolist() == pytest.approx([1.0, math.nan, 3.0], nan_ok=True)
    objective.weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    alone = [objective(torch.tensor([1.0]), torch.tensor([i])).loss.item() for i in range(3)]
    assert alone == pytest.approx([1.5, 0.9, 0.6])  # a batch of one still feels its weight


@pytest.mark.parametrize("batch_size", [1, 3, 4, 8])
def test_per_sample_a_type_counts_as_often_as_it_is_drawn(batch_size):
    """Over the batches of one order of samples, whatever their size."""
    objective = MultiObjectiveReweighting(TYPES, per_sample=True)
    objective.weights = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    counts = torch.tensor([11, 6, 5, 2])
    ids = torch.arange(4).repeat_interleave(counts)[torch.randperm(24, generator=torch.Generator().manual_seed(0))]
    losses = torch.ones(24, requires_grad=True)
    batches = torch.arange(24).split(batch_size)
    torch.stack([objective(losses[batch], ids[batch]).loss for batch in batches]).mean().backward()
    gradients = torch.zeros(4).index_add(0, ids, losses.grad)
    assert gradients.tolist() == pytest.approx((4 * objective.weights * counts / 24).tolist())


def test_three_invented_types():
    types = ["snow", "haze", "sand"]

    def losses(t):
        return {"snow": 0.9**t, "haze": 0.97**t, "sand": 0.99**t}

    weight = run(4, losses, types=types)[-1].weight
    assert weight["sand"] > weight["haze"] > weight["snow"]
    objective = MultiObjectiveReweighting(types)
    assert objective(torch.ones(3), torch.tensor([2, 1, 0])).loss.item() == pytest.approx(1.0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_validation_loss_costs_one_round_not_the_run(bad, caplog):
    def losses(t):
        return overfitting_run(t) | ({"DRD": bad} if t == 25 else {})

    with caplog.at_level(logging.WARNING):
        spoilt, clean = run(40, losses), run(40)
    assert "DRD" in caplog.text and "round 25" in caplog.text
    assert all(math.isfinite(weight) for report in spoilt for weight in report.weight.values())
    assert spoilt[24].weight == pytest.approx(clean[24].weight, abs=0.01)
    assert spoilt[39].weight == pytest.approx(clean[39].weight, abs=1e-3)
    assert spoilt[39].slope == clean[39].slope  # the round has left the window


def test_type_without_validation_keeps_the_equal_share(caplog):
    def losses(t):
        return {name: loss for name, loss in overfitting_run(t).items() if name != "NRD"}

    with caplog.at_level(logging.WARNING):
        reports = run(30, losses)
    assert caplog.text.count("NRD") == 1  # said once, not every round
    for report, three in zip(reports, run(30, losses, types=["DRS", "DRD", "NRS"]), strict=True):
        assert report.weight["NRD"] == pytest.approx(0.25)
        assert math.isnan(report.slope["NRD"])
        assert report.weight["DRD"] == pytest.approx(0.75 * three.weight["DRD"])


def test_no_validation_at_all_leaves_equal_weights():
    assert run(3, lambda t: {})[-1].weight == dict.fromkeys(TYPES, 0.25)


def test_reloaded_objective_continues_bit_for_bit(tmp_path):
    options = {"warmup_rounds": 5, "window": 7}
    whole = MultiObjectiveReweighting(TYPES, **options)
    first = MultiObjectiveReweighting(TYPES, **options)
    for t in range(1, 31):
        whole.update(overfitting_run(t))
        first.update(overfitting_run(t))
    torch.save(first.state_dict(), tmp_path / "objective.pt")
    second = MultiObjectiveReweighting(TYPES, **options)
    second.load_state_dict(torch.load(tmp_path / "objective.pt", weights_only=True))
    assert torch.equal(second.weights, whole.weights)
    for t in range(31, 50):
        assert second.update(overfitting_run(t)) == whole.update(overfitting_run(t))
    assert torch.equal(second.history, whole.history)


def test_fixed_weights_are_equal_from_the_reload_on():
    reweighted = MultiObjectiveReweighting(TYPES, warmup_rounds=1)
    for t in range(1, 6):
        reweighted.update(overfitting_run(t))
    assert reweighted.weights.std() > 0.01
    fixed = MultiObjectiveReweighting(TYPES, mode="fixed")
    fixed.load_state_dict(reweighted.state_dict())
    assert torch.equal(fixed.weights, MultiObjectiveReweighting(TYPES).weights)
    assert torch.equal(fixed.history, reweighted.history)


@pytest.mark.parametrize("types", [TYPES[:2], [*TYPES[:-1], "haze"], TYPES[::-1]], ids=["fewer", "other", "reversed"])
def test_state_of_other_types_is_refused(types):
    saved = MultiObjectiveReweighting(TYPES).state_dict()
    message = (
        f"trained on the types {', '.join(TYPES)}, in this order; this run has {', '.join(types)}: keep the types"
    )
    with pytest.raises(ValueError, match=message):
        MultiObjectiveReweighting(types).load_state_dict(saved)


def test_state_that_does_not_name_its_types_is_taken_where_their_number_fits():
    objective = MultiObjectiveReweighting(TYPES)
    objective.update(overfitting_run(1))
    saved = {name: objective.state_dict()[name] for name in ("weights", "history")}
    resumed = MultiObjectiveReweighting(TYPES)
    resumed.load_state_dict(saved)
    assert torch.equal(resumed.history, objective.history)
    with pytest.raises(RuntimeError, match="size mismatch"):
        MultiObjectiveReweighting(TYPES[:2]).load_state_dict(saved)


def test_report_is_logged_under_flat_names():
    scalars = run(3)[-1].scalars()
    for group in ("validation_loss", "normalized_loss", "slope", "tbs", "tss", "weight"):
        assert {f"objective/{group}/{name}" for name in TYPES} <= set(scalars)
    assert scalars["objective/af"] == 1.0
    assert all(isinstance(value, float) for value in scalars.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"denominator": "squared"}, "denominator must be one of abs, signed"),
        ({"mode": "coba"}, "mode must be one of"),
        ({"window": 1}, "window"),
        ({"warmup_rounds": -1}, "warmup_rounds"),
        ({"tau": 0}, "tau"),
        ({"min_weight": 0.3}, "min_weight"),
    ],
)
def test_bad_settings_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        MultiObjectiveReweighting(TYPES, **options)


def test_bad_input_is_named():
    objective = MultiObjectiveReweighting(TYPES)
    with pytest.raises(ValueError, match="'fog'"):
        objective.update({"fog": 1.0})
    with pytest.raises(ValueError, match=r"\(batch,\)"):
        objective(torch.ones(2), torch.zeros(3, dtype=torch.long))
    with pytest.raises(ValueError, match="different names"):
        MultiObjectiveReweighting(["a", "a"])


def _two_ranks(rank: int, folder: str) -> None:
    """One DDP step of a linear model on this rank's half of a batch in which the ranks hold different types."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.save(_step(rank), f"{folder}/rank{rank}.pt")
    torch.distributed.destroy_process_group()


def _step(rank: int) -> tuple:
    """A function of its own, so that DDP is gone before the group: one that goes last waits, now and then for ever, for a
    thread of the group's that wants the interpreter (torch 2.13)."""
    inputs, type_ids = _batch()
    part = slice(0, 3) if rank == 0 else slice(3, 6)
    model = torch.nn.parallel.DistributedDataParallel(_linear())
    output = _objective()(model(inputs[part]).abs().squeeze(1), type_ids[part])
    output.loss.backward()
    return output.loss.detach(), output.type_losses, model.module.weight.grad


def _batch():
    return torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 0, 1, 0, 2, 2])


def _linear():
    model = torch.nn.Linear(4, 1, bias=False)
    torch.nn.init.constant_(model.weight, 0.5)
    return model


def _objective():
    objective = MultiObjectiveReweighting(["a", "b", "c", "d"])
    objective.weights = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
    return objective


def test_two_processes_give_the_loss_and_gradient_of_the_whole_batch(tmp_path):
    torch.multiprocessing.start_processes(_two_ranks, args=(str(tmp_path),), nprocs=2, start_method="spawn")
    inputs, type_ids = _batch()
    model = _linear()
    whole = _objective()(model(inputs).abs().squeeze(1), type_ids)
    whole.loss.backward()
    for rank in range(2):
        loss, type_losses, gradient = torch.load(tmp_path / f"rank{rank}.pt")
        assert loss.item() == pytest.approx(whole.loss.item(), rel=1e-6)
        assert torch.allclose(type_losses, whole.type_losses, rtol=1e-6, equal_nan=True)
        assert torch.allclose(gradient, model.weight.grad, rtol=1e-5)
