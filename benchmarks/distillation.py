"""Is the distillation right, worth its parts, fast enough, and of help? Prints the tables of docs/distillation.md.

    python benchmarks/distillation.py decisions --work_dir DIR [--data data] [--pairs 240]
    python benchmarks/distillation.py scale --work_dir DIR [--data data] [--pairs 532] [--references 1000 ...]
    python benchmarks/distillation.py helps --work_dir DIR [--data data] [--steps 1500] [--minutes 60] [--variants all]

decisions: `planted_candidates.py` mixes sound pairs with planted defects; preset `local` distils them. Right decisions of the tuning
    half and of the final half, per kind and per source, and what is left of them without a part of the method.
scale: pairs a second of every stage with one and two processes, what two million pairs would take by these figures; the recall
    of IVF against the exact index, and the memory of a search and of building the index, among more and more references.
helps: trains the tiny network, for three seeds and equally many steps, on all candidates of the final half and on what was
    kept of them (`--variants all`: by each part of the method alone, too), and measures each on the real test sets. Needs the
    folder of `decisions`. Finished runs are kept; the command can be stopped, or sent away after `--minutes`, and given again.

DATA is a folder laid out as the README says, with `train`, `test`, `clean` and `real`.
"""

import argparse
import logging
import sys
from pathlib import Path

import torch
from distillation_decisions import decisions
from distillation_helps import helps
from distillation_scale import scale


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="benchmark", required=True)
    for name in ("decisions", "scale", "helps"):
        command = commands.add_parser(name)
        command.add_argument("--work_dir", type=Path, required=True, help="what is computed; kept for the next time")
        command.add_argument("--data", type=Path, default=Path("data"), help="the corpus's folder")
        if name == "decisions":
            command.add_argument("--pairs", type=int, default=240, help="sound pairs of each half")
        elif name == "scale":
            command.add_argument("--pairs", type=int, default=532, help="of data/train, to be timed")
            command.add_argument("--references", type=int, nargs="+", default=[1_000, 10_000, 100_000, 300_000])
        else:
            command.add_argument("--steps", type=int, default=1500, help="of each training run")
            command.add_argument("--seeds", type=int, default=3)
            command.add_argument("--minutes", type=float, help="stop after this long; give the command again to go on")
            command.add_argument("--variants", nargs="+", default=["merged", "distilled"], help="names, or all")
            command.add_argument("--images", type=int, help="of each test set, evenly spread; default: all")
    return parser.parse_args(argv)


def main() -> None:
    arguments = parse(sys.argv[1:])
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    for name in ("train", "real"):
        if not (arguments.data / name).is_dir():
            sys.exit(f"{arguments.data} holds no {name}/: give the corpus's folder with --data, or link it as data")
    options = vars(arguments)
    benchmark = {"decisions": decisions, "scale": scale, "helps": helps}[options.pop("benchmark")]
    arguments.work_dir.mkdir(parents=True, exist_ok=True)
    try:
        benchmark(**options)
    except (ValueError, OSError) as error:
        sys.exit(f"benchmarks/distillation.py: {error}")


if __name__ == "__main__":
    main()
