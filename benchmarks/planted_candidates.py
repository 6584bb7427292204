"""A candidate set about half of which is sound, with defects planted in known places, for `benchmarks/distillation.py`.

Two halves that share no pair, no photograph for rendering and no kind of defect: `tuning`, which the limits of the local judges
were set on, and `final`. `robotcar_tiles` stands apart: its pairs are misaligned by 1 to 3 pixels, so whether they are sound is
the question, not the answer. The corpus's test sets are not touched.
"""

import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from fresh_defects import FINAL
from PIL import Image
from planted_defects import NEED_ANOTHER, TUNING
from tqdm import tqdm

from modeling_unirain.images import read_rgb
from modeling_unirain.rain import render_rain
from modeling_unirain.types import RainType


DEFECTS = {"tuning": TUNING, "final": FINAL}
SPLITS = tuple(DEFECTS)
SALT = {"tuning": "", "final": "sixth "}
"""Which pairs are drawn. The final half's are drawn anew whenever its kinds of defects are, with a new word here."""
HALVED_SETS = ("DRS/rain800", "DRS/nitedr_day", "NRS/nitedr_night")
FINAL_SETS = ("DRS/carlarain_day", "NRS/carlarain_night", "NRS/bdd_night")
APART = "DRD/robotcar_tiles"
BACKGROUNDS = {
    "tuning": {
        "day": ("bsds500", "camvid360", "demophotos", "deepphotostyle"),
        "night": ("amos", "darkdemo", "deepphotostyle"),
    },
    "final": {
        "day": ("kodak24", "urban100", "unsplash", "sunhays80"),
        "night": ("nightscapes", "mefsets", "dicm_lime", "wxbs", "urban100", "unsplash"),
    },
}
SEVERITY = (0.1, 0.7)
"""Rendered rain from faint to heavy; beyond lie near-clean and drowned pictures, which no one can call sound or not."""
LARGEST_SIDE = 768

NamedPair = tuple[str, str, np.ndarray, np.ndarray]
"""Name, type, rainy image, clean image."""


def build_candidates(corpus: Path, folder: Path, pairs: int) -> None:
    """Write `folder/TYPE/SPLIT_KIND/{input,target}/STEM.png`; `pairs` sound and about as many planted pairs per split."""
    done = folder.parent / "candidates.done"
    if done.exists():
        if done.read_text() != str(pairs):
            raise ValueError(f"{folder} was built with --pairs {done.read_text()}: choose another --work_dir")
        return
    for split in SPLITS:
        pool = list(drawn_pairs(corpus, split, 2 * pairs))
        sound, spoilt = pool[::2], pool[1::2]
        for name, rain_type, rainy, target in tqdm(sound, desc=f"{split}: sound"):
            _save(folder, rain_type, f"{split}_sound", name, rainy, target)
        kinds = list(DEFECTS[split])
        for number, (name, rain_type, rainy, target) in enumerate(tqdm(spoilt, desc=f"{split}: planted")):
            kind = kinds[number % len(kinds)]
            rng = np.random.default_rng(zlib.crc32(f"{kind} {name}".encode()))
            if kind == "twice_saved":
                name, rain_type, rainy, target = sound[number % len(sound)]
            more = ()
            if kind in NEED_ANOTHER:
                others = [pair for pair in pool if set_of(pair[0]) == set_of(name) and pair[0] != name] or sound
                more = (others[int(rng.integers(len(others)))][2:],)
            spoilt_pair = DEFECTS[split][kind](rainy, target, rng, *more)
            _save(folder, rain_type, f"{split}_{kind}", name, *spoilt_pair)
    for name, rain_type, rainy, target in tqdm(stored_pairs(corpus, APART, None), desc="apart"):
        _save(folder, rain_type, "apart_robotcar", name, rainy, target)
    done.write_text(str(pairs))


def set_of(name: str) -> str:
    return name.partition("-")[0]


def drawn_pairs(corpus: Path, split: str, count: int) -> Iterator[NamedPair]:
    """`count` pairs in a fixed order that mixes the sources; about half are rendered."""
    stored = [pair for name in HALVED_SETS for pair in stored_pairs(corpus, name, split)]
    stored += [pair for name in FINAL_SETS if split == "final" for pair in stored_pairs(corpus, name, None)]
    stored = sorted(stored, key=lambda pair: zlib.crc32((SALT[split] + pair[0]).encode()))[: count // 2]
    rendered = _rendered_pairs(corpus, split, count - len(stored))
    yield from sorted([*stored, *rendered], key=lambda pair: zlib.crc32(f"order {pair[0]}".encode()))


def stored_pairs(corpus: Path, name: str, split: str | None) -> Iterator[NamedPair]:
    folder = corpus / "train" / name
    targets = {path.stem: path for path in (folder / "target").iterdir()}
    for path in sorted((folder / "input").iterdir()):
        if split is None or SPLITS[zlib.crc32(path.stem.encode()) % 2] == split:
            rainy, target = cropped(read_rgb(path)), cropped(read_rgb(targets[path.stem]))
            yield f"{folder.name}-{path.stem}", folder.parent.name, rainy, target


def _rendered_pairs(corpus: Path, split: str, count: int) -> Iterator[NamedPair]:
    """Rain of the four types, a quarter each."""
    for number, rain_type in enumerate(RainType):
        share = count // 4 + (number < count % 4)
        rendered = rendered_over(corpus, split, rain_type, share, SALT[split])
        for turn, (path, *images) in enumerate(tqdm(rendered, f"{split}: rendering {rain_type}", share)):
            yield f"rendered{rain_type.lower()}-{path.parent.name}-{path.stem}-{turn}", rain_type, *images


def rendered_over(
    corpus: Path, split: str, rain_type: str, count: int, salt: str
) -> Iterator[tuple[Path, np.ndarray, np.ndarray]]:
    """Photograph, rainy image, clean image, the photographs of the half in a fixed order; one may serve several seeds."""
    light = "night" if rain_type.startswith("N") else "day"
    folders = [corpus / "clean" / light / name for name in BACKGROUNDS[split][light]]
    files = [path for folder in folders for path in sorted(folder.iterdir())]
    files.sort(key=lambda path: zlib.crc32(f"{salt}{rain_type} {path.parent.name} {path.name}".encode()))
    for turn in range(count):
        path = files[turn % len(files)]
        seed = zlib.crc32(f"{salt}{rain_type} {path.name} {turn}".encode())
        severity = float(np.random.default_rng(seed).uniform(*SEVERITY))
        pair = render_rain(cropped(read_rgb(path)), rain_type, seed, severity=severity)
        yield path, *((image * 255 + 0.5).astype(np.uint8) for image in (pair.rainy, pair.clean))


def cropped(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    top, left = max(height - LARGEST_SIDE, 0) // 2, max(width - LARGEST_SIDE, 0) // 2
    return image[top : top + LARGEST_SIDE, left : left + LARGEST_SIDE]


def _save(folder: Path, rain_type: str, name: str, stem: str, rainy: np.ndarray, target: np.ndarray) -> None:
    for part, image in (("input", rainy), ("target", target)):
        path = folder / rain_type / name / part / f"{stem}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.ascontiguousarray(image)).save(path, compress_level=1)
