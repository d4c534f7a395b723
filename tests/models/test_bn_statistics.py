import copy

import pytest
import torch
from torch import nn

from tests.conftest import TINY
from tests.inference.conftest import scramble
from vitbn import ViTBN
from vitbn.models.bn_statistics import (
    Moments,
    batch_norms,
    batch_statistics,
    bn_input_hooks,
    estimate_bn_stats,
    load_bn_stats,
    samples,
)
from vitbn.models.placements import named
from vitbn.models.vit import VisionTransformer
from vitbn.norms import ScalarBatchNorm

IMAGES = torch.rand(23, 1, 28, 28, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=["vitbn", "vitbn_scalar"])
def net(request):
    torch.manual_seed(0)
    return scramble(VisionTransformer(**TINY, placement=named(request.param)).double()).eval()


def test_moments_pool_unequal_batches_exactly():
    x = 1e4 + torch.randn(100, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    moments = Moments()
    for part in x.split([1, 7, 60, 32]):
        moments.add(part)
    torch.testing.assert_close(moments.mean, x.mean(0), rtol=0, atol=1e-10)
    torch.testing.assert_close(moments.var, x.var(0), rtol=1e-10, atol=0)


def patches(images):
    return images.unflatten(3, (4, 7)).unflatten(2, (4, 7)).permute(0, 2, 4, 3, 5, 1).reshape(-1, 49)


@pytest.mark.parametrize("size", [4, 23])
def test_the_first_norm_gets_the_direct_mean_and_variance(net, size):
    mean, var = estimate_bn_stats(net, IMAGES.split(size))["embedding.in_norm"]
    pixels = patches(IMAGES)
    if isinstance(net.embedding.in_norm, ScalarBatchNorm):
        pixels = pixels.reshape(-1, 1)
    torch.testing.assert_close(mean, pixels.mean(0), rtol=0, atol=1e-13)
    torch.testing.assert_close(var, pixels.var(0), rtol=0, atol=1e-13)


def test_one_batch_gives_every_norm_the_statistics_of_its_inputs_in_evaluation(net):
    """With them, evaluation equals batch statistics; unbiased variances aside, which are made biased here."""
    moments = {name: Moments() for name in batch_norms(net)}
    with (
        torch.no_grad(),
        batch_statistics(net),
        bn_input_hooks(net, lambda n, norm, x: moments[n].add(samples(norm, x))),
    ):
        expected = net(IMAGES)
    fresh = estimate_bn_stats(net, [IMAGES])
    assert all(torch.equal(fresh[name][1], moment.var) for name, moment in moments.items())
    load_bn_stats(net, {name: (moment.mean, moment.squares / moment.count) for name, moment in moments.items()})
    with torch.no_grad():
        torch.testing.assert_close(net(IMAGES), expected, rtol=0, atol=1e-10)


def test_estimating_disturbs_nothing(net):
    before = copy.deepcopy(net.state_dict())
    estimate_bn_stats(net, IMAGES.split(5))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not any(module.training for module in net.modules())
    assert not any(module._forward_pre_hooks for module in net.modules())


def test_loading_returns_what_was_there(net):
    before = copy.deepcopy(net.state_dict())
    fresh = estimate_bn_stats(net, [IMAGES])
    old = load_bn_stats(net, fresh)
    assert all(torch.equal(norm.running_mean, fresh[name][0]) for name, norm in batch_norms(net).items())
    load_bn_stats(net, old)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_batch_statistics_are_those_of_training_without_its_traces(net):
    before = copy.deepcopy(net.state_dict())
    trained = copy.deepcopy(net).train()
    with torch.no_grad(), batch_statistics(net):
        torch.testing.assert_close(net(IMAGES), trained(IMAGES), rtol=0, atol=1e-12)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_other_networks_and_their_axes():
    torch.manual_seed(0)
    net = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(48, 5), nn.BatchNorm1d(5)).double()
    x = torch.randn(9, 3, 4, 4, dtype=torch.float64)
    fresh = estimate_bn_stats(net, [x])
    torch.testing.assert_close(fresh["0"][0], x.mean((0, 2, 3)), rtol=0, atol=1e-13)
    torch.testing.assert_close(fresh["0"][1], x.movedim(1, -1).reshape(-1, 3).var(0), rtol=0, atol=1e-13)
    assert fresh["3"][0].shape == (5,) and list(fresh) == ["0", "3"]


def test_a_compiled_network_is_measured_too():
    net = ViTBN(**TINY).double().eval()
    expected = estimate_bn_stats(net, [IMAGES])
    net.compile(backend="eager")
    fresh = estimate_bn_stats(net, [IMAGES])
    assert all(torch.equal(fresh[name][0], mean) for name, (mean, _) in expected.items())
