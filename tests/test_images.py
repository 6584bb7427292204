"""Every kind of picture in and out, on real files written here by other means than ours where there are any."""

import io
import os
import resource
import signal
import struct
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import ExifTags, Image, ImageCms, ImageOps

from modeling_unirain.images import (
    ImageError,
    Picture,
    format_of,
    open_image,
    pictures_below,
    read_rgb,
    save_image,
)
from modeling_unirain.pipeline_unirain import RainyImage


def pattern(height=12, width=17, channels=3, dtype=np.uint8, seed=0):
    limit = np.iinfo(dtype).max
    values = np.random.default_rng(seed).integers(0, limit, (height, width, channels), dtype=dtype, endpoint=True)
    values[0, 0], values[-1, -1] = 0, limit
    return values


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def smooth(height=48, width=64):
    """What JPEG and lossy WebP keep closely."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // (width - 1), y * 255 // (height - 1), (x + y) % 256], -1).astype(np.uint8)


def copied(source: Path, target: Path) -> Picture:
    save_image(open_image(source), target)
    return open_image(target)


def exif_with(orientation=1):
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Canon"
    exif[ExifTags.Base.Model] = "EOS R5"
    exif[ExifTags.Base.Copyright] = "A. Person"
    exif[ExifTags.Base.Orientation] = orientation
    exif[ExifTags.IFD.Exif] = {
        ExifTags.Base.ExposureTime: 0.02,
        ExifTags.Base.ISOSpeedRatings: 800,
        ExifTags.Base.DateTimeOriginal: "2026:01:02 03:04:05",
        ExifTags.Base.MakerNote: b"\x00\x01maker\xff",
    }
    exif[ExifTags.IFD.GPSInfo] = {1: "N", 2: (48.0, 51.0, 29.5), 3: "E", 4: (2.0, 17.0, 40.0)}
    return exif


def assert_same_exif(path: Path):
    with Image.open(path) as image:
        exif = image.getexif()
        shooting, position = exif.get_ifd(ExifTags.IFD.Exif), exif.get_ifd(ExifTags.IFD.GPSInfo)
    assert exif[ExifTags.Base.Make] == "Canon"
    assert exif[ExifTags.Base.Model] == "EOS R5"
    assert exif[ExifTags.Base.Copyright] == "A. Person"
    assert exif.get(ExifTags.Base.Orientation, 1) == 1
    assert float(shooting[ExifTags.Base.ExposureTime]) == 0.02
    assert shooting[ExifTags.Base.ISOSpeedRatings] == 800
    assert shooting[ExifTags.Base.DateTimeOriginal] == "2026:01:02 03:04:05"
    assert shooting[ExifTags.Base.MakerNote] == b"\x00\x01maker\xff"
    assert position[1] == "N" and tuple(map(float, position[2])) == (48.0, 51.0, 29.5)


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
LOSSLESS = {"png": {}, "tiff": {}, "bmp": {}, "webp": {"lossless": True, "exact": True}}


# What goes in comes out


@pytest.mark.parametrize("extension", LOSSLESS)
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_lossless_8_bit_pictures_survive(tmp_path, extension, mode):
    if extension == "bmp" and mode in ("LA", "RGBA"):
        pytest.skip("Pillow writes no BMP with alpha; ours is tested below")
    image = Image.fromarray(pattern(channels=4)).convert("RGB" if mode == "P" else mode)
    image = image.convert("P", palette=Image.Palette.ADAPTIVE) if mode == "P" else image
    if extension == "webp":
        image = image.convert("RGBA" if mode in ("LA", "RGBA") else "RGB")
    image.save(source := tmp_path / f"a.{extension}", **LOSSLESS[extension])
    result = copied(source, tmp_path / f"b.{extension}")
    with Image.open(source) as before, Image.open(tmp_path / f"b.{extension}") as after:
        assert after.format == before.format
        assert np.array_equal(np.asarray(before.convert("RGBA")), np.asarray(after.convert("RGBA")))
    assert (result.alpha is not None) == (mode in ("LA", "RGBA"))
    if extension != "webp":
        assert result.pixels.shape[2] == (1 if mode in ("1", "L", "LA") else 3)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("extension", ["png", "tiff"])
def test_16_bit_pictures_survive(tmp_path, extension, channels):
    pixels = pattern(channels=channels, dtype=np.uint16).squeeze()
    source = tmp_path / f"a.{extension}"
    if extension == "png":
        source.write_bytes(imagecodecs.png_encode(pixels))
    else:
        photometric = "rgb" if channels >= 3 else "minisblack"
        extra = ["unassalpha"] if channels in (2, 4) else None
        tifffile.imwrite(source, pixels, photometric=photometric, extrasamples=extra, planarconfig="contig")
    picture = open_image(source)
    assert picture.pixels.dtype == np.uint16
    save_image(picture, target := tmp_path / f"b.{extension}")
    read = imagecodecs.png_decode(target.read_bytes()) if extension == "png" else tifffile.imread(target)
    assert read.dtype == np.uint16
    assert np.array_equal(read, pixels)


@pytest.mark.parametrize("from_, to", [("png", "tiff"), ("tiff", "png")])
def test_16_bit_pictures_change_format_without_loss(tmp_path, from_, to):
    picture = Picture(pattern(dtype=np.uint16), alpha=pattern(channels=1, dtype=np.uint16)[..., 0])
    save_image(picture, tmp_path / f"a.{from_}")
    result = copied(tmp_path / f"a.{from_}", tmp_path / f"b.{to}")
    assert np.array_equal(result.pixels, picture.pixels)
    assert np.array_equal(result.alpha, picture.alpha)


def test_16_bit_grey_written_by_pillow_is_read(tmp_path):
    pixels = pattern(channels=1, dtype=np.uint16)
    for name in ("a.png", "a.tiff"):
        Image.fromarray(pixels[..., 0]).save(tmp_path / name)
        assert np.array_equal(open_image(tmp_path / name).pixels, pixels)


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "zlib", "predictor": True},
        {"compression": "lzw"},
        {"planarconfig": "separate"},
        {"tile": (16, 16)},
        {"bigtiff": True},
        {"byteorder": ">"},
    ],
    ids=str,
)
def test_16_bit_tiffs_of_every_layout_are_read(tmp_path, options):
    pixels = pattern(dtype=np.uint16)
    planes = np.moveaxis(pixels, -1, 0) if options.get("planarconfig") == "separate" else pixels
    tifffile.imwrite(tmp_path / "a.tif", planes, photometric="rgb", **options)
    assert np.array_equal(copied(tmp_path / "a.tif", tmp_path / "b.tif").pixels, pixels)


def test_16_bit_tiff_with_inverted_grey_and_with_premultiplied_alpha(tmp_path):
    grey = pattern(channels=1, dtype=np.uint16)[..., 0]
    tifffile.imwrite(tmp_path / "white.tif", grey, photometric="miniswhite")
    assert np.array_equal(open_image(tmp_path / "white.tif").pixels[..., 0], 65535 - grey)

    straight, alpha = pattern(dtype=np.uint16), np.full((12, 17, 1), 32768, np.uint16)
    premultiplied = np.rint(straight * (alpha / 65535)).astype(np.uint16)
    tifffile.imwrite(
        tmp_path / "alpha.tif",
        np.concatenate([premultiplied, alpha], -1),
        photometric="rgb",
        extrasamples=["assocalpha"],
    )
    picture = open_image(tmp_path / "alpha.tif")
    assert np.array_equal(picture.alpha, alpha[..., 0])
    assert np.abs(picture.pixels.astype(int) - straight).max() <= 1


def test_alpha_of_a_palette_and_of_a_transparent_colour_is_kept(tmp_path):
    image = Image.fromarray(pattern()).quantize(16)
    image.info["transparency"] = bytes(range(0, 256, 16))
    image.save(tmp_path / "palette.png", transparency=image.info["transparency"])
    Image.fromarray(smooth()).save(tmp_path / "key.png", transparency=tuple(smooth()[3, 5].tolist()))
    for name in ("palette.png", "key.png"):
        with Image.open(tmp_path / name) as before:
            expected = np.asarray(before.convert("RGBA"))
        result = copied(tmp_path / name, tmp_path / f"out-{name}")
        assert np.array_equal(result.alpha, expected[..., 3])
        assert len(np.unique(result.alpha)) > 1


def test_alpha_survives_bmp(tmp_path):
    picture = Picture(pattern(), alpha=pattern(channels=1)[..., 0])
    save_image(picture, tmp_path / "a.bmp")
    with Image.open(tmp_path / "a.bmp") as image:
        assert image.mode == "RGBA"
        assert np.array_equal(np.asarray(image), np.dstack([picture.pixels, picture.alpha]))
    assert np.array_equal(open_image(tmp_path / "a.bmp").alpha, picture.alpha)


def test_colours_under_full_transparency_survive_webp(tmp_path):
    rgba = np.dstack([pattern(), np.zeros((12, 17), np.uint8)])
    Image.fromarray(rgba).save(tmp_path / "a.webp", lossless=True, exact=True)
    result = copied(tmp_path / "a.webp", tmp_path / "b.webp")
    assert np.array_equal(result.pixels, rgba[..., :3]) and not result.alpha.any()


def test_cmyk_becomes_rgb_without_a_cmyk_profile(tmp_path):
    image = Image.fromarray(smooth()).convert("CMYK")
    image.save(tmp_path / "a.jpg", quality=95)
    image.save(tmp_path / "a.tif", icc_profile=b"not a profile")
    for name in ("a.jpg", "a.tif"):
        result = copied(tmp_path / name, tmp_path / f"out-{name}")
        with Image.open(tmp_path / f"out-{name}") as after:
            assert after.mode == "RGB"
        assert result.icc_profile == b""
        assert np.abs(result.pixels.astype(int) - smooth()).mean() < 4
    tifffile.imwrite(tmp_path / "deep.tif", 65535 - pattern(channels=4, dtype=np.uint16), photometric="separated")
    assert open_image(tmp_path / "deep.tif").pixels.shape == (12, 17, 3)


def test_16_bit_cmyk_white_and_black(tmp_path):
    ink = np.zeros((2, 2, 4), np.uint16)
    ink[0, 0, 3] = 65535
    ink[0, 1, 0] = 65535
    tifffile.imwrite(tmp_path / "a.tif", ink, photometric="separated")
    expected = [[[0, 0, 0], [0, 65535, 65535]], [[65535] * 3] * 2]
    assert open_image(tmp_path / "a.tif").pixels.tolist() == expected


@pytest.mark.parametrize("extension", ["png", "jpg", "webp", "tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_and_reset_and_exif_kept(tmp_path, extension, orientation):
    source, target = tmp_path / f"a.{extension}", tmp_path / f"b.{extension}"
    Image.fromarray(smooth(24, 32)).save(source, exif=exif_with(orientation).tobytes(), icc_profile=SRGB)
    with Image.open(source) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    assert np.array_equal(open_image(source).pixels, expected)
    result = copied(source, target)
    assert result.pixels.shape == expected.shape
    assert np.abs(result.pixels.astype(int) - expected).mean() < 4
    assert_same_exif(target)
    with Image.open(target) as image:
        assert image.info["icc_profile"] == SRGB


@pytest.mark.parametrize(
    "source, target", [("a.png", "b.png"), ("a.tif", "b.tif"), ("a.png", "b.tif"), ("a.tif", "b.png")]
)
def test_16_bit_pictures_keep_exif_icc_and_resolution(tmp_path, source, target):
    picture = Picture(
        pattern(dtype=np.uint16),
        exif=exif_with().tobytes()[6:],
        icc_profile=SRGB,
        encoding={"dpi": (300.0, 150.0)},
        format=format_of(source),
    )
    save_image(picture, tmp_path / source)
    copied(tmp_path / source, tmp_path / target)
    assert_same_exif(tmp_path / target)
    with Image.open(tmp_path / target) as image:
        assert image.info["icc_profile"] == SRGB
        assert [round(float(value)) for value in image.info["dpi"]] == [300, 150]
    assert np.array_equal(open_image(tmp_path / target).pixels, picture.pixels)


def test_exif_bytes_between_other_formats(tmp_path):
    Image.fromarray(smooth()).save(tmp_path / "a.jpg", exif=exif_with(6).tobytes())
    for name in ("b.png", "b.webp", "b.tiff"):
        copied(tmp_path / "a.jpg", tmp_path / name)
        assert_same_exif(tmp_path / name)
        copied(tmp_path / name, tmp_path / "back.jpg")
        assert_same_exif(tmp_path / "back.jpg")


def test_thumbnail_with_the_rain_is_dropped(tmp_path):
    block = exif_with(3).tobytes()[6:]
    order = "<" if block[:2] == b"II" else ">"
    (start,) = struct.unpack_from(order + "I", block, 4)
    end = start + 2 + 12 * struct.unpack_from(order + "H", block, start)[0]
    thumbnail = struct.pack(order + "H", 1) + struct.pack(order + "HHII", 0x0103, 4, 1, 6) + b"\x00" * 4
    block = block[:end] + struct.pack(order + "I", len(block)) + block[end + 4 :] + thumbnail
    Image.fromarray(smooth()).save(tmp_path / "a.jpg", exif=b"Exif\x00\x00" + block)
    with Image.open(tmp_path / "a.jpg") as image:
        assert image.getexif().get_ifd(ExifTags.IFD.IFD1)
    copied(tmp_path / "a.jpg", tmp_path / "b.jpg")
    with Image.open(tmp_path / "b.jpg") as image:
        assert not image.getexif().get_ifd(ExifTags.IFD.IFD1)
    assert_same_exif(tmp_path / "b.jpg")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pillow_images_come_upright_and_go_with_their_exif(tmp_path, orientation):
    Image.fromarray(smooth(24, 32)).save(tmp_path / "a.png", exif=exif_with(orientation).tobytes(), icc_profile=SRGB)
    with Image.open(tmp_path / "a.png") as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
        picture = Picture.from_pil(image)
    assert np.array_equal(picture.pixels, expected)
    image = picture.to_pil()
    image.save(tmp_path / "b.jpg", exif=image.info["exif"])
    assert_same_exif(tmp_path / "b.jpg")


def exif_of_a_wrong_type(orientation=1) -> bytes:
    """GPSVersionID as text, which Pillow reads and its writer chokes on."""
    block = exif_with(orientation)
    block[ExifTags.IFD.GPSInfo] = {1: "N"}
    block = bytearray(block.tobytes()[6:])
    order = "<" if block[:2] == b"II" else ">"
    entry = block.index(struct.pack(order + "HHI", 1, 2, 2))  # GPSLatitudeRef, two characters of text
    struct.pack_into(order + "H", block, entry, 0)
    return bytes(block)


@pytest.mark.parametrize("block", [exif_of_a_wrong_type(6), b"MM\x00\x2a\x00\x00\x00\x08\x00", b"garbage"])
@pytest.mark.parametrize("extension", ["jpg", "png", "webp"])
def test_odd_exif_costs_no_picture_however_it_comes(tmp_path, extension, block):
    Image.fromarray(smooth(24, 32)).save(tmp_path / f"a.{extension}", exif=b"Exif\x00\x00" + block)
    shape = (32, 24, 3) if len(block) > 20 else (24, 32, 3)  # where Orientation can be read, it counts
    assert open_image(tmp_path / f"a.{extension}").pixels.shape == shape
    with Image.open(tmp_path / f"a.{extension}") as image:
        assert Picture.from_pil(image).pixels.shape == shape
        assert RainyImage.unpack(image).rgb.shape == shape


def test_a_cmyk_image_is_turned_upright_and_keeps_its_exif(tmp_path):
    image = Image.fromarray(smooth(24, 32)).convert("CMYK")
    image.save(tmp_path / "a.jpg", exif=exif_with(6).tobytes())
    with Image.open(tmp_path / "a.jpg") as image:
        picture = Picture.from_pil(image)
    assert picture.pixels.shape == (32, 24, 3) and picture.exif


def test_tags_of_the_wrong_type_cost_the_tags_and_no_picture(tmp_path, caplog):
    block = exif_of_a_wrong_type()
    save_image(Picture(smooth(), exif=block), tmp_path / "a.jpg")
    copied(tmp_path / "a.jpg", tmp_path / "b.jpg")
    assert not caplog.text and open_image(tmp_path / "b.jpg").exif
    assert open_image(tmp_path / "a.jpg").exif == block
    assert copied(tmp_path / "a.jpg", tmp_path / "b.tif").pixels.shape == smooth().shape
    assert "does not fit into a TIFF" in caplog.text


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_tiff_with_a_tag_of_the_wrong_type_is_read(tmp_path, caplog, dtype):
    """A GPS directory whose GPSVersionID is text, and a longer copy of the picture's own that points to it."""
    pixels = pattern(dtype=dtype)
    tifffile.imwrite(tmp_path / "a.tif", pixels, metadata=None, byteorder="<")
    data = (tmp_path / "a.tif").read_bytes()
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    entries = [data[at : at + 12] for at in range(start + 2, start + 2 + 12 * count, 12)]
    gps = struct.pack("<HHHI4sI", 1, 0, 2, 2, b"N\x00\x00\x00", 0)
    entries.append(struct.pack("<HHII", ExifTags.IFD.GPSInfo, 4, 1, len(data)))
    directory = struct.pack("<H", count + 1) + b"".join(sorted(entries, key=lambda entry: entry[1::-1])) + b"\x00" * 4
    data = data[:4] + struct.pack("<I", len(data) + len(gps)) + data[8:] + gps + directory
    (tmp_path / "a.tif").write_bytes(data)
    assert np.array_equal(open_image(tmp_path / "a.tif").pixels, pixels)
    assert "a.tif: its EXIF is damaged and is left out" in caplog.text


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_noise_of_any_shape_fits_into_a_png(tmp_path, channels, dtype):
    for height, width in ((1, 1), (9000, 1), (256, 2), (512, 4), (1, 9000)):
        picture = Picture.from_array(pattern(height, width, channels, dtype))
        save_image(picture, tmp_path / "a.png")
        assert np.array_equal(open_image(tmp_path / "a.png").pixels, picture.pixels)


