import copy

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from tests.norms.conftest import scramble
from vitbn.norms import (
    BatchRenorm,
    GhostBatchNorm,
    PowerNorm,
    ProgressiveRepBatchNorm,
    RepBatchNorm,
    ScalarBatchNorm,
    TokenBatchNorm,
    make_norm,
    set_progress,
)


@pytest.fixture
def x():
    torch.manual_seed(0)
    return 3 + 2 * torch.randn(6, 5, 4, dtype=torch.float64)


@pytest.mark.parametrize("kind", ["batch2d", "batch1d"])
def test_token_batchnorm_is_the_articles(kind):
    """(B, N, D) as (B, D, N, 1) through BatchNorm2d, outputs, gradients and running statistics."""
    torch.manual_seed(0)
    x = torch.randn(5, 7, 6, dtype=torch.float64, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    ours = TokenBatchNorm(6).double()
    if kind == "batch2d":
        theirs = nn.BatchNorm2d(6).double()
        # contiguous, because torch 2.14's CPU backward of BatchNorm2d is wrong for a transposed (B, D, N, 1)
        expected = theirs(y.transpose(1, 2)[..., None].contiguous())[..., 0].transpose(1, 2)
    else:
        theirs = nn.BatchNorm1d(6).double()
        expected = theirs(y.transpose(1, 2)).transpose(1, 2)
    weight = torch.randn_like(expected)
    (ours(x) * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=0, atol=1e-12)
    torch.testing.assert_close(ours.running_mean, theirs.running_mean, rtol=0, atol=1e-14)
    torch.testing.assert_close(ours.running_var, theirs.running_var, rtol=0, atol=1e-14)


def test_scalar_batchnorm_normalises_the_whole_tensor():
    torch.manual_seed(0)
    norm = ScalarBatchNorm(4).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = 3 + 2 * torch.randn(5, 7, 4, dtype=torch.float64)
    expected = (x - x.mean()) / (x.var(unbiased=False) + norm.eps).sqrt() * norm.weight + norm.bias
    torch.testing.assert_close(norm(x), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(norm.running_mean, 0.1 * x.mean()[None], rtol=0, atol=1e-14)
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * x.var()[None], rtol=0, atol=1e-14)
    norm.eval()
    expected = (x - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
    torch.testing.assert_close(norm(x), expected, rtol=0, atol=1e-12)


def test_ghost_batchnorm_is_batchnorm_of_every_part(x):
    norm = scramble(GhostBatchNorm(4, virtual=2))
    plain = copy.deepcopy(norm)
    expected = []
    for part in x.split(2):  # (part - mean) / sqrt(var + eps) weight + bias, and the running mean after each part
        mean, var = part.mean((0, 1)), part.var((0, 1), correction=0)
        expected.append((part - mean) / (var + 1e-5).sqrt() * plain.weight + plain.bias)
        plain.running_mean.lerp_(mean, 0.1)
        plain.running_var.lerp_(part.var((0, 1)), 0.1)
    torch.testing.assert_close(norm(x), torch.cat(expected), rtol=0, atol=1e-12)
    torch.testing.assert_close(norm.running_mean, plain.running_mean, rtol=0, atol=1e-14)
    torch.testing.assert_close(norm.running_var, plain.running_var, rtol=0, atol=1e-14)


def test_ghost_batchnorm_is_timms_split_batchnorm_on_the_first_part(x):
    """timm norms the first part so and keeps its statistics; the others it norms by modules of their own."""
    ours, theirs = GhostBatchNorm(4, virtual=3).double(), timm.layers.SplitBatchNorm2d(4, num_splits=2).double()
    expected = theirs(x.transpose(1, 2)[..., None].contiguous())[..., 0].transpose(1, 2)
    torch.testing.assert_close(ours(x), expected, rtol=0, atol=1e-12)


def test_ghost_batchnorm_of_the_whole_batch_is_batchnorm(x):
    ghost, batch = GhostBatchNorm(4, virtual=6).double(), TokenBatchNorm(4).double()
    assert torch.equal(ghost(x), batch(x)) and torch.equal(ghost.running_var, batch.running_var)


@pytest.mark.parametrize(
    ("progress", "r_max", "d_max"), [(0.0, 1.0, 0.0), (0.125, 2.0, 2.5), (0.25, 3.0, 5.0), (1.0, 3.0, 5.0)]
)
def test_batch_renorm_is_its_formula(x, progress, r_max, d_max):
    norm = scramble(BatchRenorm(4))
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 40)
    set_progress(norm, progress)
    mean, sigma = x.mean((0, 1)), (x.var((0, 1), correction=0) + norm.eps).sqrt()
    running_sigma = (norm.running_var + norm.eps).sqrt()
    r = (sigma / running_sigma).clamp(1 / r_max, r_max)
    d = ((mean - norm.running_mean) / running_sigma).clamp(-d_max, d_max)
    expected = ((x - mean) / sigma * r + d) * norm.weight + norm.bias
    expected_mean, expected_sigma = norm.running_mean.lerp(mean, 0.01), running_sigma.lerp(sigma, 0.01)
    torch.testing.assert_close(norm(x), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(norm.running_mean, expected_mean, rtol=0, atol=1e-14)
    torch.testing.assert_close((norm.running_var + norm.eps).sqrt(), expected_sigma, rtol=0, atol=1e-14)


def test_batch_renorm_within_its_limits_trains_what_it_evaluates(x):
    norm = scramble(BatchRenorm(4, r_max=100, d_max=100))
    set_progress(norm, 1)
    evaluated = copy.deepcopy(norm).eval()(x)
    torch.testing.assert_close(norm(x), evaluated, rtol=0, atol=1e-12)


def test_batch_renorm_begins_as_batchnorm(x):
    torch.testing.assert_close(BatchRenorm(4).double()(x), TokenBatchNorm(4).double()(x), rtol=0, atol=1e-12)


def test_powernorm_divides_by_the_quadratic_mean(x):
    norm = scramble(PowerNorm(4))
    squares = x.square().mean((0, 1))
    expected = x / (squares + norm.eps).sqrt() * norm.weight + norm.bias
    torch.testing.assert_close(norm(x), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * squares, rtol=0, atol=1e-14)
    assert not norm.running_mean.any()
    assert [value.tolist() for value in norm.statistics(torch.tensor(3.0), torch.tensor(2.0))] == [0.0, 11.0]


def test_rep_batchnorm_adds_its_input(x):
    norm = scramble(RepBatchNorm(4))
    expected = copy.deepcopy(norm.bn)(x) + norm.eta * x
    torch.testing.assert_close(norm(x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("progress", "share"), [(0.0, 1.0), (0.2, 0.75), (0.8, 0.0), (1.0, 0.0)])
def test_progressive_rep_batchnorm_goes_from_layernorm_to_rep_batchnorm(x, progress, share):
    norm = scramble(ProgressiveRepBatchNorm(4))
    set_progress(norm, progress)
    layer = F.layer_norm(x, (4,), norm.ln.weight, norm.ln.bias, norm.ln.eps)
    rep = copy.deepcopy(norm.bn)(x) + norm.eta * x
    torch.testing.assert_close(norm(x), share * layer + (1 - share) * rep, rtol=0, atol=1e-12)
    assert (norm.as_affine() is None) == (share > 0)


def test_one_mean_and_variance_for_all_features_are_exact_over_many_tokens():
    x = torch.randn(100, 197, 256, generator=torch.Generator().manual_seed(0)) + 30
    norm = ScalarBatchNorm(256)
    expected = (x.double() - x.double().mean()) / (x.double().var(correction=0) + norm.eps).sqrt()
    torch.testing.assert_close(norm(x).double(), expected, rtol=0, atol=1e-3)
    assert norm.running_var.item() == pytest.approx(0.9 + 0.1 * x.double().var().item(), rel=1e-4)


@pytest.mark.parametrize(("kind", "option"), [("rep_batch", "eta"), ("prep_batch", "eta"), ("derf", "shift")])
def test_whole_numbers_are_numbers(kind, option):
    assert make_norm({"kind": kind, option: 1}, 4)(torch.rand(2, 3, 4)).dtype == torch.float32


@pytest.mark.parametrize("kind", ["power", "batch_renorm", "batch", "ghost_batch", "rep_batch"])
def test_an_empty_batch_leaves_the_running_statistics_alone(kind):
    norm = make_norm(kind, 4).train()
    norm(torch.randn(8, 3, 4))
    counted = getattr(norm, "bn", norm)
    before = counted.running_mean.clone(), counted.running_var.clone()
    assert norm(torch.zeros(0, 3, 4)).shape == (0, 3, 4)
    assert torch.equal(counted.running_mean, before[0]) and torch.equal(counted.running_var, before[1])


@pytest.mark.parametrize(("norm", "option"), [(BatchRenorm, "ramp"), (ProgressiveRepBatchNorm, "over")])
def test_a_share_of_the_training_is_above_zero(norm, option):
    with pytest.raises(ValueError, match=f"{option}=0: must be above 0"):
        norm(4, **{option: 0})


def test_without_an_affine_map_it_is_one_in_evaluation_all_the_same():
    norm = TokenBatchNorm(4, affine=False).double()
    norm(torch.randn(8, 3, 4, dtype=torch.float64))
    x = torch.randn(2, 3, 4, dtype=torch.float64)
    scale, shift = norm.eval().as_affine()
    torch.testing.assert_close(x * scale + shift, norm(x), rtol=1e-12, atol=1e-12)
