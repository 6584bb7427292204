"""Open and save pictures of every kind: the only file that knows about formats.

PNG, JPEG (with the MPO that cameras write), WebP, TIFF and BMP go in and out. `open_image` brings a file to the one form
the rest of the package sees, a `Picture`: upright, grey or RGB, 8 or 16 bit, with alpha, EXIF and ICC profile beside it.
`save_image` writes it back in the same format, or in the one that the output's extension names, and never leaves half
a file.

What is decided here:

- A file is read by its content; its extension says nothing.
- Of an animation or a document of several pages the first picture is read, with a warning.
- CMYK of 8 bits becomes RGB through its own ICC profile, which is then replaced by sRGB: it does not describe RGB values.
- A palette becomes RGB: the derained colours are not in it.
- EXIF is kept byte for byte (into and out of TIFF: tag by tag), with its Orientation reset since the pixels are upright
  now, and without its thumbnail, which shows the rain. Other metadata (XMP, IPTC, comments) is left out.
- A JPEG is written with the quantisation tables it came with and its subsampling (4:4:4 for those that Pillow does not write),
  other pictures with quality 95. A WebP that came lossless stays lossless.
- Pillow reads and writes 8 bit. It has no 16-bit RGB, so `imagecodecs` and `tifffile` do those.
"""

import contextlib
import io
import logging
import os
import struct
import threading
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
from PIL import ExifTags, Image, ImageCms, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError

from .files import folders_below, write_atomically


logger = logging.getLogger(__name__)

EXTENSIONS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
    ".dib": "BMP",
}
"""File name extension to format. What a folder is searched for, and what an output's name may ask for."""

UNREAD_EXTENSIONS = {".heic", ".heif", ".avif", ".gif", ".jxl", ".jp2", ".dng", ".cr2", ".nef", ".arw"}
"""Of pictures in formats that are not read, which a folder of photographs may hold beside the others."""

MAX_PIXELS = 200_000_000
"""The largest picture that is opened unasked: the largest sensors in phones. More is refused as a decompression bomb."""

JPEG_QUALITY = 95
LOSSLESS_TIFF_COMPRESSION = {"raw": None, "none": None, "tiff_lzw": "lzw", "lzw": "lzw", "packbits": "packbits"}
"""Pillow's and tifffile's name of what a TIFF came with, to the one it is written with. Anything else, JPEG within TIFF included, is written with Deflate."""

_READABLE = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "DIB")
_PNG_COLOUR_CHUNKS = (b"cHRM", b"gAMA", b"sRGB", b"cICP", b"mDCV", b"cLLI")
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_EXIF_PREFIX = b"Exif\x00\x00"
_DESCRIPTIVE_TAGS = {
    # description, make, model, software, date, artist, computer, copyright
    *(270, 271, 272, 305, 306, 315, 316, 33432),
    *range(40091, 40096),  # title, comment, author, keywords and subject, as Windows writes them
}
"""IFD0 tags that describe the photograph; the others describe how a TIFF stores it and must not be carried over."""
_pillow_limits = threading.Lock()


class ImageError(ValueError):
    """A picture that cannot be read or written as asked; the message is one sentence that names the file."""


