"""One image file as uint8 pixels, whatever its format, mode or orientation. Imports no torch."""

import os
import stat
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from vitbn.errors import InputError

MAX_PIXELS = 89_478_485  # Pillow's own bound, beyond which it warns: 256 MiB of colour
MODES = {1: "L", 3: "RGB"}

# read_picture refuses what Pillow would only warn of
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def decode(path: Path | str, *, channels: int, size: int | None = None) -> NDArray[np.uint8]:
    """The image as (C, H, W), grey for 1 channel and RGB for 3; InputError names a file that cannot be read.

    With `size`, the central square, resized (bilinear, antialiased) to `size` x `size`. CMYK and palettes become RGB
    and transparency is dropped, as in torchvision's loader.
    """
    if channels not in MODES:
        raise ValueError(f"channels={channels}: choose from {', '.join(map(str, MODES))}")
    return to_pixels(read_picture(path, name=str(path), mode=MODES[channels]), size)


def to_pixels(picture: Image.Image, size: int | None) -> NDArray[np.uint8]:
    """A grey or RGB picture as (C, H, W); with `size`, its central square, resized."""
    if size is not None and picture.size != (size, size):
        picture = ImageOps.fit(picture, (size, size), Image.Resampling.BILINEAR)
    pixels = np.asarray(picture)
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def read_picture(file: Path | str | BinaryIO, *, name: str, mode: str, max_pixels: int | None = None) -> Image.Image:
    """The picture in Pillow's `mode`; InputError opens with `name` if it cannot be read.

    Its pixels, at most MAX_PIXELS by default, are counted before they are decoded. EXIF orientation is applied;
    16-bit grey is scaled to 8 bits; of an animation or a file of several pages the first picture is read.
    """
    max_pixels = MAX_PIXELS if max_pixels is None else max_pixels
    try:
        if isinstance(file, Path | str) and stat.S_ISFIFO(os.stat(file).st_mode):
            raise ValueError("a pipe")  # opening it would wait for ever
        with Image.open(file) as image:
            if image.width * image.height > max_pixels:
                raise Image.DecompressionBombError
            if image.format == "EPS":
                raise ValueError("PostScript is a program, which would be run")
            return _eight_bits(ImageOps.exif_transpose(image), image.format).convert(mode)
    except Exception as error:  # Pillow's plugins raise whatever a damaged header leads them to
        raise InputError(f"{name}: {_reason(error, max_pixels)}") from None


def _reason(error: Exception, max_pixels: int) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, Image.DecompressionBombError):  # Pillow's own words name another bound
        return f"too large, more than {max_pixels:,} pixels"
    if isinstance(error, UnidentifiedImageError):
        reason = "no format that Pillow knows"
    else:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
    return f"cannot be read as an image ({reason})"


def _eight_bits(image: Image.Image, file_format: str | None) -> Image.Image:
    """16-bit grey without its low byte, where Pillow's `convert` would clip; 32-bit pixels have no known white."""
    if image.mode.startswith("I;16") or (image.mode == "I" and file_format == "PPM"):
        return Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError("its pixels have 32 bits; save it with 8 or 16")
    return image
