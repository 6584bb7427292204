"""Tiny data sets with known defects, fakes for what is slow, and a run of the pipeline over them."""

from pathlib import Path

import numpy as np
from distillation.fakes import FakeCaptioner, FakeImageEmbedder, FakeTextEmbedder, ScriptedJudge
from PIL import Image

from modeling_unirain.distillation.arguments import DistillationArguments
from modeling_unirain.distillation.pipeline import Backends, Distillation
from modeling_unirain.distillation.shards import Process


def scene(seed: int, height: int = 40, width: int = 56) -> np.ndarray:
    """A smooth random picture, `uint8` RGB."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(20, 200, (5, 7, 3), dtype=np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def rained(clean: np.ndarray, seed: int, amount: int = 70) -> np.ndarray:
    """Bright vertical strokes over a picture."""
    rng = np.random.default_rng(seed)
    picture = clean.astype(np.int16)
    for _ in range(40):
        row, column = rng.integers(0, clean.shape[0] - 8), rng.integers(0, clean.shape[1])
        picture[row : row + 8, column] += amount
    return picture.clip(0, 255).astype(np.uint8)


def save(path: Path, picture: np.ndarray, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path, **options)


def save_pair(folder: Path, stem: str, seed: int, rain: int | None = None) -> None:
    clean = scene(seed)
    save(folder / "input" / f"{stem}.png", rained(clean, seed if rain is None else rain))
    save(folder / "target" / f"{stem}.png", clean)


def build_data(root: Path) -> None:
    """Candidates of two types and 22 references, with one defect of every kind that the pipeline itself must find."""
    streaks, drops = root / "candidates" / "DRS" / "alpha", root / "candidates" / "NRD" / "beta"
    for i in range(10):
        save_pair(streaks, f"{i:03d}", seed=i)
    for i in range(6):
        save_pair(drops, f"n{i}", seed=50 + i)
    (streaks / "input" / "broken.png").write_bytes((streaks / "input" / "000.png").read_bytes()[:200])
    save(streaks / "target" / "broken.png", scene(0))
    save(streaks / "input" / "unequal.png", scene(90))
    save(streaks / "target" / "unequal.png", scene(90, height=41))
    save(streaks / "input" / "alone.png", scene(91))
    # The rainy picture of alpha/003 once more, saved anew as a JPEG, in another data set.
    save(drops / "input" / "again.jpg", rained(scene(3), 3), quality=92)
    save(drops / "target" / "again.png", scene(3))
    # The scene of alpha/004 under other rain: no duplicate.
    save_pair(drops, "other_rain", seed=4, rain=999)
    pairs = root / "candidates" / "DRS" / "sides" / "pair"
    for i in range(2):
        clean = scene(70 + i)
        save(pairs / f"s{i}.png", np.concatenate([clean, rained(clean, i)], axis=1))
    for i in range(20):
        save(
            root / "references" / ("DRS" if i % 2 else "NRD") / "deep" / f"real{i:02d}.jpg", rained(scene(200 + i), i)
        )
    save(root / "references" / "loose.png", scene(300))
    (root / "references" / "broken.jpg").write_bytes(b"\xff\xd8\xff not a picture")


def brighter_than(level: int):
    return lambda case: bool(case.query.image.mean() > level)


def backends(**changes) -> Backends:
    parts = {
        "captioner": FakeCaptioner(),
        "text_embedder": FakeTextEmbedder(),
        "image_embedder": FakeImageEmbedder(),
        "judges": (
            ScriptedJudge("bright", brighter_than(95)),
            ScriptedJudge("dim", brighter_than(110)),
            ScriptedJudge("shy", lambda case: None if case.query.image.mean() < 105 else True),
        ),
    }
    return Backends(**{**parts, **changes})


def arguments(data: Path, where: Path, **changes) -> DistillationArguments:
    options = {
        "candidates": [str(data / "candidates")],
        "references": [str(data / "references")],
        "work_dir": str(where / "work"),
        "output_dir": str(where / "output"),
        "k1": 9,
        "k2": 5,
        "k3": 2,
        "shard_size": 8,
        "batch_size": 3,
        "rows_per_file": 5,
        "wait_timeout": 600.0,
    }
    return DistillationArguments(**{**options, **changes})


def distil(data: Path, where: Path, backend_changes: dict | None = None, **changes):
    """One process, from nothing to the corpus."""
    return Distillation(arguments(data, where, **changes), backends(**(backend_changes or {})), Process()).run()


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