@dataclass(frozen=True)
class Picture:
    """A picture in the one form that the package works on.

    Attributes:
        pixels (`np.ndarray`): (height, width, 1) grey or (height, width, 3) RGB; uint8 or uint16, full range.
        alpha (`np.ndarray` or `None`): (height, width), of the same type; not premultiplied.
        format (`str`): `PNG`, `JPEG`, `WEBP`, `TIFF` or `BMP`; what it came from and, unless told, goes to.
        exif (`bytes`): An EXIF block (a TIFF structure), upright and without thumbnail; empty if there is none.
        icc_profile (`bytes`): Describes `pixels`; empty if there is none.
        encoding (`dict`): How the file was encoded, as the writer of the same format takes it.
        others (`int`): Further pictures that the file holds, which are not read: pages, or frames of an animation.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    format: str = "PNG"
    exif: bytes = b""
    icc_profile: bytes = b""
    encoding: dict = field(default_factory=dict)
    others: int = 0

    @classmethod
    def from_pil(cls, image: Image.Image) -> "Picture":
        """A Pillow image of any 8-bit mode or 16-bit grey, turned upright; its EXIF and ICC profile come along.

        Raises:
            ImageError: Another mode, which says nothing of its range or colours.
        """
        icc_profile = image.info.get("icc_profile") or b""
        if image.mode.startswith("I;16"):
            pixels = np.asarray(image).astype(np.uint16)
        elif image.mode == "CMYK":
            rgb, icc_profile = _cmyk_to_rgb(image, icc_profile)
            pixels = np.asarray(rgb)
        else:
            pixels = np.asarray(image.convert(_target_mode(image, "The image")))
        exif, orientation = _exif_block(image, "The image"), _orientation(image)
        return _turned_upright(cls(*_split_alpha(pixels), exif=exif, icc_profile=icc_profile), orientation)

    @classmethod
    def from_array(cls, array: np.ndarray) -> "Picture":
        """(height, width[, 1 to 4 channels]) of uint8, uint16, or floating point in [0, 1], which becomes 16 bit.

        Raises:
            ImageError: Another shape, type or range.
        """
        if array.ndim not in (2, 3) or 0 in array.shape or (array.ndim == 3 and array.shape[2] > 4):
            raise ImageError(f"An image must have the shape (height, width[, 1 to 4 channels]), got {array.shape}.")
        if np.issubdtype(array.dtype, np.floating):
            if not (array.min() >= -1e-3 and array.max() <= 1 + 1e-3):  # NaN fails this
                raise ImageError(f"Floating-point pixels must lie in [0, 1], got {array.min():g} to {array.max():g}.")
            array = np.rint(array.clip(0, 1).astype(np.float64) * 65535).astype(np.uint16)  # float16 ends before 65535
        if array.dtype not in (np.uint8, np.uint16):
            raise ImageError(f"Pixels must be uint8, uint16 or floating point in [0, 1], got {array.dtype}.")
        return cls(*_split_alpha(array))

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)"""
        return self.pixels.shape[:2]

    @property
    def rgb(self) -> np.ndarray:
        """(height, width, 3), uint8 or uint16; a view where possible."""
        return np.broadcast_to(self.pixels, (*self.size, 3))

    @property
    def rgb_icc_profile(self) -> bytes:
        """The profile of `rgb`: a grey picture's does not describe colours."""
        return self.icc_profile if self.pixels.shape[2] == 3 else b""

    def with_rgb(self, rgb: np.ndarray) -> "Picture":
        """This picture with other colours (height, width, 3) of the same type: grey stays grey (BT.601 luma)."""
        if rgb.shape != (*self.size, 3) or rgb.dtype != self.pixels.dtype:
            raise ValueError(
                f"Expected {(*self.size, 3)} of {self.pixels.dtype}, got {rgb.shape} of {rgb.dtype}: "
                "the new colours must have the picture's size and depth."
            )
        return replace(self, pixels=_luma(rgb) if self.pixels.shape[2] == 1 else rgb)

    def as_8_bit(self) -> "Picture":
        """This picture with 8 bits a channel."""
        if self.pixels.dtype == np.uint8:
            return self
        alpha = None if self.alpha is None else _to_8_bit(self.alpha)
        return replace(self, pixels=_to_8_bit(self.pixels), alpha=alpha)

    def to_pil(self) -> Image.Image:
        """An 8-bit Pillow image (L, LA, RGB or RGBA) with the ICC profile and EXIF in `info`."""
        picture = self.as_8_bit()
        pixels = _with_alpha(picture)
        image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
        if self.exif:
            image.info["exif"] = _EXIF_PREFIX + self.exif  # as Pillow has it from a JPEG, and needs it for one
        if self.icc_profile:
            image.info["icc_profile"] = self.icc_profile
        return image


def open_image(path: str | Path, max_pixels: float = MAX_PIXELS) -> Picture:
    """Read a picture file.

    Args:
        path (`str` or `Path`): A PNG, JPEG, WebP, TIFF or BMP file, whatever its extension.
        max_pixels (`float`): A larger picture is refused before it is decoded.

    Raises:
        ImageError: The file is missing, empty, not a picture, of an unknown kind, damaged, or too large.
    """
    path = Path(path)
    with _reading_errors(path):
        if path.is_dir():
            raise ImageError(f"{path} is a folder, not a picture.")
        if path.stat().st_size == 0:
            raise ImageError(f"{path} is empty (0 bytes): copy or download it again.")
        read = _read_deep_tiff if _is_deep_tiff(path) else _read_with_pillow
        picture, orientation = read(path, max_pixels)
    return _turned_upright(picture, orientation)


def pictures_below(folder: Path, leave_out: Path | None = None) -> list[Path]:
    """Every picture in a folder and those below it (`folders_below`), by its extension; hidden ones aside."""
    entries = {parent: list(parent.iterdir()) for parent in folders_below(folder, leave_out)}
    tell_of_unread(folder, chain.from_iterable(entries.values()))
    return sorted(path for parent, paths in entries.items() for path in _pictures_among(parent, paths))


