"""Fits `modeling_unirain/distillation/sound_pairs.json`: what the scores of sound pairs are, for the local judges.

    python benchmarks/sound_pairs.py --work_dir DIR [--data data]

On sound pairs alone, all of the tuning half of `planted_candidates.py`: its stored pairs as they are and once more mirrored and reduced,
and rain rendered over its photographs. Each judge's limit is the distance that one share of the plain pairs stay within when their
photograph, and every other pair that shows it, is left out of the fit (not of the training of the judges' network, whose material
most pairs are): the least share, the same for all judges, at which two of three keep `KEPT` of the plain pairs. Measured scores are kept in DIR; the
planted defects take no part. To be run again when the weights that two judges ask
(`modeling_unirain/distillation/weights`) are replaced.
"""

import argparse
import json
import sys
import zlib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from planted_candidates import HALVED_SETS, drawn_pairs, rendered_over, stored_pairs
from tqdm import tqdm

from modeling_unirain.distillation.backends import LOCAL_JUDGES
from modeling_unirain.distillation.measurements import luma
from modeling_unirain.distillation.protocols import JudgeCase, RetrievedReference, Triplet
from modeling_unirain.distillation.rain_seen import RainSeen
from modeling_unirain.distillation.sound_pairs import fitted, save
from modeling_unirain.images import pictures_below, read_rgb
from modeling_unirain.types import RainType


PLAIN_PAIRS = 310
RENDERED_PER_TYPE = 100
KEPT = 0.92
"""Of sound pairs, by the majority: 90 % are wanted, and photographs from other sources fare a little worse than these."""
FOLDS = 5
NOTHING = np.zeros(1, np.float32)