def test_near_infrared_is_no_alpha(tmp_path):
    pixels = pattern(channels=4, dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", extrasamples=["unspecified"])
    picture = open_image(tmp_path / "a.tif")
    assert picture.alpha is None and np.array_equal(picture.pixels, pixels[..., :3])


def test_a_grey_profile_does_not_go_into_a_webp(tmp_path):
    """WebP has no grey: the profile would be taken for one of colours, which it is not."""
    save_image(Picture(smooth()[..., :1], icc_profile=SRGB), tmp_path / "a.webp")
    with Image.open(tmp_path / "a.webp") as image:
        assert image.mode == "RGB" and "icc_profile" not in image.info


def test_damaged_exif_is_left_out_with_a_warning(tmp_path, caplog):
    """More entries than there are bytes: Pillow reads what there is, and the pixels are sound."""
    block = bytearray(exif_with(6).tobytes()[6:])
    order = "<" if block[:2] == b"II" else ">"
    (start,) = struct.unpack_from(order + "I", block, 4)
    struct.pack_into(order + "H", block, start, 5000)
    Image.fromarray(smooth()).save(tmp_path / "a.jpg", exif=b"Exif\x00\x00" + bytes(block))
    assert open_image(tmp_path / "a.jpg").exif == b""
    assert "a.jpg: its EXIF is damaged and is left out" in caplog.text


def test_png_keeps_what_describes_its_colours(tmp_path):
    Image.fromarray(pattern()).save(tmp_path / "a.png", dpi=(72, 72))
    data = (tmp_path / "a.png").read_bytes()
    gamma = struct.pack(">I", 4) + b"gAMA" + struct.pack(">I", 100000)
    gamma += struct.pack(">I", zlib.crc32(gamma[4:]))
    (tmp_path / "a.png").write_bytes(data[:33] + gamma + data[33:])
    copied(tmp_path / "a.png", tmp_path / "b.png")
    with Image.open(tmp_path / "b.png") as image:
        assert image.info["gamma"] == 1.0
        assert round(image.info["dpi"][0]) == 72


def test_jpeg_keeps_its_quantisation_and_subsampling(tmp_path):
    for quality, subsampling in ((40, 2), (98, 0)):
        Image.fromarray(smooth()).save(tmp_path / "a.jpg", quality=quality, subsampling=subsampling)
        result = copied(tmp_path / "a.jpg", tmp_path / "b.jpg")
        with Image.open(tmp_path / "a.jpg") as before, Image.open(tmp_path / "b.jpg") as after:
            assert after.quantization == before.quantization
        assert result.encoding["subsampling"] == subsampling


@pytest.mark.parametrize("progressive", [False, True])
def test_jpegs_of_noise_at_the_highest_quality_can_be_written_back(tmp_path, progressive):
    """More than two bytes a pixel, the buffer that Pillow has for optimized and progressive files."""
    options = {"quality": 100, "subsampling": 0}
    Image.fromarray(smooth(400, 400)).save(tmp_path / "a.jpg", progressive=progressive, **options)
    noise = replace(open_image(tmp_path / "a.jpg"), pixels=pattern(400, 400))
    save_image(noise, tmp_path / "b.jpg")
    with Image.open(tmp_path / "b.jpg") as image:
        assert np.abs(np.asarray(image).astype(int) - noise.pixels).mean() < 2
        assert (tmp_path / "b.jpg").stat().st_size > 2 * image.width * image.height


def test_grey_and_cmyk_jpegs_can_be_written_back(tmp_path):
    for mode in ("L", "CMYK"):
        Image.fromarray(smooth()).convert(mode).save(tmp_path / "a.jpg", quality=90)
        result = copied(tmp_path / "a.jpg", tmp_path / "b.jpg")
        assert result.pixels.shape == (48, 64, 1 if mode == "L" else 3)


@pytest.mark.parametrize("subsampling", ["440", "411"])
def test_jpeg_of_a_subsampling_that_pillow_does_not_write_loses_no_more_colour(tmp_path, subsampling):
    (tmp_path / "a.jpg").write_bytes(imagecodecs.jpeg8_encode(smooth(), level=90, subsampling=subsampling))
    save_image(open_image(tmp_path / "a.jpg"), tmp_path / "b.jpg")
    assert open_image(tmp_path / "b.jpg").encoding["subsampling"] == 0


def test_a_lossless_animation_stays_lossless(tmp_path):
    frames = [Image.fromarray(np.random.default_rng(seed).integers(0, 256, (9, 9, 3), np.uint8)) for seed in (0, 1)]
    for lossless in (True, False):
        frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=lossless)
        assert open_image(tmp_path / "a.webp").encoding["lossless"] == lossless