def holds_pictures(folder: Path, leave_out: Path | None = None) -> bool:
    """Whether `pictures_below` would find any; nothing is told of what is left out."""
    paths = (path for parent in folders_below(folder, leave_out) for path in parent.iterdir())
    return any(is_called_a_picture(path) and path.is_file() for path in paths)


def tell_of_unread(place: str | Path, paths: Iterable[Path]) -> None:
    """Warn of pictures among `paths` that are passed over because of their format; `place` is where they were looked for."""
    suffixes = [path.suffix.lower() for path in paths if not path.name.startswith(".")]
    counts = Counter(suffix for suffix in suffixes if suffix in UNREAD_EXTENSIONS)
    if counts:
        found = ", ".join(f"{count} {suffix}" for suffix, count in sorted(counts.items()))
        logger.warning("%s: left out %s: only PNG, JPEG, WebP, TIFF and BMP are read.", place, found)


def pictures_by_stem(folder: Path) -> dict[str, Path]:
    """The pictures that lie directly in a folder of pairs, by name without extension, which is what pairs have in common.

    Raises:
        ImageError: Two pictures of one name.
    """
    pictures: dict[str, Path] = {}
    for path in _pictures_among(folder, folder.iterdir()):
        if pictures.setdefault(path.stem, path) != path:
            raise ImageError(f"{pictures[path.stem]} and {path.name} have the same name: remove one of them.")
    return pictures


def _pictures_among(folder: Path, paths: Iterable[Path]) -> list[Path]:
    """Those among what lies directly in a folder, in order."""
    called = sorted(filter(is_called_a_picture, paths))
    if gone := [path for path in called if path.is_symlink() and not path.exists()]:
        logger.warning("%s: %d link(s) that lead nowhere are left out, first %s.", folder, len(gone), gone[0].name)
    return [path for path in called if path.is_file()]


def is_called_a_picture(path: Path) -> bool:
    """By its extension; hidden ones are none, such as the `._001.png` that Macs leave beside 001.png on foreign disks."""
    return path.suffix.lower() in EXTENSIONS and not path.name.startswith(".")


def read_rgb(path: str | Path) -> np.ndarray:
    """Read a picture as (height, width, 3) uint8 RGB, upright and without alpha; raises like `open_image`."""
    return np.ascontiguousarray(open_image(path).as_8_bit().rgb)


def rgb_of(image: Image.Image) -> np.ndarray:
    """A Pillow image as (height, width, 3) uint8 RGB, upright and without alpha; raises like `Picture.from_pil`."""
    return np.ascontiguousarray(Picture.from_pil(image).as_8_bit().rgb)


