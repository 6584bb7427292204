"""Multi-objective reweighted optimization (paper, section 3.4).

The types of rain converge at different speeds; with fixed weights the easy ones win and the hard ones starve. At every
validation round the weight of each type's loss follows from the slopes of the validation losses:

    validation losses -> slope -> TBS, TSS (per type), AF (one number) -> weight = AF * TBS + (1 - AF) * TSS

The pure functions below are those four steps, `MultiObjectiveReweighting` remembers the losses and applies the weights.
The lineage is CoBa (arXiv 2410.06741), whose convention we take where the paper leaves something open.
"""

import logging
import math
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn


logger = logging.getLogger(__name__)

MODES = ("unirain", "fixed", "released")
DENOMINATORS = ("abs", "signed")
RELEASED_MIN_WEIGHT = 0.1


def convergence_slope(history: Tensor) -> Tensor:
    """Slope of a loss curve, `alpha_i(t) = sum_k (k - mean k)(y_k - mean y) / sum_k (k - mean k)^2`: least squares.

    Args:
        history (`Tensor` of shape `(rounds, types)`): the last N normalised validation losses, oldest first. A value
            that is not finite counts as a round without measurement and is left out of that type's fit.

    Returns:
        `Tensor` of shape `(types,)`: change of the loss per round, negative while converging, `nan` for a type with fewer
        than two measurements, which has no slope.
    """
    measured = history.isfinite().to(history.dtype)
    losses = history.nan_to_num(0.0, 0.0, 0.0)
    rounds = torch.arange(len(history), dtype=history.dtype)[:, None]
    count = measured.sum(0).clamp(min=1)
    centred_rounds = (rounds - (rounds * measured).sum(0) / count) * measured
    centred_losses = (losses - losses.sum(0) / count) * measured
    return (centred_rounds * centred_losses).sum(0) / centred_rounds.square().sum(0)  # 0 / 0 is nan: no slope


def type_balance_score(slopes: Tensor) -> Tensor:
    """TBS, raises the slow types: `TBS_i(t) = softmax over i of (K * alpha_i(t) / sum_j |alpha_j(t)|)`.

    Args:
        slopes (`Tensor` of shape `(types,)`): the slopes of round t. All zero gives equal scores.

    Returns:
        `Tensor` of shape `(types,)` that sums to one.
    """
    return (len(slopes) * _share(slopes, slopes.abs().sum())).softmax(dim=0)


def type_stability_score(slopes: Tensor) -> Tensor:
    """TSS, lowers the diverging types: `TSS_i(t) = softmax over i of (-N * alpha_i(t) / sum_{k=t-N+1..t} |alpha_i(k)|)`.

    Args:
        slopes (`Tensor` of shape `(N, types)`): the slopes of the last N rounds, oldest first; before N rounds have
            passed, as many as there are. `nan` where a type had no slope yet: such a round adds nothing to the sum.

    Returns:
        `Tensor` of shape `(types,)` that sums to one.
    """
    return (-len(slopes) * _share(slopes[-1], slopes.abs().nansum(0))).softmax(dim=0)


def adaptivity_factor(max_slopes: Tensor, tau: float = 5.0, denominator: str = "abs") -> Tensor:
    """AF, how far balance (TBS) is trusted over stability (TSS): it starts at 1 and falls as the slowest type slows down,
    and at once when a type diverges.

    `AF(t) = min(t * softmax over time of (-tau * t * alpha_max(t) / sum_{s=1..t} alpha_max(s)), 1)`,
    `alpha_max(t) = max_i alpha_i(t)`; the softmax runs over the rounds 1..t and its last entry is used.

    The denominator as printed is signed. While every type converges, alpha_max and the sum are negative, the exponent
    changes its sign, and the first type to diverge is *given* the weight it should lose: in a simulated run whose NRS
    overfits, the printed form puts most of the weight on it (`benchmarks/objective.py`). The authors' code and CoBa's
    both sum absolute values. So do we; `"signed"` is the literal equation.

    Args:
        max_slopes (`Tensor` of shape `(t,)`): the largest slope among the types in every round so far, oldest first.
        tau (`float`): temperature. The paper gives none; CoBa uses 5.
        denominator (`str`): `"abs"` or `"signed"`.

    Returns:
        Scalar `Tensor` in (0, 1]; 1 when all slopes are zero.
    """
    _check_choice("denominator", denominator, DENOMINATORS)
    total = max_slopes.abs().sum() if denominator == "abs" else max_slopes.sum()
    rounds = len(max_slopes)
    over_time = (-tau * rounds * _share(max_slopes, total)).softmax(dim=0)
    return (rounds * over_time[-1]).clamp(max=1)


