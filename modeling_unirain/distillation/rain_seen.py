"""Where the network sees rain: what it would remove from either image of a pair, beside what the pair's maker removed.

The other measurements look at what was removed; this one also looks for rain that was left, in all of the target or in a part of it, and
for changes that are none of rain's. The network is the package's own, of one training run (`weights/`): `sound_pairs.json` was fitted with these
weights and belongs to them, and a release of better ones must not change which pairs are kept.

Two judges ask, so that two of three can see what only the network sees. Judges work one after the other, each over all pairs, so what
the first is told is kept for the second: the network takes about half a second a pair on one core, and the answer half a kilobyte.
"""

import hashlib
import math
from array import array
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from modeling_unirain.distillation.measurements import blocks, luma, quantiles, rms, working_crop
from modeling_unirain.distillation.sound_pairs import measured_with
from modeling_unirain.loading import load_model
from modeling_unirain.modeling_unirain import UniRainForImageDeraining


WEIGHTS = Path(__file__).with_name("weights")
"""The checkpoint that distillation asks; its README.md says which."""
SIZE = 256
"""Largest side of the central crop that the network sees: it is by far the slowest of the measurements."""
TILE = 48
"""Wide enough to hold a few streaks, small enough for 25 of them."""
SHARES = (0.1, 0.5, 0.9)
FAINT = 0.7
"""Grey levels that count as nothing where strengths are told."""
FAINT_ENERGY, FAINT_TILE_ENERGY = 300, 100
"""Energy of differences too faint for their likeness to count, of the crop and of a tile."""


def network_input(images: Tensor, divisor: int) -> Tensor:
    """(n, 3, height, width) in grey levels, as the network takes it: in [0, 1], sides mirrored up to multiples of `divisor`."""
    height, width = images.shape[2:]
    return F.pad(images / 255, (0, -width % divisor, 0, -height % divisor), mode="reflect")


class RainSeen:
    """The network as an instrument, on the CPU; loaded on first use, given back by `release`.

    What a pair was told the first time is kept until it asks again, in the same process; a third time it is measured anew.
    """

    def __init__(self) -> None:
        self._model: UniRainForImageDeraining | None = None
        self._names: tuple[str, ...] = ()
        self._kept: dict[bytes, array] = {}

    @staticmethod
    @cache
    def fingerprint() -> str:
        """SHA-256 of the network's configuration and weights.

        Raises:
            OSError: the package came without them.
        """
        try:
            files = [WEIGHTS.joinpath(name).read_bytes() for name in ("config.json", "model.safetensors")]
        except OSError as error:
            raise OSError(
                f"the local judges look for rain with the weights in {WEIGHTS}, which this installation lacks: install "
                "unirain again, or name other --judges"
            ) from error
        return hashlib.sha256(b"".join(files)).hexdigest()

    @classmethod
    def check(cls) -> None:
        """Raise `OSError` if the package came without the weights, `ValueError` if the judges were fitted with others."""
        if cls.fingerprint() != measured_with():
            raise ValueError(
                f"the local judges were fitted with other weights than those in {WEIGHTS}: run benchmarks/sound_pairs.py, "
                "or name other --judges"
            )

    def release(self) -> None:
        self._model = None

    def measure(self, rainy: np.ndarray, target: np.ndarray) -> dict[str, float]:
        """Scores of a pair, `uint8` (height, width, 3) each, at least 96 pixels a side."""
        images = torch.stack([working_crop(image, SIZE) for image in (rainy, target)])
        # The width too, since of flat pictures the bytes do not tell the shape.
        pair = hashlib.blake2b(images.numpy(), digest_size=16, salt=b"%d" % images.shape[-1]).digest()
        if (kept := self._kept.pop(pair, None)) is not None:
            return dict(zip(self._names, kept, strict=True))
        scores = self._scores(images)
        self._names, self._kept[pair] = tuple(scores), array("d", scores.values())
        return scores

    @torch.inference_mode()
    def _scores(self, images: Tensor) -> dict[str, float]:
        """Of query and target, `float32` (2, 3, height, width) in grey levels.

        Four differences are compared in luma: what the network removes from the query (the rainy image) and from the target, the layer
        (query minus target), and the rest, by which the cleaned query still differs from the target. Strengths, and one `beside` the other,
        are in octaves of grey levels; `alike` is a cosine. Of tiles, the usual one and the tenth at either end are told.
        """
        cleaned = self._cleaned(images)
        planes = {
            **{name: luma(removed) for name, removed in zip(("query", "target"), images - cleaned, strict=True)},
            "layer": luma(images[0] - images[1]),
            "rest": luma(cleaned[0] - images[1]),
        }
        strength = {name: math.log2(rms(plane) + FAINT) for name, plane in planes.items()}
        tiles = {name: blocks(plane, TILE) for name, plane in planes.items()}
        local = {name: torch.log2(part.square().mean(1).sqrt() + FAINT) for name, part in tiles.items()}

        def alike(one: str, other: str) -> float:
            a, b = planes[one], planes[other]
            return float((a * b).sum() / (a.norm() * b.norm() + FAINT_ENERGY))

        def tiles_alike(one: str, other: str) -> Tensor:
            a, b = tiles[one], tiles[other]
            return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + FAINT_TILE_ENERGY)

        return {
            **{f"seen_{name}": strength[name] for name in ("query", "layer", "rest")},
            "seen_rest_beside_layer": strength["rest"] - strength["layer"],
            "seen_query_alike_layer": alike("query", "layer"),
            **quantiles("seen_tiles_rest", local["rest"], SHARES),
            **quantiles("seen_tiles_query_beside_layer", local["query"] - local["layer"], SHARES),
            **quantiles("seen_tiles_rest_beside_layer", local["rest"] - local["layer"], SHARES),
            **quantiles("seen_tiles_query_alike_layer", tiles_alike("query", "layer"), SHARES),
            "left_target": strength["target"],
            "left_target_beside_query": strength["target"] - strength["query"],
            **{f"left_target_alike_{name}": alike("target", name) for name in ("query", "layer", "rest")},
            **quantiles("left_tiles_target", local["target"], SHARES),
            **quantiles("left_tiles_target_beside_query", local["target"] - local["query"], SHARES),
            **quantiles("left_tiles_target_alike_layer", tiles_alike("target", "layer"), SHARES),
        }

    def _cleaned(self, images: Tensor) -> Tensor:
        """(2, 3, height, width) in [0, 255], without what the network takes for rain."""
        if self._model is None:
            self._model = load_model(WEIGHTS).eval().to(memory_format=torch.channels_last)
        height, width = images.shape[2:]
        pixels = network_input(images, self._model.config.size_divisor)
        cleaned = self._model(pixels.contiguous(memory_format=torch.channels_last)).reconstruction
        return 255 * cleaned[:, :, :height, :width].clamp(0, 1).contiguous()
