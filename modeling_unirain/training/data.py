"""Training and validation pictures: paired folders, `datasets` corpora, and photographs with rain rendered on the fly.

    DataConfig -> RainDataset: sample n -> (type, source, item) -> decode (cached) -> crop -> [render rain] -> flip, rotate

Nothing here keeps a random state. Which pair sample `index` of epoch `epoch` shows, and everything random about it, is a
function of (seed, epoch, index), so that the number of workers, of processes, and a resume in the middle of an epoch
change nothing. Read it in order: the order is already mixed, and in order every batch is balanced over the types.
"""

import logging
import math
from dataclasses import dataclass, field

import numpy as np
from torch.utils.data import Dataset

from ..types import RainType
from .crops import pad_to, to_tensor, turn
from .pictures import DataError, PictureStore
from .readers import CleanPhotographs, Reader, Sample, build_reader
from .sources import CleanSource, CorpusSource, PairedSource, Source, as_sources, check_types, known_fields


__all__ = [
    "CleanSource",
    "CorpusSource",
    "DataConfig",
    "DataError",
    "PairedSource",
    "RainDataset",
    "ValidationConfig",
    "ValidationSet",
]

logger = logging.getLogger(__name__)

SAMPLING = ("balanced", "natural")
SLOTS = 1024
"""Draws after which a schedule begins anew: proportions are exact to one of them."""

VALIDATION_SEED = 0
"""Of the rain on validation pictures, which is the same whatever the run's seed."""


@dataclass
class DataConfig:
    """What to train on."""

    sources: list[Source]
    """Instances, or mappings with `kind: paired | corpus | clean` and the fields of that source."""
    types: list[str] = field(default_factory=lambda: [str(name) for name in RainType])
    """The types, in the order of their ids. Any names: snow and haze are added by data alone."""
    patch_size: int = 128
    """Side of the square crops in pixels (paper: 128). A smaller picture is padded by reflection."""
    samples_per_epoch: int = 10_000
    """An epoch is a count of samples, not a pass over the data; within a source, nothing is repeated before everything has
    been seen (or drawn over: night samples are of photographs by night or by day, whichever is drawn)."""
    rotate: bool = True
    """Turn samples by all eight symmetries of the square, as the paper does, though a turn by 90 degrees lets streaks fall
    sideways. Otherwise only mirror left and right."""
    sampling: str = "balanced"
    """`"balanced"`: every type by its share. `"natural"`: sources by weight, types as a source has them."""
    type_shares: dict[str, float] | None = None
    """Each type's share of the samples under balanced sampling, relative to the others, and thereby of the objective (see
    `per_sample` of `MultiObjectiveReweighting`). Default: equal, as in the paper."""
    cache_gib: float = 4.0
    """Memory for decoded pictures per process, shared by its workers."""
    verify_images: bool = True
    """Decode every picture once before training, which also fills the cache. Otherwise only the headers are read, and a
    truncated file stops the run when it is met."""
    skip_unreadable: bool = False
    """Leave out pictures that cannot be read, naming each in a warning, instead of stopping before training."""

    def __post_init__(self):
        self.sources = as_sources(self.sources)
        check_types(self.types)
        if self.sampling not in SAMPLING:
            raise DataError(f"sampling must be one of {', '.join(SAMPLING)}, got {self.sampling!r}.")
        if self.type_shares is not None:
            self._check_shares()
        for name in ("patch_size", "samples_per_epoch"):
            if getattr(self, name) < 1:
                raise DataError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if not 0 <= self.cache_gib < math.inf:
            raise DataError(f"cache_gib must be a number of at least 0, got {self.cache_gib}.")

    def _check_shares(self) -> None:
        if self.sampling != "balanced":
            raise DataError(
                "type_shares needs balanced sampling; natural sampling takes the types as the sources have them."
            )
        if not isinstance(self.type_shares, dict) or set(self.type_shares) != set(map(str, self.types)):
            raise DataError(f"type_shares must name every type once: {', '.join(map(str, self.types))}.")
        for name, share in self.type_shares.items():
            if not isinstance(share, (int, float)) or not 0 < share < math.inf:
                raise DataError(f"The share of type {name} must be a positive number, got {share!r}.")

    @classmethod
    def from_dict(cls, values: dict) -> "DataConfig":
        """From a parsed recipe; a key that is not a field is an error."""
        return cls(**known_fields(cls, values, "data"))


