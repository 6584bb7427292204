"""Images into the network's tensors and back: [0, 1], RGB, padded to what the network can take."""

import math

import numpy as np
import torch
from PIL import Image
from transformers.image_processing_backends import PilBackend
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import infer_channel_dimension_format
from transformers.processing_utils import ImagesKwargs

from .checkpoint_unirain import ResolvesCheckpointNames


class UniRainImageProcessorKwargs(ImagesKwargs, total=False):
    """
    size_divisor (`int`):
        Height and width are padded to multiples of this; the network's `config.size_divisor`.
    """

    size_divisor: int


class UniRainImageProcessor(ResolvesCheckpointNames, PilBackend):
    r"""
    Prepares images for [`UniRainForImageDeraining`] and turns its output into images of the input's size.

    Takes PIL images of 8 bits or 16-bit grey, arrays `(height, width[, channels])` or `(channels, height, width)` and tensors
    `(channels, height, width)`, one or a list of them. What the values mean follows from their type: uint8 up to 255,
    uint16 up to 65535, floating point already in [0, 1]. Grey is repeated to three channels; alpha is left aside.

    Height and width are padded at the bottom and right to the next multiple of `size_divisor`, by reflection, repeated
    where it does not reach far enough; a side of one pixel is replicated. What is a multiple already is not padded.

    Args:
        do_rescale (`bool`): Whether to bring the values to [0, 1].
        do_pad (`bool`): Whether to pad.
        size_divisor (`int`): See above.
    """

    _checkpoint_file = "preprocessor_config.json"
    model_input_names = ["pixel_values"]
    valid_kwargs = UniRainImageProcessorKwargs

    do_rescale = True
    do_pad = True
    size_divisor = 32

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        if self.size_divisor < 1:
            raise ValueError(f"`size_divisor` must be a positive integer, got {self.size_divisor}.")

    def _prepare_images_structure(self, images, expected_ndims: int = 3):
        """A flat list; the library itself takes no image without a channel axis."""
        images = self.fetch_images(images)
        flat = images if isinstance(images, (list, tuple)) else [images]
        if any(getattr(image, "ndim", None) == 2 for image in flat):
            return list(flat)
        return super()._prepare_images_structure(images, expected_ndims)

    def process_image(self, image, input_data_format=None, **kwargs) -> np.ndarray:
        """One image of any kind as (3, height, width) RGB, of the type it came in."""
        if isinstance(image, Image.Image):
            image, input_data_format = _pil_to_array(image), "channels_last"
        elif isinstance(image, torch.Tensor):
            image = image.detach().cpu()
            image = (image.float() if image.is_floating_point() else image).numpy()
        if image.ndim == 2:
            image, input_data_format = image[None], "channels_first"
        if image.ndim != 3 or 0 in image.shape:
            raise ValueError(f"An image must have the shape (height, width[, channels]), got {image.shape}.")
        layout = input_data_format or infer_channel_dimension_format(image, num_channels=(1, 3, 4))
        if layout == "channels_last":
            image = np.moveaxis(image, -1, 0)
        if image.shape[0] not in (1, 3, 4):
            raise ValueError(f"An image must have 1, 3 or 4 channels, got {image.shape[0]}.")
        return np.broadcast_to(image, (3, *image.shape[1:])) if image.shape[0] == 1 else image[:3]

    def _preprocess(
        self, images: list[np.ndarray], do_rescale, do_pad, size_divisor, return_tensors=None, **kwargs
    ) -> BatchFeature:
        _check_options(size_divisor, do_rescale, kwargs)
        if do_rescale:
            images = [_to_unit_range(image) for image in images]
        if do_pad:
            images = [_padded(image, size_divisor) for image in images]
        if return_tensors is not None and len({image.shape for image in images}) > 1:
            raise ValueError(
                f"Images of different sizes cannot share a batch: {sorted({image.shape[1:] for image in images})} "
                "(height, width). Pass images of one size at a time."
            )
        return BatchFeature({"pixel_values": images}, tensor_type=return_tensors)

    def post_process_image_deraining(
        self, outputs, target_sizes: list[tuple[int, int]] | None = None
    ) -> list[torch.Tensor]:
        """Crop away the padding and clamp.

        Args:
            outputs: What the network returned; `outputs.reconstruction` has the shape (batch, 3, height, width).
            target_sizes (`list[tuple[int, int]]`, *optional*): (height, width) of each input image.

        Raises:
            `ValueError`: Not one size for each image, or one larger than what the network returned.

        Returns:
            `list[torch.Tensor]`: One float32 (3, height, width) in [0, 1] for each image.
        """
        images = outputs.reconstruction
        if target_sizes is not None and len(target_sizes) != len(images):
            raise ValueError(f"{len(images)} images need as many target sizes, got {len(target_sizes)}.")
        sizes = [images.shape[-2:]] * len(images) if target_sizes is None else target_sizes
        height, width = images.shape[-2:]
        if too_large := [tuple(size) for size in sizes if size[0] > height or size[1] > width]:
            raise ValueError(
                f"A target size is (height, width) of at most {(height, width)}, what the network returned, got {too_large[0]}."
            )
        return [
            image[:, :height, :width].float().clamp(0, 1) for image, (height, width) in zip(images, sizes, strict=True)
        ]


