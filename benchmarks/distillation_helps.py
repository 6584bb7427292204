"""`benchmarks/distillation.py helps`: networks trained equally long on all candidates and on what the distillation keeps."""

import hashlib
import json
import logging
import sys
import time
from pathlib import Path
from statistics import fmean, stdev

from distillation_decisions import decided, without_parts
from transformers.utils.logging import disable_progress_bar

from modeling_unirain import load_derainer
from modeling_unirain.evaluation import EvaluationPair, evaluate_pairs, find_pairs
from modeling_unirain.training.arguments import parse_arguments


ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from train_unirain import main as train  # noqa: E402


logger = logging.getLogger(__name__)

MERGED, DISTILLED = "merged", "distilled"


def helps(
    data: Path, work_dir: Path, steps: int, seeds: int, minutes: float | None, variants: list[str], images: int | None
) -> None:
    """Train what is missing, then print the table of what there is."""
    ends = time.monotonic() + 60 * minutes if minutes else float("inf")
    disable_progress_bar()
    for library in ("accelerate", "transformers", "modeling_unirain"):
        logging.getLogger(library).setLevel(logging.WARNING)
    corpora = _corpora(data, work_dir, variants)
    pairs = _test_pairs(data / "test", images)
    results: dict[str, dict[int, dict]] = {name: {} for name in corpora}
    for seed in range(seeds):  # all corpora of one seed first: a stopped benchmark still compares like with like
        for name, folder in corpora.items():
            run = work_dir / "helps" / f"{folder.name}-{steps}-{seed}"
            file = run / f"test-{images or 'all'}.json"
            if not file.exists() and time.monotonic() < ends and _trained(folder, run, steps, seed, ends):
                # The last weights: the best ones would be those that suit the corpus's own validation pictures, defects and all.
                derain = load_derainer(str(run / f"checkpoint-{steps:08d}" / "ema"))
                report = evaluate_pairs(derain, pairs)
                figures = {
                    mean.dataset: {"input": mean.input["psnr_rgb"], "output": mean.output["psnr_rgb"]}
                    for mean in report.datasets()
                }
                file.write_text(json.dumps(figures, indent=2) + "\n")
            if file.exists():
                results[name][seed] = json.loads(file.read_text())
    missing = seeds * len(corpora) - sum(map(len, results.values()))
    print(_table(results, {name: _count(folder) for name, folder in corpora.items()}, steps))
    if missing:
        print(f"\n{missing} of {seeds * len(corpora)} runs are missing: the same command goes on from here.")


def _trained(folder: Path, run: Path, steps: int, seed: int, ends: float) -> bool:
    """Whether the run is finished; otherwise its checkpoint is kept and it goes on from there the next time."""
    if (run / "trained").exists():
        return True
    run.mkdir(parents=True, exist_ok=True)
    recipe = run / "recipe.yaml"
    recipe.write_text(_recipe(folder, steps))
    options = ["--recipe", str(recipe), "--output_dir", str(run), "--seed", str(seed), "--resume_from", "last"]
    if ends < float("inf"):
        options += ["--max_minutes", str(max(0.1, (ends - time.monotonic()) / 60))]
    outcome = train(parse_arguments(options))
    logger.info("%s: %s after %d steps", run.name, outcome.status, outcome.step)
    if outcome.status == "interrupted":
        sys.exit("Interrupted: the same command goes on from here.")
    if outcome.status == "finished":
        (run / "trained").touch()
    return outcome.status == "finished"


def _recipe(root: Path, steps: int) -> str:
    """JSON, which is YAML. Equal weights: a single validation round, at the end, has no slopes."""
    types = sorted(path.name for path in root.iterdir())
    source = {"kind": "paired", "root": str(root)}
    recipe = {
        "model": "unirain-tiny",
        "cpu": True,
        "max_steps": steps,
        "batch_size": 8,
        "patch_size": 64,
        "learning_rate": 2e-3,
        "warmup_steps": steps // 10,
        "ema_decay": 0.99,
        "num_workers": 1,
        "validation_steps": steps,
        "save_steps": steps,
        "data": {"types": types, "sources": [source]},
        "validation": {"samples_per_type": 4, "crop_size": 64, "sources": [source]},
    }
    return json.dumps(recipe, indent=2) + "\n"


