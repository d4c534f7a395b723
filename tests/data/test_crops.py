import math

import pytest
import torch
from scipy.stats import ks_2samp
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from vitbn.data import crops
from vitbn.data.crops import Crops, draw, resize
from vitbn.rng import generator


def random_images(count, side, channels=3) -> Tensor:
    return torch.randint(0, 256, (count, channels, side, side), dtype=torch.uint8, generator=generator("pictures"))


def torchvisions(image: Tensor, crop: Crops, side: int) -> Tensor:
    """One image the way torchvision does it."""
    image = F.to_dtype(image, torch.float32, scale=True)
    top, left, height, width = crop.box.tolist()
    image = F.resized_crop(image, top, left, height, width, [side, side], antialias=True)
    return F.horizontal_flip(image) if crop.flip else image


@pytest.mark.parametrize(("stored", "side", "count"), [(40, 28, 200), (28, 28, 200), (24, 32, 200), (256, 224, 12)])
def test_each_image_equals_torchvisions(stored, side, count):
    images, draws = random_images(count, stored), draw(count, stored, generator(1))
    assert 0 < draws.flip.sum() < count
    out = draws.apply(images, side)
    assert out.shape == (count, 3, side, side) and out.dtype == torch.float32
    expected = torch.stack([torchvisions(images[i], draws[i], side) for i in range(count)])
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("stored", "side"), [(40, 28), (28, 40), (256, 224), (56, 14)])
def test_resize_equals_torchvisions(stored, side):
    images = random_images(5, stored, channels=1)
    expected = F.resize(F.to_dtype(images, torch.float32, scale=True), [side, side], antialias=True)
    torch.testing.assert_close(resize(images, side), expected, rtol=0, atol=1e-5)


def test_images_of_the_right_size_keep_every_bit():
    images = random_images(50, 28)
    assert torch.equal(resize(images, 28), F.to_dtype(images, torch.float32, scale=True))
    whole = Crops(torch.tensor([[0, 0, 28, 28]]).expand(50, 4), torch.zeros(50, dtype=torch.bool))
    assert torch.equal(whole.apply(images, 28), resize(images, 28))


def test_blocks_do_not_show(monkeypatch):
    images, draws = random_images(20, 24), draw(20, 24, generator(1))
    whole = draws.apply(images, 20)
    monkeypatch.setattr(crops, "BLOCK_PIXELS", {"cpu": 3 * 3 * 24 * 24})
    torch.testing.assert_close(draws.apply(images, 20), whole, rtol=0, atol=1e-6)


def test_boxes_are_distributed_as_torchvisions():
    count, side = 4000, 64
    box = draw(count, side, generator(3)).box
    torch.manual_seed(0)
    transform, image = v2.RandomResizedCrop(16), torch.zeros(3, side, side)
    rows = [transform.make_params([image]) for _ in range(count)]
    theirs = torch.tensor([[row[key] for key in ("top", "left", "height", "width")] for row in rows])
    for ours, other in zip(quantities(box), quantities(theirs), strict=True):
        assert ks_2samp(ours, other).pvalue > 0.01
    assert (box >= 0).all() and (box[:, :2] + box[:, 2:] <= side).all()


def quantities(box: Tensor) -> list[Tensor]:
    top, left, height, width = box.double().T
    free = [(top / (64 - height))[height < 64], (left / (64 - width))[width < 64]]
    return [*free, height * width, (width / height).log()]


def test_half_of_the_images_are_mirrored():
    flips = draw(4000, 8, generator(4)).flip.double()
    assert abs(flips.mean() - 0.5) < 4 * 0.5 / math.sqrt(4000)


def test_without_a_box_that_fits_the_whole_image_is_taken(monkeypatch):
    monkeypatch.setattr(crops, "ASPECT", (5.0, 6.0))  # as wide as this, no box of 90 % of the area fits
    monkeypatch.setattr(crops, "AREA", (0.9, 1.0))
    assert (draw(5, 30, generator(1)).box == torch.tensor([0, 0, 30, 30])).all()


def test_draws_are_a_function_of_the_generator_and_the_sample():
    def same(a, b):
        return torch.equal(a.box, b.box) and torch.equal(a.flip, b.flip)

    draws = draw(30, 64, generator(1))
    assert same(draws, draw(30, 64, generator(1))) and not same(draws, draw(30, 64, generator(2)))
    assert same(draws[:7], draw(7, 64, generator(1))), "a sample's row depends on the number of samples"
    assert same(draws.to("cpu"), draws)
