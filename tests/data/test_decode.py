import io
import os
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets.folder import pil_loader
from torchvision.transforms.v2 import functional as F

from vitbn.data.decode import MAX_PIXELS, decode
from vitbn.errors import InputError


def noise(*shape, high=256, dtype=np.uint8):
    return np.random.default_rng(0).integers(0, high, shape, dtype=dtype)


COLOUR, GREY = noise(20, 30, 3), noise(20, 30)
PICTURES = {
    "colour.png": Image.fromarray(COLOUR),
    "photo.jpg": Image.fromarray(COLOUR),
    "grey.bmp": Image.fromarray(GREY),
    "cmyk.jpg": Image.fromarray(COLOUR).convert("CMYK"),
    "cmyk.tif": Image.fromarray(noise(20, 30, 4), mode="CMYK"),
    "palette.gif": Image.fromarray(COLOUR).quantize(7),
    "palette.png": Image.fromarray(COLOUR).quantize(7),
    "transparent.webp": Image.fromarray(noise(20, 30, 4)),
    "transparent.png": Image.fromarray(noise(20, 30, 4)),
    "bits.png": Image.fromarray(GREY > 99),
}


@pytest.mark.parametrize("name", PICTURES)
def test_every_mode_is_read_as_torchvision_reads_it(tmp_path, name):
    PICTURES[name].save(tmp_path / name)
    colour = decode(tmp_path / name, channels=3)
    assert colour.shape == (3, 20, 30) and colour.dtype == np.uint8 and colour.flags.c_contiguous
    assert np.array_equal(colour.transpose(1, 2, 0), np.asarray(pil_loader(tmp_path / name)))
    grey = decode(tmp_path / name, channels=1)
    assert np.array_equal(grey[0], np.asarray(Image.open(tmp_path / name).convert("L")))


@pytest.mark.parametrize("name", ["deep.png", "deep.tif", "deep.pgm"])
def test_16_bits_are_scaled_to_8_as_torchvision_scales_them(tmp_path, name):
    deep = noise(20, 30, high=65536, dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / name)
    expected = F.to_dtype(torch.from_numpy(deep)[None], torch.uint8, scale=True)
    assert np.array_equal(decode(tmp_path / name, channels=1), expected)
    assert np.array_equal(decode(tmp_path / name, channels=3), expected.expand(3, -1, -1))


@pytest.mark.parametrize("name", ["moving.gif", "pages.tif"])
def test_of_several_pictures_the_first_is_read(tmp_path, name):
    frames = [Image.fromarray(np.full((8, 8), value, np.uint8)) for value in (200, 10, 90)]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    assert Image.open(tmp_path / name).n_frames == 3
    assert (decode(tmp_path / name, channels=1) == 200).all()


@pytest.mark.parametrize(("orientation", "quarters"), [(1, 0), (3, 2), (6, -1)])
def test_exif_orientation_is_applied(tmp_path, orientation, quarters):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(COLOUR).save(tmp_path / "x.png", exif=exif)
    assert np.array_equal(decode(tmp_path / "x.png", channels=3).transpose(1, 2, 0), np.rot90(COLOUR, quarters))


@pytest.mark.parametrize("side", [12, 20, 33])
def test_a_square_is_resized_as_torchvision_does(tmp_path, side):
    Image.fromarray(noise(20, 20, 3)).save(tmp_path / "x.png")
    expected = F.resize(Image.open(tmp_path / "x.png"), [side, side])
    assert np.array_equal(decode(tmp_path / "x.png", channels=3, size=side).transpose(1, 2, 0), np.asarray(expected))


@pytest.mark.parametrize("turn", [False, True])
def test_of_an_oblong_the_central_square_is_kept(tmp_path, turn):
    pixels = GREY.T if turn else GREY
    Image.fromarray(pixels).save(tmp_path / "x.png")
    assert np.array_equal(decode(tmp_path / "x.png", channels=1, size=20)[0], pixels[5:25] if turn else pixels[:, 5:25])


def png_claiming(width, height):
    """A PNG of a few bytes whose header promises many pixels."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def encoded(suffix):
    file = io.BytesIO()
    Image.fromarray(noise(64, 64, 3)).save(file, suffix)
    return file.getvalue()


DAMAGED = {
    "truncated.jpg": (encoded("jpeg")[:-500], "cannot be read as an image"),
    "truncated.png": (encoded("png")[:-500], "cannot be read as an image"),
    "flipped.png": (encoded("png")[:400] + b"\0" * 200 + encoded("png")[600:], "cannot be read as an image"),
    "text.png": (b"not a picture", r"cannot be read as an image \(no format that Pillow knows\)"),
    "empty.gif": (b"", r"cannot be read as an image \(no format that Pillow knows\)"),
    "bomb.png": (png_claiming(100_000, 100_000), f"too large, more than {MAX_PIXELS:,} pixels"),
    "small-bomb.png": (png_claiming(10_000, 10_000), f"too large, more than {MAX_PIXELS:,} pixels"),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", DAMAGED)
def test_a_bad_file_is_named_in_one_line(tmp_path, name):
    content, message = DAMAGED[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name}: {message}") as error:
        decode(tmp_path / name, channels=3)
    assert "\n" not in str(error.value)


def test_other_mistakes_are_named(tmp_path):
    with pytest.raises(InputError, match="nowhere.png: no such file"):
        decode(tmp_path / "nowhere.png", channels=3)
    with pytest.raises(InputError, match=r"cannot be read as an image \(Is a directory\)$"):
        decode(tmp_path, channels=3)
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(InputError, match=r"pipe.png: cannot be read as an image \(a pipe\)$"):
        decode(tmp_path / "pipe.png", channels=3)
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(InputError, match="float.tif: .*32 bits; save it with 8 or 16"):
        decode(tmp_path / "float.tif", channels=1)
    with pytest.raises(ValueError, match="channels=2: choose from 1, 3"):
        decode(tmp_path / "float.tif", channels=2)