def _corpora(data: Path, work_dir: Path, variants: list[str]) -> dict[str, Path]:
    """Name -> folder of links to the candidates that this variant keeps: of the final half, and `robotcar_tiles`."""
    if not (work_dir / "distilled" / "distillation.json").is_file():
        raise ValueError(f"{work_dir} holds no finished decisions: run 'benchmarks/distillation.py decisions' with it")
    rows = [row for row in decided(work_dir) if row["split"] != "tuning"]
    choices = {
        MERGED: {row["pair_id"]: True for row in rows},
        DISTILLED: {row["pair_id"]: row["kept"] for row in rows},
        **(without_parts(rows, work_dir, data / "real") if set(variants) - {MERGED, DISTILLED} else {}),
    }
    names = list(choices) if variants == ["all"] else variants
    unknown = [name for name in names if name not in choices]
    if unknown:
        raise ValueError(f"there is no variant '{unknown[0]}'; there are {', '.join(choices)}")
    return {name: _linked(rows, choices[name], work_dir, name) for name in names}


def _linked(rows: list[dict], kept: dict[str, bool], work_dir: Path, name: str) -> Path:
    digest = hashlib.sha256("\n".join(sorted(pair_id for pair_id in kept if kept[pair_id])).encode()).hexdigest()
    folder = work_dir / "helps" / "corpora" / f"{name.replace(' ', '-')}-{digest[:8]}"  # other decisions, other runs
    for row in rows:
        rainy = work_dir / row["origin"]
        for picture in (rainy, rainy.parents[1] / "target" / rainy.name) if kept[row["pair_id"]] else ():
            link = folder / picture.relative_to(work_dir / "candidates")
            if not link.exists():
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(picture.resolve())
    return folder


def _count(folder: Path) -> int:
    return sum(1 for _ in folder.rglob("input/*"))


def _test_pairs(folder: Path, images: int | None) -> list[EvaluationPair]:
    """All test pairs, or `images` of each set, evenly spread."""
    sets: dict[tuple, list[EvaluationPair]] = {}
    for pair in find_pairs(str(folder)):
        sets.setdefault(pair.key[:2], []).append(pair)
    return [
        pair for pairs in sets.values() for pair in pairs[:: max(1, len(pairs) // images) if images else 1][:images]
    ]


def _table(results: dict[str, dict[int, dict]], pairs: dict[str, int], steps: int) -> str:
    """PSNR in RGB, mean and standard deviation over the seeds, and the gain over everything merged, seed by seed."""
    finished = {name: runs for name, runs in results.items() if runs}
    if not finished:
        return "No run is finished."
    any_run = next(iter(next(iter(finished.values())).values()))
    sets, inputs = list(any_run), [figures["input"] for figures in any_run.values()]
    lines = [
        f"\nPSNR (dB) after {steps} steps of 8 patches; averages of the test sets count each set once\n",
        f"| corpus | pairs | seeds | {' | '.join(sets)} | average | over merged |",
        "| --- | ---: | ---: |" + " ---: |" * (len(sets) + 2),
        f"| rainy input | | | {' | '.join(f'{value:.2f}' for value in inputs)} | {fmean(inputs):.2f} | |",
    ]
    averages = {
        name: {seed: fmean(run[each]["output"] for each in sets) for seed, run in runs.items()}
        for name, runs in finished.items()
    }
    for name, runs in finished.items():
        cells = [_spread([run[each]["output"] for run in runs.values()]) for each in sets]
        cells.append(_spread(list(averages[name].values())))
        common = sorted(averages[name].keys() & averages.get(MERGED, {}).keys())
        gains = [averages[name][seed] - averages[MERGED][seed] for seed in common]
        cells.append(_spread(gains, "+") if gains and name != MERGED else "")
        lines.append(f"| {name} | {pairs[name]} | {len(runs)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _spread(values: list[float], sign: str = "") -> str:
    return f"{fmean(values):{sign}.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")