@dataclass
class ValidationConfig:
    """What to validate on: the same pictures in every round."""

    sources: list[Source]
    samples_per_type: int | None = 16
    """Pairs of each type from every source, spread evenly over it; null takes all pairs, and renders as many
    pictures of a type as there are photographs."""
    crop_size: int | None = 256
    """Side of the centre crop in pixels; a smaller picture keeps its size. null takes whole pictures."""
    size_divisor: int = 8
    """Height and width are cropped to multiples of it, so that a model takes the pictures as they are."""
    skip_unreadable: bool = False

    def __post_init__(self):
        self.sources = as_sources(self.sources)
        for name in ("samples_per_type", "crop_size", "size_divisor"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise DataError(f"{name} must be at least 1, got {value}.")

    @classmethod
    def from_dict(cls, values: dict) -> "ValidationConfig":
        """From a parsed recipe; a key that is not a field is an error."""
        return cls(**known_fields(cls, values, "validation"))


@dataclass
class _Lane:
    """One type from one source."""

    type_name: str
    reader: Reader
    weight: float


class _Schedule:
    """Deals draws to lanes in proportion to their weights, evenly spread, and numbers each lane's own draws.

    Both are functions of the draw's number alone.
    """

    def __init__(self, weights: list[float]):
        shares = np.asarray(weights) / sum(weights) * max(SLOTS, len(weights))
        counts = np.maximum(np.round(shares).astype(int), 1)
        due = np.concatenate([(np.arange(count) + 0.5) / count for count in counts])
        lanes = np.repeat(np.arange(len(counts)), counts)
        self.slots = lanes[np.argsort(due, kind="stable")]
        self.counts = counts
        self.ranks = np.empty_like(self.slots)
        for lane, count in enumerate(counts):
            self.ranks[self.slots == lane] = np.arange(count)

    def deal(self, number: int) -> tuple[int, int]:
        """Draw `number` -> its lane, and which draw of that lane it is."""
        cycle, slot = divmod(number, len(self.slots))
        lane = int(self.slots[slot])
        return lane, cycle * int(self.counts[lane]) + int(self.ranks[slot])


class RainDataset(Dataset):
    """Training samples: `{"pixel_values", "labels": float (3, patch_size, patch_size) in [0, 1], "rain_type": int, "name"}`.

    Built with every check made: folders without pairs, unequal sizes, unknown types, unreadable pictures, types without
    data raise `DataError`.

    Pairs are cropped and turned alike; rain is rendered upright and turned afterwards.

    Call `set_epoch` before each epoch and read in order, without a shuffling sampler.
    """

    def __init__(self, config: DataConfig, seed: int = 0):
        self.config = config
        self.seed = seed
        self.epoch = 0
        self.types = [str(name) for name in config.types]
        self.store = PictureStore(int(config.cache_gib * 2**30))
        readers = [build_reader(source, self.types, self.store) for source in config.sources]
        sizes = self.store.inspect(decode=config.verify_images)
        for reader in readers:
            reader.settle(sizes, config.skip_unreadable)
        shares = [(config.type_shares or {}).get(name, 1.0) for name in self.types]
        self._lanes = self._lay_lanes(readers)
        self._turns = _Schedule(shares if len(self._lanes) > 1 else [1.0])
        self._schedules = [_Schedule([lane.weight for lane in lanes]) for lanes in self._lanes]

    def _lay_lanes(self, readers: list) -> list[list[_Lane]]:
        """One group of lanes per type when balanced, a single group when natural; groups take turns."""
        lanes = []
        for source, reader in zip(self.config.sources, readers, strict=True):
            counts = {name: count for name, count in reader.counts().items() if count != 0}
            if not counts:
                raise DataError(f"{reader.label} holds no usable pictures.")
            total = sum(count or 1 for count in counts.values())
            for name, count in counts.items():
                natural = self.config.sampling == "natural"
                lanes.append(_Lane(name, reader, source.weight * ((count or 1) / total if natural else 1)))
        for name in self.types:
            if not any(lane.type_name == name for lane in lanes):
                raise DataError(f"No source holds anything of type {name}; add a source or take it out of the types.")
        if self.config.sampling == "natural":
            return [lanes]
        return [[lane for lane in lanes if lane.type_name == name] for name in self.types]

    def set_epoch(self, epoch: int) -> None:
        """Moves on to the samples of `epoch`, counted from 0."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.config.samples_per_epoch

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < len(self):
            raise IndexError(index)
        group, number = self._turns.deal(self.epoch * len(self) + index)
        lane_index, draw = self._schedules[group].deal(number)
        lane = self._lanes[group][lane_index]
        rng = np.random.default_rng([self.seed, self.epoch, index])
        sample = lane.reader.draw(
            lane.type_name, draw, 1024 * group + lane_index, self.seed, rng, self.config.patch_size
        )
        symmetry = int(rng.integers(8)) if self.config.rotate else 4 * int(rng.integers(2))
        return {
            "pixel_values": to_tensor(turn(sample.rainy, symmetry)),
            "labels": to_tensor(turn(sample.clean, symmetry)),
            "rain_type": self.types.index(lane.type_name),
            "name": sample.name,
        }


class ValidationSet(Dataset):
    """A fixed set of whole pictures or centre crops: the items of `RainDataset`, with heights and widths of their own.

    Sides are multiples of `config.size_divisor`. Rendered rain comes from a fixed seed. Pictures of different sizes
    cannot share a batch: read with a batch size of one, or group by shape.
    """

    def __init__(self, config: ValidationConfig, types: list[str]):
        self.config = config
        self.types = [str(name) for name in types]
        self.store = PictureStore(0)
        readers = [build_reader(source, self.types, self.store) for source in config.sources]
        self._items = self._choose_readable(readers, self.store.inspect(decode=False))
        for name in self.types:
            if not any(item[0] == name for item in self._items):
                logger.warning("No validation pictures of type %s.", name)
        if not self._items:
            raise DataError("No validation pictures are left: give `validation` sources with readable pictures.")

    def _choose_readable(self, readers: list[Reader], sizes: list) -> list[tuple[str, Reader, int]]:
        """Decodes what is chosen, not the whole sources; what cannot be decoded is left out, or said, as the rest is."""
        checked: set[int] = set()
        while True:
            items = []
            for reader in readers:
                reader.settle(sizes, self.config.skip_unreadable)
                for name, count in reader.counts().items():
                    items += [(name, reader, item) for item in self._choose(name, count, reader)]
            shown = {number for name, reader, item in items for number in reader.pictures(name, item)}
            unreadable = self.store.unreadable(sorted(shown - checked))
            checked |= shown
            if not unreadable:
                return items
            for number, reason in unreadable.items():
                sizes[number] = reason

    def _choose(self, name: str, count: int | None, reader) -> list[int]:
        wanted = self.config.samples_per_type
        if count is None and wanted is None:
            raise DataError(
                f"{reader.label}: how many rows of a stream to validate on must be said by samples_per_type."
            )
        if count is None:
            return list(range(reader.count_up_to(wanted, name)))
        if isinstance(reader, CleanPhotographs):
            return list(range(wanted or count))
        wanted = min(wanted or count, count)
        return [round(step) for step in np.linspace(0, count - 1, wanted)]

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> dict:
        name, reader, item = self._items[index]
        if isinstance(reader, CleanPhotographs):
            rng = np.random.default_rng([VALIDATION_SEED, self.types.index(name), item])
            sample = reader.render(name, item, 0, VALIDATION_SEED, rng, self._centre)
        else:
            rainy, clean, label = reader.whole(name, item)
            sample = Sample(self._centre(rainy), self._centre(clean), label)
        return {
            "pixel_values": to_tensor(sample.rainy),
            "labels": to_tensor(sample.clean),
            "rain_type": self.types.index(name),
            "name": sample.name,
        }

    def _centre(self, pixels: np.ndarray) -> np.ndarray:
        divisor = self.config.size_divisor
        height, width = (min(side, self.config.crop_size or side) // divisor * divisor for side in pixels.shape[:2])
        pixels = pad_to(pixels, divisor, divisor)
        height, width = max(height, divisor), max(width, divisor)
        top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
        return pixels[top : top + height, left : left + width]
