"""What else than one digit is in a picture: uneven light, which is taken off; bars, frames, more digits: refused.

An answer about what was misread would look as sure as any other.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, binary_fill_holes, find_objects, label

from vitbn.errors import InputError

Shades = NDArray[np.floating]  # (H, W) in [0, 1], 32 bits
SAMPLES = 64  # rows and columns of pixels that the ground is fitted to
HALF = 0.55  # of the pixels are ground, at least
UNEVEN = 0.045  # part of black to white: a ground that varies more beside its surface
LINE = 0.97  # of an edge that is ink: no stroke goes from corner to corner
SHADE = 0.12  # so much ink is more than noise
FAINTEST = 0.04  # less of the darkest ink is an encoder's ringing
BESIDE = 0.15  # of the strokes' pixels: so many faint ones away from them are something else
DRAWN = 0.25  # so much ink is a stroke
GAP = 0.03  # of the digit's shorter side, twice: what is closer belongs together, as strokes that do not quite meet
PART = 0.4  # of the digit's height or width: what is smaller is no digit of its own
STRAIGHT = 0.8  # of a box's side: a row of so much ink is a straight line
TIGHT = 0.85  # of the picture's height and width: it is cut along the digit
THIN = 0.15  # width of a line by its length
WIDEST = 1.7  # width of a digit by its height
CORNERS = np.ones((3, 3), bool)


def ground_of(colours: Shades) -> tuple[Shades, float]:
    """The ground behind the ink, of (C, H, W), and the noise in it.

    One colour (C, 1, 1) if the picture's edge has one; else a surface of second degree (C, H, W). InputError if the
    ground is neither.
    """
    edges = [colours[:, 0], colours[:, -1], colours[:, :, 0], colours[:, :, -1]]
    frame = np.concatenate(edges, axis=1).T
    flat = np.median(frame, axis=0)
    spread = _noise(frame - flat)
    if spread < 0.5 / 255:
        return flat.astype(np.float32)[:, None, None], spread
    rows, columns = (np.unique(np.linspace(0, n - 1, SAMPLES).astype(int)) for n in colours.shape[1:])
    terms, sampled = _terms(*colours.shape[1:]), np.moveaxis(colours[:, rows[:, None], columns], 0, -1)
    surface, rest = _trimmed_fit(terms[np.ix_(rows, columns)], sampled)
    spread = _noise(rest)
    if spread > max(UNEVEN, 3 * _noise(np.diff(sampled, axis=0)), 3 * _noise(np.diff(sampled, axis=1))):
        raise InputError("the light is too uneven to tell ink from shadow; use more even light")
    return np.moveaxis((terms @ surface).astype(np.float32), -1, 0), spread


def _trimmed_fit(terms: Shades, values: Shades) -> tuple[Shades, Shades]:
    """Least trimmed squares (Rousseeuw, 1984): the surface that lies closest to a half of the values, and how far off
    all are. It starts from all values and from each quarter of the picture."""
    height, width = values.shape[:2]
    upper, left = (np.arange(height) < height / 2)[:, None], (np.arange(width) < width / 2)[None]
    starts = [
        np.ones((height, width), bool),
        *(rows & columns for rows in (upper, ~upper) for columns in (left, ~left)),
    ]
    terms, values = terms.reshape(-1, 6).astype(float), values.reshape(-1, values.shape[-1]).astype(float)
    fits = []
    for start in starts:
        used = start.ravel()
        for _ in range(8):
            surface = np.linalg.solve(terms[used].T @ terms[used] + 1e-9 * np.eye(6), terms[used].T @ values[used])
            rest = values - terms @ surface
            used = (distance := np.abs(rest).max(-1)) <= np.quantile(distance, HALF)
        fits.append((distance[used].sum(), surface, rest))
    return min(fits, key=lambda fit: fit[0])[1:]


def _noise(rest: Shades) -> float:
    """Six times the median distance: as much as 4 standard deviations of normal noise."""
    return 6 * float(np.median(np.abs(rest.mean(-1))))


def _terms(height: int, width: int) -> Shades:
    """1, x, y, x^2, xy, y^2 of every pixel, (H, W, 6)."""
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1).astype(np.float32)


def require_no_bar(ink: Shades) -> None:
    """InputError for ink along a whole edge of the picture, or across it: a bar, a shadow, a ruled line."""
    edges = [ink[0], ink[-1], ink[:, 0], ink[:, -1]]
    if any((edge > SHADE).mean() > LINE for edge in edges):
        raise InputError("there is a bar or a shadow along the picture's edge; cut it off")
    top, bottom, left, right = ((edge > DRAWN).any() for edge in edges)
    strokes = ink > DRAWN
    extents = [np.ptp(np.flatnonzero(strokes.any(axis))) for axis in (1, 0)]
    fills = all(extent > TIGHT * side for extent, side in zip(extents, ink.shape, strict=True))
    if not fills and ((top and bottom and not left and not right) or (left and right and not top and not bottom)):
        raise InputError("there is a line across the picture; show a digit alone")
    faint, most = (ink > FAINTEST) & ~strokes, BESIDE * strokes.sum()
    if faint.sum() > most:  # else no part of it can be too much
        near = binary_dilation(strokes, CORNERS, iterations=max(2, max(ink.shape) // 50))
        if (faint & ~near).sum() > most:
            raise InputError("there is a shadow, or something faint beside the digit")


def require_one_digit(ink: Shades) -> None:
    """InputError for a frame, or for parts that are not of one digit; `ink` is cropped to what there is."""
    height, width = ink.shape
    if width > WIDEST * height:
        raise InputError("there is more than one digit, or a line: it is wider than a digit")
    drawn = ink > DRAWN
    numbered, count = label(drawn, CORNERS)
    large = [
        (number, box) for number, box in enumerate(find_objects(numbered), start=1)
        if max(s.stop - s.start for s in box) > PART * max(height, width)
    ]  # fmt: skip
    for number, box in large:
        part = numbered[box] == number
        if len(large) > 1 and min(part.shape) < THIN * max(part.shape):
            raise InputError("there is a line beside the digit; show it alone")
        if _is_frame(part) or (count > 1 and _encloses(numbered, number, box)):
            raise InputError("there is a frame around the digit; cut it off")
    reach = max(1, round(GAP * min(height, width)))
    near, _ = label(binary_dilation(np.pad(drawn, reach), CORNERS, iterations=reach), CORNERS)
    boxes = [(y.start, y.stop - 2 * reach, x.start, x.stop - 2 * reach) for y, x in find_objects(near)]
    for one in boxes:
        for other in boxes:
            beside = one[3] <= other[2] and min(one[1] - one[0], other[1] - other[0]) > PART * height
            below = one[1] <= other[0] and min(one[3] - one[2], other[3] - other[2]) > PART * width
            if beside or below:
                raise InputError("there is more than one digit, or a line beside it; show one alone")


def _is_frame(part: NDArray[np.bool_]) -> bool:
    """Whether straight lines go along all four sides of its box, or near them."""
    height, width = part.shape
    rows, columns = part.mean(1) > STRAIGHT, part.mean(0) > STRAIGHT
    y, x = height // 4, width // 4
    hollow_or_page = not 0.5 < part.mean() < 0.8
    return (
        hollow_or_page
        and min(y, x) > PART * max(y, x)
        and all(line.any() for line in (rows[:y], rows[-y:], columns[:x], columns[-x:]))
    )


def _encloses(numbered: NDArray[np.int32], number: int, box: tuple[slice, ...]) -> bool:
    """Whether a part as large as a digit lies in a hole of this one."""
    part = numbered[box] == number
    inside = np.where(binary_fill_holes(part) & ~part, numbered[box], 0)
    return any(
        found is not None and max(s.stop - s.start for s in found) > PART / 2 * max(part.shape)
        for found in find_objects(inside)
    )
