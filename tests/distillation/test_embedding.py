"""CLIP's two sides on a tiny random checkpoint, MiniLM as packaged, and the rain features."""

import numpy as np
import pytest
from distillation.test_captioning import scene, with_drops, with_streaks
from distillation.tiny_checkpoints import tiny_clip
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPModel, CLIPProcessor

from modeling_unirain.configuration_unirain import UniRainConfig
from modeling_unirain.distillation.captioning import AttributeCaptioner
from modeling_unirain.distillation.embedding import (
    ClipImageEmbedder,
    ClipTextEmbedder,
    MiniLmTextEmbedder,
    RainFeatureEmbedder,
)
from modeling_unirain.distillation.inspection import MIN_SIDE
from modeling_unirain.distillation.rain_seen import WEIGHTS
from modeling_unirain.modeling_unirain import UniRainForImageDeraining


def cosine(a, b):
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return str(tiny_clip(tmp_path_factory.mktemp("models") / "clip"))


def test_clip_text_is_what_transformers_computes_alone_or_in_a_batch(clip):
    texts = ["rain at night", "a rainy photograph taken in daylight with streaks", "drops"]
    embedder = ClipTextEmbedder(clip, "cpu")
    embedder.check()
    rows = embedder.embed_texts(texts)
    assert rows.dtype == np.float32 and rows.shape == (3, 24)
    model, processor = CLIPModel.from_pretrained(clip), CLIPProcessor.from_pretrained(clip)
    for text, row in zip(texts, rows, strict=True):
        inputs = processor(text=[text], return_tensors="pt")
        expected = model.text_projection(model.text_model(**inputs).pooler_output)[0]
        np.testing.assert_allclose(row, expected.detach().numpy(), atol=1e-5)


def test_clip_images_of_different_sizes_keep_their_order(clip):
    images = [scene(60 * k, seed=k, size=(40 + 16 * k, 80)).astype(np.uint8) for k in range(3)]
    rows = ClipImageEmbedder(clip, "cpu").embed_images(images)
    assert rows.dtype == np.float32 and rows.shape == (3, 24)
    model, processor = CLIPModel.from_pretrained(clip), CLIPProcessor.from_pretrained(clip)
    for image, row in zip(images, rows, strict=True):
        pixels = processor(images=Image.fromarray(image), return_tensors="pt")["pixel_values"]
        expected = model.visual_projection(model.vision_model(pixels).pooler_output)[0]
        np.testing.assert_allclose(row, expected.detach().numpy(), atol=1e-5)


def test_weights_that_are_not_whole_are_refused(tmp_path):
    folder = tiny_clip(tmp_path / "clip")
    weights = load_file(folder / "model.safetensors")
    embedder = ClipImageEmbedder(str(folder), "cpu")
    for part in ("vision_model.", "vision_model.encoder.layers.0.mlp.fc1.bias"):
        rest = {name: tensor for name, tensor in weights.items() if not name.startswith(part)}
        save_file(rest, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ValueError, match=f"clip are not whole: {len(weights) - len(rest)} of"):
            embedder.embed_images([scene(1, seed=1).astype(np.uint8)])
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:3000])
    with pytest.raises(ValueError, match="clip cannot be loaded"):
        embedder.embed_images([scene(1, seed=1).astype(np.uint8)])


def test_minilm_puts_like_sentences_together():
    embedder = MiniLmTextEmbedder()
    embedder.check()
    night, dark, drops = embedder.embed_texts(
        [
            "A rainy photograph taken at night with heavy, dense rain streaks.",
            "A rainy photograph taken at night with moderate rain streaks.",
            "A rainy photograph taken in daylight with many raindrops on the lens.",
        ]
    )
    assert night.shape == (384,) and abs(np.linalg.norm(night) - 1) < 1e-5
    assert cosine(night, dark) > cosine(night, drops)


def test_minilm_keeps_a_bounded_number_of_sentences():
    class Small(MiniLmTextEmbedder):
        KEPT = 2

    embedder, texts = Small(), ["rain", "drops", "streaks", "rain"]
    rows = embedder.embed_texts(texts)
    assert embedder._known.cache_info().currsize == 2
    np.testing.assert_array_equal(rows, MiniLmTextEmbedder().embed_texts(texts))


def test_another_fine_tune_of_one_layout_has_another_fingerprint(tmp_path):
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(bytes(3 << 20))
    first = ClipTextEmbedder(str(tmp_path)).fingerprint
    assert ClipTextEmbedder(str(tmp_path)).fingerprint == first
    weights.write_bytes(bytes((3 << 20) - 1) + b"1")  # only the last tensor differs, the size does not
    assert ClipTextEmbedder(str(tmp_path)).fingerprint != first
    weights.write_bytes(bytes(3 << 20))
    assert ClipTextEmbedder(str(tmp_path)).fingerprint == first, "a copied or restored folder goes on with its results"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "unirain"
    UniRainForImageDeraining(UniRainConfig.from_name("unirain-tiny")).save_pretrained(folder)
    return str(folder)


def test_rain_features_hold_what_the_encoder_sees_and_what_was_measured(checkpoint):
    images = [scene(90, seed=k, size=(101 + 30 * k, 120)).astype(np.uint8) for k in range(2)]
    embedder, bundled = RainFeatureEmbedder(checkpoint), RainFeatureEmbedder()
    rows = embedder.embed_images(images)
    width = len(RainFeatureEmbedder.SCALES)
    size = UniRainForImageDeraining.from_pretrained(checkpoint).config.feature_size
    assert rows.shape == (2, width + size)
    np.testing.assert_allclose(rows[:, :width], bundled.embed_images(images)[:, :width], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(rows[:, width:], axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(rows[1], embedder.embed_images(images[1:])[0], atol=1e-6)
    assert embedder.fingerprint != bundled.fingerprint


@pytest.mark.parametrize("size", [(MIN_SIDE, MIN_SIDE), (MIN_SIDE, 300), (300, MIN_SIDE)])
def test_the_smallest_pictures_that_are_let_in_can_be_described(checkpoint, size):
    image = scene(90, size=size).astype(np.uint8)
    assert np.isfinite(RainFeatureEmbedder(checkpoint).embed_images([image])).all()
    assert AttributeCaptioner().caption([image])[0].endswith(".")


def test_rain_features_ask_the_weights_that_the_judges_ask():
    embedder = RainFeatureEmbedder()
    assert embedder.checkpoint == WEIGHTS and (WEIGHTS / "model.safetensors").is_file()


def test_rain_features_without_their_weights_are_refused_before_any_work(tmp_path):
    RainFeatureEmbedder().check()
    with pytest.raises(OSError, match="which this installation lacks"):
        RainFeatureEmbedder(tmp_path).check()


def test_measured_features_bring_like_rain_together():
    rows = RainFeatureEmbedder().embed_images(
        [
            with_streaks(scene(90, seed=3), 10).astype(np.uint8),
            with_streaks(scene(100, seed=4), 15, seed=9).astype(np.uint8),
            with_drops(scene(95, seed=5)).astype(np.uint8),
        ]
    )
    streaks, others, drops = rows[:, : len(RainFeatureEmbedder.SCALES)]
    assert cosine(streaks, others) > cosine(streaks, drops)
