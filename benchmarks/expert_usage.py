"""Which experts a checkpoint uses, block by block: `python benchmarks/expert_usage.py [PICTURE_OR_FOLDER ...]`.

Folders are searched for pictures; without any, the four examples are taken. Prints one row a MoE block: the mean weight
of each expert in the encoder, where all are blended, and the share of the pictures that each is run for in the decoder.
"""

import argparse
from pathlib import Path

import numpy as np
from tqdm import tqdm

from modeling_unirain import load_derainer
from modeling_unirain.images import open_image, pictures_below


EXAMPLES = Path(__file__).parents[1] / "examples"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("places", nargs="*", type=Path, default=sorted(EXAMPLES.glob("*.jpg")))
    parser.add_argument("--checkpoint", default="unirain")
    parser.add_argument("--device")
    arguments = parser.parse_args()
    derainer = load_derainer(arguments.checkpoint, arguments.device)
    paths = [path for place in arguments.places for path in (pictures_below(place) if place.is_dir() else [place])]
    routes = np.array([derainer.restore(open_image(path))[1] for path in tqdm(paths, unit="picture", disable=None)])
    config = derainer.model.config
    print(f"{len(paths)} pictures, {arguments.checkpoint}\n")
    print("| block | " + " | ".join(config.expert_types) + " |\n| --- |" + " --- |" * config.num_experts)
    names = [
        f"{side}, level {level}, block {block}"
        for side, depths in (("encoder", config.encoder_depths), ("decoder", config.decoder_depths))
        for level, depth in enumerate(depths, 1)
        for block in range(1, depth + 1)
    ]
    for index, name in enumerate(names):
        weights = routes[:, index]
        hard = (weights == 0).any()
        cells = (weights > 0).mean(0) if hard else weights.mean(0)
        print(f"| {name} | " + " | ".join(f"{cell:.0%}" if hard else f"{cell:.2f}" for cell in cells) + " |")


if __name__ == "__main__":
    main()
