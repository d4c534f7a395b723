"""The oracle is torchvision's v2 functional, one float image at a time with the same draws.

torchvision finds the source of a pixel with a matrix product, which a processor's library may sum in float32 in its own
way. Where the source lies on the edge between two pixels, to within that rounding, torchvision reads either of them.
Such pixels are left out of comparisons; the way we round is tested apart, in rational numbers.
"""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as F
from torch import Tensor
from torchvision.transforms import InterpolationMode

from vitbn.data.affine import AffineDraws, _resize_table, augment, draw, to_float

NEAREST, BILINEAR = InterpolationMode.NEAREST, InterpolationMode.BILINEAR


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_images(count: int, side: int = 28, channels: int = 1, seed: int = 1) -> Tensor:
    """Never black, so that a zero always comes from outside the image."""
    return torch.randint(1, 256, (count, channels, side, side), dtype=torch.uint8, generator=generator(seed))


def gradient_images(count: int, side: int = 28) -> Tensor:
    """Neighbours always differ, along rows, columns and diagonals; each image has its own phase."""
    row, column = torch.arange(side)[:, None], torch.arange(side)
    phase = torch.arange(count)[:, None, None]
    return ((7 * row + 60 * column + phase) % 255 + 1).to(torch.uint8)[:, None]


def unzoomed(draws: AffineDraws, side: int = 28) -> AffineDraws:
    return AffineDraws(draws.angle, draws.shift, torch.full_like(draws.canvas, side), torch.zeros_like(draws.offset))


def only_zoom(count: int, side: int = 28, seed: int = 2) -> AffineDraws:
    """Every image zoomed, canvas sides cycling through all of 2 S … 3 S, offsets up to the far corner."""
    canvas = 2 * side + torch.arange(count) % (side + 1)
    u = torch.rand(count, 2, generator=generator(seed))
    offset = ((canvas - side + 1)[:, None] * u).long()
    offset[-2], offset[-1] = 0, canvas[-1] - side
    return AffineDraws(torch.zeros(count, dtype=torch.float64), torch.zeros_like(offset), canvas, offset)


def oracle(images: Tensor, draws: AffineDraws) -> Tensor:
    side, out = images.shape[-1], []
    for i, image in enumerate(images):
        x = F.to_dtype(image, torch.float32, scale=True)
        x = F.rotate(x, draws.angle[i].item(), interpolation=NEAREST, fill=0)
        shift = draws.shift[i].tolist()
        x = F.affine(x, angle=0.0, translate=shift, scale=1.0, shear=[0.0, 0.0], interpolation=NEAREST, fill=0)
        canvas, (left, top) = int(draws.canvas[i]), draws.offset[i].tolist()
        if canvas > side:
            x = F.pad(x, [left, top, canvas - side - left, canvas - side - top], fill=0)
            x = F.resize(x, [side, side], interpolation=BILINEAR, antialias=True)
        out.append(x)
    return torch.stack(out)


def on_edge(draws: AffineDraws, side: int) -> Tensor:
    """Pixels (N, 1, S, S) whose source is the edge between two pixels as far as float32 can tell."""
    place = torch.arange(side) - (side - 1) / 2
    column, row = (place - draws.shift[..., None]).unsqueeze(2).unbind(1)  # (N, 1, S)
    radians = draws.angle.deg2rad().neg()[:, None, None]
    source = torch.stack(
        [radians.cos() * column + radians.sin() * row.mT, radians.cos() * row.mT - radians.sin() * column], 1
    )
    # from the image's border, so that edges are whole numbers; 4 roundings of numbers up to 1, times S / 2
    from_border = source + side / 2
    return ((from_border - from_border.round()).abs() < 4 * 2**-24 * side).any(1, keepdim=True)


def assert_same_off_edges(out: Tensor, expected: Tensor, edge: Tensor) -> None:
    assert torch.equal(out.masked_fill(edge, 0), expected.masked_fill(edge, 0))


