import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from vitbn import rng
from vitbn.data import crops
from vitbn.data.affine import augment, draw, to_float
from vitbn.data.batches import FixedBatches, Preprocess, TrainBatches
from vitbn.data.splits import Split, hold_out

CPU = torch.device("cpu")


@pytest.fixture
def split():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (250, 1, 28, 28), dtype=torch.uint8, generator=generator)
    return Split(images, torch.arange(250))


def loader(split, seed=0, batch_size=20, draw=draw):
    return TrainBatches(split, batch_size=batch_size, seed=seed, draw=draw, device=CPU)


def test_an_epoch_is_every_image_once_in_the_keyed_order(split):
    batches = loader(split)
    assert [len(labels) for _, labels in batches] == [20] * 12 + [10] and len(loader(split)) == 13
    assert torch.equal(torch.cat([labels for _, labels in batches]), rng.order(0, 0, 250))


def test_images_are_augmented_by_their_own_draw_whatever_the_batch(split):
    draws = draw(250, 28, rng.generator(0, "augment", 0))
    expected = augment(split.images, draws)
    for batch_size in (20, 7):
        for images, labels in loader(split, batch_size=batch_size):
            torch.testing.assert_close(images, expected[labels], rtol=0, atol=1e-6)


def test_without_augmentation_images_are_only_scaled(split):
    for images, labels in loader(split, draw=None):
        assert torch.equal(images, to_float(split.images[labels]))


def test_pixels_are_standardised_last(split):
    plain = FixedBatches(split, batch_size=250, draws=None, device=CPU)
    scaled = FixedBatches(split, batch_size=250, draws=None, device=CPU, preprocess=Preprocess(0.5, 0.25))
    torch.testing.assert_close(next(iter(scaled))[0], (next(iter(plain))[0] - 0.5) / 0.25)
    batches = TrainBatches(split, batch_size=20, seed=0, draw=draw, device=CPU, preprocess=Preprocess(0.5, 0.25))
    for (images, _), (expected, _) in zip(batches, loader(split), strict=True):
        torch.testing.assert_close(images, (expected - 0.5) / 0.25)


def test_epochs_and_seeds_differ_and_repeat(split):
    def epoch(seed, number):
        batches = loader(split, seed)
        batches.set_epoch(number)
        images, labels = zip(*batches, strict=True)
        return torch.cat(images), torch.cat(labels)

    first, again = epoch(0, 1), epoch(0, 1)
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    for other in (epoch(0, 2), epoch(1, 1)):
        assert not torch.equal(first[1], other[1])


@pytest.fixture
def three_at_once(monkeypatch):
    """Three batches are augmented in one call."""
    monkeypatch.setattr("vitbn.data.batches.AUGMENT_CHUNK", {"cpu": 60 * 28 * 28})


@pytest.mark.usefixtures("three_at_once")
@pytest.mark.parametrize("steps", [0, 1, 3, 5, 13])
def test_a_resumed_epoch_continues_bit_for_bit(split, steps):
    whole = list(loader(split))
    interrupted = loader(split)
    iterator = iter(interrupted)
    for _ in range(steps):
        next(iterator)
    resumed = loader(split)
    resumed.load_state_dict(interrupted.state_dict())
    rest = whole[steps:] or whole  # all done: the next epoch begins
    for (images, labels), (expected, expected_labels) in zip(resumed, rest, strict=True):
        assert torch.equal(images, expected) and torch.equal(labels, expected_labels)
    assert len(list(resumed)) == len(resumed)  # the next epoch is whole again


@pytest.mark.usefixtures("three_at_once")
def test_a_resumed_epoch_augments_the_same_chunks(split):
    """Rounding may depend on what is computed together, so a resume must not cut the chunks differently."""
    calls = []

    class Recorder(Preprocess):
        def __call__(self, images, draws):
            calls.append(images)
            return super().__call__(images, draws)

    batches = TrainBatches(split, batch_size=20, seed=0, draw=draw, device=CPU, preprocess=Recorder())
    list(batches)
    whole, calls[:] = calls.copy(), []
    batches.load_state_dict({"position": 5})
    list(batches)
    assert len(whole) == 5 and all(map(torch.equal, calls, whole[1:])) and len(calls) == 4