def format_of(path: str | Path) -> str:
    """The format an output's name asks for (`out.jpg`: `JPEG`).

    Raises:
        ImageError: The extension names no format that can be written.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in EXTENSIONS:
        raise ImageError(
            f"{path} does not say in which format to write: end its name with one of {', '.join(EXTENSIONS)}."
        )
    return EXTENSIONS[suffix]


def save_image(picture: Picture, path: str | Path, format: str | None = None) -> None:
    """Write a picture, complete or not at all, in `format` or else in the one that the path's extension names.

    What the format cannot hold is given up with a warning: 16 bit (JPEG, WebP, BMP), alpha (JPEG; shown on white).

    Raises:
        ImageError: The format cannot hold this picture (too wide or high).
        files.WriteError: The disk is full, the folder is not writable, ...; nothing of the file is left behind.
    """
    path = Path(path)
    write_atomically(path, encode(picture, path, format))


def encode(picture: Picture, path: Path, format: str | None = None) -> bytes:
    """What `save_image` writes to `path`; raises its `ImageError`."""
    format = format or format_of(path)
    picture = _fitted(picture, format, path)
    encoders = {
        "PNG": _encode_png,
        "JPEG": _encode_jpeg,
        "WEBP": _encode_webp,
        "TIFF": _encode_tiff,
        "BMP": _encode_bmp,
    }
    try:
        return encoders[format](picture)
    except Exception as error:  # encoders raise nearly anything, as decoders do
        height, width = picture.size
        raise ImageError(f"{path}: {width} x {height} pixels cannot be written as {format} ({error}).") from error


# Reading


@contextlib.contextmanager
def _reading_errors(path: Path) -> Iterator[None]:
    """Turn what the decoders raise into one sentence that names the file."""
    try:
        yield
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError(f"{path} does not exist.") from error
    except PermissionError as error:
        raise ImageError(f"{path} may not be read: permission denied.") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{path} is not a picture that can be read: PNG, JPEG, WebP, TIFF and BMP can.") from error
    except MemoryError as error:
        raise ImageError(f"{path} does not fit into memory.") from error
    except Exception as error:  # decoders raise nearly anything on damaged files: SyntaxError, struct.error, KeyError
        raise ImageError(f"{path} is damaged or incomplete and cannot be read ({error}).") from error


@contextlib.contextmanager
def _limits_of_ours() -> Iterator[None]:
    """In place of Pillow's, which are globals: they are set aside under a lock. Profiles and texts of a PNG may be as large as
    all of them together may be, not 1 MiB each."""
    with _pillow_limits:
        pixels, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        text, PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK = pixels, text


@contextlib.contextmanager
def _opened(path: Path, max_pixels: float) -> Iterator[Image.Image]:
    with _limits_of_ours():
        image = Image.open(path, formats=_READABLE)
    with image:
        _check_size(path, image.width, image.height, max_pixels)
        yield image


def _load(image: Image.Image, path: Path) -> None:
    """Decode, outside the lock. Texts of a PNG may also lie behind its pixels, where Pillow's limit stops it at a long one:
    what is there is then read in a second go."""
    try:
        image.load()
    except ValueError:
        if image.format != "PNG" or image.tile:  # the pixels themselves are damaged
            raise
        with _limits_of_ours(), Image.open(path, formats=_READABLE) as again:
            again.load()
            image.info = again.info


def _check_size(path: Path, width: int, height: int, max_pixels: float) -> None:
    if width * height > max_pixels:
        raise ImageError(
            f"{path} has {width} x {height} pixels, more than the limit of {max_pixels / 1e6:g} megapixels that guards "
            "against decompression bombs: scale it down, or raise the limit if you trust the file."
        )


def _count_others(path: Path, count: int) -> int:
    if count > 1:
        logger.warning("%s holds %d pictures; only the first is read.", path, count)
    return count - 1


def _read_with_pillow(path: Path, max_pixels: float) -> tuple[Picture, int]:
    """The picture still turned as it was stored, and its EXIF Orientation."""
    with _opened(path, max_pixels) as image:
        # the second picture of an MPO is a preview or the other eye
        others = 0 if image.format == "MPO" else _count_others(path, getattr(image, "n_frames", 1))
        icc_profile = image.info.get("icc_profile") or b""
        _load(image, path)  # what lacks pixels is no matter of its EXIF, which Pillow may look for behind them
        about = {"exif": _exif_block(image, path), "format": _format(image), "encoding": _encoding(image, path)}
        depth = _png_depth(path) if image.format == "PNG" else 8
        if depth == 16:  # Pillow would drop the lower 8
            pixels = imagecodecs.png_decode(path.read_bytes())
        elif image.mode == "CMYK":
            rgb, icc_profile = _cmyk_to_rgb(image, icc_profile)
            pixels = np.asarray(rgb)
        else:
            if image.mode == "L" and depth < 8 and "transparency" in image.info:
                image.info["transparency"] *= 255 // (2**depth - 1)  # as Pillow has done with the pixels
            pixels = np.asarray(image.convert(_target_mode(image, path)))
        return Picture(*_split_alpha(pixels), icc_profile=icc_profile, others=others, **about), _orientation(image)


def _split_alpha(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """(height, width[, 1 to 4]) to (height, width, 1 or 3) and (height, width)."""
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    return (pixels[..., :-1], pixels[..., -1]) if pixels.shape[2] in (2, 4) else (pixels, None)


def _target_mode(image: Image.Image, path: Path | str) -> str:
    """The Pillow mode among L, LA, RGB and RGBA that holds everything of an 8-bit image."""
    if image.mode in ("1", "L", "LA", "La"):
        return "LA" if image.has_transparency_data else "L"
    if image.mode in ("P", "PA", "RGB", "RGBX", "RGBA", "RGBa", "YCbCr"):
        return "RGBA" if image.has_transparency_data else "RGB"
    raise ImageError(
        f"{path} stores its pixels as {image.mode}, which is not supported: convert it to 8 or 16 bit RGB."
    )


def _is_deep_tiff(path: Path) -> bool:
    """Whether this is a TIFF of more than 8 bits a channel, much of which Pillow does not know.

    Raises:
        ImageError: It is a raw file, of which Pillow would read the preview.
    """
    with open(path, "rb") as file:
        if file.read(4) not in (b"II\x2a\x00", b"MM\x00\x2a", b"II\x2b\x00", b"MM\x00\x2b"):
            return False
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        if page.is_reduced or "DNGVersion" in page.tags:
            raise ImageError(
                f"{path} is a camera's raw file, or only the preview of one: develop it into a TIFF or JPEG first."
            )
        bits = page.bitspersample
        return max(bits if isinstance(bits, tuple) else (bits,)) > 8


def _read_deep_tiff(path: Path, max_pixels: float) -> tuple[Picture, int]:
    """The first page of a 16-bit TIFF, still turned as it was stored, and its Orientation."""
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        _check_size(path, page.imagewidth, page.imagelength, max_pixels)
        others = _count_others(path, len(tiff.pages))
        exif = Image.Exif()
        exif.endian, exif.bigtiff = tiff.byteorder, tiff.is_bigtiff
        with open(path, "rb") as file:
            exif.load_from_fp(file, page.offset)
            with _left_out_if_damaged(path) as block:
                block += _exif_of_tiff(exif)
        encoding = {"compression": LOSSLESS_TIFF_COMPRESSION.get(page.compression.name.lower(), "zlib")}
        if page.resolutionunit in (2, 3):
            scale = {2: 1, 3: 2.54}[page.resolutionunit]
            encoding["dpi"] = tuple(value * scale for value in page.resolution)
        cmyk = page.photometric == tifffile.PHOTOMETRIC.SEPARATED
        picture = Picture(
            *_split_alpha(_deep_tiff_pixels(page, path)),
            format="TIFF",
            exif=bytes(block),
            icc_profile=b"" if cmyk else page.iccprofile or b"",
            encoding=encoding,
            others=others,
        )
        return picture, exif.get(ExifTags.Base.Orientation, 1)


def _deep_tiff_pixels(page: tifffile.TiffPage, path: Path) -> np.ndarray:
    """(height, width[, channels]) uint16: grey, grey and alpha, RGB or RGBA."""
    photometric = page.photometric
    if page.dtype != np.uint16 or page.bitspersample != 16:
        raise ImageError(
            f"{path} stores {page.bitspersample} bits a channel as {page.dtype}, which is not supported: "
            "convert it to integers of 8 or 16 bits."
        )
    if photometric not in (0, 1, 2, 5) or (photometric == 5 and page.samplesperpixel != 4):
        raise ImageError(
            f"{path} stores 16-bit colours as {photometric.name}, which is not supported: convert it to RGB."
        )
    end = page.parent.filehandle.size
    if any(start + length > end for start, length in zip(page.dataoffsets, page.databytecounts, strict=True)):
        raise ValueError("its pixels end too early")  # tifffile would read them as black
    pixels = page.asarray().reshape(page.shape)
    if page.planarconfig == tifffile.PLANARCONFIG.SEPARATE and page.samplesperpixel > 1:
        pixels = np.moveaxis(pixels, 0, -1)
    if photometric == tifffile.PHOTOMETRIC.MINISWHITE:
        pixels = np.concatenate([65535 - pixels[..., :1], pixels[..., 1:]], -1) if pixels.ndim == 3 else 65535 - pixels
    if photometric == tifffile.PHOTOMETRIC.SEPARATED:
        # Without colour management, as Pillow converts CMYK: R = (1 - C)(1 - K)
        ink = 65535 - pixels.astype(np.uint32)
        pixels = ((ink[..., :3].astype(np.uint64) * ink[..., 3:] + 32767) // 65535).astype(np.uint16)
    if pixels.ndim == 2:
        return pixels
    channels = {0: 1, 1: 1, 2: 3, 5: 3}[photometric]
    colours, alpha = pixels[..., :channels], pixels[..., channels : channels + 1]
    match page.extrasamples[:1]:
        case (tifffile.EXTRASAMPLE.UNASSALPHA,):
            return np.concatenate([colours, alpha], axis=-1)
        case (tifffile.EXTRASAMPLE.ASSOCALPHA,):
            straight = np.rint(colours * 65535.0 / np.maximum(alpha, 1)).clip(0, 65535).astype(np.uint16)
            return np.concatenate([straight, alpha], axis=-1)
    return colours  # what else there is, such as near infrared, is no alpha


def _cmyk_to_rgb(image: Image.Image, icc_profile: bytes) -> tuple[Image.Image, bytes]:
    """RGB and the profile that describes it; a profile that cannot be used is passed over, as viewers do."""
    if icc_profile:
        srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
        with contextlib.suppress(ImageCms.PyCMSError, OSError):
            converted = ImageCms.profileToProfile(image, io.BytesIO(icc_profile), srgb, outputMode="RGB")
            return converted, srgb.tobytes()
    return image.convert("RGB"), b""


def _format(image: Image.Image) -> str:
    return {"MPO": "JPEG", "DIB": "BMP"}.get(image.format, image.format)


def _encoding(image: Image.Image, path: Path) -> dict:
    """How the file was encoded, in the words of the writer of the same format."""
    encoding = {}
    dpi = image.info.get("dpi")
    if dpi and all(1 < float(value) < 65536 for value in dpi):  # 1 is what Pillow calls a TIFF's mere aspect
        encoding["dpi"] = tuple(float(value) for value in dpi)
    match _format(image):
        case "JPEG":
            encoding["qtables"] = image.quantization
            encoding["progressive"] = bool(image.info.get("progressive"))
            if (subsampling := JpegImagePlugin.get_sampling(image)) >= 0:  # -1: grey, CMYK, 4:4:0 and 4:1:1
                encoding["subsampling"] = subsampling
        case "PNG":
            encoding["chunks"] = [
                (name, data) for name, data in _png_header_chunks(path) if name in _PNG_COLOUR_CHUNKS
            ]
        case "WEBP":
            encoding["lossless"] = b"VP8L" in _riff_chunk_names(path)
        case "TIFF":
            encoding["compression"] = LOSSLESS_TIFF_COMPRESSION.get(image.info.get("compression"), "zlib")
    return encoding


def _png_depth(path: Path) -> int:
    """Bits a channel, from the ninth byte of IHDR, which is always the first chunk."""
    with open(path, "rb") as file:
        return file.read(25)[24]


def _png_header_chunks(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """The (name, data) of the chunks before the pixels."""
    with open(path, "rb") as file:
        file.seek(len(_PNG_SIGNATURE))
        while len(head := file.read(8)) == 8 and head[4:] != b"IDAT":
            yield head[4:], file.read(int.from_bytes(head[:4], "big"))
            file.seek(4, os.SEEK_CUR)  # CRC


def _riff_chunk_names(path: Path) -> set[bytes]:
    """The chunks of a WebP up to its first picture."""
    names: set[bytes] = set()
    with open(path, "rb") as file:
        file.seek(12)
        while not names & {b"VP8 ", b"VP8L"} and len(head := file.read(8)) == 8:
            names.add(head[:4])
            length = int.from_bytes(head[4:], "little")
            # Into an animation's first frame, whose chunks lie behind 16 bytes of its own, and past everything else.
            file.seek(16 if head[:4] == b"ANMF" else length + length % 2, os.SEEK_CUR)
    return names


def _orientation(image: Image.Image) -> int:
    """EXIF's Orientation of decoded pixels; decoded, since Pillow then has turned a TIFF by itself."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # of damaged EXIF, as in `_exif_block`
        return 1


