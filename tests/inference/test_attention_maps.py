import pytest
import torch

from tests.conftest import TINY
from tests.inference.conftest import scramble
from vitbn import ViT, ViTBN, ViTBNFFN
from vitbn.inference.attention_maps import attention_maps
from vitbn.inference.fold import fold
from vitbn.models.merged_attention import FrozenAttention, freeze_attention

IMAGES = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def make(kind, **changes):
    torch.manual_seed(0)
    net = scramble(kind(**{**TINY, "depth": 3, **changes})).double().eval()
    for norm in (block.attn_in for block in net.blocks):
        norm.weight.data.mul_(4)  # so that attention is far from uniform
    return net


def by_hooks(net):
    """The weights of every block, B H T T, from what its projection really gave when the network answered."""
    found = []

    def catch(attention):
        def hook(module, args, projected):
            q, k, _ = projected.chunk(3, -1)
            q, k = (x.unflatten(-1, (attention.heads, attention.dim_head)).transpose(1, 2) for x in (q, k))
            found.append((q @ k.mT / attention.dim_head**0.5).softmax(-1))

        return hook

    for block in net.blocks:
        block.attention = block.attention.standard()
        block.attention.to_qkv.register_forward_hook(catch(block.attention))
    net.pool = "mean"  # all tokens ask in the last block too
    net(IMAGES)
    return found


def freeze(net):
    frozen = freeze_attention(net, IMAGES)
    assert isinstance(frozen.blocks[-1].attention, FrozenAttention)
    return frozen


@pytest.mark.parametrize("pool", ["cls", "mean"])
@pytest.mark.parametrize("kind", [ViT, ViTBNFFN, ViTBN])
def test_it_is_where_the_answer_came_from(kind, pool):
    ours = attention_maps(make(kind, pool=pool), IMAGES)
    with torch.no_grad():
        first, second, last = (weights.mean(1) for weights in by_hooks(make(kind, pool=pool)))
    eye = torch.eye(17, dtype=torch.float64)
    rollout = (0.5 * last + 0.5 * eye) @ (0.5 * second + 0.5 * eye) @ (0.5 * first + 0.5 * eye)
    for found, expected in ((ours.last, last), (ours.rollout, rollout)):
        row = expected[:, 0] if pool == "cls" else expected.mean(1)
        assert found.shape == (3, 4, 4) and found.std() > 1e-3
        torch.testing.assert_close(found, row[:, 1:].reshape(3, 4, 4), rtol=0, atol=1e-12)
        torch.testing.assert_close(found.sum((1, 2)) + row[:, 0], torch.ones(3).double(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", [ViT, ViTBNFFN, ViTBN])
def test_folding_and_freezing_do_not_change_it(kind):
    plain = attention_maps(make(kind), IMAGES)
    for net in (fold(make(kind)).net, freeze(make(kind)), freeze(fold(make(kind)).net)):
        for name in ("last", "rollout"):
            torch.testing.assert_close(
                getattr(attention_maps(net, IMAGES), name), getattr(plain, name), rtol=0, atol=1e-10
            )


@pytest.mark.parametrize("pool", ["cls", "mean"])
@pytest.mark.parametrize("kind", [ViT, ViTBNFFN])
def test_the_answer_comes_with_them(kind, pool):
    net = make(kind, pool=pool)
    with torch.no_grad():
        torch.testing.assert_close(attention_maps(net, IMAGES).logits, net(IMAGES), rtol=0, atol=1e-12)