def test_a_finished_epoch_resumes_at_the_next_ones_start(split):
    batches = loader(split)
    list(batches)
    resumed = loader(split)
    resumed.load_state_dict(batches.state_dict())
    assert len(list(resumed)) == 13


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_every_batch(split, world):
    """250 images in batches of 20: the last batch has 10, which three processes share as 4, 3 and 3."""
    options = {"batch_size": 20, "device": CPU, "world": world}
    train = [TrainBatches(split, seed=0, draw=draw, rank=rank, **options) for rank in range(world)]
    fixed = [FixedBatches(split, draws=None, rank=rank, **options) for rank in range(world)]
    for parts, alone in ((train, loader(split)), (fixed, FixedBatches(split, batch_size=20, draws=None, device=CPU))):
        for *shares, whole in zip(*parts, alone, strict=True):
            images, labels = map(torch.cat, zip(*shares, strict=True))
            assert torch.equal(labels, whole.labels)
            torch.testing.assert_close(images, whole.images, rtol=0, atol=1e-6)
            sizes = [len(share.labels) for share in shares]
            assert sizes == sorted(sizes, reverse=True) and sizes[0] - sizes[-1] <= 1


def test_fixed_batches_are_the_split_in_order(split):
    batches = FixedBatches(split, batch_size=100, draws=None, device=CPU)
    assert len(batches) == 3
    for _ in range(2):
        images, labels = zip(*batches, strict=True)
        assert torch.equal(torch.cat(images), to_float(split.images)) and torch.equal(torch.cat(labels), split.labels)


def test_pixels_are_standardised_by_channel_as_torchvision_does(split):
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    colour = split.images[:3].expand(-1, 3, -1, -1)
    expected = v2.functional.normalize(to_float(colour), list(mean), list(std))
    torch.testing.assert_close(Preprocess(mean, std)(colour, None), expected, rtol=0, atol=1e-6)


def test_crops_are_made_of_the_stored_images_by_their_own_draw(split):
    batches = TrainBatches(split, batch_size=20, seed=0, draw=crops.draw, device=CPU, preprocess=Preprocess(side=16))
    draws = crops.draw(250, 28, rng.generator(0, "augment", 0))
    for images, labels in batches:
        torch.testing.assert_close(images, draws[labels].apply(split.images[labels], 16), rtol=0, atol=1e-6)


def test_a_split_of_a_mapped_file_reads_only_the_rows_it_is_asked_for(tmp_path):
    path = tmp_path / "images.u8"
    path.write_bytes(bytes(range(60)))
    stored = torch.from_numpy(np.memmap(path, np.uint8, mode="c", shape=(60, 1, 1, 1)))
    rest, held = hold_out(Split(stored, torch.arange(60) % 3), 15, "x")
    for part in (rest, held, rest.to(CPU)):
        assert part.stored.data_ptr() == stored.data_ptr()
        assert torch.equal(part.take(torch.tensor([3, 1])).flatten(), part.images[[3, 1]].flatten())
        assert torch.equal(part.images.flatten() % 3, part.labels)
    batches = TrainBatches(rest, batch_size=7, seed=0, draw=None, device=CPU)
    assert batches.split.stored.data_ptr() == stored.data_ptr()
    seen = torch.cat([images for images, _ in batches]).mul(255).round().flatten().sort().values
    assert torch.equal(seen, rest.images.flatten().sort().values.float())


def test_many_validation_images_are_finished_anew_every_time(split, monkeypatch):
    kept = FixedBatches(split, batch_size=100, draws=None, device=CPU)
    monkeypatch.setattr("vitbn.data.batches.KEEP_BYTES", 250 * 28 * 28 * 4 - 1)
    made = FixedBatches(split, batch_size=100, draws=None, device=CPU)
    assert next(iter(kept))[0] is next(iter(kept))[0] and next(iter(made))[0] is not next(iter(made))[0]
    for _ in range(2):
        for (images, labels), (others, other_labels) in zip(made, kept, strict=True):
            assert torch.equal(images, others) and torch.equal(labels, other_labels)
