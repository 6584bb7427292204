"""Makes an exported checkpoint the one that comes with the package:

    python benchmarks/release.py runs/unirain/export --data data/test rendered

`rendered` is what `benchmarks/rendered_sets.py` writes. With `--blend OTHER SHARE`, the weights are SHARE of the export's and
the rest of those of OTHER, another run's checkpoint (model soups, Wortsman et al., ICML 2022).
Stores the weights in float16, measures what is then bundled on the test sets, and writes the figures into the card and
into the README; the full report, with its sheets, is written beside the export. Distillation
keeps to weights of its own (`modeling_unirain/distillation/weights`), so that a release changes none of its verdicts.
"""

import argparse
import json
import re
import shutil
from pathlib import Path

import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

from modeling_unirain import load_derainer
from modeling_unirain.checkpoint_unirain import HUB_REPOSITORIES
from modeling_unirain.evaluation import EvaluationReport, evaluate, find_pairs


ROOT = Path(__file__).parents[1]
BUNDLED = ROOT / "modeling_unirain" / "checkpoints" / "unirain"
KEPT = ("config.json", "preprocessor_config.json", "model.safetensors", "README.md")
"""The package has the code already; `save_pretrained` adds it to every copy."""
DATA = """
Pairs: Rain800's training part (Zhang et al., ID-CGAN), NiteDR's (Shi et al.; FLIR RoadScene frames), CARLARain (MIT) and
four of CST-Net on BDD, test scenes left out. Rain rendered by `modeling_unirain.rain` over clean photographs: BSDS500, SelfExSR's
collections, Unsplash, CamVid, AMOS, BDD and MSRS driving frames, the targets of NiteDR's training pairs, demonstration and low-light
images of research repositories; streak layers of Garg and Nayar (2006). Most of it was released for research, without a general licence: these
weights are for research use unless cleared.
"""
"""What the released checkpoint was trained on, and whose it is."""
EXPORTED = "The averaged weights (EMA) of the best validation round are exported."
"""What the card of a run says of its weights."""
README_MARKS = re.compile(r"(<!-- results -->\n).*?(<!-- /results -->)", re.DOTALL)


def bundle(export: Path, folder: Path, other: Path | None, share: float) -> None:
    """Copy an export without its code, blend it, and halve its weights; they still load as float32."""
    weights = load_file(export / "model.safetensors")
    # Before they are overwritten, if they are what is bundled.
    others = load_file(other / "model.safetensors") if other else weights
    folder.mkdir(parents=True, exist_ok=True)
    for name in KEPT:
        shutil.copyfile(export / name, folder / name)
    if other:
        if others.keys() != weights.keys():
            raise SystemExit(f"{export} and {other} cannot be blended: their networks differ.")
        weights = {name: torch.lerp(others[name].float(), weight.float(), share) for name, weight in weights.items()}
    weights = {name: weight.to(torch.float16) for name, weight in weights.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["dtype"] = "float32"
    for name in ("auto_map", "custom_pipelines"):  # what names the code
        config.pop(name, None)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def table(report: EvaluationReport) -> str:
    """Markdown: every test set, rainy input and derained output."""
    lines = [
        "| test set | type | images | PSNR on Y (dB) | SSIM on Y | PSNR in RGB (dB) | SSIM in RGB |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for mean in report.datasets():
        cells = [
            f"{mean.input[metric]:.{digits}f} → **{mean.output[metric]:.{digits}f}**"
            for metric, digits in (("psnr_y", 2), ("ssim_y", 4), ("psnr_rgb", 2), ("ssim_rgb", 4))
        ]
        lines.append(f"| {mean.dataset} | {mean.rain_type} | {mean.images} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("export", type=Path)
    parser.add_argument("--data", nargs="+", required=True, help="folders of test sets, TYPE/NAME/{input,target}")
    parser.add_argument("--blend", nargs=2, metavar=("OTHER", "SHARE"), help="another export, and the share of EXPORT")
    arguments = parser.parse_args()

    other, share = (Path(arguments.blend[0]), float(arguments.blend[1])) if arguments.blend else (None, 1.0)
    bundle(arguments.export, BUNDLED, other, share)
    pairs = [pair for folder in arguments.data for pair in find_pairs(folder)]
    report = evaluate(load_derainer(BUNDLED), pairs, arguments.export.parent / "report", overwrite=True)
    results = table(report)

    card = ModelCard.load(BUNDLED / "README.md")
    # The run's own name and validation make room for the checkpoint's.
    card.text = re.sub(r"\A\s*# .*", "\n# unirain", card.text)
    card.text = re.sub(r"\n## (Results|Test sets)\n.*?(?=\n## )", "", card.text, flags=re.DOTALL)
    if other:
        card.text = card.text.replace(
            EXPORTED,
            f"{share:g} of the weights are this run's averages (EMA), {1 - share:g} those of another run.",
        )
    card.text = card.text.replace(
        "\n## Training data\n",
        f"\n## Test sets\n\nRainy input → derained, never trained on.\n\n{results}\n\n## Training data\n{DATA}",
    )
    card.text = card.text.replace("REPOSITORY", HUB_REPOSITORIES["unirain"])
    card.save(BUNDLED / "README.md")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (ROOT / "README.md").write_text(README_MARKS.sub(rf"\g<1>\n{results}\n\n\g<2>", readme), encoding="utf-8")
    print(results)


if __name__ == "__main__":
    main()
