"""What each of the paper's ideas is worth: `python benchmarks/ablations.py --recipe unirain --output_dir runs/ablations`.

Trains a small network several times at an equal budget of steps, changing one thing at a time, and prints a table of
mean and spread (standard deviation) over the seeds: PSNR per type on the same validation pictures, the mean over the
types, and the worst type. Finished runs are kept in `output_dir` and not repeated, so the command can be stopped and
given again; every run's curves lie in its folder.
"""

import argparse
import logging
import sys
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev

from transformers.utils.logging import disable_progress_bar

from modeling_unirain.training.arguments import Arguments, parse_arguments
from modeling_unirain.training.run_log import VALIDATION_LOG, read_records


sys.path.insert(0, str(Path(__file__).parents[1]))
from train_unirain import main as train


SMALL = {
    "encoder_hidden_sizes": [12, 24, 48],
    "encoder_depths": [1, 1, 2],
    "latent_hidden_size": 64,
    "latent_depth": 2,
    "decoder_hidden_sizes": [48, 24, 12],
    "decoder_depths": [2, 1, 1],
    "refinement_depth": 0,
}
ARCHITECTURES = {
    "symmetric soft": {"decoder_routing": "soft"},
    "symmetric hard": {"encoder_routing": "hard"},
    # One expert as wide as what the asymmetric network runs: three of 0.5 in the encoder, one of 1.5 in the decoder.
    "one dense expert of equal cost": {"expert_types": ["local"], "encoder_expansion": 1.5},
    "asymmetric, three equal experts": {"expert_types": ["local"] * 3},
}
OBJECTIVES = {
    "fixed weights, types as they come": {"objective_mode": "fixed", "sampling": "natural"},
    "fixed weights, type-balanced sampling": {"objective_mode": "fixed", "sampling": "balanced"},
    "the authors' released weighting": {"objective_mode": "released", "sampling": "natural"},
    "reweighted objective, type-balanced sampling": {"objective_mode": "unirain", "sampling": "balanced"},
}
FULL = "asymmetric MoE (soft encoder, hard decoder), reweighted objective, types as they come"
ROUNDS = 16


def variants() -> dict[str, dict]:
    """What to change, by name: each differs in one thing from the first, the architectures under its objective and the
    objectives with its architecture."""
    architectures = {name: {"model_overrides": overrides} for name, overrides in ARCHITECTURES.items()}
    return {FULL: {}} | architectures | OBJECTIVES


def arguments_of(recipe: str, variant: dict, seed: int, steps: int, output_dir: Path) -> Arguments:
    """The recipe's data with every type alike, a small network from nothing, an equal budget."""
    arguments = parse_arguments(["--recipe", recipe])
    training = replace(
        arguments.training,
        output_dir=output_dir,
        seed=seed,
        max_steps=steps,
        batch_size=8,
        patch_size=48,
        learning_rate=2e-3,
        warmup_steps=min(100, steps // 10),
        ema_decay=0.99,
        router_balance_coef=3e-4,
        router_deviation=2.0,
        validation_steps=max(1, steps // ROUNDS),
        save_steps=steps,
        resume_from="last" if any(output_dir.glob("checkpoint-*")) else None,
    )
    objective = replace(
        arguments.objective, objective_mode=variant.get("objective_mode", arguments.objective.objective_mode)
    )
    return replace(
        arguments,
        training=training,
        objective=objective,
        data=arguments.data | {"sampling": variant.get("sampling", "natural"), "type_shares": None},
        validation=arguments.validation | {"samples_per_type": 16, "crop_size": 128},
        phases=[],
        model_overrides=SMALL | variant.get("model_overrides", {}),
    )


def last_round(folder: Path, steps: int) -> dict[str, float] | None:
    """PSNR per type of a run's last validation round, or `None` when the run is not finished."""
    records = read_records(folder / VALIDATION_LOG)
    if not records or records[-1]["step"] < steps:
        return None
    return {name: result["psnr"] for name, result in records[-1]["per_type"].items()}


def table(results: dict[str, list[dict[str, float]]]) -> str:
    types = list(next(iter(results.values()))[0])
    lines = [
        "| variant | " + " | ".join(types) + " | mean | worst type | seeds |",
        "| --- |" + " --- |" * (len(types) + 3),
    ]
    for name, runs in results.items():
        columns = [[run[each] for run in runs] for each in types]
        columns += [[fmean(run.values()) for run in runs], [min(run.values()) for run in runs]]
        cells = [f"{fmean(c):.2f} ± {stdev(c):.2f}" if len(c) > 1 else f"{c[0]:.2f}" for c in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {len(runs)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="unirain", help="recipe whose data is used")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/ablations"))
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=list(variants()), help="some of the variants")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    disable_progress_bar()

    results: dict[str, list[dict[str, float]]] = {}
    for seed in range(
        options.seeds
    ):  # all variants of one seed first: a stopped benchmark still compares like with like
        for number, (name, variant) in enumerate(variants().items()):
            if options.only and name not in options.only:
                continue
            folder = options.output_dir / f"{options.steps}-{number:02d}-{seed}"
            if last_round(folder, options.steps) is None:
                outcome = train(arguments_of(options.recipe, variant, seed, options.steps, folder))
                if outcome.status != "finished":  # Ctrl-C ends the benchmark, not only the run
                    sys.exit(f"{outcome.status.capitalize()}: the same command goes on from here.")
            results.setdefault(name, []).append(last_round(folder, options.steps))
    print(f"\nPSNR (dB) after {options.steps} steps, averaged weights\n\n{table(results)}")


if __name__ == "__main__":
    main()
