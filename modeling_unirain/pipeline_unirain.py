"""Image in, image out: `pipeline("image-to-image", ...)` for UniRain, for images of any size.

A large image is worked on in overlapping tiles that are blended smoothly, and each tile's result goes straight into
the output array. The averages over the whole image, by which the network chooses its experts and modulates what they
give, are computed once, before the tiles, and shared by all of them: tiles with averages of their own would choose
different experts, and a seam would show.
"""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image
from torch import Tensor
from transformers import Pipeline
from transformers.image_utils import load_image
from transformers.utils import logging


logger = logging.get_logger(__name__)

CPU_MEMORY_BUDGET = 1 << 30
"""Bytes that the activations of one forward pass may take unless told otherwise. Larger tiles are not faster."""

CUDA_MEMORY_SHARE = 0.5
"""The same on a CUDA device, as a share of the memory that is free."""

DEFAULT_OVERLAP = 64
"""Pixels that neighbouring tiles share: most of what the network sees around a pixel."""

MIN_TILE = 128
ROUTE_WINDOW = 448
"""Side of the windows that the averages of a tiled image are found from; of smaller tiles theirs, down to `LEAST_ROUTE_WINDOW`,
below which windows would be little more than their margins."""

LEAST_ROUTE_WINDOW = 256

ROUTE_MARGIN = 32
"""Pixels seen around the cores of those windows, so that the windows' borders do not count."""

ROUTE_TILES = 6
"""How many pixels those windows have together, in tiles: an eighth of a forward pass is kept of each, which with a window's own
pass takes what a tile's does."""

ROUTE_PIXELS = 3 << 21
"""Their pixels at most, since finding the averages should not take longer than deraining: up to about 4.4 megapixels of an image."""