def _exif_block(image: Image.Image, path: Path | str) -> bytes:
    """The EXIF of a Pillow image as a TIFF structure: upright, and without the rainy thumbnail."""
    with _left_out_if_damaged(path) as block:
        exif = image.getexif()
        if image.format == "TIFF":
            block += _exif_of_tiff(exif)
        elif len(exif):
            block += _upright_exif((image.info.get("exif") or exif.tobytes()).removeprefix(_EXIF_PREFIX))
    return bytes(block)


@contextlib.contextmanager
def _left_out_if_damaged(path: Path | str) -> Iterator[bytearray]:
    """An EXIF block to fill. What Pillow raises differs from one damage, and from one tag of the wrong type, to the next."""
    try:
        yield bytearray()
    except Exception:
        logger.warning("%s: its EXIF is damaged and is left out.", path)


def _exif_of_tiff(tags: Image.Exif) -> bytes:
    """Those of a TIFF's tags that make up EXIF."""
    kept = Image.Exif()
    for tag, value in _descriptive_tags(tags).items():
        kept[tag] = value
    return kept.tobytes().removeprefix(_EXIF_PREFIX) if len(kept) else b""


def _descriptive_tags(tags: Image.Exif) -> dict:
    directories = {tag: dict(tags.get_ifd(tag)) for tag in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)}
    interoperability = ExifTags.IFD.Interop  # a pointer into the old file
    directories[ExifTags.IFD.Exif].pop(interoperability, None)
    described = {tag: tags[tag] for tag in sorted(_DESCRIPTIVE_TAGS & set(tags))}
    return described | {tag: directory for tag, directory in directories.items() if directory}


