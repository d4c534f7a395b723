import pytest
import torch

from tests.conftest import ARTICLE, TINY
from vitbn import ViT, ViTBN, ViTBNFFN
from vitbn.models.init import initialize


def test_models_of_one_seed_share_what_they_have_in_common():
    arms = {model: model(**TINY) for model in (ViT, ViTBNFFN, ViTBN)}
    for net in arms.values():
        initialize(net, seed=3)
    reference = dict(arms[ViT].named_parameters())
    for net in arms.values():
        shared = [n for n, p in net.named_parameters() if n in reference and reference[n].shape == p.shape]
        assert len(shared) > 20
        assert all(torch.equal(dict(net.named_parameters())[n], reference[n]) for n in shared)


def test_initial_weights_follow_seed_name_and_torchs_distribution():
    a, b, other = (ViT(**ARTICLE) for _ in range(3))
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    for net, seed in ((a, 0), (b, 0), (other, 1)):
        initialize(net, seed)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(a.head.weight, other.head.weight)
    first, second = a.blocks[0].ffn.fc1.weight, a.blocks[1].ffn.fc1.weight
    assert not torch.equal(first, second)
    bound = 1 / 64**0.5  # nn.Linear: U(-1/sqrt(fan_in), 1/sqrt(fan_in))
    assert first.abs().max() <= bound and first.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
    assert a.embedding.positions.table.std().item() == pytest.approx(1, rel=0.1)