@pytest.mark.parametrize("images", [random_images(1500), gradient_images(1500)], ids=["random", "gradient"])
def test_rotation_and_translation_equal_torchvision_in_every_pixel(images):
    draws = unzoomed(draw(len(images), 28, generator()))
    edge = on_edge(draws, 28)
    assert edge.float().mean() < 1e-4
    assert_same_off_edges(augment(images, draws), oracle(images, draws), edge)


def to_float32(exact: Fraction) -> np.float32:
    """The nearest float32, of two equally near the even one."""
    near = np.float32(float(exact))
    around = (np.nextafter(near, np.float32(-np.inf)), near, np.nextafter(near, np.float32(np.inf)))
    return min(around, key=lambda value: (abs(Fraction(float(value)) - exact), value.view(np.uint32) & 1))


def source_pixel(column: np.float32, column_factor: np.float32, row: np.float32, row_factor: np.float32) -> int:
    """Along one axis, as Intel's MKL sums: the column's product is rounded, the row's is not (fused multiply-add)."""
    exact = Fraction(float(row)) * Fraction(float(row_factor)) + Fraction(float(column * column_factor))
    return int(np.rint((to_float32(exact) + np.float32(1)) * np.float32(14) - np.float32(0.5)))


def test_rotation_is_rounded_once_after_the_columns_product():
    """Angles for which plain float32 arithmetic reads another pixel, about 1 image in 6,000 at side 28."""
    angles = [-12.394092844390165, -18.02328840838486, 7.123830246817371, -16.512984839532603]
    angles += [4.892078178054207, -14.409425635386292]
    images, expected = gradient_images(6), torch.zeros(6, 1, 28, 28, dtype=torch.uint8)
    place = np.arange(28, dtype=np.float32) - np.float32(13.5)
    for number, angle in enumerate(angles):
        radians = -math.radians(angle % 360)
        cos, sin = (np.float32(value(radians)) / np.float32(14) for value in (math.cos, math.sin))
        for y, x in itertools.product(range(28), range(28)):
            source_x = source_pixel(place[x], cos, place[y], sin)
            source_y = source_pixel(place[x], -sin, place[y], cos)
            if 0 <= source_x < 28 and 0 <= source_y < 28:
                expected[number, 0, y, x] = images[number, 0, source_y, source_x]
    zeros = torch.zeros(6, 2, dtype=torch.long)
    draws = AffineDraws(torch.tensor(angles, dtype=torch.float64), zeros, torch.full((6,), 28), zeros)
    assert torch.equal(augment(images, draws), to_float(expected))


@pytest.mark.parametrize("side", [1, 2, 9, 27, 32, 65])
def test_whole_pipeline_at_other_sides(side):
    images, draws = random_images(60, side), draw(60, side, generator(3))
    out, expected, edge = augment(images, draws), oracle(images, draws), on_edge(draws, side)
    zoomed = draws.canvas > side
    assert_same_off_edges(out[~zoomed], expected[~zoomed], edge[~zoomed])
    decided = ~edge.any((1, 2, 3))  # a zoomed image's pixels hang together
    assert (zoomed & decided).any()
    torch.testing.assert_close(out[decided], expected[decided], atol=1e-6, rtol=0)


@pytest.mark.parametrize("channels", [1, 3])
def test_whole_pipeline(channels):
    images, draws = random_images(600, channels=channels), draw(600, 28, generator(4))
    out, decided = augment(images, draws), ~on_edge(draws, 28).any((1, 2, 3))
    assert out.shape == images.shape and out.dtype == torch.float32 and decided.float().mean() > 0.95
    torch.testing.assert_close(out[decided], oracle(images, draws)[decided], atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "images", [random_images(58), gradient_images(58), torch.full((58, 1, 28, 28), 255, dtype=torch.uint8)]
)
def test_zoom_equals_torchvision_for_every_canvas(images):
    draws = only_zoom(58)
    out = augment(images, draws)
    torch.testing.assert_close(out, oracle(images, draws), atol=1e-6, rtol=0)
    assert out.min() >= 0 and out.max() <= 1


