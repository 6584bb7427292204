"""Measure the rainy inputs of the corpus's test sets and print them beside the figures that CORPUS.md gives.

    python benchmarks/inputs.py [--data data]

Every derained figure of this project is measured by the same code; where the two columns differ, none can be trusted.
"""

import argparse
import re
import sys
from pathlib import Path

from modeling_unirain.evaluation import evaluate_pairs, find_pairs


METRICS = ("psnr_rgb", "ssim_rgb", "psnr_y", "ssim_y")
ROW = re.compile(r"\| (\w+) \| (\w+) \| (\d+) \| [^|]* \| ([\d.]+) / ([\d.]+) \| ([\d.]+) / ([\d.]+) \|")


def stated_figures(corpus: Path) -> dict[str, list[str]]:
    """Dataset -> the four figures as CORPUS.md prints them."""
    rows = ROW.findall((corpus / "CORPUS.md").read_text(encoding="utf-8"))
    return {name: figures for name, _, _, *figures in rows}


def main(corpus: Path) -> bool:
    stated = stated_figures(corpus)
    report = evaluate_pairs(None, find_pairs(corpus / "test"))
    print("| set | type | pairs | RGB PSNR / SSIM, measured | stated | Y PSNR / SSIM, measured | stated |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    equal = True
    for mean in report.datasets():
        psnr, ssim, psnr_y, ssim_y = (mean.input[metric] for metric in METRICS)
        measured = [f"{psnr:.2f}", f"{ssim:.4f}"[1:], f"{psnr_y:.2f}", f"{ssim_y:.4f}"[1:]]
        told = stated[mean.dataset]
        equal &= measured == list(told)
        cells = [f"{first} / {second}" for figures in (measured, told) for first, second in (figures[:2], figures[2:])]
        rgb, luma, told_rgb, told_luma = cells
        print(f"| {mean.dataset} | {mean.rain_type} | {mean.images} | {rgb} | {told_rgb} | {luma} | {told_luma} |")
    print("every figure as stated" if equal else "FIGURES DIFFER")
    return equal


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder with CORPUS.md and test/")
    folder = parser.parse_args().data
    if not (folder / "CORPUS.md").is_file():
        sys.exit(f"{folder} holds no CORPUS.md: give the corpus's folder with --data, or link it as data")
    sys.exit(not main(folder))
