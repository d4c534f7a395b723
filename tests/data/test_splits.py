import pytest
import torch

from vitbn.data.splits import Split, hold_out
from vitbn.errors import InputError


def test_hold_out_is_a_fixed_stratified_partition():
    split = Split(torch.arange(60, dtype=torch.uint8).view(60, 1, 1, 1), torch.arange(60) % 3)
    rest, held = hold_out(split, 15, "x")
    ids = torch.cat([rest.images, held.images]).flatten()
    assert torch.equal(ids.sort().values, torch.arange(60, dtype=torch.uint8))
    assert held.labels.bincount().tolist() == [5, 5, 5]
    assert torch.equal(held.images, hold_out(split, 15, "x")[1].images)
    assert not torch.equal(held.images, hold_out(split, 15, "y")[1].images)
    for count in (60, 99):
        with pytest.raises(InputError, match=f"data.holdout={count}: must lie between 1 and 59"):
            hold_out(split, count, "x")
