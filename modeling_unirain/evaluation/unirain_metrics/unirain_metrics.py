"""The figures of image deraining as a module of the `evaluate` library; this folder travels alone.

    metrics = evaluate.load("path/to/unirain_metrics")
    metrics.add(prediction=derained, reference=clean)        # any number of pictures, of any sizes
    metrics.compute()                                        # {"psnr_rgb": ..., "ssim_rgb": ..., "psnr_y": ..., "ssim_y": ...}

A picture is measured when it is added, and only its four figures are kept: pictures may differ in size, and a long
evaluation needs no memory.
"""

import math

import datasets
import evaluate
import numpy as np
import torch

from .metrics import FIGURES, measure_pair, quantize


_DESCRIPTION = """
PSNR (dB) and SSIM of restored pictures, in RGB and on the luma Y of BT.601 in limited range (16 to 235), on 8-bit values as
deraining papers report them. SSIM has a Gaussian window of 11 x 11, sigma 1.5 and population covariance. Means over
pictures.
"""
_INPUTS = """
Args:
    prediction, reference: one picture each, for `add`: a PIL image, an array (height, width, 3) or a tensor (3, height,
        width), RGB; uint8 in 0 to 255 or float in 0 to 1, which is rounded to 8 bit.
    predictions, references: lists of them, for `add_batch` and `compute`.
Returns:
    `psnr_rgb`, `ssim_rgb`, `psnr_y`, `ssim_y`: means over the pictures added since the last `compute`. The PSNR of two equal
    pictures, which is infinite, counts as 100 dB.
"""
_CITATION = """
@inproceedings{unirain2026,
  title = {UniRain},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year = {2026},
  note = {arXiv:2603.03967}
}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _INPUTS)
class UniRainMetrics(evaluate.Metric):
    """PSNR and SSIM in RGB and on Y, a picture at a time."""

    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({name: datasets.Value("float64") for name in FIGURES}),
        )

    def add(self, *, prediction=None, reference=None):
        """Measure one picture."""
        super().add(**measure_pair(_as_tensor(prediction, lowest=-math.inf), _as_tensor(reference, lowest=-0.1)))

    def add_batch(self, *, predictions=None, references=None):
        """Measure several pictures, which may differ in size."""
        if len(predictions) != len(references):
            raise ValueError(f"{len(predictions)} predictions cannot be compared with {len(references)} references")
        for prediction, reference in zip(predictions, references, strict=True):
            self.add(prediction=prediction, reference=reference)

    def compute(self, *, predictions=None, references=None):
        """Means over every picture added so far, those given here included."""
        if predictions is not None or references is not None:
            self.add_batch(predictions=predictions, references=references)
        return super().compute()

    def _compute(self, **figures):
        return {name: float(np.mean(values)) for name, values in figures.items()}


def _as_tensor(picture, lowest: float) -> torch.Tensor:
    """Any picture as (1, 3, height, width), float64, on the levels of 8 bit. A network may fall below 0, the truth does not."""
    if isinstance(picture, torch.Tensor):
        image = picture.detach().cpu()
    else:
        image = torch.from_numpy(np.array(picture))
        image = image.permute(2, 0, 1) if image.ndim == 3 else image
    if image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(
            f"a picture is RGB, (height, width, 3), or a tensor (3, height, width), not {tuple(image.shape)}"
        )
    if image.dtype == torch.uint8:
        return image[None].double() / 255
    if not image.is_floating_point():
        raise ValueError(f"a picture is uint8 or float in [0, 1], not {image.dtype}")
    if not (image.min() >= lowest and image.max() <= 1.5):
        raise ValueError(f"float pictures lie in [0, 1], but this one in [{image.min():.4g}, {image.max():.4g}]")
    return quantize(image[None].double())
