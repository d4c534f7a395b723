"""Each measurement against its plain formula, in float64."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from vitbn.training.measurements import (
    FeatureMoments,
    attention_entropy,
    curvature,
    layer_of,
    losses_along,
    norms,
    of_parts,
    parts_of,
)


def rows(count=40, features=3):
    return torch.randn(count, features, dtype=torch.float64) * torch.tensor([1.0, 5.0, 0.1]) + 7


def test_mean_and_variance_are_those_of_all_numbers_together():
    x = rows()
    mean, var = FeatureMoments.of(x).overall()
    values = x.flatten().tolist()
    expected = sum(values) / len(values)
    assert mean.item() == pytest.approx(expected)
    assert var.item() == pytest.approx(sum((value - expected) ** 2 for value in values) / len(values))


def test_shares_of_a_batch_count_as_the_batch():
    x = rows()
    whole = FeatureMoments.of(x)
    nothing = FeatureMoments(0, torch.full((3,), math.nan), torch.full((3,), math.nan))
    pooled = FeatureMoments.pooled([FeatureMoments.of(x[:7]), nothing, FeatureMoments.of(x[7:])])
    torch.testing.assert_close((pooled.mean, pooled.var), (whole.mean, whole.var))


def test_the_gap_is_the_distance_to_the_running_statistics():
    x, mu, var = rows(), torch.tensor([6.0, 7.0, 7.0]).double(), torch.tensor([4.0, 9.0, 1.0]).double()
    m, s = x.mean(0).tolist(), x.std(0).tolist()
    scale = math.sqrt(4 + 9 + 1)
    expected = (
        math.dist(m, mu.tolist()) / scale,
        math.dist(s, [2, 3, 1]) / scale,
    )
    assert [gap.item() for gap in FeatureMoments.of(x).gap(mu, var)] == pytest.approx(expected)


def test_entropy_is_one_where_attention_is_uniform_and_zero_on_one_token():
    uniform, single = torch.full((1, 1, 1, 4), 0.25).double(), torch.eye(4).double()[None, None]
    assert attention_entropy(uniform).item() == pytest.approx(1)
    assert attention_entropy(single).item() == 0
    weights = torch.rand(2, 3, 4, 5, dtype=torch.float64).softmax(-1)
    expected = [-sum(a * math.log(a) for a in row) / math.log(5) for row in weights.flatten(0, 2).tolist()]
    assert attention_entropy(weights).item() == pytest.approx(sum(expected) / len(expected))


@pytest.mark.parametrize(
    ("name", "layer"),
    [("blocks.3.ffn.fc1.weight", "blocks.3"), ("head.weight", "head"), ("layer1.0.conv1.weight", "layer1"),
     ("encoder.layers.encoder_layer_2.ln_1.bias", "encoder.layers.encoder_layer_2"), ("hidden2.bias", "hidden2")],
)  # fmt: skip
def test_a_layer_ends_with_the_first_number(name, layer):
    assert layer_of(name) == layer


def test_norms_of_a_layer_are_those_of_its_parameters_together():
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2, bias=False))
    parts = parts_of(net)
    assert parts == {
        ("0", ""): [0, 1],
        ("0", "weights"): [0],
        ("0", "others"): [1],
        ("1", ""): [2],
        ("1", "weights"): [2],
    }
    found = of_parts(norms([parameter.detach() for parameter in net.parameters()]), parts)
    expected = math.sqrt(sum(w**2 for w in [*net[0].weight.flatten().tolist(), *net[0].bias.tolist()]))
    assert found["0", ""] == pytest.approx(expected)
    assert of_parts(norms([None, torch.ones(4), torch.zeros(2)]), parts)["0", ""] == pytest.approx(2)


class Tiny(nn.Module):
    """A network with BatchNorm and dropout in training mode, in float64."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)
        self.double()

    def forward(self, x):
        return self.last(F.dropout(F.gelu(self.norm(self.first(x))), 0.3))


def test_sharpness_is_the_curvature_along_the_gradient():
    torch.manual_seed(0)
    net, x, labels = Tiny(), torch.randn(20, 6).double(), torch.arange(20) % 3
    parameters = dict(net.named_parameters())
    torch.manual_seed(5)
    loss = F.cross_entropy(net(x), labels, label_smoothing=0.1)
    gradients = torch.autograd.grad(loss, list(parameters.values()), create_graph=True)
    g = torch.cat([gradient.flatten() for gradient in gradients])
    hessian = torch.stack([
        torch.cat([part.flatten() for part in torch.autograd.grad(entry, list(parameters.values()), retain_graph=True)])
        for entry in g
    ])  # fmt: skip
    exact = (g @ hessian @ g / (g @ g)).item()
    direction = {
        name: gradient.detach() / g.norm().detach() for name, gradient in zip(parameters, gradients, strict=True)
    }
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.get_rng_state()
    losses = losses_along(net, direction, (-1e-3, 0.0, 1e-3), x, labels, label_smoothing=0.1, seed=5)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert losses[1].item() == pytest.approx(loss.item(), rel=1e-12)
    assert curvature(*(loss.item() for loss in losses), length=1e-3) == pytest.approx(exact, rel=1e-5)
    assert abs(exact) > 0.01
