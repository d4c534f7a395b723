import pytest
import torch
from torch import nn

from vitbn.models.attention import Attention


def torchs_twin(ours):
    theirs = nn.MultiheadAttention(16, 4, batch_first=True, dtype=torch.float64)
    theirs.in_proj_weight.data, theirs.in_proj_bias.data = ours.to_qkv.weight.data, ours.to_qkv.bias.data
    theirs.out_proj.weight.data, theirs.out_proj.bias.data = ours.to_out.weight.data, ours.to_out.bias.data
    return theirs


@pytest.mark.parametrize("queries", [None, 2])
def test_it_is_torchs_multihead_attention_and_so_are_its_weights(queries):
    torch.manual_seed(0)
    ours = Attention(dim=16, heads=4, dim_head=4, qkv_bias=True).double()
    x = torch.randn(2, 5, 16, dtype=torch.float64)
    args = (x,) if queries is None else (x[:, :queries], x)
    out, weights = torchs_twin(ours)(args[0], x, x, average_attn_weights=False)
    torch.testing.assert_close(ours(*args), out, rtol=0, atol=1e-12)
    torch.testing.assert_close(ours.weights(*args), weights, rtol=0, atol=1e-12)


# dim, heads, dim_head; one head as wide as the tokens has no output projection
@pytest.mark.parametrize("shape", [(16, 2, 8), (12, 3, 20), (8, 1, 8), (8, 1, 4)])
def test_weights_mix_the_values_into_the_output(shape):
    dim, heads, dim_head = shape
    torch.manual_seed(0)
    attention = Attention(dim=dim, heads=heads, dim_head=dim_head, qk_norm="layer").double()
    x = torch.randn(2, 5, dim, dtype=torch.float64)
    v = attention.to_qkv(x).chunk(3, -1)[2].unflatten(-1, (heads, dim_head)).transpose(1, 2)
    mixed = attention.to_out((attention.weights(x) @ v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(mixed, attention(x), rtol=0, atol=1e-12)
    assert isinstance(attention.to_out, nn.Identity) == (heads == 1 and dim_head == dim)


def test_dropout_changes_the_result_in_training_only():
    torch.manual_seed(0)
    attention = Attention(dim=16, heads=2, dim_head=8, dropout=0.3)
    attention.out_dropout.p = 0.0
    x = torch.randn(3, 5, 16)
    assert not torch.allclose(attention(x), attention(x))
    attention.eval()
    assert torch.equal(attention(x), attention(x))
