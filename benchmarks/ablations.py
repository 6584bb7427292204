"""What each of the paper's ideas is worth: `python benchmarks/ablations.py --recipe unirain --output_dir runs/ablations`.

Trains a small network several times at an equal budget of steps, changing one thing at a time, and prints a table of
mean and spread (standard deviation) over the seeds: PSNR per type on the same validation pictures, the mean over the
types, and the worst type; `curves.png` in `output_dir` shows them over the steps. Finished runs are kept in `output_dir` and not repeated,
so the command can be stopped and given again; with `--only`, several of it can share the work, and the command without it draws and prints all.
"""

import argparse
import logging
import sys
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from textwrap import fill

from matplotlib.figure import Figure
from transformers.utils.logging import disable_progress_bar

from modeling_unirain.files import written
from modeling_unirain.training.arguments import Arguments, parse_arguments
from modeling_unirain.training.run_log import CURVES, VALIDATION_LOG, read_records


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
    "modulation": False,  # the paper's network
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
}
CHANGES = ("transferred", "graded", "backgrounds", "rainless")
"""What a recipe does to pairs and photographs beyond what they are: more to learn than a short run comes to."""
STYLES = {"storm": 70, "sharp": 30}
FULL = "asymmetric MoE (soft encoder, hard decoder), reweighted objective, types as they come"
ROUNDS = 16


def variants() -> dict[str, dict]:
    """What to change, by name: each differs in one thing from the first, the architectures under its objective and the
    objectives with its architecture."""
    architectures = {name: {"model_overrides": overrides} for name, overrides in ARCHITECTURES.items()}
    return {FULL: {}} | architectures | OBJECTIVES


def plain(sources: list[dict]) -> list[dict]:
    """The same pairs and photographs, with rain as it is and in two styles of streaks."""
    kept = [{key: value for key, value in source.items() if key not in CHANGES} for source in sources]
    return [source | ({"styles": STYLES} if source["kind"] == "clean" else {}) for source in kept]


def arguments_of(recipe: str, variant: dict, seed: int, steps: int, output_dir: Path) -> Arguments:
    """The recipe's data made plain, every type alike, a small network from nothing, an equal budget."""
    arguments = parse_arguments(["--recipe", recipe])
    data = arguments.data | {"sampling": variant.get("sampling", "natural"), "type_shares": None}
    training = replace(
        arguments.training,
        output_dir=output_dir,
        seed=seed,
        max_steps=steps,
        batch_size=8,
        patch_size=48,
        learning_rate=2e-3,
        adam_beta2=0.95,  # from nothing ahead of 0.999 (docs/checkpoint.md)
        loss="l1",  # the paper's, whatever the recipe has moved on to
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
        data=data | {"sources": plain(data["sources"])},
        validation=arguments.validation
        | {"samples_per_type": 16, "crop_size": 128, "sources": plain(arguments.validation["sources"])},
        phases=[],
        model_overrides=SMALL | variant.get("model_overrides", {}),
    )


Round = dict[str, float]
"""PSNR per type of one validation round, and its `step`."""


def rounds_of(folder: Path, steps: int) -> list[Round] | None:
    """Every validation round of a run, or `None` when it is not finished."""
    records = read_records(folder / VALIDATION_LOG)
    if not records or records[-1]["step"] < steps:
        return None
    return [
        {"step": record["step"]} | {name: result["psnr"] for name, result in record["per_type"].items()}
        for record in records
    ]


def types_of(results: dict[str, list[list[Round]]]) -> list[str]:
    return [name for name in next(iter(results.values()))[0][0] if name != "step"]


def table(results: dict[str, list[list[Round]]]) -> str:
    """Markdown: the last round of every variant, mean and deviation over the seeds."""
    types = types_of(results)
    lines = [
        "| variant | " + " | ".join(types) + " | mean | worst type | seeds |",
        "| --- |" + " --- |" * (len(types) + 3),
    ]
    for name, runs in results.items():
        columns = [[run[-1][each] for run in runs] for each in types]
        columns += [[measure(run[-1][each] for each in types) for run in runs] for measure in (fmean, min)]
        cells = [f"{fmean(c):.2f} ± {stdev(c):.2f}" if len(c) > 1 else f"{c[0]:.2f}" for c in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {len(runs)} |")
    return "\n".join(lines)


def draw_curves(results: dict[str, list[list[Round]]], file: Path) -> None:
    """PSNR over the steps, a column for every type and one for their mean, architectures above objectives: mean over the
    seeds, and their range as a band."""
    types = types_of(results)
    readings = {name: lambda point, name=name: point[name] for name in types}
    readings["mean of the types"] = lambda point: fmean(point[name] for name in types)
    figure = Figure(figsize=(4 * len(readings), 8), layout="constrained")
    axes = figure.subplots(2, len(readings), sharex=True, sharey="col")
    for row, group in zip(axes, (ARCHITECTURES, OBJECTIVES), strict=True):
        for axis, (title, read) in zip(row, readings.items(), strict=True):
            for name in [name for name in results if name == FULL or name in group]:
                curves = [[read(point) for point in run] for run in results[name]]
                steps = [point["step"] for point in results[name][0]]
                axis.plot(steps, [fmean(values) for values in zip(*curves, strict=True)], label=fill(name, 36))
                lowest, highest = ([edge(v) for v in zip(*curves, strict=True)] for edge in (min, max))
                axis.fill_between(steps, lowest, highest, alpha=0.15)
            axis.set_title(f"{title}, PSNR (dB)")
            axis.grid(alpha=0.3)
        row[-1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
    for axis in axes[-1]:
        axis.set_xlabel("step")
    with written(file) as temporary:
        figure.savefig(temporary, format="png", dpi=70)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="unirain", help="recipe whose data is used")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/ablations"))
    parser.add_argument("--steps", type=int, default=2800)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=list(variants()), help="some of the variants")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    disable_progress_bar()

    results: dict[str, list[list[Round]]] = {}
    # All variants of one seed first: a stopped benchmark still compares like with like.
    for seed in range(options.seeds):
        for number, (name, variant) in enumerate(variants().items()):
            if options.only and name not in options.only:
                continue
            folder = options.output_dir / f"plain-{options.steps}-{number:02d}-{seed}"
            if rounds_of(folder, options.steps) is None:
                outcome = train(arguments_of(options.recipe, variant, seed, options.steps, folder))
                if outcome.status != "finished":  # Ctrl-C ends the benchmark, not only the run
                    sys.exit(f"{outcome.status.capitalize()}: the same command goes on from here.")
            results.setdefault(name, []).append(rounds_of(folder, options.steps))
    print(f"\nPSNR (dB) after {options.steps} steps, averaged weights\n\n{table(results)}")
    if not options.only:
        draw_curves(results, options.output_dir / CURVES)


if __name__ == "__main__":
    main()
