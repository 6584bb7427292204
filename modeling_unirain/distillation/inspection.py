"""The first look at a picture: whether it can be used at all, and what duplicates and SSIM need of it."""

import hashlib
from pathlib import Path
from typing import Any

from modeling_unirain.distillation.reading import is_the_pictures_fault, read_pixels
from modeling_unirain.distillation.records import Record
from modeling_unirain.distillation.schemas import INSPECTED_SCHEMA
from modeling_unirain.distillation.structural import difference_hash, luma_thumbnail, rain_energy
from modeling_unirain.files import as_text


UNREADABLE = "unreadable"
UNEQUAL = "unequal size"
TOO_SMALL = "too small"
MIN_SIDE = 32
"""Pixels. What captions and features measure of rain needs as many; the local judges abstain below 96."""
DETAIL_LENGTH = 2000  # of an error's text in a table


def inspect(record: Record) -> dict[str, Any]:
    """Decode a record's pictures once: whether they can be used, and what duplicates and SSIM need of them."""
    if record.problem:
        return _unusable(record, record.problem, f"{record.origin} has {record.problem}")
    try:
        picture = read_pixels(record.picture)
        target = read_pixels(record.target) if record.target else None
    except (OSError, ValueError) as error:
        if not is_the_pictures_fault(error):
            raise
        return _unusable(record, UNREADABLE, _without_folders(as_text(str(error)), record))
    height, width = picture.shape[:2]
    if target is not None and target.shape != picture.shape:
        sizes = f"input {width} x {height}, target {target.shape[1]} x {target.shape[0]}"
        return _unusable(record, UNEQUAL, f"{record.origin}: {sizes}")
    if min(height, width) < MIN_SIDE:
        return _unusable(
            record, TOO_SMALL, f"{record.origin}: {width} x {height}, at least {MIN_SIDE} a side are needed"
        )
    thumbnail = luma_thumbnail(picture)
    digest = hashlib.sha256(f"{width}x{height}:".encode() + picture.tobytes()).digest()
    return {
        "pair_id": record.id,
        "reason": "",
        "detail": "",
        "width": width,
        "height": height,
        "pixels": int.from_bytes(digest[:8], "big"),
        "hash": difference_hash(thumbnail),
        "rain_energy": 0.0 if target is None else rain_energy(thumbnail, luma_thumbnail(target)),
        "thumbnail": thumbnail.tobytes(),
    }


def _without_folders(message: str, record: Record) -> str:
    """The tables are published: they name files, not this machine's folders."""
    for location in filter(None, (record.picture, record.target)):
        folder = Path(location.path).parent
        message = message.replace(f"{folder}/", f"{folder.name}/")
    return message


def _unusable(record: Record, reason: str, detail: str) -> dict[str, Any]:
    row = dict.fromkeys(INSPECTED_SCHEMA.names)
    zero = {"width": 0, "height": 0, "pixels": 0, "hash": 0, "rain_energy": 0.0}
    return {**row, **zero, "pair_id": record.id, "reason": reason, "detail": detail[:DETAIL_LENGTH]}
