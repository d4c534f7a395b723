from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from tests.serve.drawings import encoded
from vitbn.data.sources import load
from vitbn.errors import InputError
from vitbn.serve.one_digit import FILE, several_logit
from vitbn.serve.preprocess import as_mnist


def test_it_is_the_network_that_was_trained():
    weights = {name: torch.from_numpy(value).double() for name, value in np.load(FILE).items()}
    digit = np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8)
    x = torch.from_numpy(digit)[None, None] / 255.0
    for layer, padding in ((0, 2), (2, 1), (4, 1)):
        kernel, bias = weights[f"{layer}.weight"], weights[f"{layer}.bias"]
        x = functional.conv2d(x.double(), kernel, bias, stride=2, padding=padding).relu()
    expected = functional.linear(x.flatten(), weights["7.weight"], weights["7.bias"]).item()
    assert several_logit(digit) == pytest.approx(expected, rel=1e-4)


def cropped(image):
    rows, columns = np.flatnonzero(image.any(1)), np.flatnonzero(image.any(0))
    return image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def single(images, row):
    return images[row]


def glued(images, row):
    """Two digits on one line, one pixel over each other."""
    one, other = cropped(images[row]), cropped(images[row + 500])
    page = np.zeros((28, one.shape[1] + other.shape[1] + 7), np.uint8)
    page[24 - len(one) : 24, 4 : 4 + one.shape[1]] = one
    there = page[24 - len(other) : 24, 3 + one.shape[1] : 3 + one.shape[1] + other.shape[1]]
    np.maximum(there, other, out=there)
    return page


def on_a_line(images, row):
    page, digit = np.zeros((28, 48), np.uint8), cropped(images[row])
    page[25 - len(digit) : 25, 14 : 14 + digit.shape[1]] = digit
    page[24:26, 3:45] = 255
    return page


@pytest.mark.parametrize(("scene", "refused"), [(single, (0, 1)), (glued, (57, 60)), (on_a_line, (57, 60))])
@pytest.mark.slow
def test_real_digits_alone_are_read_and_those_that_touch_are_refused(scene, refused):
    images = load("mnist5k", Path()).test.images[:, 0].numpy()
    count = 0
    for row in range(0, 480, 8):
        page = scene(images, row)
        large = Image.fromarray(page).resize((8 * page.shape[1], 8 * page.shape[0]), Image.Resampling.BICUBIC)
        try:
            as_mnist(encoded(255 - np.asarray(large)))
        except InputError:
            count += 1
    assert refused[0] <= count <= refused[1]
