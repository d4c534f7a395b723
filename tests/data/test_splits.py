import pytest
import torch

from vitbn.data.splits import Split, hold_out
from vitbn.errors import InputError
from vitbn.rng import generator


def test_hold_out_is_a_fixed_stratified_partition():
    split = Split(torch.arange(60, dtype=torch.uint8).view(60, 1, 1, 1), torch.arange(60) % 3)
    rest, held = hold_out(split, 15, "x")
    ids = torch.cat([rest.images, held.images]).flatten()
    assert torch.equal(ids.sort().values, torch.arange(60, dtype=torch.uint8))
    assert held.labels.bincount().tolist() == [5, 5, 5]
    assert torch.equal(held.images, hold_out(split, 15, "x")[1].images)
    assert not torch.equal(held.images, hold_out(split, 15, "y")[1].images)
    for count in (60, 99):
        with pytest.raises(InputError, match=f"data.holdout={count}: must lie between 1 and 57 of 60 images"):
            hold_out(split, count, "x")


def labelled(*sizes):
    """Classes of these sizes, mixed; every image has its row for pixels."""
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))[
        torch.randperm(sum(sizes), generator=torch.Generator().manual_seed(0))
    ]
    return Split(torch.arange(sum(sizes)).view(-1, 1, 1, 1), labels)


@pytest.mark.parametrize(("holdout", "held"), [(80, [71, 9]), (0.2, [60, 8]), (40, [35, 5]), (338, [299, 39])])
def test_the_same_share_of_each_class_is_held_out(holdout, held):
    rest, validation = hold_out(labelled(300, 40), holdout, "photos")
    assert validation.labels.bincount().tolist() == held
    assert rest.labels.bincount().tolist() == [300 - held[0], 40 - held[1]]


def test_no_class_loses_its_last_image():
    for holdout in range(1, 13):
        rest, _ = hold_out(labelled(1, 2, 12), holdout, "photos")
        assert rest.labels.unique().tolist() == [0, 1, 2]
    for holdout, counted in ((13, ""), (0.9, "14 images; ")):
        with pytest.raises(
            InputError, match=f"data.holdout={holdout}: {counted}must lie between 1 and 12 of 15 images, so"
        ):
            hold_out(labelled(1, 2, 12), holdout, "photos")


def as_before_shares(split, count, purpose):
    """The rows that earlier versions held out: as many of each class."""
    order = torch.randperm(len(split), generator=generator("hold out", purpose))
    labels, rank = split.labels[order], torch.empty(len(split), dtype=torch.int64)
    for label in labels.unique():
        rank[labels == label] = torch.arange(int((labels == label).sum()))
    return order[torch.argsort(rank, stable=True)].tensor_split([count])


@pytest.mark.parametrize(("purpose", "sizes"), [("mnist", (54, 67, 60)), ("cifar10", (50, 50, 50))])
@pytest.mark.parametrize("count", [1, 50, 149])
def test_mnist_and_classes_of_equal_size_keep_the_draw_of_kept_runs(purpose, sizes, count):
    split = labelled(*sizes)
    count = min(count, 3 * min(sizes) - 3)
    held, rest = as_before_shares(split, count, purpose)
    found_rest, found_held = hold_out(split, count, purpose)
    assert torch.equal(found_held.rows, held) and torch.equal(found_rest.rows, rest)