LEAST_ROUTE_PIXELS = 1 << 20
"""Their pixels at least, if the image has them, whatever the tile: up to about 0.6 megapixels of an image."""

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns a picture upright, by its EXIF Orientation."""

_OUT_OF_MEMORY = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "cannot allocate memory",
    "could not create a primitive",  # oneDNN's convolutions, without saying why
    "could not create a memory object",
)

Progress = Callable[[int, int], None]

RoutingWindow = tuple[slice, slice, slice, slice]
"""Rows and columns of a window of an image, and of its core in the window."""


@dataclass(frozen=True)
class RainyImage:
    """An image of any kind as what the network works on, and how to give back one of the same kind.

    Attributes:
        rgb (`np.ndarray`): (height, width, 3); uint8, uint16 or float32 in [0, 1].
        source: The image as it came.
    """

    rgb: np.ndarray
    source: Any

    @classmethod
    def unpack(cls, image) -> "RainyImage":
        """Takes PIL images of 8 bits or 16-bit grey, which are turned upright, arrays (height, width[, 1 to 4]) and tensors ([1 to 4, ]height, width)."""
        if isinstance(image, Image.Image):
            if image.mode in ("I", "F"):
                raise ValueError(
                    f"A PIL image of mode {image.mode} says nothing of its range: give an array in [0, 1]."
                )
            image = _upright(image)
            deep = image.mode.startswith("I;16")
            array = np.asarray(image).astype(np.uint16) if deep else np.asarray(image.convert("RGB"))
        elif isinstance(image, Tensor):
            array = _channels_last(image)
        elif isinstance(image, np.ndarray):
            array = image
        else:
            raise ValueError(f"An image must be a PIL image, an array, a tensor, a path or a URL, not {type(image)}.")
        array = array[..., None] if array.ndim == 2 else array
        if array.ndim != 3 or array.shape[2] not in (1, 2, 3, 4) or 0 in array.shape:
            raise ValueError(f"An image must have the shape (height, width[, 1 to 4 channels]), got {array.shape}.")
        if np.issubdtype(array.dtype, np.floating):
            array = array.astype(np.float32)
        elif array.dtype not in (np.uint8, np.uint16):
            raise ValueError(f"Pixels must be uint8, uint16 or floating point in [0, 1], got {array.dtype}.")
        colours = array[..., :3] if array.shape[2] >= 3 else np.broadcast_to(array[..., :1], (*array.shape[:2], 3))
        return cls(colours, image)

    def pack(self) -> Any:
        """`rgb` as the kind of image that came: grey stays grey (BT.601), alpha is kept, a palette becomes RGB."""
        if isinstance(self.source, Image.Image):
            return self._pack_pil(self.source)
        if isinstance(self.source, Tensor):
            packed = torch.from_numpy(self._pack_array(_channels_last(self.source)))
            return (packed.permute(2, 0, 1) if packed.dim() == 3 else packed).contiguous().to(self.source)
        return self._pack_array(self.source)

    def _pack_array(self, source: np.ndarray) -> np.ndarray:
        rgb = self.rgb.astype(source.dtype, copy=False)  # float64 and float16 come back as they were
        if source.ndim == 2:
            return _luma(rgb)
        if source.shape[2] == 3:
            return rgb
        colours = rgb if source.shape[2] == 4 else _luma(rgb)[..., None]
        return np.concatenate([colours, source[..., colours.shape[2] :]], axis=2)

    def _pack_pil(self, source: Image.Image) -> Image.Image:
        if source.mode.startswith("I;16"):
            return Image.fromarray(_luma(self.rgb))
        image = Image.fromarray(self.rgb)
        if source.mode in ("1", "L", "LA"):
            image = image.convert("L")
        if source.has_transparency_data:
            image.putalpha(source.convert("RGBA").getchannel("A"))
        kept = {"exif", "dpi"} if source.mode == "CMYK" else {"exif", "dpi", "icc_profile"}
        image.info.update({key: value for key, value in source.info.items() if key in kept})
        return image


class UniRainPipeline(Pipeline):
    """
    Removes rain from images: `pipeline("image-to-image", model=..., trust_remote_code=True)`.

    Gives back the kind of image that it got, in its size: a PIL image for a PIL image, a path or a URL; an array for
    an array (uint8, uint16 or floating point in [0, 1]), a tensor for a tensor. With `batch_size`, images of equal
    size share a forward pass; they may be mixed with others. A path or URL is opened by Pillow, which guards against
    decompression bombs: above 179 megapixels, twice `Image.MAX_IMAGE_PIXELS`, it raises `Image.DecompressionBombError`.

    Args (of the pipeline or of a call):
        tile (`int`, *optional*): Side of the tiles in pixels; an image with no more pixels than a tile is worked on
            as a whole. Chosen from the memory budget by default, and halved, with a warning, when memory runs out.
        overlap (`int`, *optional*, defaults to 64): Pixels that neighbouring tiles share.
        memory_budget (`int`, *optional*): Bytes that the activations of a forward pass may take; 1 GiB by default, on
            a CUDA device half of what is free. Beyond the input and output arrays, memory does not grow with the image.
        self_ensemble (`bool`, *optional*, defaults to `False`): Derain the image and its mirror image and average the
            two, in twice the time. Lim et al. ("Enhanced Deep Residual Networks for Single Image Super-Resolution",
            2017) average eight ways up; rain falls down, so this is two, each with its own routes.

    Tiles share the averages of the image, found by one pass over it beforehand, or over a sample of a large one: of
    what six tiles hold, up to about 3 megapixels with the default budget, 0.6 with small tiles and 4.4 with large ones. An image that fits into the budget needs none.
    Tiles agree with the image as a whole to 54 dB and better (the four examples enlarged to 1.4 to 1.9 megapixels, the
    checkpoint of runs 21 and 22). Networks with channel attention (`mixer_type="attention"`: `unirain-base`) also average over each tile:
    about 48 dB with random weights, so give them the memory for whole images.
    """

    _load_image_processor = True
    _load_tokenizer = False
    _load_processor = False
    _load_feature_extractor = False
    _load_video_processor = False

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.model.eval()  # a model in memory may just have been trained, and its routers draw noise then

    def _sanitize_parameters(self, **kwargs):
        least = {"tile": 1, "overlap": 0, "memory_budget": 1, "self_ensemble": 0}
        unknown = sorted(set(kwargs) - set(least))
        if unknown:
            raise ValueError(f"Unknown option {', '.join(unknown)}: there are {', '.join(least)}.")
        for name, value in kwargs.items():
            if value is not None and value < least[name]:
                raise ValueError(f"`{name}` must be positive, got {value}.")
        return {}, {name: value for name, value in kwargs.items() if value is not None}, {}

    def preprocess(self, image) -> dict[str, RainyImage]:
        if isinstance(image, (str, Path)):
            image = _open(image)
        return {"image": RainyImage.unpack(image)}

    def _forward(self, model_inputs, **options) -> dict[str, list[RainyImage]]:
        images = model_inputs["image"]
        images = images if isinstance(images, list) else [images]
        results: dict[int, np.ndarray] = {}
        for indices in by_size([image.rgb for image in images]):
            derained, _ = self.restore([images[index].rgb for index in indices], **options)
            results.update(zip(indices, derained, strict=True))
        return {"image": [replace(image, rgb=results[index]) for index, image in enumerate(images)]}

    def postprocess(self, model_outputs) -> Any:
        image = model_outputs["image"]
        return (image[0] if isinstance(image, list) else image).pack()

    @torch.inference_mode()
    def restore(
        self,
        images: list[np.ndarray],
        tile: int | None = None,
        overlap: int = DEFAULT_OVERLAP,
        memory_budget: int | None = None,
        self_ensemble: bool = False,
        on_progress: Progress | None = None,
    ) -> tuple[list[np.ndarray], Tensor]:
        """Remove the rain from images of equal size.

        Args:
            images (`list[np.ndarray]`): (height, width, 3); uint8, uint16 or float32 in [0, 1].
            tile, overlap, memory_budget, self_ensemble: See the class.
            on_progress (`Callable[[int, int], None]`, *optional*): Called with the work done and all of it, after each
                part: in images if they are done as a whole, else in pixels that have gone through the network.

        Returns:
            The derained images, of the same type and size, and their routes (images, num_routers, num_experts); with
            `self_ensemble` not those of the mirror images.

        Raises:
            ValueError: An option out of its range.
        """
        self._sanitize_parameters(tile=tile, overlap=overlap, memory_budget=memory_budget)
        options = (tile, overlap, memory_budget)
        if not self_ensemble:
            return self._restore(images, *options, on_progress)
        first, second = (on_progress and of_some(on_progress, half, 1, 2) for half in range(2))
        results, routes = self._restore(images, *options, first)
        mirrored, _ = self._restore([np.ascontiguousarray(image[:, ::-1]) for image in images], *options, second)
        for image, other in zip(results, mirrored, strict=True):
            _average_into(image, other[:, ::-1])
        return results, routes

    def _restore(
        self,
        images: list[np.ndarray],
        tile: int | None,
        overlap: int,
        memory_budget: int | None,
        on_progress: Progress | None,
    ) -> tuple[list[np.ndarray], Tensor]:
        """`restore`, one way."""
        divisor = self.model.config.size_divisor
        pixels = padded_pixels(*images[0].shape[:2], divisor)
        side = tile or self._tile_side(memory_budget)
        side = max(divisor, side // divisor * divisor)
        while True:
            try:
                if pixels * len(images) <= side * side:
                    return self._restore_whole(images, on_progress)
                if pixels <= side * side:
                    return self._restore_one_by_one(images, on_progress)
                return self._restore_in_tiles(images, side, overlap, on_progress)
            except (RuntimeError, MemoryError) as error:
                smaller = max(min(side, math.isqrt(pixels)) // 2 // divisor, 1) * divisor
                if not is_out_of_memory(error) or smaller < MIN_TILE:
                    raise
            # Outside the handler, whose traceback would keep the failed pass's tensors alive
            logger.warning("Out of memory with tiles of %d x %d pixels; trying %d.", side, side, smaller)
            side = smaller
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _tile_side(self, memory_budget: int | None) -> int:
        """The tile that fits into the budget."""
        if memory_budget is None:
            memory_budget = CPU_MEMORY_BUDGET
            if self.device.type == "cuda":
                free = torch.cuda.mem_get_info(self.device)[0]
                reusable = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
                memory_budget = int((free + reusable) * CUDA_MEMORY_SHARE)
        return max(MIN_TILE, math.isqrt(int(memory_budget / bytes_per_pixel(self.model.config, self.model.dtype))))

    def _pixel_values(self, images: list[np.ndarray]) -> Tensor:
        """(images, 3, height, width), as the model takes them; padded."""
        values = self.image_processor(images, input_data_format="channels_last", return_tensors="pt")["pixel_values"]
        return values.to(self.device, self.model.dtype, memory_format=torch.channels_last)

    def _restored(
        self, images: list[np.ndarray], averages: tuple[Tensor, ...] | None = None
    ) -> tuple[list[np.ndarray], Tensor]:
        """One forward pass: float32 (height, width, 3) in [0, 1] for each image, and the routes applied."""
        outputs = self.model(self._pixel_values(images), averages=averages, output_routes=True, return_dict=True)
        sizes = [image.shape[:2] for image in images]
        restored = self.image_processor.post_process_image_deraining(outputs, sizes)
        return [image.permute(1, 2, 0).cpu().numpy() for image in restored], outputs.routes.cpu()

    def _restore_whole(self, images: list[np.ndarray], on_progress: Progress | None):
        restored, routes = self._restored(images)
        if on_progress is not None:
            on_progress(1, 1)
        return [_as_type(values, image.dtype) for values, image in zip(restored, images, strict=True)], routes

    def _restore_one_by_one(self, images: list[np.ndarray], on_progress: Progress | None):
        results = []
        for index, image in enumerate(images, 1):
            (restored,), routes = self._restored([image])
            results.append((_as_type(restored, image.dtype), routes))
            if on_progress is not None:
                on_progress(index, len(images))
        return [image for image, _ in results], torch.cat([routes for _, routes in results])

    def _restore_in_tiles(self, images: list[np.ndarray], side: int, overlap: int, on_progress: Progress | None):
        divisor = self.model.config.size_divisor
        overlap = min(math.ceil(overlap / divisor), side // divisor // 2) * divisor
        rows, columns = (tile_spans(length, side, overlap, divisor) for length in images[0].shape[:2])
        windows = routing_windows(*images[0].shape[:2], side, divisor)
        routing_work = sum(_window_pixels(y, x, divisor) for y, x, _, _ in windows) // self.model.config.num_routers
        tile_work = _window_pixels(rows[0], columns[0], divisor)
        work = self.model.config.num_routers * routing_work + len(rows) * len(columns) * tile_work
        done = 0

        def step(pixels: int) -> None:
            nonlocal done
            done += pixels
            if on_progress is not None:
                on_progress(done, len(images) * work)

        results = []
        for image in images:
            averages = self._averages(image, windows, lambda: step(routing_work))
            results.append(self._restore_in_spans(image, rows, columns, averages, lambda: step(tile_work)))
        return [image for image, _ in results], torch.cat([routes for _, routes in results])

    def _averages(
        self, image: np.ndarray, windows: list[RoutingWindow], step: Callable[[], None]
    ) -> tuple[Tensor, ...]:
        """The averages of the whole image, which no tile sees."""
        return self.model.compute_averages(
            (
                (self._pixel_values([image[y, x]]), core_rows, core_columns)
                for y, x, core_rows, core_columns in windows
            ),
            step,
        )

    def _restore_in_spans(self, image: np.ndarray, rows: list[slice], columns: list[slice], averages, step):
        output = np.empty(image.shape, image.dtype)
        routes = None

        def restore(y: slice, x: slice) -> np.ndarray:
            nonlocal routes
            (restored,), routes = self._restored([image[y, x]], averages)
            return restored

        blend_tiles(output, rows, columns, restore, step)
        return output, routes


def bytes_per_pixel(config, dtype: torch.dtype) -> int:
    """Memory of one forward pass for each pixel of the image, beyond the weights.

    The peak is where the finest level's experts are wide: about 20 feature maps of that level, and some float32
    values whatever the dtype. Measured on a CPU: `unirain` 1,142 to 1,409 bytes in float32 (1,480 by this rule) and 807
    in bfloat16 (840), `unirain-base` 5,012 to 7,372 in float32 (7,880).
    """
    channels = max(config.encoder_hidden_sizes[0], config.decoder_hidden_sizes[-1])
    return 20 * channels * dtype.itemsize + 200


def padded_pixels(height: int, width: int, divisor: int) -> int:
    """What the network works on: a picture one pixel high is `divisor` high to it."""
    return math.ceil(height / divisor) * math.ceil(width / divisor) * divisor**2


def tile_spans(length: int, side: int, overlap: int, divisor: int) -> list[slice]:
    """Spans of at most `side` that cover `length`, neighbours sharing `overlap` (the last two perhaps more).

    They start at multiples of `divisor`, so that the network's strides fall where they do on the whole image, and are
    equally long once padded: memory freed by one tile fits the next.
    """
    if length <= side:
        return [slice(0, length)]
    count = math.ceil((length - overlap) / (side - overlap))
    side = min(side, math.ceil((length + (count - 1) * overlap) / count / divisor) * divisor)
    starts = [*range(0, length - side, side - overlap), math.ceil((length - side) / divisor) * divisor]
    return [slice(start, min(start + side, length)) for start in starts]


def blend_tiles(
    output: np.ndarray,
    rows: list[slice],
    columns: list[slice],
    restore: Callable[[slice, slice], np.ndarray],
    step: Callable[[], None],
) -> None:
    """Fill `output` tile by tile; where tiles overlap, one fades into the next along a raised cosine.

    Beyond a tile, only the overlap with the row of tiles below is kept, at the output's width.
    """
    above = None
    for row, below_row in zip(rows, [*rows[1:], slice(rows[-1].stop, None)], strict=True):
        below = np.empty((row.stop - below_row.start, *output.shape[1:]), np.float32)
        left = None
        for column, right_column in zip(columns, [*columns[1:], slice(columns[-1].stop, None)], strict=True):
            tile = restore(row, column)
            if left is not None:
                fade(left, tile[:, : left.shape[1]], axis=1)
            left = tile[:, right_column.start - column.start :].copy()
            tile = tile[:, : right_column.start - column.start]
            x = slice(column.start, right_column.start)
            if above is not None:
                fade(above[:, x], tile[: len(above)], axis=0)
            below[:, x] = tile[below_row.start - row.start :]
            tile = tile[: below_row.start - row.start]
            output[row.start : below_row.start, x] = _as_type(tile, output.dtype)
            step()
        above = below


def fade(before: np.ndarray, after: np.ndarray, axis: int) -> None:
    """Turn `after`'s beginning into a smooth passage from `before`, in place; (rows, columns, channels)."""
    length = after.shape[axis]
    weight = 0.5 - 0.5 * np.cos(np.pi * (np.arange(length, dtype=np.float32) + 0.5) / length)
    weight = weight[:, None, None] if axis == 0 else weight[:, None]
    after += (1 - weight) * (before - after)


