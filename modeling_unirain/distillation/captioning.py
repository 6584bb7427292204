"""Captions, T of the paper's triplets: by a model (BLIP in the paper), or measured from the picture (preset `local`)."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from modeling_unirain.distillation.measurements import rain_attributes, working_crop
from modeling_unirain.distillation.pretrained import Pretrained, slug
from modeling_unirain.distillation.protocols import Captioner


MAX_NEW_TOKENS = 40


class PretrainedCaptioner(Pretrained, Captioner):
    """BLIP, or any captioning model that transformers loads as image-text-to-text without a prompt."""

    def __init__(self, model: str, device: str | None = None):
        super().__init__(model, "AutoModelForImageTextToText", device)
        self.name = slug(model)

    @property
    def fingerprint(self) -> str:
        return f"{super().fingerprint} {MAX_NEW_TOKENS}"

    def caption(self, images: Sequence[np.ndarray]) -> list[str]:
        model, processor = self.load()
        inputs = processor(images=[Image.fromarray(image) for image in images], return_tensors="pt")
        with torch.inference_mode():
            tokens = model.generate(
                **inputs.to(model.device, dtype=model.dtype), max_new_tokens=MAX_NEW_TOKENS, do_sample=False
            )
        return [caption.strip() for caption in processor.batch_decode(tokens, skip_special_tokens=True)]


class AttributeCaptioner(Captioner):
    """Says in English what was measured: the light, streaks with their direction and density, drops, blur and fog.

    In place of BLIP's description of the scene: what retrieval has to tell apart here is the rain and the light it falls in.
    """

    name = "attribute-captioner"
    fingerprint = "attribute-captioner 1"

    def caption(self, images: Sequence[np.ndarray]) -> list[str]:
        with torch.inference_mode():
            return [_sentence(rain_attributes(working_crop(image))) for image in images]


def _sentence(attributes: dict[str, float]) -> str:
    """Limits set on the real rainy photographs of the corpus: light at the lower quarters of those by night and by day; streaks
    at the median of photographs of streaks, which three in four of drops stay under; drops the other way round; densities at
    the quartiles of photographs of streaks."""
    light = attributes["brightness"]
    when = "at night" if light < 80 else "at dusk" if light < 95 else "in daylight"
    words = [f"A rainy photograph taken {when}"]
    if attributes["streaks"] > 1.4:
        density = attributes["streak_density"]
        amount = "heavy, dense" if density > 0.018 else "moderate" if density > 0.007 else "light, sparse"
        lean = attributes["streak_lean"]
        direction = "falling straight down" if abs(lean) < 10 else f"slanting to the {'left' if lean < 0 else 'right'}"
        if abs(lean) > 30:
            direction = direction.replace("slanting", "slanting strongly")
        words.append(f"with {amount} rain streaks {direction}")
    elif attributes["drops"] > 0.1:
        words.append(
            "with many raindrops on the lens" if attributes["drops"] > 0.35 else "with some raindrops on the lens"
        )
    else:
        words.append("with faint rain")
    if attributes["sharpness"] < 1.5:
        words.append("out of focus")
    if attributes["contrast"] < 30 and light > 95:
        words.append("in fog or mist")
    return ", ".join([" ".join(words[:2]), *words[2:]]) + "."
