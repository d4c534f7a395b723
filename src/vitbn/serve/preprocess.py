"""A picture of one digit as MNIST has its digits, which is what networks trained on MNIST can read. Imports no torch.

MNIST's makers fitted the ink into 20 x 20 pixels, keeping its aspect, antialiased, and put its centre of mass into
the middle of 28 x 28 (LeCun et al., 1998). Its test images pass unchanged: the longer side of the ink is 20 in all
but three of the 10,000, the centre of mass rounds to pixel (14, 14) and the brightest pixel is at least 254 in all.
"""

import math
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import distance_transform_edt

from vitbn.data.decode import read_picture
from vitbn.errors import InputError
from vitbn.serve.one_digit import require_one
from vitbn.serve.scene import FAINTEST, Shades, ground_of, require_no_bar, require_one_digit

NO_INK = "there is no digit: no ink stands out from the ground"
MAX_PICTURE_PIXELS = 2**24  # 4096 x 4096, decoded in 64 MiB
SIDE, BOX, CENTRE = 28, 20, 14
WORKING = 1024  # longest side of a picture, in pixels: a digit may fill a fiftieth of it
DRAWN = 8 * BOX  # longest side of a digit whose strokes are measured
FAINT = 0.1  # ink differs from the ground by at least this part of black to white
NARROW = 1 / 3  # width by height: a 1, whatever the pen
DARKEST = 0.2  # of the brightest ground: less light than this shows nothing
# Strokes are 1.5 to 4.7 of the box's pixels wide in 98 % of MNIST's test images, 2.5 in the median. Thinner ones
# would turn grey and are drawn 2 wide; thicker ones stay as they are.
THINNEST, DRAWN_AGAIN = 1.5, 2.0


def as_mnist(body: bytes) -> NDArray[np.uint8]:
    """The digit (28, 28), white on black, of an image file's bytes; InputError with the reason if there is not one."""
    if not body:
        raise InputError("nothing was sent; send the bytes of an image file")
    picture = read_picture(BytesIO(body), name="this file", mode="RGB", max_pixels=MAX_PICTURE_PIXELS)
    picture.thumbnail((WORKING, WORKING), Image.Resampling.BOX)
    ink = _ink(_colours(picture))
    require_no_bar(ink)
    digit = _cropped(ink)
    if max(digit.shape) > DRAWN:
        digit = _fitted(digit, DRAWN)
    require_one_digit(digit)
    seen = fit_digit(digit)
    if digit.shape[1] > NARROW * digit.shape[0]:
        require_one(seen)
    return seen


def _colours(picture: Image.Image) -> Shades:
    """(3, H, W) from 0 to 1, or (1, H, W) of a picture that is grey."""
    red, *others = bands = [np.asarray(band) for band in picture.split()]
    grey = all(np.array_equal(red, other) for other in others)
    return np.stack(bands[:1] if grey else bands).astype(np.float32) / 255


def fit_digit(ink: Shades) -> NDArray[np.uint8]:
    """Ink of any size, cropped, as MNIST's makers would have had it."""
    digit = _fitted(_readable(ink), BOX)
    return _centred(np.rint(digit * (255 / digit.max())).astype(np.uint8))


def _ink(colours: Shades) -> Shades:
    """How much ink is where, (H, W) from 0 to 1: the difference from the ground in the direction of the ink's colour.

    Of colours (C, H, W). Light that falls off and noise are taken off.
    """
    ground, noise = ground_of(colours)
    light = ground.mean(0) / max(ground.mean(0).max(), 1e-6)
    if light.size > 1 and light.min() > DARKEST:  # light that falls off dims ground and ink alike
        colours, ground = colours / light, ground / light
    difference = (colours - ground).reshape(len(colours), -1)
    difference /= math.sqrt(len(colours))
    distance = np.sqrt(np.square(difference).sum(0))
    furthest = difference[:, distance.argmax()]
    alike = difference[:, (distance > 0.7 * distance.max()) & (furthest @ difference > 0)]
    if not alike.size or (direction := alike.mean(1)) @ direction == 0:
        raise InputError(NO_INK)
    ink = (direction / np.linalg.norm(direction)).astype(np.float32) @ difference
    if ink.max() < max(FAINT, 1.5 * noise):
        raise InputError(NO_INK)
    return np.clip((ink - noise) / (ink.max() - noise), 0, 1).reshape(colours.shape[1:])


def _cropped(ink: Shades) -> Shades:
    rows, columns = (np.flatnonzero((ink > FAINTEST).any(axis)) for axis in (1, 0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _fitted(ink: Shades, side: int) -> Shades:
    """Its longer side becomes `side`; a pixel is the mean of what it covers."""
    height, width = ink.shape
    scale = side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return ink if size == (width, height) else np.asarray(Image.fromarray(ink).resize(size, Image.Resampling.BOX))


def _readable(ink: Shades) -> Shades:
    """Strokes too thin to survive the fit into the box, drawn again with a wider pen."""
    unit = max(ink.shape) / BOX
    drawn = ink > 0.25
    width = 4 * distance_transform_edt(np.pad(drawn, 1)).sum() / drawn.sum() - 2  # exact for a straight band
    if width >= THINNEST * unit:
        return ink
    reach = (DRAWN_AGAIN * unit - width) / 2
    away = distance_transform_edt(~np.pad(drawn, math.ceil(reach)))
    return np.clip(reach + 1 - away, 0, 1).astype(np.float32)


def _centred(digit: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The middle of its mass lies at pixel (14, 14), as nearly as whole pixels and the image's edge allow."""
    corner = []
    for axis, length in enumerate(digit.shape):
        mass = digit.sum(axis=1 - axis, dtype=np.float64)
        corner.append(min(max(math.floor(CENTRE - mass @ np.arange(length) / mass.sum() + 0.5), 0), SIDE - length))
    image = np.zeros((SIDE, SIDE), np.uint8)
    image[corner[0] :, corner[1] :][: digit.shape[0], : digit.shape[1]] = digit
    return image
