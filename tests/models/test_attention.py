import itertools

import pytest
import torch

from vitbn.models.attention import Attention, merged_is_cheaper

SHAPES = [
    (16, 2, 8),
    (16, 4, 16),
    (12, 3, 20),
    (8, 1, 8),
    (8, 1, 4),
]  # dim, heads, dim_head; (8, 1, 8) has no W_o


def both_routes(dim, heads, dim_head, bias, dropout, training, queries=None):
    torch.manual_seed(0)
    attention = Attention(dim=dim, heads=heads, dim_head=dim_head, qkv_bias=bias, dropout=dropout).double()
    attention.train(training)
    uniform = torch.rand(3, heads, queries or 5, 5, generator=torch.Generator().manual_seed(1))
    attention.weights_dropout.draw = lambda shape: uniform[: shape[0]]
    if heads > 1 or dim_head != dim:
        attention.out_dropout.draw = lambda shape: torch.full(shape, 0.9)
    u = torch.randn(3, 5, dim, dtype=torch.float64)
    weight = torch.randn(3, 5, dim, dtype=torch.float64)
    results = []
    for route in ("standard", "merged"):
        attention.route = route
        leaf = u.clone().requires_grad_()
        out = attention(leaf, queries)
        gradients = torch.autograd.grad((out * weight[:, :queries]).sum(), [leaf, *attention.parameters()])
        results.append((out, *gradients))
    return results


@pytest.mark.parametrize(
    ("shape", "bias", "dropout", "training"),
    list(itertools.product(SHAPES, (False, True), (0.0, 0.3), (False, True))),
)
def test_both_routes_have_equal_outputs_and_gradients(shape, bias, dropout, training):
    standard, merged = both_routes(*shape, bias, dropout, training)
    for a, b in zip(standard, merged, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_the_first_tokens_may_ask_alone(shape, bias, dropout):
    standard, merged = both_routes(*shape, bias, dropout, True, queries=2)
    for a, b in zip(standard, merged, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)
    every = both_routes(*shape, bias, 0.0, True)[0][0]
    torch.testing.assert_close(both_routes(*shape, bias, 0.0, True, queries=2)[0][0], every[:, :2], rtol=0, atol=1e-10)


def test_dropout_changes_the_result_in_training_only():
    plain, dropped = (both_routes(16, 2, 8, False, p, True)[1][0] for p in (0.0, 0.3))
    assert not torch.allclose(plain, dropped)
    plain, dropped = (both_routes(16, 2, 8, False, p, False)[1][0] for p in (0.0, 0.3))
    assert torch.equal(plain, dropped)


def test_standard_route_is_torchs_multihead_attention():
    torch.manual_seed(0)
    ours = Attention(dim=16, heads=4, dim_head=4, qkv_bias=True, route="standard").double()
    theirs = torch.nn.MultiheadAttention(16, 4, batch_first=True, dtype=torch.float64)
    theirs.in_proj_weight.data, theirs.in_proj_bias.data = ours.to_qkv.weight.data, ours.to_qkv.bias.data
    theirs.out_proj.weight.data, theirs.out_proj.bias.data = ours.to_out.weight.data, ours.to_out.bias.data
    u = torch.randn(2, 5, 16, dtype=torch.float64)
    torch.testing.assert_close(ours(u), theirs(u, u, u)[0], rtol=0, atol=1e-12)


def multiplications(images, tokens, dim, heads, dim_head, merged, ready, asking):
    """Counted product by product, for the whole layer."""
    if merged:
        products = 0 if ready else 2 * dim * dim * dim_head
        per_head = images * (2 * asking * dim * dim + 2 * asking * tokens * dim) + products
    else:
        per_head = images * (2 * (asking + tokens) * dim * dim_head + 2 * asking * tokens * dim_head)
    return heads * per_head


@pytest.mark.parametrize("ready", [False, True])
@pytest.mark.parametrize("queries", [None, 1])
def test_cost_rule_counts_multiplications(ready, queries):
    for images, tokens, dim, dim_head in itertools.product((1, 7, 100), (5, 17, 197), (16, 64, 768), (16, 64)):
        costs = [
            multiplications(images, tokens, dim, 8, dim_head, merged, ready, queries or tokens)
            for merged in (False, True)
        ]
        cheaper = merged_is_cheaper(images, tokens, dim, dim_head, queries=queries, products_ready=ready)
        assert cheaper == (costs[1] < costs[0])


def test_auto_takes_the_cheaper_route():
    article = Attention(dim=64, heads=8, dim_head=64)
    base16 = Attention(dim=96, heads=12, dim_head=8)
    assert article.takes_merged(torch.empty(100, 17, 64)) and not base16.takes_merged(torch.empty(100, 197, 96))


def test_norms_on_q_and_k_leave_only_the_standard_route():
    attention = Attention(dim=16, heads=2, dim_head=16, qk_norm="layer", route="merged")
    assert not attention.takes_merged(torch.empty(100, 17, 16))


def test_evaluation_computes_products_once_and_notices_new_weights():
    torch.manual_seed(0)
    attention = Attention(dim=16, heads=2, dim_head=16, route="merged").double().eval()
    u = torch.randn(2, 5, 16, dtype=torch.float64)
    with torch.no_grad():
        first = attention(u)
        cached = attention._cached
        attention(u)
        assert attention._cached is cached
        attention.to_qkv.weight.mul_(2)
        changed = attention(u)
        attention.load_state_dict({k: torch.randn_like(v) for k, v in attention.state_dict().items()})
        loaded = attention(u)
        attention.route = "standard"
        torch.testing.assert_close(loaded, attention(u))
    assert not torch.allclose(first, changed) and not torch.allclose(changed, loaded)
    assert attention.train()._cached is None


@pytest.mark.parametrize("queries", [None, 2])
def test_weights_are_those_of_torchs_multihead_attention_on_every_route(queries):
    torch.manual_seed(0)
    ours = Attention(dim=16, heads=4, dim_head=4, qkv_bias=True).double().eval()
    theirs = torch.nn.MultiheadAttention(16, 4, batch_first=True, dtype=torch.float64)
    theirs.in_proj_weight.data, theirs.in_proj_bias.data = ours.to_qkv.weight.data, ours.to_qkv.bias.data
    u = torch.randn(2, 5, 16, dtype=torch.float64)
    expected = theirs(u, u, u, average_attn_weights=False)[1][:, :, :queries]
    for route in ("standard", "merged"):
        ours.route = route
        torch.testing.assert_close(ours.weights(u, queries), expected, rtol=0, atol=1e-12)
        ours.freeze(u, queries)
        torch.testing.assert_close(ours.weights(u, queries), expected, rtol=0, atol=1e-12)
    assert not hasattr(ours, "to_qkv")


@pytest.mark.parametrize("shape", SHAPES)
def test_weights_mix_the_values_into_the_output(shape):
    dim, heads, dim_head = shape
    torch.manual_seed(0)
    attention = Attention(dim=dim, heads=heads, dim_head=dim_head, qk_norm="layer").double().eval()
    u = torch.randn(2, 5, dim, dtype=torch.float64)
    v = attention.to_qkv(u).chunk(3, -1)[2].unflatten(-1, (heads, dim_head)).transpose(1, 2)
    mixed = attention.to_out((attention.weights(u) @ v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(mixed, attention(u), rtol=0, atol=1e-12)