def type_weights(balance: Tensor, stability: Tensor, adaptivity: Tensor, min_weight: float = 0.0) -> Tensor:
    """Weight of every type's loss: `omega_i(t) = AF(t) * TBS_i(t) + (1 - AF(t)) * TSS_i(t)`.

    Both scores sum to one over the types, hence so do the weights.

    Args:
        balance, stability (`Tensor` of shape `(types,)`): TBS and TSS.
        adaptivity (scalar `Tensor`): AF.
        min_weight (`float`): no type gets less (not in the paper; CoBa guards 1 / (10 K)). Applied as
            `omega * (1 - K * min_weight) + min_weight`, which keeps the order and the sum.
    """
    weights = adaptivity * balance + (1 - adaptivity) * stability
    return _with_floor(weights, min_weight)


def _with_floor(weights: Tensor, min_weight: float) -> Tensor:
    return weights * (1 - len(weights) * min_weight) + min_weight


def _share(slopes: Tensor, total: Tensor) -> Tensor:
    """`slopes / total`, and zero where the total is zero: without movement nobody is ahead."""
    return torch.where(total == 0, torch.zeros_like(slopes), slopes / total)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}.")


@dataclass
class ObjectiveOutput:
    """What a training step needs and what it logs."""

    loss: Tensor
    """Scalar with gradient; its value is the same on every rank."""
    type_losses: Tensor
    """Detached mean loss of every type over the (global) batch, shape `(types,)`; `nan` for a type that is absent."""


@dataclass
class ReweightingReport:
    """Everything the objective knew and decided in one validation round; a value is `nan` where there was none."""

    round: int
    """Number of this round, from 1."""
    warming_up: bool
    """Whether the weights are still held equal."""
    validation_loss: dict[str, float]
    """As given."""
    normalized_loss: dict[str, float]
    """Divided by the type's first validation loss."""
    slope: dict[str, float]
    type_balance_score: dict[str, float]
    type_stability_score: dict[str, float]
    weight: dict[str, float]
    adaptivity_factor: float

    def scalars(self) -> dict[str, float]:
        """Flat names for a tracker: `objective/weight/NRD`, `objective/tbs/NRD`, ..., `objective/af`."""
        groups = {
            "validation_loss": self.validation_loss,
            "normalized_loss": self.normalized_loss,
            "slope": self.slope,
            "tbs": self.type_balance_score,
            "tss": self.type_stability_score,
            "weight": self.weight,
        }
        flat = {f"objective/{group}/{name}": v for group, values in groups.items() for name, v in values.items()}
        return flat | {"objective/af": self.adaptivity_factor}


