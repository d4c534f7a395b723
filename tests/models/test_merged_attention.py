import itertools

import pytest
import torch
from torch import nn

from tests.conftest import TINY
from vitbn import ViT
from vitbn.models.attention import Attention
from vitbn.models.merged_attention import FrozenAttention, MergedAttention, freeze_attention, merged_is_cheaper

# dim, heads, dim_head; (8, 1, 8) has no output projection
SHAPES = [(16, 2, 8), (16, 4, 16), (12, 3, 20), (8, 1, 8), (8, 1, 4)]


def made(shape, **options):
    dim, heads, dim_head = shape
    torch.manual_seed(0)
    attention = MergedAttention(dim=dim, heads=heads, dim_head=dim_head, **options).double()
    return attention, torch.randn(3, 5, dim, dtype=torch.float64)


def result_and_gradients(attention, x, queries):
    """`queries`: how many of the tokens ask all of them, None for self-attention."""
    leaf = x.clone().requires_grad_()
    out = attention(leaf) if queries is None else attention(leaf[:, :queries], leaf)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return [out, *torch.autograd.grad((out * weight).sum(), [leaf, *attention.parameters()])]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("queries", [None, 2])
def test_merged_attention_has_the_outputs_and_gradients_of_the_standard_one(shape, bias, queries, merge):
    merge(True)
    attention, x = made(shape, qkv_bias=bias)
    standard = result_and_gradients(attention.standard(), x, queries)
    for a, b in zip(result_and_gradients(attention, x, queries), standard, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


@pytest.mark.parametrize("queries", [5, 2])
def test_dropout_drops_attention_weights(queries, merge):
    """Against the explicit formula under the same mask."""
    merge(True)
    attention, x = made((16, 2, 8), dropout=0.5)
    attention.out_dropout.p = 0.0
    torch.manual_seed(1)
    out = attention(x[:, :queries], x)
    torch.manual_seed(1)
    mask = nn.functional.dropout(torch.ones(3, 5, 2 * queries, dtype=torch.float64), 0.5)  # keys by queries and heads
    mask = mask.unflatten(2, (queries, 2)).permute(0, 3, 2, 1)  # B H Q T
    _, _, v = attention.qkv(x)
    mixed = (attention.weights(x[:, :queries], x) * mask) @ v
    expected = attention.to_out(mixed.transpose(1, 2).flatten(2))
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
    assert not torch.allclose(out, attention.eval()(x[:, :queries], x))


def test_dropped_weights_carry_their_value_bias_with_them(merge):
    """Zero values and a bias of one: what comes out is the sum of the weights that are left."""
    merge(True)
    attention, x = made((16, 2, 8), dropout=0.5, qkv_bias=True)
    attention.out_dropout.p = 0.0
    with torch.no_grad():
        attention.to_qkv.weight[32:] = 0
        attention.to_qkv.bias[32:] = 1
    assert attention(x).std(1).min() > 1e-3


def multiplications(images, tokens, dim, heads, dim_head, merged, ready, queries):
    """Counted product by product, for the whole layer."""
    if merged:
        products = 0 if ready else 2 * dim * dim * dim_head
        per_head = images * (2 * queries * dim * dim + 2 * queries * tokens * dim) + products
    else:
        per_head = images * (2 * (queries + tokens) * dim * dim_head + 2 * queries * tokens * dim_head)
    return heads * per_head


@pytest.mark.parametrize("ready", [False, True])
@pytest.mark.parametrize("queries", [None, 1])
def test_the_cost_rule_counts_multiplications(ready, queries):
    for images, tokens, dim, dim_head in itertools.product((1, 7, 100), (5, 17, 197), (16, 64, 768), (16, 64)):
        asking = queries or tokens
        costs = [multiplications(images, tokens, dim, 8, dim_head, merged, ready, asking) for merged in (False, True)]
        cheaper = merged_is_cheaper(images, tokens, dim, dim_head, queries=asking, products_ready=ready)
        assert cheaper == (costs[1] < costs[0])


def test_the_article_merges_and_the_published_network_does_so_for_its_class_token_only():
    article = MergedAttention(dim=64, heads=8, dim_head=64)
    published = MergedAttention(dim=96, heads=12, dim_head=8)
    assert article.is_merged(torch.empty(100, 17, 64)) and not published.is_merged(torch.empty(100, 197, 96))
    assert published.is_merged(torch.empty(100, 1, 96), torch.empty(100, 197, 96))


def test_norms_on_q_and_k_are_never_merged():
    def attention(kind):
        return ViT(**TINY, placement={"qk": kind}).blocks[0].attention

    assert type(attention("layer")) is Attention and type(attention("none")) is MergedAttention


def test_evaluation_follows_weights_however_they_change(merge):
    merge(True)
    attention, x = made((16, 2, 16))
    attention.eval()
    with torch.no_grad():
        for change in (
            lambda: attention.to_qkv.weight.mul_(2),
            lambda: attention.to_qkv.weight.data.mul_(2),
            lambda: attention.load_state_dict({k: torch.randn_like(v) for k, v in attention.state_dict().items()}),
        ):
            attention(x)
            change()
            torch.testing.assert_close(attention(x), attention.standard()(x), rtol=0, atol=1e-10)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_frozen_attention_is_the_same_function_with_the_same_weights(shape, bias):
    attention, x = made(shape, qkv_bias=bias)
    frozen, standard = FrozenAttention(attention.products(), attention.heads), attention.standard()
    assert not list(frozen.parameters())
    for args in ((x,), (x[:, :2], x)):
        torch.testing.assert_close(frozen(*args), standard(*args), rtol=0, atol=1e-12)
        torch.testing.assert_close(frozen.weights(*args), standard.weights(*args), rtol=0, atol=1e-12)


# in the last block one token asks, for which merging pays sooner
@pytest.mark.parametrize(
    ("dim_head", "classes"), [(16, [FrozenAttention, FrozenAttention]), (2, [Attention, FrozenAttention])]
)
def test_freezing_a_network_replaces_every_attention_and_leaves_the_original_alone(dim_head, classes):
    torch.manual_seed(0)
    net = ViT(**{**TINY, "dim_head": dim_head}, qkv_bias=True).double().eval()
    images = torch.rand(3, 1, 28, 28, dtype=torch.float64)
    frozen = freeze_attention(net, images[:1])
    assert [type(block.attention) for block in frozen.blocks] == classes
    assert {type(block.attention) for block in net.blocks} == {MergedAttention}
    assert not any(module._forward_pre_hooks or module.training for module in frozen.modules())
    torch.testing.assert_close(frozen(images), net(images), rtol=0, atol=1e-12)