def _upright_exif(block: bytes) -> bytes:
    """Set Orientation to 1 and cut off IFD1 (the thumbnail) in place, so that every other byte stays where it was."""
    block = bytearray(block)
    order = "<" if block[:2] == b"II" else ">"
    (start,) = struct.unpack_from(order + "I", block, 4)
    (count,) = struct.unpack_from(order + "H", block, start)
    for entry in range(start + 2, start + 2 + 12 * count, 12):
        if struct.unpack_from(order + "H", block, entry)[0] == ExifTags.Base.Orientation:
            struct.pack_into(order + "H", block, entry + 8, 1)
    if len(block) >= start + 2 + 12 * count + 4:
        struct.pack_into(order + "I", block, start + 2 + 12 * count, 0)
    return bytes(block)


def _turned_upright(picture: Picture, orientation: int) -> Picture:
    """Undo EXIF's Orientation (2 to 8) in the pixels."""

    def turned(array: np.ndarray) -> np.ndarray:
        if orientation in (5, 6, 7, 8):
            array = array.swapaxes(0, 1)
        if orientation in (3, 4, 7, 8):
            array = array[::-1]
        if orientation in (2, 3, 6, 7):
            array = array[:, ::-1]
        return array

    alpha = None if picture.alpha is None else turned(picture.alpha)
    encoding = dict(picture.encoding)
    if orientation in (5, 6, 7, 8) and "dpi" in encoding:
        encoding["dpi"] = encoding["dpi"][::-1]
    return replace(picture, pixels=turned(picture.pixels), alpha=alpha, encoding=encoding)