def plain_pairs(corpus: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Photograph, rainy image, clean image: pairs as `distillation.py decisions` draws them."""
    for name, _, rainy, target in drawn_pairs(corpus, "tuning", PLAIN_PAIRS):
        photograph = name.split("-", 2)[2].rpartition("-")[0] if name.startswith("rendered") else name
        yield photograph, rainy, target


def more_pairs(corpus: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """The stored pairs mirrored and reduced, and other rain over the photographs."""
    rng = np.random.default_rng(5)
    for folder in HALVED_SETS:
        for name, _, rainy, target in stored_pairs(corpus, folder, "tuning"):
            factor = rng.uniform(0.7, 0.95)
            size = (round(rainy.shape[1] * factor), round(rainy.shape[0] * factor))
            if min(size) >= 160:
                yield name, *(_reduced(image[:, ::-1], size) for image in (rainy, target))
    for rain_type in RainType:
        for path, *images in rendered_over(corpus, "tuning", rain_type, RENDERED_PER_TYPE, "more "):
            yield path.stem, *images


def measured(corpus: Path, file: Path) -> dict[str, np.ndarray]:
    """Every judge's scores (pairs, names), the names, the folds (pairs,) and which are plain (pairs,)."""
    if not file.exists():
        rows: dict[str, list[dict]] = {name: [] for name in LOCAL_JUDGES}
        folds, plain = [], []
        with ProcessPoolExecutor(torch.get_num_threads(), get_context("spawn"), _start, (corpus / "real",)) as pool:
            for is_plain, pairs in ((True, plain_pairs(corpus)), (False, more_pairs(corpus))):
                for photograph, scores in tqdm(pool.map(_scores, pairs), desc="plain" if is_plain else "more"):
                    for name, row in scores.items():
                        rows[name].append(row)
                    folds.append(zlib.crc32(photograph.encode()) % FOLDS)
                    plain.append(is_plain)
        found = {name: np.array([list(row.values()) for row in scores]) for name, scores in rows.items()}
        names = {name: list(scores[0]) for name, scores in rows.items()}
        np.savez(file, **found, names=json.dumps(names), folds=np.array(folds), plain=np.array(plain))
    with np.load(file) as stored:
        return dict(stored)


def _start(folder: Path) -> None:
    """In a process of the pool: what every pair is measured with."""
    global references, judges
    torch.set_num_threads(1)
    references = _references(folder)
    judges = [judge() for judge in LOCAL_JUDGES.values()]
    for judge in judges:
        judge.load_statistics(judge.fit([triplet for triplet, _ in references]))


def _scores(pair: tuple[str, np.ndarray, np.ndarray]) -> tuple[str, dict[str, dict[str, float]]]:
    """The pair's photograph, and every judge's scores beside the three references that look most alike."""
    photograph, rainy, target = pair
    look = _look(rainy)
    near = sorted(references, key=lambda reference: float((look - reference[1]).norm()))[:3]
    shown = tuple(RetrievedReference(triplet, 0, 0, 0) for triplet, _ in near)
    with torch.inference_mode():
        case = JudgeCase("", _triplet(rainy), target, shown)
        return photograph, {judge.name: judge.measure(case) for judge in judges}


def left_out_distances(names: list[str], scores: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Distance of every pair (pairs,) from a fit that saw no pair of its fold."""
    distances = np.zeros(len(folds))
    for fold in range(FOLDS):
        model = fitted(names, scores[folds != fold])
        for row in np.flatnonzero(folds == fold):
            distances[row] = model.contributions(dict(zip(names, scores[row], strict=True))).sum()
    return distances


def limits_for(distances: np.ndarray) -> np.ndarray:
    """Limits (judges,) at one quantile of each judge's `distances` (judges, pairs), the least at which a majority keeps `KEPT`."""
    for share in np.arange(0.8, 1, 0.001):
        limits = np.quantile(distances, share, axis=1)
        kept = 2 * (distances <= limits[:, None]).sum(0) > len(distances)
        if kept.mean() >= KEPT:
            return limits
    return distances.max(1)


def _references(folder: Path) -> list[tuple[Triplet, torch.Tensor]]:
    """Real rainy photographs with what they look like from afar, by which the nearest are chosen here."""
    return [(_triplet(image), _look(image)) for image in map(read_rgb, pictures_below(folder))]


def _triplet(image: np.ndarray) -> Triplet:
    return Triplet(str(zlib.crc32(image.tobytes())), image, "", NOTHING, NOTHING)


def _look(image: np.ndarray) -> torch.Tensor:
    grey = luma(torch.from_numpy(image[::4, ::4].transpose(2, 0, 1).astype(np.float32)))
    cells = F.adaptive_avg_pool2d(grey[None], 16).flatten()
    return torch.cat([0.5 * (cells - cells.mean()) / (cells.std() + 5), cells.mean()[None] / 10])


def _reduced(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize(size, Image.Resampling.LANCZOS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work_dir", type=Path, required=True, help="what is measured; kept for the next time")
    parser.add_argument("--data", type=Path, default=Path("data"), help="the corpus's folder")
    arguments = parser.parse_args()
    for name in ("train", "clean", "real"):
        if not (arguments.data / name).is_dir():
            sys.exit(f"{arguments.data} holds no {name}/: give the corpus's folder with --data, or link it as data")
    arguments.work_dir.mkdir(parents=True, exist_ok=True)
    checkpoint = RainSeen.fingerprint()
    stored = measured(arguments.data, arguments.work_dir / f"scores-{checkpoint[:16]}.npz")
    folds, plain = stored["folds"], stored["plain"].astype(bool)
    judges = json.loads(str(stored["names"]))
    distances = np.stack([left_out_distances(names, stored[judge], folds) for judge, names in judges.items()])
    limits = limits_for(distances[:, plain])
    models = {}
    for (judge, names), limit in zip(judges.items(), limits, strict=True):
        models[judge] = fitted(names, stored[judge], float(f"{limit:.4g}"))
        print(f"{judge}: {len(names)} scores, {len(folds)} pairs, limit {limit:.4g}")
    save(models, checkpoint)


if __name__ == "__main__":
    main()
