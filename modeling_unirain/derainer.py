"""`load_derainer`: the few lines that people want to write."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from .image_processing_unirain import UniRainImageProcessor
from .images import Picture, open_image
from .loading import load_model
from .messages import first_line
from .modeling_unirain import UniRainForImageDeraining
from .pipeline_unirain import Progress, UniRainPipeline, by_size, of_some


DTYPES = ("float32", "bfloat16", "float16")
"""What weights can be loaded as by name."""


class Derainer:
    """Removes rain from whatever holds an image. Made by [`load_derainer`].

    ```python
    derain = load_derainer("unirain")
    clean = derain("rainy.jpg")
    ```

    Attributes:
        pipeline ([`UniRainPipeline`]): What does the work.
        name (`str`): The checkpoint, as it was asked for.
    """

    def __init__(self, pipeline: UniRainPipeline, name: str):
        self.pipeline = pipeline
        self.name = name

    @property
    def model(self) -> UniRainForImageDeraining:
        return self.pipeline.model

    @property
    def device(self) -> torch.device:
        return self.pipeline.device

    def weights_digest(self) -> str:
        """SHA-256 of the weights: a checkpoint's name does not tell whether it was trained on."""
        digest = hashlib.sha256()
        for name, values in sorted(self.model.state_dict().items()):
            digest.update(name.encode() + values.float().cpu().numpy().tobytes())
        return digest.hexdigest()

    def __call__(self, images, **options) -> Image.Image | list[Image.Image]:
        """
        Args:
            images: A PIL image, an array (height, width[, channels]) of uint8, uint16 or floating point in [0, 1], the
                path of a picture, or a list of them.
            options: `tile`, `overlap`, `memory_budget` and `self_ensemble` of [`UniRainPipeline`].

        Returns:
            A PIL image of the same size, or a list of them for a list: grey stays grey, alpha is kept. PIL holds 8 bits
            a channel; for 16 bit, call `restore` with a [`Picture`] or the pipeline with an array.

        Raises:
            ImageError: A file that cannot be read.
            ValueError: Something that is not an image.
        """
        if not isinstance(images, (list, tuple)):
            return self([images], **options)[0]
        pictures = [_picture(image) for image in images]
        return [picture.to_pil() for picture, _ in self.restore_many(pictures, **options)]

    def restore(
        self, picture: Picture, on_progress: Progress | None = None, **options
    ) -> tuple[Picture, list[list[float]]]:
        """Remove the rain from a picture, keeping its depth, alpha and metadata.

        Args:
            picture ([`Picture`]): From `open_image`.
            on_progress (`Callable[[int, int], None]`, *optional*): Called with the work done and all of it.

        Returns:
            The derained picture, and the weight each MoE block gave its experts: encoder blocks first, then decoder's.
        """
        return self.restore_many([picture], on_progress=on_progress, **options)[0]

    def restore_many(
        self, pictures: Sequence[Picture], on_progress: Progress | None = None, **options
    ) -> list[tuple[Picture, list[list[float]]]]:
        """`restore` for several: pictures of one size and depth share a forward pass."""
        rgb = [picture.rgb for picture in pictures]
        results: dict[int, tuple[Picture, list[list[float]]]] = {}
        for indices in by_size(rgb):
            progress = on_progress and of_some(on_progress, len(results), len(indices), len(pictures))
            images, routes = self.pipeline.restore([rgb[index] for index in indices], on_progress=progress, **options)
            for index, image, route in zip(indices, images, routes, strict=True):
                results[index] = pictures[index].with_rgb(image), route.tolist()
        return [results[index] for index in range(len(pictures))]


def load_derainer(
    name: str | Path = "unirain", device: str | torch.device | None = None, dtype: str | torch.dtype | None = None
) -> Derainer:
    """Load a checkpoint, ready to use.

    Args:
        name (`str` or `Path`): `"unirain"` (comes with the package), a folder, or a repository on the Hub.
        device (`str`, *optional*): `"cpu"`, `"cuda"`, `"mps"`, ...; the fastest that works by default.
        dtype (`str` or `torch.dtype`, *optional*): float32 by default, on every device: the image itself passes
            through the network, and bfloat16 keeps only 8 bits of it (56.9 dB from float32 on an example photograph, in
            half the time on a CPU with avx512_bf16, in more than ten times as long on one with AVX2 alone).

    Raises:
        OSError: No such checkpoint, or the Hub cannot be reached.
        ValueError: A checkpoint of another architecture, or a device that is not there.
    """
    device = _device(device)
    if isinstance(dtype, str):
        if dtype not in DTYPES:
            raise ValueError(f"There is no dtype '{dtype}': {', '.join(DTYPES)} make sense.")
        dtype = getattr(torch, dtype)
    model = load_model(name, dtype or torch.float32)
    processor = UniRainImageProcessor(size_divisor=model.config.size_divisor)
    model = model.eval().to(device, memory_format=torch.channels_last)
    return Derainer(UniRainPipeline(model=model, image_processor=processor, device=device), str(name))


def _device(device: str | torch.device | None) -> torch.device:
    """The device asked for, or the fastest that runs a convolution here."""
    if device is None:
        backends = {"cuda": torch.cuda, "mps": torch.backends.mps}
        candidates = [name for name, backend in backends.items() if backend.is_available()]
        return next((torch.device(name) for name in candidates if _works(name) is None), torch.device("cpu"))
    try:
        device = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"There is no device '{device}': cpu, cuda, cuda:1 or mps, for example.") from error
    if reason := _works(device):
        raise ValueError(f"The device '{device}' cannot be used here: {reason}")
    return device


def _works(device: str | torch.device) -> str | None:
    """Why a device cannot be used; `None` when it can."""
    try:
        torch.nn.functional.conv2d(
            torch.zeros(1, 1, 4, 4, device=device), torch.zeros(1, 1, 3, 3, device=device)
        ).cpu()
    except (RuntimeError, AssertionError, ImportError) as error:  # torch's own, differing by device
        return first_line(error)
    return None


def _picture(image) -> Picture:
    if isinstance(image, (str, Path)):
        return open_image(image)
    if isinstance(image, Image.Image):
        return Picture.from_pil(image)
    if isinstance(image, np.ndarray):
        return Picture.from_array(image)
    raise ValueError(f"Expected a PIL image, an array, a path or a list of them, got {type(image).__name__}.")