# Writing


def _fitted(picture: Picture, format: str, path: Path) -> Picture:
    """The picture as far as the format can hold it."""
    if format != picture.format:
        picture = replace(picture, encoding={k: v for k, v in picture.encoding.items() if k == "dpi"})
    if picture.pixels.dtype == np.uint16 and format not in ("PNG", "TIFF"):
        logger.warning("%s: %s holds 8 bits a channel; of the picture's 16 the lower 8 are lost.", path, format)
        picture = picture.as_8_bit()
    if format == "BMP" and (picture.exif or picture.icc_profile):
        logger.warning("%s: BMP holds no EXIF and no colour profile; the picture's are lost.", path)
    if format == "WEBP" and picture.pixels.shape[2] == 1:
        picture = replace(picture, icc_profile=b"")  # WebP holds no grey, and a grey profile does not describe colours
    if picture.alpha is not None and format == "JPEG":
        if not picture.alpha.all():
            logger.warning("%s: JPEG holds no transparency; the picture is shown on white.", path)
        alpha = picture.alpha[..., None].astype(np.uint16)
        pixels = (picture.pixels * alpha + 255 * (255 - alpha) + 127) // 255
        picture = replace(picture, pixels=pixels.astype(np.uint8), alpha=None)
    return picture


def _encode_png(picture: Picture) -> bytes:
    pixels = np.ascontiguousarray(_with_alpha(picture))
    # Rows begin with a byte of their own, and noise does not shrink: imagecodecs' own guess is too small for narrow pictures.
    room = pixels.nbytes + pixels.nbytes // 64 + pixels.shape[0] + 4096
    data = imagecodecs.png_encode(pixels[..., 0] if pixels.shape[2] == 1 else pixels, out=room)
    chunks = list(picture.encoding.get("chunks", ()))
    if picture.icc_profile:
        chunks.insert(0, (b"iCCP", b"ICC profile\x00\x00" + zlib.compress(picture.icc_profile)))
    if "dpi" in picture.encoding:
        horizontal, vertical = (round(value / 0.0254) for value in picture.encoding["dpi"])
        chunks.append((b"pHYs", struct.pack(">IIB", horizontal, vertical, 1)))
    if picture.exif:
        chunks.append((b"eXIf", picture.exif))
    header_end = len(_PNG_SIGNATURE) + 25
    return data[:header_end] + b"".join(_png_chunk(*chunk) for chunk in chunks) + data[header_end:]


def _png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _encode_jpeg(picture: Picture) -> bytes:
    options = dict(picture.encoding)
    if "dpi" in options:
        options["dpi"] = tuple(round(value) for value in options["dpi"])
    if "qtables" not in options:
        options |= {"quality": JPEG_QUALITY, "subsampling": 0}
    if picture.pixels.shape[2] == 1:
        options.pop("subsampling", None)
    else:
        options.setdefault("subsampling", 0)
    exif = _EXIF_PREFIX + picture.exif if picture.exif else b""
    if len(exif) > 65533:
        logger.warning("EXIF of %d bytes does not fit into a JPEG and is left out.", len(exif))
        exif = b""
    try:
        return _encode_with_pillow(picture, "JPEG", exif=exif, optimize=True, **options)
    except OSError:  # Pillow gives such files two bytes a pixel, which noise at the highest quality exceeds
        return _encode_with_pillow(picture, "JPEG", exif=exif, **(options | {"progressive": False}))


def _encode_webp(picture: Picture) -> bytes:
    # `exact` keeps the colours under fully transparent pixels, as in the input
    lossless = picture.encoding.get("lossless", False)
    exif = _EXIF_PREFIX + picture.exif if picture.exif else b""
    return _encode_with_pillow(picture, "WEBP", exif=exif, lossless=lossless, quality=JPEG_QUALITY, exact=True)