@pytest.mark.parametrize("side", [1, 9, 28, 65])
def test_resize_of_an_unzoomed_image_is_the_identity(side):
    """On an accelerator every image goes through the resize."""
    table = _resize_table(side, torch.device("cpu"))
    assert torch.equal(table[0, :side], torch.eye(side)) and not table[0, side:].any()
    assert len(table) == side + 2


def test_large_angles_and_shifts():
    """Quarter turns, where torchvision takes another path, and translations that leave little or nothing."""
    angles = torch.tensor([0, 20, -20, 45, -45, 90, -90, 135, 180, 270, 360, -0.0], dtype=torch.float64)
    shifts = torch.tensor([[0, 0], [27, 0], [0, -27], [-14, 13], [28, 28], [-40, 40], [99, -99]])
    angle, shift = angles.repeat_interleave(len(shifts)), shifts.repeat(len(angles), 1)
    canvas = torch.full((len(angle),), 28)
    draws, images = AffineDraws(angle, shift, canvas, torch.zeros_like(shift)), gradient_images(len(angle))
    assert_same_off_edges(augment(images, draws), oracle(images, draws), on_edge(draws, 28))


def test_nothing_drawn_is_to_float():
    images, zeros = random_images(5), torch.zeros(5, 2, dtype=torch.long)
    draws = AffineDraws(torch.zeros(5, dtype=torch.float64), zeros, torch.full((5,), 28), zeros)
    assert torch.equal(augment(images, draws), to_float(images))


def test_to_float_equals_torchvision():
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert torch.equal(to_float(images), F.to_dtype(images, torch.float32, scale=True))
    assert images.dtype == torch.uint8


def test_image_does_not_depend_on_its_batch():
    images, draws = random_images(700), draw(700, 28, generator(5))
    whole = augment(images, draws)
    order = torch.randperm(700, generator=generator(6))
    torch.testing.assert_close(augment(images[order], draws[order]), whole[order], atol=1e-6, rtol=0)
    for i in range(0, 700, 35):
        torch.testing.assert_close(augment(images[i : i + 1], draws[i : i + 1])[0], whole[i], atol=1e-6, rtol=0)
        if draws.canvas[i] == 28:
            assert torch.equal(augment(images[i : i + 1], draws[i : i + 1])[0], whole[i])


def test_images_are_not_written_to():
    images, draws = random_images(50), draw(50, 28, generator())
    copy = images.clone()
    augment(images, draws)
    assert torch.equal(images, copy)


@pytest.mark.parametrize("channels", [1, 3])
def test_empty_batch(channels):
    out = augment(random_images(0, channels=channels), draw(0, 28, generator()))
    assert out.shape == (0, channels, 28, 28)


def test_matmul_precision_and_default_dtype_change_nothing():
    """ "medium" lets a CPU multiply float32 in bfloat16 and a GPU in TF32."""
    images, draws = random_images(200), draw(200, 28, generator(7))
    expected = augment(images, draws)
    precision, dtype = torch.get_float32_matmul_precision(), torch.get_default_dtype()
    try:
        torch.set_float32_matmul_precision("medium")
        assert torch.equal(augment(images, draws), expected)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(augment(images, draws), expected)
        torch.set_default_dtype(torch.float64)
        assert torch.equal(augment(images, draws), expected)
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.set_default_dtype(dtype)


