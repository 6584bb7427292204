"""Image in, image out: every kind of image, tiles against the whole, bounded memory, and code that travels."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import pipeline

from modeling_unirain import (
    UniRainConfig,
    UniRainForImageDeraining,
    UniRainImageProcessor,
    UniRainPipeline,
    load_derainer,
)
from modeling_unirain import pipeline_unirain as module
from modeling_unirain.images import Picture, open_image
from modeling_unirain.pipeline_unirain import (
    LEAST_ROUTE_PIXELS,
    ROUTE_MARGIN,
    ROUTE_PIXELS,
    ROUTE_TILES,
    ROUTE_WINDOW,
    blend_tiles,
    bytes_per_pixel,
    padded_pixels,
    routing_windows,
    tile_spans,
)


@pytest.fixture(scope="module")
def derainer(tiny_checkpoint):
    return load_derainer(tiny_checkpoint, device="cpu")


@pytest.fixture(scope="module")
def pipe(derainer):
    return derainer.pipeline


def noise(*shape, dtype=np.uint8):
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


def photograph(height, width):
    """Smooth shades with edges and texture, (height, width, 3) uint8: what tiles of a photograph are like."""
    rng = np.random.default_rng(1)
    coarse = Image.fromarray(rng.integers(0, 256, (height // 24 + 2, width // 24 + 2, 3), dtype=np.uint8))
    image = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(float)
    y, x = np.mgrid[:height, :width]
    image[(x // 90 + y // 70) % 2 == 0] *= 0.6
    return (image + rng.normal(0, 4, image.shape)).clip(0, 255).astype(np.uint8)


def psnr(a, b):
    return 10 * np.log10(255**2 / max(1e-12, np.mean((a.astype(float) - b) ** 2)))


# Kinds of images


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (5000, 1), (33, 47)])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_pil_in_gives_pil_of_the_same_size(pipe, mode, size):
    if mode == "I;16":
        image = Image.fromarray(noise(*size[::-1], dtype=np.uint16))
    else:
        image = (
            Image.fromarray(noise(*size[::-1], 4)).convert("RGB" if mode in ("P", "CMYK", "1") else mode).convert(mode)
        )
    result = pipe(image)
    assert result.size == size
    assert result.mode == {"1": "L", "P": "RGB", "CMYK": "RGB"}.get(mode, mode)
    if mode in ("LA", "RGBA"):
        assert np.array_equal(np.asarray(result.getchannel("A")), np.asarray(image.getchannel("A")))


def test_a_pillow_image_is_turned_upright_as_its_file_is(pipe, derainer, tmp_path):
    upright = photograph(48, 64)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(upright)).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as image:
        for restore in (pipe, derainer):
            for source in (image, str(tmp_path / "a.png")):
                result = restore(source)
                assert np.array_equal(np.asarray(result), np.asarray(restore(Image.fromarray(upright))))
                assert result.getexif().get(0x0112, 1) == 1


def test_a_model_that_was_just_trained_derains_without_noise(tiny_checkpoint):
    model = UniRainForImageDeraining.from_pretrained(tiny_checkpoint).train()
    pipe = UniRainPipeline(model=model, image_processor=UniRainImageProcessor())
    image = photograph(40, 60)
    assert np.array_equal(pipe(image), pipe(image))


def test_options_out_of_range_are_refused_however_they_come(pipe, derainer):
    for restore in (pipe, derainer):
        with pytest.raises(ValueError, match="`tile` must be positive, got -5"):
            restore(noise(8, 8, 3), tile=-5)


def test_transparency_of_a_palette_is_kept(pipe):
    image = Image.fromarray(noise(20, 30, 3)).quantize(8)
    image.info["transparency"] = 3
    alpha = np.asarray(image.convert("RGBA").getchannel("A"))
    assert 0 < (alpha == 0).mean() < 1
    assert np.array_equal(np.asarray(pipe(image).getchannel("A")), alpha)


def test_arrays_and_tensors_come_back_as_they_came(pipe):
    for array in (
        noise(20, 30, 3),
        noise(20, 30),
        noise(20, 30, 1),
        noise(20, 30, 4),
        noise(20, 30, 3, dtype=np.uint16),
    ):
        result = pipe(array)
        assert result.shape == array.shape and result.dtype == array.dtype
    unit = noise(20, 30, 3).astype(np.float32) / 255
    result = pipe(unit)
    assert result.dtype == np.float32 and result.min() >= 0 and result.max() <= 1
    tensor = pipe(torch.from_numpy(unit).permute(2, 0, 1))
    assert torch.equal(tensor.permute(1, 2, 0), torch.from_numpy(result))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("channels", [(), (1,), (2,), (3,), (4,)])
def test_arrays_in_floating_point_keep_their_type_whatever_their_channels(pipe, dtype, channels):
    assert pipe((noise(20, 30, *channels) / 255).astype(dtype)).dtype == dtype


def test_a_grey_tensor_without_a_channel_axis_is_not_turned_on_its_side(pipe):
    grey = noise(20, 30)
    assert np.array_equal(pipe(torch.from_numpy(grey)).numpy(), pipe(grey))


def test_16_bits_are_more_than_8(pipe):
    deep = noise(32, 32, 3, dtype=np.uint16)
    result = pipe(deep)
    assert len(np.unique(result % 257)) > 1  # not 8 bits blown up
    exact = pipe(deep.astype(np.float64) / 65535)
    assert np.abs(result / 65535 - exact).max() < 1 / 65535


def test_pipeline_is_the_network_and_nothing_else(pipe):
    image = noise(32, 48, 3)
    with torch.inference_mode():
        expected = pipe.model(torch.from_numpy(image).permute(2, 0, 1)[None] / 255).reconstruction[0]
    expected = (expected.clamp(0, 1).permute(1, 2, 0) * 255).round().byte().numpy()
    assert np.abs(pipe(image).astype(int) - expected).max() <= 1
    assert np.mean(pipe(image) != expected) < 1e-3


def test_batches_of_mixed_sizes_and_kinds_equal_their_images_one_by_one(pipe):
    images = [
        Image.fromarray(noise(32, 48, 3)),
        noise(32, 48, 3)[::-1].copy(),
        noise(16, 20, 3, dtype=np.uint16),
        noise(32, 48),
    ]
    together = pipe(images, batch_size=4)
    assert isinstance(together[0], Image.Image)
    for image, result in zip(images, together, strict=True):
        difference = np.asarray(result).astype(int) - np.asarray(pipe(image))
        assert np.abs(difference).max() <= (1 if np.asarray(image).dtype == np.uint8 else 3)


def test_paths_are_read(pipe, tmp_path):
    Image.fromarray(noise(20, 30, 3)).save(tmp_path / "a.png")
    for path in (tmp_path / "a.png", str(tmp_path / "a.png")):
        assert np.array_equal(np.asarray(pipe(path)), pipe(noise(20, 30, 3)))


@pytest.mark.parametrize("mode", ["RGBA", "I;16"])
def test_a_path_keeps_what_its_picture_keeps(pipe, tmp_path, mode):
    pixels = noise(20, 30, dtype=np.uint16) if mode == "I;16" else noise(20, 30, 4)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == mode
        expected = pipe(image)
    result = pipe(str(tmp_path / "a.png"))
    assert result.mode == mode and np.array_equal(np.asarray(result), np.asarray(expected))


def test_nonsense_is_refused(pipe):
    for image, message in (
        (None, "must be a PIL image"),
        (np.zeros((2, 2, 5), np.uint8), "must have the shape"),
        (Image.new("F", (4, 4)), "mode F says nothing of its range"),
        (np.zeros((4, 4, 3), np.int64), "must be uint8, uint16 or floating point in .0, 1., got int64"),
        (torch.ones(3, 4, 4, dtype=torch.bool), "got bool"),
        (torch.rand(1, 3, 4, 4), "got \\(1, 3, 4, 4\\)"),
    ):
        with pytest.raises(ValueError, match=message):
            pipe(image)
    for options in ({"tile": 0}, {"overlap": -1}, {"memory_budget": 0}, {"self_ensemble": -1}, {"tiles": 3}):
        with pytest.raises(ValueError, match="must be positive|Unknown option"):
            pipe(noise(4, 4, 3), **options)


# Tiles


@pytest.mark.parametrize("length", [1, 100, 128, 129, 191, 193, 1000, 4096, 7681])
@pytest.mark.parametrize("side, overlap", [(128, 64), (512, 64), (128, 0), (160, 32)])
def test_spans_cover_everything_and_share_the_overlap(length, side, overlap):
    spans = tile_spans(length, side, overlap, divisor=16)
    assert spans[0].start == 0 and spans[-1].stop == length
    for span in spans:
        assert span.start % 16 == 0 and 0 < span.stop - span.start <= side
    assert len({-(-(span.stop - span.start) // 16) for span in spans}) == 1  # padded, they are of one size
    for before, after in zip(spans, spans[1:], strict=False):
        assert before.stop - after.start >= overlap
        assert after.start > before.start
    for before, after in zip(spans[:-1], spans[1:-1], strict=False):
        assert before.stop - after.start == overlap


def test_tiles_that_agree_are_put_together_without_a_trace():
    image = np.random.default_rng(0).random((300, 410, 3), dtype=np.float32)
    for dtype in (np.uint8, np.uint16):
        whole = np.rint(image * np.iinfo(dtype).max).astype(dtype)
        output = np.zeros_like(whole)
        spans = tile_spans(300, 128, 64, 16), tile_spans(410, 128, 64, 16)
        calls = []
        blend_tiles(output, *spans, lambda y, x: image[y, x].copy(), lambda calls=calls: calls.append(1))
        assert len(calls) == len(spans[0]) * len(spans[1])
        assert np.abs(output.astype(int) - whole).max() <= 1  # float32 rounding of equal values


def test_tiles_that_differ_fade_without_a_step():
    shades = iter(np.random.default_rng(0).random(1000))
    output = np.zeros((500, 500, 3), np.float32)
    spans = tile_spans(500, 128, 64, 16)

    def restore(y, x):
        return np.full((y.stop - y.start, x.stop - x.start, 3), next(shades), np.float32)

    blend_tiles(output, spans, spans, restore, lambda: None)
    steepest = np.pi / 2 / 64  # of a raised cosine over 64 pixels, between shades of 0 and 1
    for axis in (0, 1):
        assert np.abs(np.diff(output, axis=axis)).max() < 1.1 * steepest


ATTENTION = {"mixer_type": "attention", "num_attention_heads": [1, 2, 4]}


@pytest.mark.parametrize(
    "size, changes, side, decibels",
    [
        ("unirain-tiny", {}, 512, 50),
        ("unirain", {}, 320, 50),
        ("unirain-tiny", ATTENTION, 512, 45),  # averages over what it is given, a tile or the whole
    ],
    ids=["unirain-tiny", "unirain", "attention"],
)
def test_tiled_result_is_near_the_whole(size, changes, side, decibels):
    torch.manual_seed(0)
    config = UniRainConfig.from_name(size, **changes)
    processor = UniRainImageProcessor(size_divisor=config.size_divisor)
    pipe = UniRainPipeline(model=UniRainForImageDeraining(config).eval(), image_processor=processor, device="cpu")
    image = photograph(side, side + 100)
    (whole,), routes = pipe.restore([image])
    (tiled,), tiled_routes = pipe.restore([image], tile=192)
    assert psnr(whole, image) < 45  # the network does something
    assert psnr(tiled, whole) >= decibels
    assert (tiled_routes - routes).abs().max() < 0.01


def test_tiled_photograph_is_within_50_db_of_the_whole_with_the_released_checkpoint():
    """A trained network's routers decide closely: the routes of a few windows chose another expert here, 39 dB."""
    pipe = load_derainer("unirain", device="cpu").pipeline
    image = np.asarray(Image.open(Path(__file__).parents[1] / "examples" / "drs_moose.jpg"))[:, :400]
    (whole,), _ = pipe.restore([image])
    (tiled,), _ = pipe.restore([image], tile=256)
    assert psnr(whole, image) < 45
    assert psnr(tiled, whole) >= 50


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("tile", [None, 128])
def test_self_ensemble_is_the_mean_of_the_image_and_its_mirror_image(pipe, dtype, tile):
    """Each way as if alone: a mirror image has other routes."""
    image = photograph(160, 250)
    image = (image / 255).astype(dtype) if dtype == np.float32 else image.astype(dtype) * (np.iinfo(dtype).max // 255)
    (one,), routes = pipe.restore([image], tile=tile)
    (other,), _ = pipe.restore([np.ascontiguousarray(image[:, ::-1])], tile=tile)
    steps = []
    on_progress = lambda done, total: steps.append((done, total))  # noqa: E731
    (result,), same_routes = pipe.restore([image], tile=tile, self_ensemble=True, on_progress=on_progress)
    mean = (one.astype(float) + other[:, ::-1]) / 2
    assert result.dtype == dtype and np.abs(result - mean).max() <= (1e-6 if dtype == np.float32 else 0.5)
    assert np.abs(one.astype(float) - mean).max() > 0.004 * mean.max()  # one way alone would not do
    assert torch.equal(routes, same_routes)
    done, totals = zip(*steps, strict=True)
    assert sorted(set(done)) == list(done) and {done[-1]} == set(totals)


def test_self_ensemble_is_no_worse_with_the_released_checkpoint():
    """Mirror images under the routes of the image lost 1 to 8 dB: rain that falls to the other side has other experts."""
    examples = Path(__file__).parents[1] / "examples"
    rainy, clean = (np.asarray(Image.open(examples / name)) for name in ("drs_moose.jpg", "clean/drs_moose.jpg"))
    derain = load_derainer("unirain", device="cpu").pipeline.restore
    (one_way,), _ = derain([rainy])
    (both_ways,), _ = derain([rainy], self_ensemble=True)
    assert psnr(both_ways, clean) >= psnr(one_way, clean) > psnr(rainy, clean) + 3


def test_all_tiles_share_the_averages_of_the_image(pipe, monkeypatch):
    """The left half is black, the right half white: taken apart, they would differ."""
    image = np.zeros((128, 512, 3), np.uint8)
    image[:, 256:] = 255
    seen = []
    forward = pipe.model.forward
    monkeypatch.setattr(pipe.model, "forward", lambda *a, **k: seen.append(k["averages"]) or forward(*a, **k))
    _, routes = pipe.restore([image], tile=128)
    assert len(seen) > 4
    for averages in zip(*seen, strict=True):
        assert all(torch.equal(given, averages[0]) for given in averages)
    tile = torch.zeros(1, 3, 128, 128)
    with torch.inference_mode():
        assert torch.equal(forward(tile, averages=seen[0], output_routes=True).routes, routes)
        apart = forward(tile, output_routes=True).averages
    assert not all(torch.equal(given, own) for given, own in zip(seen[0], apart, strict=True))


def cores_seen(shape: tuple[int, int], side: int) -> np.ndarray:
    """How often each pixel of the padded image lies in a core of its routing windows, whose cores are checked."""
    seen = np.zeros([-(-length // 32) * 32 for length in shape], np.uint8)
    for y, x, rows, columns in routing_windows(*shape, side, divisor=32):
        for core, window, length in ((rows, y, shape[0]), (columns, x, shape[1])):
            assert core.start % 8 == core.stop % 8 == 0 and core.start < core.stop
            assert window.stop - window.start <= ROUTE_WINDOW
            assert core.start >= ROUTE_MARGIN or window.start == core.start == 0
            assert window.stop - window.start - core.stop >= ROUTE_MARGIN or window.stop == length
        seen[y.start + rows.start : y.start + rows.stop, x.start + columns.start : x.start + columns.stop] += 1
    return seen


@pytest.mark.parametrize("shape", [(1, 1), (1, 9000), (427, 640), (300, 1700), (700, 740)])
@pytest.mark.parametrize("side", [32, 128, 256, 848])
def test_cores_of_windows_make_up_the_padded_image(shape, side):
    assert (cores_seen(shape, side) == 1).all()


@pytest.mark.parametrize("shape", [(6000, 8000), (3000, 16000), (1, 4_000_000)])
@pytest.mark.parametrize("side", [64, 512, 848, 5000])
def test_very_large_images_are_sampled_evenly(shape, side):
    seen = cores_seen(shape, side)
    windows = routing_windows(*shape, side, divisor=32)
    padded = sum(padded_pixels(y.stop - y.start, x.stop - x.start, 32) for y, x, _, _ in windows)
    most = max(LEAST_ROUTE_PIXELS, min(ROUTE_PIXELS, ROUTE_TILES * side * side))
    assert 0.75 * most <= padded <= most
    assert seen.max() == 1
    for axis, length in enumerate(seen.shape):
        (places,) = np.nonzero(seen.any(1 - axis))
        assert places.mean() == pytest.approx(length / 2, rel=0.2) and np.diff(places).max() < 0.75 * length


@pytest.mark.parametrize("shape", [(1, 5000), (7, 5000), (5000, 3)])
def test_thin_images_have_routes_in_tiles(pipe, shape):
    """Windows are padded to the network's strides; cores of less than one stride would be empty."""
    image = noise(*shape, 3)
    (result,), routes = pipe.restore([image], tile=128)
    (whole,), _ = pipe.restore([image])
    assert routes.isfinite().all() and psnr(result, whole) > 45


def test_tile_follows_from_the_budget(pipe):
    config = pipe.model.config
    assert bytes_per_pixel(config, torch.bfloat16) < bytes_per_pixel(config, torch.float32)
    passes = []
    pipe.restore(
        [noise(400, 400, 3)],
        memory_budget=200 * 200 * bytes_per_pixel(config, torch.float32),
        on_progress=lambda *a: passes.append(a),
    )
    assert len(passes) > 4 and passes == sorted(passes) and passes[-1][0] == passes[-1][1]
    assert len({total for _, total in passes}) == 1
    passes.clear()
    pipe.restore([noise(400, 400, 3)], on_progress=lambda *a: passes.append(a))
    assert passes == [(1, 1)]


def run_limited(script: str, *arguments) -> subprocess.CompletedProcess:
    """A script whose memory is measured or limited.

    What it frees goes back to the system at once: by default glibc raises its threshold for that as it goes, and how much
    of a failed pass then still counts differs from machine to machine.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": str(1 << 18)}
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
    )


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space by RLIMIT_AS")
def test_running_out_of_memory_falls_back_to_smaller_tiles(tiny_checkpoint):
    script = """
import resource, sys
import numpy as np
from modeling_unirain import load_derainer
pipe = load_derainer(sys.argv[1], device="cpu").pipeline
image = np.random.default_rng(0).integers(0, 256, (900, 1000, 3), dtype=np.uint8)
pipe(image[:160, :160])  # what is allocated once is
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
# As a whole it takes some 450 MiB more, in tiles of 472 pixels less than 150
resource.setrlimit(resource.RLIMIT_AS, (used + (300 << 20),) * 2)
result = pipe(image, tile=1024)
assert result.shape == image.shape and result.any()
"""
    result = run_limited(script, tiny_checkpoint)
    assert result.returncode == 0, result.stderr
    assert "Out of memory with tiles of 1024 x 1024 pixels" in result.stderr


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads the peak memory from /proc")
def test_working_memory_does_not_grow_with_the_image(tiny_checkpoint):
    script = """
import re, sys
import numpy as np
from modeling_unirain import load_derainer
def memory(field):
    return int(re.search(field + r":\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
pipe = load_derainer(sys.argv[1], device="cpu").pipeline
for height, width in ((200, 300), (1000, 1000), (1700, 1800)):
    image = np.full((height, width, 3), 99, np.uint8)
    open("/proc/self/clear_refs", "w").write("5")
    before = memory("VmRSS")
    pipe.restore([image], tile=320)
    print(memory("VmHWM") - before - image.nbytes / 2**20)
"""
    result = run_limited(script, tiny_checkpoint)
    assert result.returncode == 0, result.stderr
    _, medium, large = map(float, result.stdout.split())
    assert large < medium + 15  # megabytes; the image in float32 would be 24 more, its features hundreds


# Code that travels


REMOTE = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "modeling_unirain":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import numpy as np, torch
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageToImage, pipeline
folder, picture, output = sys.argv[1:]
derain = pipeline("image-to-image", model=folder, trust_remote_code=True, device="cpu")
assert type(derain).__module__.startswith("transformers_modules."), type(derain).__module__
image = Image.open(picture)
through_pipeline = np.asarray(derain(image))
processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
for auto in (AutoModel, AutoModelForImageToImage):
    model = auto.from_pretrained(folder, trust_remote_code=True).eval()
    assert type(model).__module__.startswith("transformers_modules.")
    with torch.inference_mode():
        outputs = model(**processor(image, return_tensors="pt"))
    (result,) = processor.post_process_image_deraining(outputs, [image.size[::-1]])
    by_hand = (result.permute(1, 2, 0) * 255).round().byte().numpy()
    assert np.abs(by_hand.astype(int) - through_pipeline).max() <= 1
assert AutoConfig.from_pretrained(folder, trust_remote_code=True).model_type == "unirain"
np.save(output, through_pipeline)
"""


def test_checkpoint_runs_with_equal_pixels_where_this_package_is_not_installed(pipe, tiny_checkpoint, tmp_path):
    Image.fromarray(photograph(70, 90)).save(tmp_path / "a.png")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    subprocess.run(
        [sys.executable, "-I", "-c", REMOTE, tiny_checkpoint, tmp_path / "a.png", tmp_path / "out.npy"],
        env=environment,
        cwd=tmp_path,
        check=True,
    )
    assert np.array_equal(np.load(tmp_path / "out.npy"), np.asarray(pipe(Image.open(tmp_path / "a.png"))))


def test_the_library_builds_the_pipeline_with_the_package_too(pipe, tiny_checkpoint):
    image = Image.fromarray(photograph(40, 50))
    expected = np.asarray(pipe(image))
    ours = pipeline("image-to-image", model=str(tiny_checkpoint), pipeline_class=UniRainPipeline, device="cpu")
    assert type(ours) is module.UniRainPipeline
    assert np.array_equal(np.asarray(ours(image)), expected)


# load_derainer


def test_derainer_takes_images_arrays_paths_and_lists(derainer, tmp_path):
    array = photograph(30, 40)
    Image.fromarray(array).save(tmp_path / "a.png")
    single = derainer(Image.fromarray(array))
    assert isinstance(single, Image.Image) and single.size == (40, 30)
    several = derainer([array, tmp_path / "a.png", str(tmp_path / "a.png"), array.astype(np.float32) / 255])
    assert len(several) == 4
    for image in several:
        assert np.abs(np.asarray(image).astype(int) - np.asarray(single)).max() <= 1
    assert derainer([]) == []
    assert derainer(array[..., 0]).mode == "L"
    for wrong in (3, np.zeros((2, 2, 9), np.uint8), tmp_path / "missing.png", np.full((2, 2, 3), 7.0)):
        with pytest.raises(ValueError):
            derainer(wrong)


def test_derainer_agrees_with_the_pipeline(derainer):
    image = Image.fromarray(photograph(30, 40))
    assert np.array_equal(np.asarray(derainer(image)), np.asarray(derainer.pipeline(image)))


def test_progress_of_pictures_of_several_sizes_never_goes_back(derainer):
    sizes = ((20, 30), (40, 30), (20, 30), (300, 200))  # the last in tiles
    told = []
    derainer.restore_many(
        [Picture.from_array(noise(*size, 3)) for size in sizes], lambda *progress: told.append(progress), tile=128
    )
    shares = [done / work for done, work in told]
    assert shares[:2] == [2 / 4, 3 / 4] and shares == sorted(shares) and shares[-1] == 1


def test_restored_picture_keeps_depth_alpha_and_metadata_and_tells_its_routes(derainer, tmp_path):
    rgba = np.dstack([photograph(30, 40), noise(30, 40)])
    Image.fromarray(rgba).save(tmp_path / "a.png", icc_profile=b"profile")
    picture = open_image(tmp_path / "a.png")
    progress = []
    restored, routes = derainer.restore(picture, lambda done, total: progress.append((done, total)))
    assert np.array_equal(restored.alpha, rgba[..., 3]) and restored.icc_profile == b"profile"
    assert progress == [(1, 1)]
    config = derainer.model.config
    assert np.asarray(routes).shape == (config.num_routers, config.num_experts)