def test_webp_stays_as_lossy_or_lossless_as_it_came(tmp_path):
    for lossless, marker in ((True, b"VP8L"), (False, b"VP8 ")):
        Image.fromarray(smooth()).save(tmp_path / "a.webp", lossless=lossless, icc_profile=SRGB)
        copied(tmp_path / "a.webp", tmp_path / "b.webp")
        assert marker in (tmp_path / "b.webp").read_bytes()[:5000]


def test_what_a_format_cannot_hold_is_given_up_with_a_warning(tmp_path, caplog):
    deep = Picture(pattern(dtype=np.uint16), alpha=pattern(channels=1, dtype=np.uint16)[..., 0])
    save_image(deep, tmp_path / "a.jpg")
    assert "16 the lower 8 are lost" in caplog.text and "transparency" in caplog.text
    assert open_image(tmp_path / "a.jpg").pixels.dtype == np.uint8
    save_image(Picture(pattern(), icc_profile=SRGB), tmp_path / "a.bmp")
    assert "a.bmp: BMP holds no EXIF and no colour profile" in caplog.text


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floating_point_keeps_its_values(dtype):
    values = np.linspace(0, 1, 30).reshape(5, 6).astype(dtype)
    np.testing.assert_array_equal(Picture.from_array(values).pixels[..., 0], np.rint(values.astype(float) * 65535))


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_the_transparent_grey_of_a_png_is_that_of_its_depth(tmp_path, depth):
    key = 1  # both pixels of the left column
    row = {1: b"\x80", 2: b"\x40", 4: b"\x10", 8: b"\x01\x00", 16: b"\x00\x01\x00\x00"}[depth]
    header = struct.pack(">IIBBBBB", 2, 2, depth, 0, 0, 0, 0)
    data = png_chunk(b"IHDR", header) + png_chunk(b"tRNS", struct.pack(">H", key))
    data += png_chunk(b"IDAT", zlib.compress((b"\0" + row) * 2)) + png_chunk(b"IEND", b"")
    (tmp_path / "key.png").write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    alpha = open_image(tmp_path / "key.png").alpha
    assert (alpha[:, 0] == 0).all() and (alpha[:, 1] > 0).all()