def test_draws_have_the_articles_ranges():
    draws = draw(20_000, 28, generator(8))
    assert draws.angle.dtype == torch.float64 and draws.angle.abs().max() <= 20
    assert draws.angle.min() < -19.9 and draws.angle.max() > 19.9 and abs(draws.angle.mean()) < 0.5
    # round(u) for u in ±5.6: the outermost pixels are drawn as well, a little more rarely than the others.
    for axis in (0, 1):
        values, counts = draws.shift[:, axis].unique(return_counts=True)
        assert values.tolist() == list(range(-6, 7))
        assert (counts[1:-1] / 20_000).sub(1 / 11.2).abs().max() < 0.01
        assert (counts[[0, -1]] / 20_000).sub(0.1 / 11.2).abs().max() < 0.004
    zoomed = draws.canvas != 28
    assert abs(zoomed.float().mean() - 0.2) < 0.01
    assert draws.canvas[zoomed].unique().tolist() == list(range(56, 84))
    assert (draws.offset[~zoomed] == 0).all() and (draws.offset >= 0).all()
    space = (draws.canvas - 28)[zoomed, None]
    assert (draws.offset[zoomed] <= space).all()
    assert (draws.offset[zoomed] / space).mean(0).sub(0.5).abs().max() < 0.03
    drawn = torch.cat([draws.angle[:, None], draws.shift, zoomed[:, None]], 1)
    assert torch.corrcoef(drawn.T).fill_diagonal_(0).abs().max() < 0.03, "parameters hang together"
    drawn = torch.cat([draws.canvas[zoomed, None], draws.offset[zoomed] / space], 1)
    assert torch.corrcoef(drawn.T).fill_diagonal_(0).abs().max() < 0.06, "parameters hang together"


def fields(draws: AffineDraws) -> tuple[Tensor, ...]:
    return draws.angle, draws.shift, draws.canvas, draws.offset


def same(a: AffineDraws, b: AffineDraws) -> bool:
    return all(torch.equal(x, y) for x, y in zip(fields(a), fields(b), strict=True))


def test_draws_are_a_function_of_the_generator():
    draws = draw(300, 28, generator(9))
    assert same(draws, draw(300, 28, generator(9)))
    assert not same(draws, draw(300, 28, generator(10)))
    assert same(draws[:17], draw(17, 28, generator(9))), "a sample's row depends on the number of samples"
    # 7 float64 numbers a sample and nothing else: a generator goes on where it stopped.
    one = generator(9)
    assert same(draw(100, 28, one), draws[:100]) and same(draw(200, 28, one), draws[100:])


def test_draws_index_and_move():
    draws = draw(10, 28, generator())
    rows = torch.tensor([3, 1, 7])
    assert all(torch.equal(x, y[rows]) for x, y in zip(fields(draws[rows]), fields(draws), strict=True))
    assert same(draws.to("cpu"), draws)


@pytest.mark.parametrize(
    ("images", "count", "message"),
    [
        (torch.zeros(2, 1, 28, 27, dtype=torch.uint8), 2, r"\(2, 1, 28, 27\)"),
        (torch.zeros(2, 28, 28, dtype=torch.uint8), 2, r"\(2, 28, 28\)"),
        (torch.zeros(2, 1, 28, 28), 2, "float32"),
        (torch.zeros(2, 1, 28, 28, dtype=torch.uint8), 3, "3 draws for 2 images"),
    ],
)
def test_bad_input_is_named(images, count, message):
    with pytest.raises(ValueError, match=message):
        augment(images, draw(count, 28, generator()))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("moved", [False, True], ids=["draws on the CPU", "draws on the GPU"])
def test_gpu_equals_cpu(moved):
    images, draws = random_images(6000), draw(6000, 28, generator(11))
    expected = augment(images, draws)
    out = augment(images.cuda(), draws.to("cuda") if moved else draws)
    assert out.device.type == "cuda"
    out, zoomed = out.cpu(), draws.canvas > 28
    different = (out[~zoomed] != expected[~zoomed]).float().mean()
    assert different <= 1e-5
    # A nearest pixel chosen otherwise moves one of the zoomed image's few hundred values.
    assert ((out[zoomed] - expected[zoomed]).abs() > 1e-5).float().mean() <= 1e-4
