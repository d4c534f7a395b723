import io
import os
import socket
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, TiffImagePlugin
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
    "opaque.webp": Image.fromarray(np.dstack([COLOUR, np.full((20, 30), 255, np.uint8)])),
    "opaque.png": Image.fromarray(np.dstack([COLOUR, np.full((20, 30), 255, np.uint8)])),
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


def palette(index, shade):
    """Ink of that shade on an index that is transparent, and stored as mid grey."""
    picture = Image.fromarray(index.astype(np.uint8), "P")
    picture.putpalette([128, 128, 128, shade, shade, shade])
    picture.info["transparency"] = 0
    return picture


INK = np.zeros((20, 20), np.uint8)
INK[5:15, 8:12] = 255
TRANSPARENT = {
    "grey.png": lambda shade: Image.merge("LA", [Image.new("L", (20, 20), shade), Image.fromarray(INK)]),
    "colour.png": lambda shade: Image.fromarray(np.dstack([np.full((20, 20, 3), shade, np.uint8), INK])),
    "tiled.tif": lambda shade: Image.fromarray(np.dstack([np.full((20, 20, 3), shade, np.uint8), INK])),
    "palette.png": lambda shade: palette(INK > 0, shade),
    "palette.gif": lambda shade: palette(INK > 0, shade),
}


@pytest.mark.parametrize("name", TRANSPARENT)
@pytest.mark.parametrize("shade", [0, 255])
def test_ink_in_the_alpha_channel_shows_on_a_ground_of_the_other_shade(tmp_path, name, shade):
    TRANSPARENT[name](shade).save(tmp_path / name)
    expected = np.where(INK > 0, shade, 255 - shade)
    for channels in (1, 3):
        assert (decode(tmp_path / name, channels=channels) == expected).all()


def test_what_is_half_transparent_mixes_with_the_ground(tmp_path):
    pixels = np.dstack([noise(20, 30, 3, high=120), noise(20, 30)])
    Image.fromarray(pixels).save(tmp_path / "x.png")
    alpha = pixels[..., 3:] / 255
    expected = pixels[..., :3] * alpha + 255 * (1 - alpha)
    assert np.abs(decode(tmp_path / "x.png", channels=3).transpose(1, 2, 0) - expected).max() <= 0.51


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


def tiff_of_one_tile(side):
    """A TIFF of 28 x 28 pixels whose only tile has `side` x `side`, all zero; deflated, a thousandth of that."""
    tile = zlib.compress(bytes(min(side * side, 10**6)))
    tags = {256: 28, 257: 28, 258: 8, 259: 8, 262: 1, 277: 1, 322: side, 323: side, 324: 8, 325: len(tile)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return struct.pack("<2sHI", b"II", 42, 8 + len(tile)) + tile + struct.pack("<H", len(tags)) + entries + bytes(4)


def icon_of(side):
    """An ICO of 28 x 28 pixels that holds a PNG of another size."""
    inside = io.BytesIO()
    Image.new("L", (side, side)).save(inside, "PNG")
    png = inside.getvalue()
    return struct.pack("<HHHBBBBHHII", 0, 1, 1, 28, 28, 0, 0, 1, 32, len(png), 22) + png


def test_a_tile_may_be_somewhat_larger_than_the_picture(tmp_path):
    (tmp_path / "x.tif").write_bytes(tiff_of_one_tile(256))
    assert decode(tmp_path / "x.tif", channels=1).shape == (1, 28, 28)


def encoded(suffix):
    file = io.BytesIO()
    Image.fromarray(noise(64, 64, 3)).save(file, suffix)
    return file.getvalue()


DAMAGED = {
    "truncated.jpg": (encoded("jpeg")[:-500], "cannot be read as an image"),
    "truncated.png": (encoded("png")[:-500], "cannot be read as an image"),
    "flipped.png": (encoded("png")[:400] + b"\0" * 200 + encoded("png")[600:], "cannot be read as an image"),
    "text.png": (b"not a picture", r"cannot be read as an image \(no known image format\)"),
    "empty.gif": (b"", r"cannot be read as an image \(no known image format\)"),
    "bomb.tif": (tiff_of_one_tile(46336), f"too large, more than {MAX_PIXELS:,} pixels"),
    "bomb.ico": (icon_of(300), r"cannot be read as an image \(no known image format\)"),
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


def test_a_name_that_is_no_text_can_be_printed(tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.png")
    path.write_bytes(b"no image")
    with pytest.raises(InputError) as error:
        decode(path, channels=3)
    assert "caf\\xe9.png: cannot be read" in str(error.value) and str(error.value).encode()


def test_other_mistakes_are_named(tmp_path):
    with pytest.raises(InputError, match="nowhere.png: no such file"):
        decode(tmp_path / "nowhere.png", channels=3)
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "device.png").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "socket.png"))  # the name of a socket has at most 107 letters
        for path in (tmp_path, tmp_path / "pipe.png", tmp_path / "device.png", tmp_path / "socket.png"):
            with pytest.raises(InputError, match=rf"{path}: cannot be read as an image \(not a regular file\)$"):
                decode(path, channels=3)
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(InputError, match="float.tif: .*32 bits; save it with 8 or 16"):
        decode(tmp_path / "float.tif", channels=1)
    signed = TiffImagePlugin.ImageFileDirectory_v2()
    signed[339] = 2
    Image.fromarray(noise(4, 4, high=9, dtype=np.uint16)).save(tmp_path / "signed.tif", tiffinfo=signed)
    with pytest.raises(InputError, match="signed.tif: .*its pixels are signed numbers; save it with 8 or 16 unsigned"):
        decode(tmp_path / "signed.tif", channels=1)
    with pytest.raises(ValueError, match="channels=2: choose from 1, 3"):
        decode(tmp_path / "float.tif", channels=2)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_an_uncompressed_tiff_is_turned_as_a_png_is(tmp_path, orientation, dtype):
    pixels = np.arange(60, dtype=dtype).reshape(6, 10) * (257 if dtype == np.uint16 else 1)
    exif = Image.Exif()
    exif[0x0112] = orientation
    for ending in ("tif", "png"):
        Image.fromarray(pixels).save(tmp_path / f"a.{ending}", exif=exif)
    assert np.array_equal(decode(tmp_path / "a.tif", channels=1), decode(tmp_path / "a.png", channels=1))


def test_16_bits_of_which_zero_is_white_are_inverted_as_8_are(tmp_path):
    pixels = np.array([[0, 65535, 2000]], np.uint16)
    Image.fromarray(pixels).save(tmp_path / "a.tif", tiffinfo={262: 0})
    assert decode(tmp_path / "a.tif", channels=1).tolist() == [[[255, 0, 248]]]


def test_the_transparent_grey_of_16_bits_shows_the_ground(tmp_path):
    Image.fromarray(np.array([[0, 0, 2000, 3000]], np.uint16)).save(tmp_path / "a.png", transparency=0)
    assert decode(tmp_path / "a.png", channels=1).tolist() == [[[255, 255, 7, 11]]]


@pytest.mark.parametrize("channels", [1, 3])
def test_lab_is_read_in_grey_and_in_colour(tmp_path, channels):
    Image.new("LAB", (2, 1), (255, 128, 128)).save(tmp_path / "a.tif")
    assert decode(tmp_path / "a.tif", channels=channels).min() >= 254