@pytest.mark.parametrize("behind", [False, True])
def test_a_text_above_a_mebibyte_does_not_make_a_png_a_damaged_one(tmp_path, behind):
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Maker"
    written = io.BytesIO()
    Image.fromarray(pattern()).save(written, "PNG")
    extra = png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"x" * (3 << 20)))
    extra += png_chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    place = len(written.getvalue()) - 12 if behind else 33  # before IEND, or behind IHDR
    (tmp_path / "a.png").write_bytes(written.getvalue()[:place] + extra + written.getvalue()[place:])
    picture = open_image(tmp_path / "a.png")
    assert np.array_equal(picture.pixels, pattern()) and b"Maker" in picture.exif


def test_a_profile_above_a_mebibyte_survives_png(tmp_path):
    profile = SRGB + bytes(2 << 20)
    save_image(Picture(pattern(), icc_profile=profile), tmp_path / "a.png")
    assert open_image(tmp_path / "a.png").icc_profile == profile


def test_grey_stays_grey_and_depth_stays_depth():
    grey = Picture(np.full((4, 5, 1), 40000, np.uint16))
    derained = grey.with_rgb(np.broadcast_to(np.uint16(12345), (4, 5, 3)))
    assert derained.pixels.shape == (4, 5, 1) and (derained.pixels == 12345).all()
    with pytest.raises(ValueError, match="size and depth"):
        grey.with_rgb(np.zeros((4, 5, 3), np.uint8))


