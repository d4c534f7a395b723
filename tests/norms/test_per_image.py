import math

import pytest
import torch
from torch import nn

from tests.norms.conftest import scramble
from vitbn.norms import DynamicErf, DynamicTanh, LayerScale, TokenGroupNorm, TokenInstanceNorm, TokenRMSNorm, make_norm


@pytest.fixture
def x():
    torch.manual_seed(0)
    return 3 + 2 * torch.randn(3, 5, 8, dtype=torch.float64)


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_group_norm_is_over_the_tokens_and_features_of_a_group(x, groups):
    norm = scramble(TokenGroupNorm(8, groups=groups))
    grouped = x.unflatten(2, (groups, -1))  # images, tokens, groups, features of a group
    mean = grouped.mean((1, 3), keepdim=True)
    var = grouped.var((1, 3), correction=0, keepdim=True)
    expected = ((grouped - mean) / (var + norm.eps).sqrt()).flatten(2) * norm.weight + norm.bias
    torch.testing.assert_close(norm(x), expected, rtol=0, atol=1e-12)


def test_group_norm_is_torchs_on_images(x):
    ours, theirs = TokenGroupNorm(8, groups=2).double(), nn.GroupNorm(2, 8).double()
    expected = theirs(x.transpose(1, 2)[..., None].contiguous())[..., 0].transpose(1, 2)
    torch.testing.assert_close(ours(x), expected, rtol=0, atol=1e-12)


def test_heads_are_normed_by_themselves(x):
    norm = TokenGroupNorm(8).double()
    heads = torch.stack([x, 5 * x + 1], dim=1)
    torch.testing.assert_close(norm(heads)[:, 1], norm(5 * x + 1), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("features", "groups"), [(64, 8), (49, 1), (12, 4)])
def test_groups_left_open_divide_the_features(features, groups):
    assert TokenGroupNorm(features).num_groups == groups


def test_instance_norm_is_torchs(x):
    theirs = nn.InstanceNorm1d(8, affine=True).double()
    expected = theirs(x.transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(TokenInstanceNorm(8).double()(x), expected, rtol=0, atol=1e-12)


def test_rms_norm_divides_by_the_quadratic_mean_of_the_features(x):
    norm = scramble(make_norm("rms", 8, eps=1e-5))
    expected = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * norm.weight
    torch.testing.assert_close(norm(x), expected, rtol=0, atol=1e-12)


def test_dynamic_tanh_and_erf_are_their_formulas(x):
    tanh, erf = scramble(DynamicTanh(8)), scramble(DynamicErf(8))
    value = x[1, 2, 3].item()
    expected = math.tanh(tanh.alpha.item() * value) * tanh.weight[3].item() + tanh.bias[3].item()
    assert tanh(x)[1, 2, 3].item() == pytest.approx(expected, abs=1e-12)
    expected = math.erf(erf.alpha.item() * value + erf.shift.item()) * erf.weight[3].item() + erf.bias[3].item()
    assert erf(x)[1, 2, 3].item() == pytest.approx(expected, abs=1e-12)
    fresh = DynamicErf(8, alpha=0.7, shift=-0.2)
    assert fresh.alpha.item() == pytest.approx(0.7) and fresh.shift.item() == pytest.approx(-0.2)


def test_layer_scale_starts_as_told(x):
    assert torch.equal(LayerScale(8, init=0.5).double()(x), 0.5 * x) and not LayerScale(8, init=0)(x.float()).any()


@pytest.mark.parametrize("shape", [(1, 8), (1, 1, 8), (2, 1, 8)])
def test_one_token_of_one_image_normalised_by_itself_is_the_bias(shape):
    norm = scramble(TokenInstanceNorm(8))
    torch.testing.assert_close(norm(torch.randn(shape, dtype=torch.float64)), norm.bias.expand(shape))


def test_rms_norm_without_a_weight():
    x = torch.randn(2, 3, 8)
    torch.testing.assert_close(TokenRMSNorm(8, elementwise_affine=False)(x), torch.rms_norm(x, (8,)))