class MultiObjectiveReweighting(nn.Module):
    """The paper's training objective: `l_rain = sum_i omega_i * l_i` with weights that follow the validation losses.

    Call `forward` in every training step, `update` in every validation round. The history of the validation losses is
    the whole memory; it and the weights are buffers, so a `state_dict` resumes the objective bit for bit. Save it beside
    the weights of the network, never among them, and leave it on the CPU: `forward` works on the device of its input,
    `update` in float64.

    Where the paper is silent:

    - N and the warm-up: 10 rounds each, tau = 5 (the authors' code: 10, 20, 5).
    - Slopes of the warm-up stay out of the sums of TSS and AF, as in the authors' and CoBa's code, and t counts the rounds
      since. The steep first rounds would otherwise hold AF at zero for the rest of the run. `warmup_rounds=0` counts every
      round.
    - Before N rounds have passed, the window is as long as the history.

    What happens when something is missing (a type that gets no measurement is warned of once that begins):

    - A validation loss that is not finite, or a type left out of a round: a round without measurement for that type; its
      slope is fitted to the other rounds of the window.
    - A type with fewer than two measurements in the window has no slope: it keeps the equal share 1 / K, the others divide
      the rest by their scores.
    - All slopes zero: TBS, TSS and the weights are equal, AF is 1.

    Args:
        types (`list[str]`): names of the types; `type_ids` index this list. Any number.
        window (`int`): N, rounds a slope is fitted to and TSS looks back.
        tau (`float`): temperature of AF.
        warmup_rounds (`int`): rounds with equal weights.
        denominator (`str`): see `adaptivity_factor`.
        min_weight (`float`, *optional*): see `type_weights`. Default 0, and 0.1 for `mode="released"`.
        per_sample (`bool`): whether the weights are those of samples instead of types' means (see `forward`), so that a type
            counts as often as it is drawn beside its weight; not in the paper, where all types count alike. For types
            that hold unequally much to learn: streaks by day come in far more kinds than any other rain.
        mode (`str`): `"unirain"`, the equations; `"fixed"`, equal weights throughout; `"released"`, what the authors'
            train.py computes instead of their equations, for comparison: losses not normalised; AF from the slope of
            the largest loss over N rounds without `t *` and `min`; two more softmaxes over the weights and
            `* (1 - K * 0.1) + 0.1`, which makes them nearly uniform; each term multiplied by its share of the batch.
            Its handling of missing losses is ours, not theirs (one nan there spoils N rounds).
    """

    def __init__(
        self,
        types: list[str],
        window: int = 10,
        tau: float = 5.0,
        warmup_rounds: int = 10,
        denominator: str = "abs",
        min_weight: float | None = None,
        mode: str = "unirain",
        per_sample: bool = False,
    ):
        super().__init__()
        _check_choice("mode", mode, MODES)
        _check_choice("denominator", denominator, DENOMINATORS)
        if not types or len(set(types)) != len(types):
            raise ValueError(f"types must be a list of different names, got {list(types)}.")
        if window < 2:
            raise ValueError(f"window must be at least 2 rounds to have a slope, got {window}.")
        if warmup_rounds < 0:
            raise ValueError(f"warmup_rounds must not be negative, got {warmup_rounds}.")
        if not 0 < tau < math.inf:
            raise ValueError(f"tau must be positive, got {tau}.")
        if min_weight is None:
            min_weight = RELEASED_MIN_WEIGHT if mode == "released" else 0.0
        if not 0 <= min_weight * len(types) <= 1:
            raise ValueError(f"min_weight must lie between 0 and 1 / {len(types)} types, got {min_weight}.")
        self.types = [str(name) for name in types]
        self.window = window
        self.tau = tau
        self.warmup_rounds = warmup_rounds
        self.denominator = denominator
        self.min_weight = min_weight
        self.mode = mode
        self.per_sample = per_sample
        equal = torch.full((len(types),), 1 / len(types), dtype=torch.float64)
        self.register_buffer("weights", equal)
        self.register_buffer("history", torch.empty(0, len(types), dtype=torch.float64))
        self._silent_types: set[str] = set()

    def forward(self, per_sample_losses: Tensor, type_ids: Tensor) -> ObjectiveOutput:
        """Weighs one batch.

        The loss is `K / n * sum_i omega_i * l_i` over the n types present in the batch, l_i the mean over that type's
        samples. With all K present it is the paper's sum; with equal weights it is always the plain mean over the types
        present. The factor K / n keeps the scale when a small batch lacks a type; it does not touch the proportions
        (renormalising the weights of those present would: a batch of one would then ignore its weight altogether).

        `per_sample` it is `K / B * sum_b omega_type(b) * l_b` over the B samples, with equal weights their plain mean. A type
        that is drawn rarely then has its share of the gradients over time whatever the batches' size, which means of
        types would give to the others in every batch that lacks it.

        Under several processes the sums and counts are reduced first: l_i is the mean over the *global* batch, and n counts
        the types there. The value returned is the global loss; its gradient is that of this rank's part times the
        number of processes, so that the average DDP takes over the ranks is exactly the gradient of the global loss.

        Args:
            per_sample_losses (`Tensor` of shape `(batch,)`): `losses.sample_losses`, in the paper L1.
            type_ids (integer `Tensor` of shape `(batch,)`): index into `types`.
        """
        if per_sample_losses.ndim != 1 or per_sample_losses.shape != type_ids.shape:
            raise ValueError(
                f"per_sample_losses and type_ids must both have shape (batch,), got {tuple(per_sample_losses.shape)} "
                f"and {tuple(type_ids.shape)}."
            )
        losses = per_sample_losses.float()
        zeros = losses.new_zeros(len(self.types))
        sums = zeros.index_add(0, type_ids, losses)
        counts = zeros.index_add(0, type_ids, torch.ones_like(losses))
        totals = torch.stack([sums.detach(), counts])
        world_size = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
        if world_size > 1:
            dist.all_reduce(totals)
        global_sums, global_counts = totals.unbind()

        weights = self.weights.to(losses)
        if self.mode == "released":
            factors = weights * global_counts / global_counts.sum()
        elif self.per_sample:
            factors = weights * len(self.types) * global_counts / global_counts.sum()
        else:
            factors = weights * len(self.types) / (global_counts > 0).sum()
        factors = factors / global_counts.clamp(min=1)
        loss = (factors * sums).sum() * world_size
        if world_size > 1:
            loss = loss + ((factors * global_sums).sum() - loss.detach())
        return ObjectiveOutput(loss, global_sums / global_counts)  # 0 / 0 is nan: absent

    @torch.no_grad()
    def update(self, validation_losses: dict[str, float]) -> ReweightingReport:
        """Closes a validation round: remembers the losses, computes every score and the weights of the next rounds.

        Args:
            validation_losses (`dict[str, float]`): mean validation loss of every type, not weighted and, under several processes,
                already reduced: every rank must pass the same numbers. A type may be left out or `nan` (see the class).
        """
        losses = self._as_tensor(validation_losses)
        self._warn_of_silence(losses)
        self.history = torch.cat([self.history, losses[None]])
        rounds = len(self.history)
        first = torch.stack([_first_measurement(column) for column in self.history.unbind(1)])
        normalized = self.history / first

        curves = self.history if self.mode == "released" else normalized
        slopes = torch.stack([convergence_slope(curves[max(0, t - self.window) : t]) for t in range(1, rounds + 1)])
        warming_up = rounds <= self.warmup_rounds
        counted = slopes if warming_up else slopes[self.warmup_rounds :]
        known = slopes[-1].isfinite()
        recent = counted[-self.window :, known]

        equal = torch.full_like(losses, 1 / len(self.types))
        balance, stability, weights = equal.clone(), equal.clone(), equal.clone()
        adaptivity = torch.ones((), dtype=torch.float64)
        if known.any():
            balance[known] = type_balance_score(slopes[-1, known]) * known.sum() / len(known)
            stability[known] = type_stability_score(recent) * known.sum() / len(known)
            adaptivity = self._adaptivity(counted)
            if self.mode == "released":
                blend = adaptivity * balance + (1 - adaptivity) * stability
                for _ in range(2):
                    blend = (len(blend) * blend).softmax(dim=0)
                weights = _with_floor(blend, self.min_weight)
            else:
                weights = type_weights(balance, stability, adaptivity, self.min_weight)
        self.weights = equal if warming_up or self.mode == "fixed" else weights

        return ReweightingReport(
            round=rounds,
            warming_up=warming_up,
            validation_loss=self._named(losses),
            normalized_loss=self._named(normalized[-1]),
            slope=self._named(slopes[-1]),
            type_balance_score=self._named(balance),
            type_stability_score=self._named(stability),
            weight=self._named(self.weights),
            adaptivity_factor=adaptivity.item(),
        )

    def restart(self) -> None:
        """Forgets every round: losses on other validation pictures say nothing about how training goes on these."""
        self.history = self.history[:0]
        self.weights = torch.full_like(self.weights, 1 / len(self.types))

    def _adaptivity(self, slopes: Tensor) -> Tensor:
        if self.mode == "released":
            largest = self.history.nan_to_num(float("-inf")).max(dim=1, keepdim=True).values
            ends = range(len(largest) - len(slopes) + 1, len(largest) + 1)
            curve = torch.cat([convergence_slope(largest[max(0, end - self.window) : end]) for end in ends])
            curve = curve.nan_to_num(0.0)[-self.window :]
            return (-self.tau * len(curve) * _share(curve, curve.abs().sum())).softmax(dim=0)[-1]
        max_slopes = slopes.nan_to_num(float("-inf")).max(dim=1).values
        max_slopes = torch.where(max_slopes.isfinite(), max_slopes, torch.zeros_like(max_slopes))
        return adaptivity_factor(max_slopes, self.tau, self.denominator)

    def _as_tensor(self, validation_losses: dict[str, float]) -> Tensor:
        unknown = sorted(set(validation_losses) - set(self.types))
        if unknown:
            raise ValueError(f"Unknown type {unknown[0]!r} in validation_losses; known are {', '.join(self.types)}.")
        values = [float(validation_losses.get(name, float("nan"))) for name in self.types]
        losses = torch.tensor(values, dtype=torch.float64)
        return torch.where(losses.isfinite(), losses, torch.full_like(losses, float("nan")))

    def _warn_of_silence(self, losses: Tensor) -> None:
        silent = {name for name, here in zip(self.types, losses.isfinite().tolist(), strict=True) if not here}
        for name in sorted(silent - self._silent_types):
            logger.warning(
                "No finite validation loss for type %s in round %d: the round is left out of its slope, and without two "
                "measurements in %d rounds it keeps the equal weight 1/%d.",
                name,
                len(self.history) + 1,
                self.window,
                len(self.types),
            )
        self._silent_types = silent

    def _named(self, values: Tensor) -> dict[str, float]:
        return dict(zip(self.types, values.tolist(), strict=True))

    def get_extra_state(self) -> dict[str, list[str]]:
        return {"types": self.types}

    def set_extra_state(self, state: dict[str, list[str]]) -> None:
        if state["types"] != self.types:
            raise ValueError(
                f"it was trained on the types {', '.join(state['types'])}, in this order; this run has "
                f"{', '.join(self.types)}: keep the types, or start a new run from its weights with --init_from."
            )

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        """The history grows, so the buffer takes the length of the one that is loaded."""
        state_dict.setdefault(prefix + "_extra_state", self.get_extra_state())  # old states do not name their types
        saved = state_dict.get(prefix + "history")
        if saved is not None and saved.shape[1:] == self.history.shape[1:]:
            self.history = torch.empty_like(saved)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        if self.mode == "fixed":  # the weights may be those of another mode
            self.weights.fill_(1 / len(self.types))


def _first_measurement(losses: Tensor) -> Tensor:
    """First finite value; 1 where there is none or it is zero (nothing to divide by)."""
    measured = losses[losses.isfinite() & (losses != 0)]
    return measured[0] if len(measured) else torch.ones((), dtype=losses.dtype)