def test_white_and_black_of_16_bit_are_white_and_black_of_8():
    ramp = Picture(np.arange(65536, dtype=np.uint16).reshape(256, 256, 1)).as_8_bit().pixels.ravel()
    assert ramp[0] == 0 and ramp[-1] == 255
    assert np.array_equal(ramp, np.rint(np.arange(65536) / 257).astype(np.uint8))


def test_every_size_from_one_pixel_survives(tmp_path):
    for size in ((1, 1), (1, 5000), (5000, 1)):
        for extension in ("png", "jpg", "webp", "tif", "bmp"):
            Image.new("RGB", size, (10, 200, 30)).save(tmp_path / f"a.{extension}")
            assert copied(tmp_path / f"a.{extension}", tmp_path / f"b.{extension}").size == size[::-1]


def test_read_rgb_gives_upright_8_bit_rgb(tmp_path):
    save_image(Picture(pattern(channels=1, dtype=np.uint16)), tmp_path / "grey.png")
    rgb = read_rgb(tmp_path / "grey.png")
    assert rgb.shape == (12, 17, 3) and rgb.dtype == np.uint8 and rgb.flags["C_CONTIGUOUS"]


def test_to_pil_gives_the_mode_of_the_picture():
    for channels, alpha, mode in ((1, False, "L"), (1, True, "LA"), (3, False, "RGB"), (3, True, "RGBA")):
        mask = pattern(channels=1)[..., 0] if alpha else None
        assert Picture(pattern(channels=channels), mask).to_pil().mode == mode


