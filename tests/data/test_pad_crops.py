import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from vitbn.data.batches import AUGMENTATIONS
from vitbn.data.pad_crops import PadCrops, draw
from vitbn.rng import generator


def random_images(count, side, channels=3) -> Tensor:
    return torch.randint(0, 256, (count, channels, side, side), dtype=torch.uint8, generator=generator("pictures"))


def torchvisions(image: Tensor, crop: PadCrops, side: int) -> Tensor:
    """One image the way torchvision does it."""
    stored = image.shape[-1]
    top, left = crop.corner.tolist()
    image = F.crop(F.pad(F.to_dtype(image, torch.float32, scale=True), [4] * 4), top, left, stored, stored)
    return F.resize(F.horizontal_flip(image) if crop.flip else image, [side, side], antialias=True)


@pytest.mark.parametrize(("stored", "side", "atol"), [(32, 32, 0), (28, 28, 0), (32, 48, 1e-5)])
@pytest.mark.parametrize("channels", [1, 3])
def test_each_image_equals_torchvisions(stored, side, atol, channels):
    images, draws = random_images(200, stored, channels), draw(200, stored, generator(1))
    assert 0 < draws.flip.sum() < 200
    expected = torch.stack([torchvisions(images[i], draws[i], side) for i in range(200)])
    torch.testing.assert_close(draws.apply(images, side), expected, rtol=0, atol=atol)


def test_every_corner_and_both_directions_are_drawn_evenly():
    draws = draw(81_000, 32, generator(2))
    counts = (9 * draws.corner[:, 0] + draws.corner[:, 1]).bincount(minlength=81)
    assert len(counts) == 81 and ((counts - 1000).abs() < 5 * 1000**0.5).all()
    assert abs(draws.flip.double().mean() - 0.5) < 4 * 0.5 / 81_000**0.5


def test_pad_crop_is_the_same_crop_without_the_flip():
    plain, flipping = (AUGMENTATIONS[name](300, 32, generator(3)) for name in ("pad_crop", "pad_crop_flip"))
    assert torch.equal(plain.corner, flipping.corner) and not plain.flip.any() and flipping.flip.any()


def test_draws_are_a_function_of_the_generator_and_the_sample():
    def same(a, b):
        return torch.equal(a.corner, b.corner) and torch.equal(a.flip, b.flip)

    draws = draw(30, 32, generator(1))
    assert same(draws, draw(30, 32, generator(1))) and not same(draws, draw(30, 32, generator(2)))
    assert same(draws[:7], draw(7, 32, generator(1))), "a sample's row depends on the number of samples"
    assert same(draws.to("cpu"), draws)
