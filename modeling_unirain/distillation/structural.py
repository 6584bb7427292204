"""What a picture looks like at a bounded size: SSIM between two scenes, and which two pictures are one."""

import io
from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image

from modeling_unirain.metrics import ssim


SIDE = 128
"""Open in the paper: SSIM compares pictures of one size, and the scenes differ in theirs. Both are brought to a square of
this side, whatever their aspect, where large rain and the scene's layout are still seen and 20 comparisons cost ms."""

HASH_BITS = 64
HASH_BANDS = 4
MAX_HASH_DISTANCE = 6
"""Measured on 94 pictures saved anew seven ways (JPEG 30 to 90, WebP 60, half and double size): 97 % of the copies moved
at most 3 bits, which leaves one of the four bands untouched; none moved more than 7."""

MAX_RAIN_RATIO = 0.5
"""Two pictures are one when what separates them is at most half of the rain in either of them (in energy). Measured on
the same copies: median at most 0.12 for every kind of copy, at most 0.26 but for half-size copies of one set (0.85); at
least 2 for one scene under two rains (40 scenes of Rain100L and Rain100H)."""

DETAIL_WINDOW = 9
BUCKET_NEIGHBOURS = 64
WINDOW = 2048
"""Pictures whose neighbours `similar_hashes` gives at a time."""


def luma_thumbnail(image: np.ndarray) -> np.ndarray:
    """Luma (BT.601, full range) of an RGB picture (height, width, 3) at (`SIDE`, `SIDE`), `uint8`."""
    return np.asarray(Image.fromarray(image).convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def structural_similarity(query: np.ndarray, references: np.ndarray) -> np.ndarray:
    """SSIM of one thumbnail (`SIDE`, `SIDE`) with each of (n, `SIDE`, `SIDE`); (n,) `float64`."""
    references = torch.from_numpy(np.ascontiguousarray(references)).unsqueeze(1).double() / 255
    query = torch.from_numpy(np.array(query))[None, None].double().div(255).expand_as(references)
    return ssim(query, references).numpy()


def difference_hash(thumbnail: np.ndarray) -> int:
    """64 bits: whether each cell of a grid of 8 x 9 is brighter than its left neighbour (dHash)."""
    grid = np.asarray(Image.fromarray(thumbnail).resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    bits = np.packbits((grid[:, 1:] > grid[:, :-1]).ravel())
    return int.from_bytes(bits.tobytes(), "big")


def detail(thumbnails: np.ndarray) -> np.ndarray:
    """Thumbnails (n, `SIDE`, `SIDE`) without their local mean (a veil of light is common to different rains on one scene),
    `float32`."""
    values = torch.from_numpy(np.asarray(thumbnails, dtype=np.float32))[:, None]
    margin = DETAIL_WINDOW // 2
    padded = torch.nn.functional.pad(values, (margin,) * 4, mode="replicate")
    return (values - torch.nn.functional.avg_pool2d(padded, DETAIL_WINDOW, stride=1))[:, 0].numpy()


def rain_energy(rainy: np.ndarray, clean: np.ndarray) -> float:
    """Mean square of the rain's detail between two thumbnails of one pair."""
    return _energy(*detail(np.stack([rainy, clean])))


def is_same_picture(a: np.ndarray, b: np.ndarray, energy_a: float, energy_b: float) -> bool:
    """Whether two rainy pictures show the same rain, not only the same scene.

    Args:
        a, b (`np.ndarray`): `detail` of their thumbnails.
        energy_a, energy_b (`float`): `rain_energy` of either pair.
    """
    return _energy(a, b) <= MAX_RAIN_RATIO * min(energy_a, energy_b)


def _energy(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.square(a - b, dtype=np.float64).mean())


def similar_hashes(hashes: np.ndarray, order: np.ndarray) -> Iterator[np.ndarray]:
    """Index pairs, (m, 2) at a time, whose hashes may belong to one picture, each once.

    Every item holds all such pairs of `WINDOW` pictures at most with later ones; there are
    `HASH_BANDS` * ceil(n / `WINDOW`) items, some of them empty.

    Equal bands bring two hashes together. In a bucket that is fuller than `BUCKET_NEIGHBOURS` (a fixed camera fills one
    with thousands of frames) a picture is compared with that many neighbours in `order` only, which keeps the work
    linear.

    Args:
        hashes (`np.ndarray`): (n,) `uint64`.
        order (`np.ndarray`): (n,) any value that is nearly equal for one picture saved twice, such as its rain energy.
    """
    band_bits = HASH_BITS // HASH_BANDS
    bands: list[tuple[np.ndarray, np.ndarray]] = []  # keys and ranks, by which a band knows what an earlier one gave
    for band in range(HASH_BANDS):
        keys = (hashes >> np.uint64(band * band_bits)) & np.uint64(2**band_bits - 1)
        ranked = np.lexsort((order, keys))
        for start in range(0, len(ranked), WINDOW):
            found = [np.empty((0, 2), ranked.dtype)]
            for step in range(1, BUCKET_NEIGHBOURS + 1):
                second = ranked[start + step : start + step + WINDOW]
                first = ranked[start : start + len(second)]
                together = keys[first] == keys[second]
                if not together.any():
                    break
                first, second = first[together], second[together]
                new = np.bitwise_count(hashes[first] ^ hashes[second]) <= MAX_HASH_DISTANCE
                for earlier, rank in bands:
                    near = np.abs(rank[first] - rank[second]) <= BUCKET_NEIGHBOURS
                    new &= ~(near & (earlier[first] == earlier[second]))
                found.append(np.stack([first[new], second[new]], axis=1))
            yield np.concatenate(found)
        bands.append((keys, np.argsort(ranked)))


def thumbnail_jpeg(image: np.ndarray, height: int) -> bytes:
    """A small JPEG for a page."""
    picture = Image.fromarray(image)
    picture.thumbnail((2 * height, height))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=82)
    return buffer.getvalue()
