"""The image processor: what every kind of image becomes, and that nothing of it is lost on the way back."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_unirain import UniRainImageProcessor


@pytest.fixture(scope="module")
def processor():
    return UniRainImageProcessor(size_divisor=16)


def pixels(processor, image, **kwargs):
    return processor(image, return_tensors="pt", **kwargs)["pixel_values"]


def test_every_kind_of_the_same_image_becomes_the_same_tensor(processor):
    rgb = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    unit = torch.from_numpy(rgb).permute(2, 0, 1) / 255
    expected = unit[None]
    kinds = {
        "PIL": Image.fromarray(rgb),
        "RGBA": Image.fromarray(np.dstack([rgb, rgb[..., 0]])),
        "uint8": rgb,
        "channels first": np.moveaxis(rgb, -1, 0),
        "uint16": rgb.astype(np.uint16) * 257,
        "float32": rgb.astype(np.float32) / 255,
        "float64": rgb / 255,
        "tensor": unit,
        "uint8 tensor": torch.from_numpy(rgb).permute(2, 0, 1),
    }
    for kind, image in kinds.items():
        for given in (image, [image]):
            result = pixels(processor, given)
            assert result.dtype == torch.float32 and result.shape == (1, 3, 32, 48), kind
            torch.testing.assert_close(result, expected, atol=1e-6, rtol=0, msg=kind)
    assert pixels(processor, [rgb, rgb]).shape == (2, 3, 32, 48)


def test_dark_float_images_are_not_divided_again(processor):
    dark = np.full((16, 16, 3), 0.004, np.float32)
    assert torch.allclose(pixels(processor, dark), torch.tensor(0.004))


@pytest.mark.parametrize(
    "image",
    [
        Image.new("L", (16, 16), 51),
        Image.new("LA", (16, 16), (51, 9)),
        Image.new("P", (16, 16)).convert("RGB").point(lambda _: 51).convert("P"),
        Image.new("CMYK", (16, 16), (0, 0, 0, 204)),
        Image.fromarray(np.full((16, 16), 51 * 257, np.uint16)),
        np.full((16, 16), 51, np.uint8),
        np.full((16, 16, 1), 0.2, np.float32),
    ],
    ids=["L", "LA", "P", "CMYK", "I;16", "array 2d", "array 1 channel"],
)
def test_grey_palette_and_cmyk_become_rgb(processor, image):
    torch.testing.assert_close(pixels(processor, image), torch.full((1, 3, 16, 16), 0.2), atol=2e-3, rtol=0)


@pytest.mark.parametrize("height, width", [(1, 1), (1, 50), (5, 3), (16, 16), (17, 33), (31, 64)])
def test_padding_is_the_least_that_divides_and_leaves_the_image_alone(processor, height, width):
    image = np.random.default_rng(0).random((height, width, 3), dtype=np.float32)
    result = pixels(processor, image, input_data_format="channels_last")[0].permute(1, 2, 0).numpy()
    assert result.shape == (-(-height // 16) * 16, -(-width // 16) * 16, 3)
    assert np.array_equal(result[:height, :width], image)


def test_padding_reflects_and_replicates_one_pixel(processor):
    row = np.linspace(0, 1, 10, dtype=np.float32)
    result = pixels(processor, np.tile(row[None, :, None], (1, 1, 3)), input_data_format="channels_last")[0, 0]
    assert np.allclose(result[0, :16], np.concatenate([row, row[-2:-8:-1]]))
    assert torch.equal(result, result[:1].expand(16, -1))


def test_what_is_padded_is_cropped_and_clamped_again(processor):
    outputs = SimpleNamespace(reconstruction=torch.randn(2, 3, 32, 48))
    first, second = processor.post_process_image_deraining(outputs, torch.tensor([(17, 33), (32, 48)]))
    assert first.shape == (3, 17, 33) and second.shape == (3, 32, 48)
    assert torch.equal(first, outputs.reconstruction[0, :, :17, :33].clamp(0, 1))
    with pytest.raises(ValueError, match="as many target sizes"):
        processor.post_process_image_deraining(outputs, [(1, 1)])


@pytest.mark.parametrize(
    "image, message",
    [
        (np.full((16, 16, 3), 200.0), r"must lie in \[0, 1\]"),
        (np.full((16, 16, 3), np.nan), r"must lie in \[0, 1\]"),
        (np.zeros((16, 16, 3), np.int32), "uint8, uint16 or floating point"),
        (np.zeros((0, 16, 3), np.uint8), "shape"),
        (Image.new("I", (16, 16)), "mode I says nothing of its range"),
        (np.zeros((16, 16, 2), np.uint8), "channel"),
        ([np.zeros((16, 16, 3), np.uint8), np.zeros((40, 16, 3), np.uint8)], "different sizes"),
    ],
)
def test_nonsense_is_refused(processor, image, message):
    with pytest.raises(ValueError, match=message):
        pixels(processor, image)


def test_size_divisor_must_be_positive():
    with pytest.raises(ValueError, match="positive"):
        UniRainImageProcessor(size_divisor=0)


@pytest.mark.parametrize(
    "option",
    [
        {"do_normalize": True},
        {"do_resize": True},
        {"rescale_factor": 1.0},
        {"data_format": "channels_last"},
        {"size_divisor": 0},
    ],
)
def test_options_that_would_be_ignored_are_refused(processor, option):
    with pytest.raises(ValueError, match=next(iter(option))):
        processor(np.zeros((16, 16, 3), np.uint8), **option)


def test_sizes_that_the_network_did_not_return_are_refused(processor):
    class Output:
        reconstruction = torch.zeros(1, 3, 64, 96)

    assert processor.post_process_image_deraining(Output, target_sizes=[(60, 90)])[0].shape == (3, 60, 90)
    with pytest.raises(ValueError, match=r"at most \(64, 96\).*got \(90, 60\)"):
        processor.post_process_image_deraining(Output, target_sizes=[(90, 60)])


def test_saved_processor_is_the_same(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    loaded = UniRainImageProcessor.from_pretrained(tmp_path)
    assert loaded.to_dict() == processor.to_dict() and loaded.size_divisor == 16
