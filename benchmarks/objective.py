"""What the objective does with given loss curves: prints weights and scores, and draws them.

    python benchmarks/objective.py [--output objective.png] [--rounds 100]

Two simulated runs: one in which NRS, the fastest type, overfits from round 60 on, and one in which every type converges.
Each is weighed by the equations with the absolute and with the signed (printed) denominator of the adaptivity factor, and
by the variant that the authors released.
"""

import argparse
import math
from pathlib import Path

import matplotlib


matplotlib.use("Agg")
import matplotlib.pyplot as plt

from modeling_unirain.training.objective import MultiObjectiveReweighting, ReweightingReport


TYPES = ["DRS", "DRD", "NRS", "NRD"]
VARIANTS = {
    "abs": {"denominator": "abs"},
    "signed": {"denominator": "signed"},
    "released": {"mode": "released"},
}


def converging(t: int) -> dict[str, float]:
    return {
        "DRS": 0.3 + 0.7 * math.exp(-t / 15),
        "DRD": 0.5 + 0.5 * math.exp(-t / 50),
        "NRS": 0.2 + 0.8 * math.exp(-t / 8),
        "NRD": 0.4 + 0.6 * math.exp(-t / 30),
    }


def overfitting(t: int) -> dict[str, float]:
    losses = converging(t)
    losses["NRS"] += 0.004 * max(t - 60, 0)
    return losses


RUNS = {"NRS overfits from round 60": overfitting, "all converge": converging}


def simulate(losses, rounds: int, warmup_rounds: int, **options) -> list[ReweightingReport]:
    objective = MultiObjectiveReweighting(TYPES, warmup_rounds=warmup_rounds, **options)
    return [objective.update(losses(t)) for t in range(1, rounds + 1)]


def print_table(title: str, reports: dict[str, list[ReweightingReport]], rounds: list[int]) -> None:
    print(f"\n{title}\n")
    print(f"| variant | round | AF | {' | '.join(TYPES)} | largest / smallest |")
    print("| --- | " + "---: | " * (len(TYPES) + 3))
    for variant, history in reports.items():
        for number in rounds:
            report = history[number - 1]
            weights = list(report.weight.values())
            cells = " | ".join(f"{weight:.3f}" for weight in weights)
            print(
                f"| {variant} | {number} | {report.adaptivity_factor:.3f} | {cells} | {max(weights) / min(weights):.2f} |"
            )


def draw(results: dict[str, dict[str, list[ReweightingReport]]], path: Path) -> None:
    """Runs side by side; below each run's losses, the scores, then the weights of every variant."""
    rows = ["validation loss", "TBS", "TSS", "AF", *(f"weights, {variant}" for variant in VARIANTS)]
    figure, axes = plt.subplots(len(rows), len(results), figsize=(6 * len(results), 2.1 * len(rows)), sharex=True)
    for column, (title, variants) in zip(axes.T, results.items(), strict=True):
        column[0].set_title(title)
        history = variants["abs"]
        rounds = [report.round for report in history]
        per_type = {"validation loss": "normalized_loss", "TBS": "type_balance_score", "TSS": "type_stability_score"}
        for axis, row in zip(column, rows, strict=True):
            axis.set_ylabel(row)
            if row == "AF":
                for variant, reports in variants.items():
                    axis.plot(rounds, [report.adaptivity_factor for report in reports], label=variant)
                continue
            reports = variants[row.removeprefix("weights, ")] if row.startswith("weights") else history
            for name in TYPES:
                values = [getattr(report, per_type.get(row, "weight"))[name] for report in reports]
                axis.plot(rounds, values, label=name)
            if row.startswith("weights"):
                axis.set_ylim(0, 1)
        column[0].legend(ncols=len(TYPES), fontsize="small")
        column[3].legend(fontsize="small")
        column[-1].set_xlabel("validation round")
    figure.tight_layout()
    figure.savefig(path, dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("objective.png"))
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--warmup_rounds", type=int, default=10)
    options = parser.parse_args()
    results = {
        title: {
            variant: simulate(losses, options.rounds, options.warmup_rounds, **settings)
            for variant, settings in VARIANTS.items()
        }
        for title, losses in RUNS.items()
    }
    shown = [number for number in (12, 20, 40, 60, 75, 100) if number <= options.rounds]
    for title, reports in results.items():
        print_table(title, reports, shown)
    draw(results, options.output)
    print(f"\nCurves: {options.output}")


if __name__ == "__main__":
    main()