def _check_options(size_divisor: int, do_rescale: bool, others: dict) -> None:
    """Refuse what the library takes for every image processor and this one could only ignore."""
    if size_divisor < 1:
        raise ValueError(f"`size_divisor` must be a positive integer, got {size_divisor}.")
    if asked := [name for name in ("do_resize", "do_center_crop", "do_normalize", "pad_size") if others.get(name)]:
        raise ValueError(
            f"`{asked[0]}` is not supported: the network takes the whole image in [0, 1], padded by `size_divisor`."
        )
    factor = others.get("rescale_factor")
    if do_rescale and factor is not None and not math.isclose(factor, 1 / 255, rel_tol=1e-3):
        raise ValueError("`rescale_factor` is not supported: what the values mean follows from their type.")
    if others.get("data_format") not in (None, "channels_first"):
        raise ValueError("`data_format` must be 'channels_first', which the network takes.")


def _pil_to_array(image: Image.Image) -> np.ndarray:
    """(height, width, 3) uint8; 16-bit grey as (height, width, 1) uint16."""
    if image.mode in ("I", "F"):
        raise ValueError(f"A PIL image of mode {image.mode} says nothing of its range: give an array in [0, 1].")
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)[..., None]
    return np.asarray(image.convert("RGB"))


def _to_unit_range(image: np.ndarray) -> np.ndarray:
    """float32 in [0, 1]; the meaning of a value follows from the array's type."""
    if image.dtype == bool:
        return image.astype(np.float32)
    if image.dtype in (np.uint8, np.uint16):
        return image.astype(np.float32) / np.iinfo(image.dtype).max
    if not np.issubdtype(image.dtype, np.floating):
        raise ValueError(f"Pixels must be uint8, uint16 or floating point, got {image.dtype}.")
    image = image.astype(np.float32)
    low, high = image.min(), image.max()
    if not (low >= -1e-3 and high <= 1 + 1e-3):  # resampling overshoots by rounding; NaN fails this
        raise ValueError(f"Floating-point pixels must lie in [0, 1], got {low:g} to {high:g}: divide them first.")
    return image


def _padded(image: np.ndarray, size_divisor: int) -> np.ndarray:
    """(channels, height, width), padded at the bottom and right to multiples of `size_divisor`."""
    height, width = image.shape[1:]
    bottom, right = -height % size_divisor, -width % size_divisor
    return np.pad(image, ((0, 0), (0, bottom), (0, right)), mode="reflect") if bottom or right else image


__all__ = ["UniRainImageProcessor"]