def routing_windows(height: int, width: int, side: int, divisor: int) -> list[RoutingWindow]:
    """Windows to find an image's averages from when its tiles have that `side`.

    Their cores make up the image: the margins, where a window's borders show, are left out. Of an image that takes more windows
    than `ROUTE_TILES`, `ROUTE_PIXELS` and `LEAST_ROUTE_PIXELS` allow, every so many are left out, rows or columns of them.
    """
    window = min(ROUTE_WINDOW, max(LEAST_ROUTE_WINDOW, side)) // divisor * divisor
    overlap = math.ceil(2 * ROUTE_MARGIN / divisor) * divisor
    rows, columns = (_with_cores(tile_spans(length, window, overlap, divisor), divisor) for length in (height, width))
    pixels = max(LEAST_ROUTE_PIXELS, min(ROUTE_PIXELS, ROUTE_TILES * side * side))
    # Four at least, so that one spot does not decide.
    most = max(4, pixels // _window_pixels(rows[0][0], columns[0][0], divisor))
    if len(rows) * len(columns) > most:
        down = max(1, min(round(len(rows) * math.sqrt(most / (len(rows) * len(columns)))), most))
        rows, columns = _evenly(rows, down), _evenly(columns, min(len(columns), most // down))
    return [(y, x, core_rows, core_columns) for y, core_rows in rows for x, core_columns in columns]


def _window_pixels(rows: slice, columns: slice, divisor: int) -> int:
    return padded_pixels(rows.stop - rows.start, columns.stop - columns.start, divisor)


def _evenly(spans: list, count: int) -> list:
    """`count` of them, spread evenly; a single one from the middle."""
    return [spans[(2 * index + 1) * len(spans) // (2 * count)] for index in range(count)]


def _with_cores(spans: list[slice], divisor: int) -> list[tuple[slice, slice]]:
    """Each span and where its core lies in it: up to the middle of what it shares with its neighbours.

    The last core includes the padding, as the averages over a whole image do.
    """
    unit = max(1, divisor // 4)  # the stride of the coarsest level with routers
    middles = [
        after.start + (before.stop - after.start) // 2 // unit * unit
        for before, after in zip(spans, spans[1:], strict=False)
    ]
    bounds = [0, *middles, math.ceil(spans[-1].stop / divisor) * divisor]
    return [
        (span, slice(start - span.start, stop - span.start))
        for span, start, stop in zip(spans, bounds[:-1], bounds[1:], strict=True)
    ]


def by_size(images: list[np.ndarray]) -> list[list[int]]:
    """Indices of the images that can share a forward pass."""
    groups: dict[tuple, list[int]] = {}
    for index, image in enumerate(images):
        groups.setdefault((image.shape, image.dtype), []).append(index)
    return list(groups.values())


def of_some(on_progress: Progress, before: int, count: int, total: int) -> Progress:
    """What tells of the work on `count` images of `total`, when `before` are done."""
    return lambda done, work: on_progress(before * work + count * done, total * work)


def _as_type(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """float32 in [0, 1] to the full range of an integer type, rounded to the nearest."""
    if np.issubdtype(dtype, np.floating):
        return values
    return np.rint(values * np.iinfo(dtype).max).astype(dtype)


def _average_into(image: np.ndarray, other: np.ndarray) -> None:
    """The mean of both, in place, rounded to the nearest in integer types."""
    for row, other_row in zip(image, other, strict=True):  # row by row: no copy of the image in a wider type
        if np.issubdtype(image.dtype, np.floating):
            row[:] = (row + other_row) / 2
        else:
            row[:] = (row.astype(np.uint32) + other_row + 1) // 2


def _luma(rgb: np.ndarray) -> np.ndarray:
    """(height, width, 3) to (height, width), of the same type: BT.601."""
    weights = np.array([0.299, 0.587, 0.114], np.float32)
    luma = np.empty(rgb.shape[:2], rgb.dtype)
    for row, colours in zip(luma, rgb, strict=True):  # row by row: no copy of the image in floating point
        grey = colours @ weights
        row[:] = grey if np.issubdtype(rgb.dtype, np.floating) else np.rint(grey)
    return luma


def _open(place: str | Path) -> Image.Image:
    """The upright picture of a file as it is; of a URL or base64, transformers' `load_image` makes RGB."""
    if not os.path.isfile(place):
        return load_image(str(place))
    with Image.open(place) as image:
        return _upright(image)


def _upright(image: Image.Image) -> Image.Image:
    """Turned by its EXIF Orientation, since rain falls down, and told so. EXIF that cannot be read or written back is left out."""
    image.load()
    try:
        turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # what Pillow raises differs from one damage to the next
        turn = None
    if turn is None:
        return image
    turned = image.transpose(turn)
    try:
        exif = turned.getexif()
        del exif[ExifTags.Base.Orientation]
        turned.info["exif"] = exif.tobytes()
    except Exception:
        turned.info.pop("exif", None)
    return turned


def _channels_last(tensor: Tensor) -> np.ndarray:
    """(channels, height, width) to (height, width, channels); grey without a channel axis stays (height, width)."""
    array = (tensor.detach().float() if tensor.is_floating_point() else tensor).cpu().numpy()
    return np.moveaxis(array, 0, -1) if array.ndim == 3 else array


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out, on whichever device: each says so in another class and other words."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return any(words in str(error).lower() for words in _OUT_OF_MEMORY)


__all__ = ["UniRainPipeline"]
