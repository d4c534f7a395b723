import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from vitbn import rng as keyed
from vitbn.data import crops
from vitbn.data.affine import augment, draw, to_float
from vitbn.data.batches import FixedBatches, Pixels, TrainBatches
from vitbn.data.splits import Split, hold_out

CPU = torch.device("cpu")


@pytest.fixture
def split():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (250, 1, 28, 28), dtype=torch.uint8, generator=generator)
    return Split(images, torch.arange(250))


def loader(split, seed=0, batch_size=20, draw=draw, chunk=1):
    return TrainBatches(split, batch_size=batch_size, seed=seed, draw=draw, device=CPU, chunk=chunk)


def flat(chunks):
    return [batch for chunk in chunks for batch in chunk]


def test_an_epoch_is_every_image_once_in_the_keyed_order(split):
    batches = flat(loader(split))
    assert [len(labels) for _, labels, _ in batches] == [20] * 12 + [10] and len(loader(split)) == 13
    assert torch.equal(torch.cat([labels for _, labels, _ in batches]), keyed.order(0, 0, 250))


def test_images_are_augmented_by_their_own_draw_whatever_the_batch(split):
    draws = draw(250, 28, keyed.generator(0, "augment", 0))
    expected = augment(split.images, draws)
    for batch_size in (20, 7):
        for images, labels, _ in flat(loader(split, batch_size=batch_size)):
            torch.testing.assert_close(images, expected[labels], rtol=0, atol=1e-6)


def test_without_augmentation_images_are_only_scaled(split):
    for images, labels, _ in flat(loader(split, draw=None)):
        assert torch.equal(images, to_float(split.images[labels]))


def test_pixels_are_standardised_last(split):
    plain = FixedBatches(split, batch_size=250, draws=None, device=CPU)
    scaled = FixedBatches(split, batch_size=250, draws=None, device=CPU, pixels=Pixels(0.5, 0.25))
    torch.testing.assert_close(next(iter(scaled))[0], (next(iter(plain))[0] - 0.5) / 0.25)
    batches = TrainBatches(split, batch_size=20, seed=0, draw=draw, device=CPU, pixels=Pixels(0.5, 0.25))
    for (images, *_), (expected, *_) in zip(flat(batches), flat(loader(split)), strict=True):
        torch.testing.assert_close(images, (expected - 0.5) / 0.25)


def test_epochs_and_seeds_differ_and_repeat(split):
    def epoch(seed, number):
        batches = loader(split, seed)
        batches.set_epoch(number)
        images, labels, _ = zip(*flat(batches), strict=True)
        return torch.cat(images), torch.cat(labels)

    first, again = epoch(0, 1), epoch(0, 1)
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    for other in (epoch(0, 2), epoch(1, 1)):
        assert not torch.equal(first[1], other[1])


@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 99])
def test_batches_may_be_handed_out_together(split, chunk, monkeypatch):
    monkeypatch.setattr("vitbn.data.batches.AT_ONCE", {"cpu": 60 * 28 * 28})
    chunks = list(loader(split, chunk=chunk))
    assert len(chunks) == len(loader(split, chunk=chunk)) == -(-13 // chunk)
    assert all(len(each) == chunk for each in chunks[:-1])
    for (images, labels, _), (expected, expected_labels, _) in zip(flat(chunks), flat(loader(split)), strict=True):
        assert torch.equal(labels, expected_labels)
        torch.testing.assert_close(images, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("chunk", [1, 2, 7])
@pytest.mark.parametrize("chunks", [0, 1, 2])
def test_a_resumed_epoch_continues_bit_for_bit(split, chunks, chunk, monkeypatch):
    monkeypatch.setattr("vitbn.data.batches.AT_ONCE", {"cpu": 60 * 28 * 28})  # three batches at once
    whole = list(loader(split, chunk=chunk))
    interrupted = loader(split, chunk=chunk)
    iterator = iter(interrupted)
    for _ in range(chunks):
        next(iterator, None)
    resumed = loader(split, chunk=chunk)
    resumed.load_state_dict(interrupted.state_dict())
    rest = list(resumed)
    left = whole[chunks:] or whole  # all done: the next epoch begins
    assert len(rest) == len(left)
    for (images, labels, _), (expected, expected_labels, _) in zip(flat(rest), flat(left), strict=True):
        assert torch.equal(images, expected) and torch.equal(labels, expected_labels)
    assert len(list(resumed)) == len(resumed)  # the next epoch is whole again


def test_a_resumed_epoch_augments_the_same_parts(split, monkeypatch):
    """Rounding may depend on what is computed together, so a resume must not cut the parts differently."""
    monkeypatch.setattr("vitbn.data.batches.AT_ONCE", {"cpu": 60 * 28 * 28})
    seen, part = [], TrainBatches._part
    monkeypatch.setattr(
        TrainBatches, "_part", lambda self, i, draws: (seen.append(i.tolist()), part(self, i, draws))[1]
    )
    list(loader(split))
    whole, seen[:] = seen.copy(), []
    resumed = loader(split)
    resumed.load_state_dict({"position": 5})
    list(resumed)
    assert seen == whole[1:]


def test_a_finished_epoch_resumes_at_the_next_ones_start(split):
    batches = loader(split)
    list(batches)
    resumed = loader(split)
    resumed.load_state_dict(batches.state_dict())
    assert len(list(resumed)) == 13


def test_fixed_batches_are_the_split_in_order(split):
    batches = FixedBatches(split, batch_size=100, draws=None, device=CPU)
    assert len(batches) == 3
    for _ in range(2):
        images, labels, _ = zip(*batches, strict=True)
        assert torch.equal(torch.cat(images), to_float(split.images)) and torch.equal(torch.cat(labels), split.labels)


def test_pixels_are_standardised_by_channel_as_torchvision_does(split):
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    colour = split.images[:3].expand(-1, 3, -1, -1)
    expected = v2.functional.normalize(to_float(colour), list(mean), list(std))
    torch.testing.assert_close(Pixels(mean, std)(colour, None), expected, rtol=0, atol=1e-6)


def test_crops_are_made_of_the_stored_images_by_their_own_draw(split):
    batches = TrainBatches(split, batch_size=20, seed=0, draw=crops.draw, device=CPU, pixels=Pixels(side=16))
    draws = crops.draw(250, 28, keyed.generator(0, "augment", 0))
    for images, labels, _ in flat(batches):
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
    seen = torch.cat([images for images, *_ in flat(batches)]).mul(255).round().flatten().sort().values
    assert torch.equal(seen, rest.images.flatten().sort().values.float())


def test_many_validation_images_are_finished_anew_every_time(split, monkeypatch):
    kept = FixedBatches(split, batch_size=100, draws=None, device=CPU)
    monkeypatch.setattr("vitbn.data.batches.KEEP_BYTES", 250 * 28 * 28 * 4 - 1)
    made = FixedBatches(split, batch_size=100, draws=None, device=CPU)
    assert next(iter(kept))[0] is next(iter(kept))[0] and next(iter(made))[0] is not next(iter(made))[0]
    for _ in range(2):
        for (images, labels, _), (others, other_labels, _) in zip(made, kept, strict=True):
            assert torch.equal(images, others) and torch.equal(labels, other_labels)
