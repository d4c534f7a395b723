import torch

from vitbn import rng as keyed


def test_key_is_stable_and_tells_its_parts_apart():
    assert keyed.key(0, "order", 1) == 8444176558443591710  # as ever: a changed key is another study
    parts = [
        (0, "order", 1),
        (0, "order", 2),
        (1, "order", 1),
        (0, "augment", 1),
        ("0", "order", 1),
        (0, "order1"),
    ]
    assert len({keyed.key(*p) for p in parts}) == len(parts)
    assert all(0 <= keyed.key(*p) < 2**63 for p in parts)


def test_order_is_a_permutation_keyed_by_seed_and_epoch():
    order = keyed.order(0, 0, 100)
    assert torch.equal(order.sort().values, torch.arange(100))
    torch.rand(1000)  # what else is drawn does not matter
    assert torch.equal(order, keyed.order(0, 0, 100))
    assert not torch.equal(order, keyed.order(0, 1, 100)) and not torch.equal(order, keyed.order(1, 0, 100))