# Bad files


def test_first_picture_of_several_is_read_with_a_warning(tmp_path, caplog):
    first, second = Image.fromarray(pattern(seed=1)), Image.fromarray(pattern(seed=2))
    for name in ("a.tiff", "a.png", "a.webp"):
        options = {"lossless": True} if name == "a.webp" else {}
        first.save(tmp_path / name, save_all=True, append_images=[second], **options)
        caplog.clear()
        assert np.array_equal(open_image(tmp_path / name).pixels, pattern(seed=1))
        assert "only the first is read" in caplog.text


def test_a_cut_picture_is_not_said_to_have_damaged_exif(tmp_path, caplog):
    Image.fromarray(pattern()).save(tmp_path / "a.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:-200])
    with pytest.raises(ImageError, match="cut.png is damaged or incomplete"):
        open_image(tmp_path / "cut.png")
    assert not caplog.messages


def test_links_that_lead_nowhere_are_told_of(tmp_path, caplog):
    Image.fromarray(smooth()).save(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "gone.png")
    assert pictures_below(tmp_path) == [tmp_path / "a.png"]
    assert "1 link(s) that lead nowhere are left out, first b.png" in caplog.text


def test_extension_does_not_matter_for_reading(tmp_path):
    Image.fromarray(smooth()).save(tmp_path / "lying.png", "JPEG")
    assert open_image(tmp_path / "lying.png").format == "JPEG"


def bad_files(folder: Path):
    def written(name, data):
        (folder / name).write_bytes(data)
        return folder / name

    noise = Image.fromarray(pattern(200, 200))
    yield folder / "missing.png", "does not exist"
    yield folder, "is a folder"
    yield written("empty.jpg", b""), "is empty"
    yield written("text.png", b"hello, this is no picture" * 9), "is not a picture"
    yield written("page.pdf", b"%PDF-1.7\n%\xe2\xe3"), "is not a picture"
    for extension in ("png", "jpg", "webp", "tiff", "bmp"):
        noise.save(buffer := io.BytesIO(), {"jpg": "JPEG"}.get(extension, extension))
        yield written(f"cut.{extension}", buffer.getvalue()[: len(buffer.getvalue()) // 2]), "damaged or incomplete"
        yield written(f"head.{extension}", buffer.getvalue()[:20]), "cannot be read|not a picture"
    deep = imagecodecs.png_encode(pattern(200, 200, dtype=np.uint16))
    yield written("deep.png", deep[: len(deep) // 2]), "damaged or incomplete"
    tifffile.imwrite(buffer := io.BytesIO(), pattern(200, 200, dtype=np.uint16), photometric="rgb", rowsperstrip=20)
    yield written("deep.tiff", buffer.getvalue()[: len(buffer.getvalue()) // 2]), "damaged or incomplete"
    flipped = bytearray(deep)
    flipped[len(deep) // 2] ^= 255
    yield written("crc.png", bytes(flipped)), "damaged or incomplete"
    tifffile.imwrite(folder / "float.tiff", np.zeros((4, 4, 3), np.float32), photometric="rgb")
    yield folder / "float.tiff", "not supported"
    Image.new("F", (4, 4)).save(folder / "float-grey.tiff")
    yield folder / "float-grey.tiff", "not supported"
    size = struct.pack(">II", 60000, 60000) + b"\x08\x02\x00\x00\x00"
    header = struct.pack(">I", 13) + b"IHDR" + size + struct.pack(">I", zlib.crc32(b"IHDR" + size))
    yield written("bomb.png", b"\x89PNG\r\n\x1a\n" + header + b"\x00\x00\x00\x00IDAT"), "decompression bomb"
    yield (
        written("bomb.bmp", b"BM" + struct.pack("<IHHIIiiHHI", 54, 0, 0, 54, 40, 15000, 15000, 1, 24, 0) + b"\0" * 20),
        "bomb",
    )
    tifffile.imwrite(folder / "bomb.tiff", np.zeros((4, 4), np.uint16))
    with tifffile.TiffFile(folder / "bomb.tiff", mode="r+") as tiff:
        tiff.pages[0].tags["ImageWidth"].overwrite(15000, dtype="I")
        tiff.pages[0].tags["ImageLength"].overwrite(15000, dtype="I")
    yield folder / "bomb.tiff", "bomb"


def test_each_bad_file_gives_one_sentence_that_names_it(tmp_path):
    for path, message in bad_files(tmp_path):
        with pytest.raises(ImageError, match=message) as caught:
            open_image(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_large_pictures_open_when_the_limit_is_raised_and_pillows_own_limit_stays(tmp_path):
    before = Image.MAX_IMAGE_PIXELS
    Image.new("1", (20000, 9500)).save(tmp_path / "a.png")  # 190 megapixels: past Pillow's error limit
    assert open_image(tmp_path / "a.png").size == (9500, 20000)
    with pytest.raises(ImageError, match="limit of 100 megapixels"):
        open_image(tmp_path / "a.png", max_pixels=100_000_000)
    assert before == Image.MAX_IMAGE_PIXELS


def test_no_damaged_file_raises_anything_else(tmp_path):
    """Bytes flipped at random places: a picture or an `ImageError`, never another exception."""
    rng = np.random.default_rng(0)
    sources = []
    for extension in ("png", "jpg", "webp", "tiff", "bmp"):
        buffer = io.BytesIO()
        exif = {} if extension == "bmp" else {"exif": exif_with(6).tobytes()}
        Image.fromarray(smooth(24, 32)).save(buffer, {"jpg": "JPEG"}.get(extension, extension), **exif)
        sources.append(buffer.getvalue())
    for dtype in (np.uint16,):
        tifffile.imwrite(buffer := io.BytesIO(), pattern(dtype=dtype), photometric="rgb")
        sources.append(buffer.getvalue())
        sources.append(imagecodecs.png_encode(pattern(dtype=dtype)))
    read = refused = 0
    for data in sources:
        for _ in range(60):
            damaged = bytearray(data)
            for position in rng.integers(0, min(len(data), 400), 3):
                damaged[position] = rng.integers(256)
            (tmp_path / "a").write_bytes(damaged)
            try:
                open_image(tmp_path / "a", max_pixels=1_000_000)
                read += 1
            except ImageError:
                refused += 1
    assert read and refused


# Writing


def test_unknown_extension_is_refused_before_anything_is_written(tmp_path):
    for name in ("a.xyz", "a"):
        with pytest.raises(ImageError, match="does not say in which format"):
            save_image(Picture(pattern()), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_too_large_for_the_format_is_one_sentence_and_leaves_nothing(tmp_path):
    wide = Picture(np.zeros((1, 70000, 3), np.uint8))
    for name in ("a.webp", "a.jpg"):
        with pytest.raises(ImageError, match="70000 x 1 pixels cannot be written as"):
            save_image(wide, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_full_disk_keeps_the_old_file_and_leaves_no_other(tmp_path):
    """A file size limit stands in for the full disk: writing fails half way, as it does there."""
    save_image(Picture(pattern()), target := tmp_path / "a.bmp")
    before = target.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        with pytest.raises(OSError, match="a.bmp could not be written"):
            save_image(Picture(pattern(200, 200)), target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert target.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.bmp"]


def test_really_full_disk(tmp_path):
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    try:
        with pytest.raises(OSError, match="No space left on device"):
            save_image(Picture(pattern(300, 300)), tmp_path / "a.bmp")
        assert not list(tmp_path.iterdir())
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_killed_writer_leaves_no_half_file_and_the_next_clears_up(tmp_path):
    """SIGKILL while the bytes are on their way to the disk, at a moment the writer itself announces."""
    script = """
import os, sys, threading
import numpy as np
from modeling_unirain.images import Picture, save_image
os.fsync = lambda handle: (print("writing", flush=True), threading.Event().wait())
save_image(Picture(np.zeros((100, 100, 3), np.uint8)), sys.argv[1])
"""
    target = tmp_path / "a.png"
    process = subprocess.Popen([sys.executable, "-c", script, str(target)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"writing\n"
    process.kill()
    process.wait()
    process.stdout.close()
    assert not target.exists() and len(list(tmp_path.iterdir())) == 1
    save_image(Picture(pattern()), target)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("signs", [{"subfiletype": 1}, {"extratags": [(50706, "B", 4, b"\1\4\0\0")]}])
def test_the_preview_in_a_raw_file_is_not_taken_for_the_picture(tmp_path, signs):
    """Its first page says that it is a reduced image, or that the file is a DNG."""
    tifffile.imwrite(tmp_path / "a.dng", pattern(), photometric="rgb", **signs)
    with pytest.raises(ImageError, match="raw file"):
        open_image(tmp_path / "a.dng")
