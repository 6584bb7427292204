"""Fit the pristine model of `modeling_unirain/niqe.py` on openly licensed photographs and write it into the package.

    python benchmarks/niqe_pristine.py FOLDER

FOLDER holds the photographs of Debian's packages `lomiri-wallpapers-16.04` and `lomiri-wallpapers-20.04`
(`/usr/share/backgrounds`); the others come with scikit-image and scikit-learn. Pictures longer than 1280 pixels are
reduced, as in the paper, whose photographs are 480 x 320 to 1280 x 720.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from skimage import data
from sklearn.datasets import load_sample_image
from tqdm import tqdm

from modeling_unirain.niqe import PRISTINE_FILE, fit_pristine


LONG_SIDE = 1280
SOURCES = {
    "aitzgorri_by_Aitzol_Berasategi.jpg": "Aitzol Berasategi, CC BY 4.0",
    "Bridge_by_Sander_Klootwijk.jpg": "Sander Klootwijk, CC BY-SA 4.0",
    "Dragonfly_by_Bolly.jpg": "Bolly, CC BY-SA 4.0",
    "free_by_Peter_Nerlich.jpg": "Peter Nerlich, CC BY-SA 4.0",
    "friends_by_Aitzol_Berasategi.jpg": "Aitzol Berasategi, CC BY 4.0",
    "Kleiber_by_Lukas_Baubkus.jpg": "Lukas Baubkus, CC BY-SA 3.0",
    "life_by_Aitzol_Berasategi.jpg": "Aitzol Berasategi, CC BY 4.0",
    "picosdeeuropa_by_Aitzol_Berasategi.jpg": "Aitzol Berasategi, CC BY 4.0",
    "Picture_0B_by_freespace.jpg": "Trevor 'Freespace', CC BY 4.0",
    "Picture_1A_by_freespace.jpg": "Trevor 'Freespace', CC BY 4.0",
    "seeding_by_Clements_Engelhardt.jpg": "Clemens Engelhardt, CC0",
    "sunset_by_Aitzol_Berasategi.jpg": "Aitzol Berasategi, CC BY 4.0",
    "Wine_by_Jakkub_Mede.jpg": "Jakub Mede, CC BY 4.0",
    "scikit-learn china.jpg": "danielbuechele, CC BY 2.0",
    "scikit-learn flower.jpg": "vultilion, CC BY 2.0",
    "scikit-image astronaut": "NASA, public domain",
    "scikit-image camera": "Lav Varshney, CC0",
    "scikit-image rocket": "SpaceX, public domain",
}


def read(source: str, folder: Path) -> torch.Tensor:
    """One photograph as (1, 3 or 1, height, width) in [0, 1], at most 1280 pixels long."""
    package, _, name = source.rpartition(" ")
    if package == "scikit-image":
        image = Image.fromarray(getattr(data, name)())
    elif package == "scikit-learn":
        image = Image.fromarray(load_sample_image(name))
    else:
        image = Image.open(folder / source).convert("RGB")
    image.thumbnail((LONG_SIDE, LONG_SIDE), Image.Resampling.LANCZOS)
    pixels = np.atleast_3d(np.array(image))
    return torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255


def main(folder: Path) -> None:
    images = (read(source, folder) for source in tqdm(SOURCES, desc="photographs"))
    pristine = fit_pristine(images)
    fitted = {"sources": SOURCES, "mean": pristine.mean.tolist(), "covariance": pristine.covariance.tolist()}
    lines = [f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in fitted.items()]
    PRISTINE_FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    print(f"{PRISTINE_FILE.name}: {len(SOURCES)} photographs")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
