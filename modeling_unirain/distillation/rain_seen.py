"""Where the network sees rain: what it would remove from either image of a pair, beside what the pair's maker removed.

The other measurements look at what was removed; this one also looks for rain that was left, in all of the target or in a part of it, and
for changes that are none of rain's. `sound_pairs.json` was fitted with the bundled weights and belongs to them.
"""

import hashlib
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from modeling_unirain.checkpoint_unirain import resolve_checkpoint
from modeling_unirain.distillation.measurements import blocks, luma, quantiles, rms, working_crop
from modeling_unirain.modeling_unirain import UniRainForImageDeraining


SIZE = 256
"""Largest side of the crop that the network sees."""
TILE = 48
SHARES = (0.1, 0.5, 0.9)
FAINT = 0.7
"""Grey levels that count as nothing."""


class RainSeen:
    """The bundled network as an instrument, on the CPU; loaded on first use, given back by `release`."""

    def __init__(self) -> None:
        self._model: UniRainForImageDeraining | None = None

    @staticmethod
    @cache
    def fingerprint() -> str:
        """SHA-256 of the bundled weights."""
        return hashlib.sha256(_checkpoint().joinpath("model.safetensors").read_bytes()).hexdigest()

    @staticmethod
    def check() -> None:
        """Raise `OSError` if the package came without its weights."""
        if not _checkpoint().joinpath("model.safetensors").is_file():
            raise OSError(
                "the local judges look for rain with the bundled checkpoint, which this installation lacks: install "
                "unirain again, or name other --judges"
            )

    def release(self) -> None:
        self._model = None

    def measure(self, rainy: np.ndarray, target: np.ndarray) -> dict[str, float]:
        """Scores of a pair, `uint8` (height, width, 3) each, at least 96 pixels a side.

        Strengths are in octaves of grey levels, likenesses are cosines. Of tiles, the usual one and the tenth at either end are told.
        """
        images = torch.stack([working_crop(image, SIZE) for image in (rainy, target)])
        cleaned = self._cleaned(images)
        in_query, in_target = (luma(removed) for removed in images - cleaned)
        layer, rest = luma(images[0] - images[1]), luma(cleaned[0] - images[1])
        planes = {"query": in_query, "target": in_target, "layer": layer, "rest": rest}
        strength = {name: float(np.log2(rms(plane) + FAINT)) for name, plane in planes.items()}
        tiles = {name: blocks(plane, TILE) for name, plane in planes.items()}
        local = {name: torch.log2(part.square().mean(1).sqrt() + FAINT) for name, part in tiles.items()}
        return {
            **{f"seen_{name}": value for name, value in strength.items()},
            "seen_target_beside_query": strength["target"] - strength["query"],
            "seen_rest_beside_layer": strength["rest"] - strength["layer"],
            "seen_alike_query_target": _likeness(in_query, in_target),
            "seen_alike_query_layer": _likeness(in_query, layer),
            "seen_alike_target_layer": _likeness(in_target, layer),
            "seen_alike_target_rest": _likeness(in_target, rest),
            **quantiles("seen_tiles_target", local["target"], SHARES),
            **quantiles("seen_tiles_rest", local["rest"], SHARES),
            **quantiles("seen_tiles_target_beside_query", local["target"] - local["query"], SHARES),
            **quantiles("seen_tiles_query_beside_layer", local["query"] - local["layer"], SHARES),
            **quantiles("seen_tiles_rest_beside_layer", local["rest"] - local["layer"], SHARES),
            **quantiles("seen_tiles_alike_query_layer", _likenesses(tiles["query"], tiles["layer"]), SHARES),
            **quantiles("seen_tiles_alike_target_layer", _likenesses(tiles["target"], tiles["layer"]), SHARES),
        }

    def _cleaned(self, images: Tensor) -> Tensor:
        """(2, 3, height, width) in [0, 255], without what the network takes for rain."""
        if self._model is None:
            model = UniRainForImageDeraining.from_pretrained(_checkpoint()).eval()
            self._model = model.to(memory_format=torch.channels_last)
        height, width = images.shape[2:]
        divisor = self._model.config.size_divisor
        padded = F.pad(images / 255, (0, -width % divisor, 0, -height % divisor), mode="reflect")
        cleaned = self._model(padded.contiguous(memory_format=torch.channels_last)).reconstruction
        return 255 * cleaned[:, :, :height, :width].clamp(0, 1).contiguous()


def _checkpoint() -> Path:
    return Path(resolve_checkpoint("unirain"))


def _likeness(a: Tensor, b: Tensor) -> float:
    return float((a * b).sum() / (a.norm() * b.norm() + 300))


def _likenesses(a: Tensor, b: Tensor) -> Tensor:
    """Of each row."""
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 100)
