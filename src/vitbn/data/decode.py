"""One image file as uint8 pixels, whatever its format, mode or orientation. Imports no torch."""

import os
import stat
import warnings
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, ImageStat, UnidentifiedImageError

from vitbn.data.files import as_text
from vitbn.errors import InputError

MAX_PIXELS = 89_478_485  # Pillow's own bound, beyond which it warns: 256 MiB of colour
MODES = {1: "L", 3: "RGB"}
# Formats whose header says how large the decoded picture is. Others hold pictures of any size inside (ICO, ICNS, BLP,
# IPTC) or are programs (PostScript, WMF).
FORMATS = (
    "PNG", "JPEG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "JPEG2000", "PPM", "TGA", "PCX", "SGI", "QOI", "DDS",
    "PSD", "SUN", "XBM", "XPM",
)  # fmt: skip
PHOTOMETRIC, TILE_WIDTH, TILE_LENGTH, SAMPLE_FORMAT = 262, 322, 323, 339  # TIFF's tags
WHITE_IS_ZERO = 0

# read_picture refuses what Pillow would only warn of
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def decode(path: Path | str, *, channels: int, size: int | None = None) -> NDArray[np.uint8]:
    """The image as (C, H, W), grey for 1 channel and RGB for 3; InputError names a file that cannot be read.

    With `size`, the central square, resized (bilinear, antialiased) to `size` x `size`. CMYK and palettes become RGB,
    as in torchvision's loader; what is transparent shows a ground (`on_ground`).
    """
    if channels not in MODES:
        raise InputError(f"channels={channels}: choose from {', '.join(map(str, MODES))}")
    return to_pixels(read_picture(path, name=as_text(str(path)), mode=MODES[channels]), size)


def to_pixels(picture: Image.Image, size: int | None) -> NDArray[np.uint8]:
    """A grey or RGB picture as (C, H, W); with `size`, its central square, resized."""
    if size is not None and picture.size != (size, size):
        picture = ImageOps.fit(picture, (size, size), Image.Resampling.BILINEAR)
    pixels = np.asarray(picture)
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def read_picture(file: Path | str | BinaryIO, *, name: str, mode: str, max_pixels: int | None = None) -> Image.Image:
    """The picture in Pillow's `mode`, L or RGB; InputError opens with `name` if it cannot be read.

    Its pixels, at most MAX_PIXELS by default, are counted before they are decoded. EXIF orientation is applied;
    16-bit grey is scaled to 8 bits; of an animation or a file of several pages the first picture is read.
    """
    max_pixels = MAX_PIXELS if max_pixels is None else max_pixels
    try:
        with _opened(file) as stream, Image.open(stream, formats=readable_formats()) as image:
            if _decoded_pixels(image) > max_pixels:
                raise Image.DecompressionBombError
            return on_ground(_eight_bits(ImageOps.exif_transpose(image), image), mode)
    except Exception as error:  # Pillow's plugins raise whatever a damaged header leads them to
        raise InputError(f"{name}: {_reason(error, max_pixels)}") from None


def _opened(file: Path | str | BinaryIO) -> AbstractContextManager[BinaryIO]:
    """A path's file, opened here: Pillow maps a raw file that it opens itself into memory, and turns that wrongly."""
    if not isinstance(file, Path | str):
        return nullcontext(file)
    if not stat.S_ISREG(os.stat(file).st_mode):
        raise ValueError("not a regular file")  # opening a pipe or a device might wait for ever
    return open(file, "rb")


@lru_cache(maxsize=1)
def readable_formats() -> tuple[str, ...]:
    """Those of FORMATS that this Pillow was built with."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def on_ground(picture: Image.Image, mode: str) -> Image.Image:
    """The picture in `mode`, L or RGB; what is transparent becomes black under light ink and white under dark."""
    if picture.mode == "LAB":
        picture = picture.convert("RGB")  # Pillow's only way out of it
    if not picture.has_transparency_data:
        return picture.convert(mode)
    picture = picture.convert("RGBA")
    alpha, opaque = picture.getchannel("A"), picture.convert(mode)
    if alpha.getextrema() == (255, 255):
        return opaque
    visible = ImageStat.Stat(opaque.convert("L"), alpha.point([0] * 128 + [255] * 128))
    is_light = visible.count[0] > 0 and visible.mean[0] >= 127.5
    ground = Image.new(mode, picture.size, "black" if is_light else "white")
    ground.paste(opaque, mask=alpha)
    return ground


def _decoded_pixels(image: Image.Image) -> int:
    """Of the picture, or of one of a TIFF's tiles, which are decoded whole however little of them the picture shows."""
    tags = getattr(image, "tag_v2", {})
    return max(image.width * image.height, int(tags.get(TILE_WIDTH, 0)) * int(tags.get(TILE_LENGTH, 0)))


def _reason(error: Exception, max_pixels: int) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, Image.DecompressionBombError):  # Pillow's own words name another bound
        return f"too large, more than {max_pixels:,} pixels"
    if isinstance(error, UnidentifiedImageError):
        reason = "no known image format"
    else:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
    return f"cannot be read as an image ({reason})"


def _eight_bits(picture: Image.Image, file: Image.Image) -> Image.Image:
    """16-bit grey without its low byte, where Pillow's `convert` would clip; of other numbers no white is known."""
    if picture.mode.startswith("I;16") or (picture.mode == "I" and file.format == "PPM"):
        grey = np.asarray(picture).astype(np.uint16)
        if getattr(file, "tag_v2", {}).get(PHOTOMETRIC) == WHITE_IS_ZERO:
            grey = ~grey  # as Pillow does with 8 bits
        opaque = Image.fromarray((grey >> 8).astype(np.uint8))
        if (transparent := file.info.get("transparency")) is not None:  # PNG's one grey that stands for nothing
            opaque.putalpha(Image.fromarray(np.where(grey == transparent, 0, 255).astype(np.uint8)))
        return opaque
    if picture.mode in ("I", "F"):
        signed = 2 in getattr(file, "tag_v2", {}).get(SAMPLE_FORMAT, ())
        problem = "its pixels are signed numbers" if signed else "its pixels have 32 bits"
        raise ValueError(f"{problem}; save it with 8 or 16 unsigned bits")
    return picture