def _encode_with_pillow(picture: Picture, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image = picture.to_pil()
    image.info.clear()
    image.save(buffer, format, icc_profile=picture.icc_profile or None, **options)
    return buffer.getvalue()


def _encode_tiff(picture: Picture) -> bytes:
    pixels = _with_alpha(picture)
    options = {}
    if "dpi" in picture.encoding:
        options = {"resolution": picture.encoding["dpi"], "resolutionunit": "INCH"}
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer,
        pixels[..., 0] if pixels.shape[2] == 1 else pixels,
        byteorder="<",
        bigtiff=False,
        photometric="rgb" if pixels.shape[2] >= 3 else "minisblack",
        planarconfig="contig" if pixels.shape[2] > 1 else None,
        extrasamples=["unassalpha"] if picture.alpha is not None else None,
        compression=picture.encoding.get("compression", "zlib"),
        iccprofile=picture.icc_profile or None,
        rowsperstrip=max(1, (1 << 20) // (pixels[0].nbytes or 1)),
        metadata=None,
        software=False,
        **options,
    )
    tiff = buffer.getvalue()
    if not picture.exif:
        return tiff
    try:
        return _with_exif_tags(tiff, picture.exif)
    except Exception:  # as in `_left_out_if_damaged`: other formats take the block as it is
        logger.warning("EXIF with a tag of the wrong type does not fit into a TIFF and is left out.")
        return tiff


def _with_exif_tags(tiff: bytes, block: bytes) -> bytes:
    """Add EXIF to a little-endian TIFF, which tifffile cannot: a longer copy of its directory goes to the file's end."""
    exif = Image.Exif()
    exif.load(block)
    added = TiffImagePlugin.ImageFileDirectory_v2(b"II\x2a\x00\x08\x00\x00\x00")
    for tag, value in _descriptive_tags(exif).items():
        added[tag] = value
    tiff += b"\x00" * (len(tiff) % 2)
    values = added.tobytes(len(tiff))  # a directory whose offsets hold once it is appended
    (start,) = struct.unpack_from("<I", tiff, 4)
    entries = {**_ifd_entries(tiff, start), **_ifd_entries(values, 0)}
    tiff += values + b"\x00" * (len(values) % 2)
    directory = struct.pack("<H", len(entries)) + b"".join(entries[tag] for tag in sorted(entries)) + b"\x00" * 4
    return tiff[:4] + struct.pack("<I", len(tiff)) + tiff[8:] + directory


def _ifd_entries(data: bytes, start: int) -> dict[int, bytes]:
    """The 12-byte entries of a little-endian TIFF directory, by tag."""
    (count,) = struct.unpack_from("<H", data, start)
    positions = range(start + 2, start + 2 + 12 * count, 12)
    return {struct.unpack_from("<H", data, position)[0]: data[position : position + 12] for position in positions}


def _encode_bmp(picture: Picture) -> bytes:
    if picture.alpha is None:
        options = {"dpi": picture.encoding["dpi"]} if "dpi" in picture.encoding else {}
        return _encode_with_pillow(picture, "BMP", **options)
    # Pillow writes 32 bits without saying that the last 8 are alpha; BITMAPV4HEADER says so.
    height, width = picture.size
    bgra = np.concatenate([picture.rgb[::-1, :, ::-1], picture.alpha[::-1, :, None]], axis=2)
    masks = (0x00FF0000, 0x0000FF00, 0x000000FF, 0xFF000000)
    header = struct.pack("<IiiHHIIiiII", 108, width, height, 1, 32, 3, bgra.nbytes, 2835, 2835, 0, 0)
    header += struct.pack("<4I", *masks) + b"BGRs" + b"\x00" * 48
    return struct.pack("<2sIHHI", b"BM", 14 + 108 + bgra.nbytes, 0, 0, 14 + 108) + header + bgra.tobytes()


# Arithmetic


def _with_alpha(picture: Picture) -> np.ndarray:
    """(height, width, 1 to 4)"""
    if picture.alpha is None:
        return picture.pixels
    return np.concatenate([picture.pixels, picture.alpha[..., None]], axis=2)


def _to_8_bit(values: np.ndarray) -> np.ndarray:
    """65535 becomes 255, rounded to the nearest."""
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _luma(rgb: np.ndarray) -> np.ndarray:
    """(height, width, 3) to (height, width, 1), of the same type: BT.601, whose weights add up to one."""
    luma = np.empty((*rgb.shape[:2], 1), rgb.dtype)
    for row, colours in zip(luma, rgb, strict=True):  # row by row: no copy of the image in floating point
        row[:, 0] = np.rint(colours @ np.array([0.299, 0.587, 0.114], np.float32))
    return luma
