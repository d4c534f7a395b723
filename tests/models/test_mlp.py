import pytest
import torch
from torch import nn

from vitbn.models.init import initialize
from vitbn.models.mlp import MLP

ARTICLE = {"image_size": 28, "channels": 1, "num_classes": 10}


def test_parameter_counts():
    def count(**options):
        return sum(p.numel() for p in MLP(**ARTICLE, **options).parameters())

    dnn = 784 * 100 + 100 + 2 * (100 * 100 + 100) + 100 * 10 + 10
    mlp = 784 * 512 + 512 + 512 * 256 + 256 + 256 * 10 + 10
    assert count(hidden=[100, 100, 100], activation="sigmoid") == dnn
    assert count(hidden=[100, 100, 100], activation="sigmoid", norm="batch") == dnn + 3 * 200
    assert count(hidden=[512, 256], activation="relu") == mlp
    assert count(hidden=[512, 256], activation="relu", norm="batch", norm_at="post") == mlp + 2 * (512 + 256)


@pytest.mark.parametrize("at", ["pre", "post"])
def test_it_is_the_same_stack_of_torchs_modules(at):
    torch.manual_seed(0)
    net = MLP(**ARTICLE, hidden=[20, 15], activation="relu", norm="batch", norm_at=at).double()
    initialize(net, seed=0)

    def layer(i, o):
        inside = [nn.BatchNorm1d(o), nn.ReLU()]
        return [nn.Linear(i, o), *(inside if at == "pre" else inside[::-1])]

    twin = nn.Sequential(nn.Flatten(), *layer(784, 20), *layer(20, 15), nn.Linear(15, 10)).double()
    for theirs, ours in zip(twin.parameters(), net.parameters(), strict=True):
        theirs.data = ours.data
    images = torch.rand(8, 1, 28, 28, dtype=torch.float64)
    torch.testing.assert_close(net(images), twin(images), rtol=0, atol=1e-12)


def test_arms_share_names_and_initial_weights():
    nets = [MLP(**ARTICLE, hidden=[20], activation="relu", norm=norm, norm_at="post") for norm in ("none", "batch")]
    for net in nets:
        initialize(net, seed=0)
    plain, normed = (dict(net.named_parameters()) for net in nets)
    assert plain.keys() < normed.keys() and all(torch.equal(plain[name], normed[name]) for name in plain)


def test_unknown_options_are_named():
    with pytest.raises(ValueError, match="unknown activation 'tanh'; choose from relu, sigmoid"):
        MLP(**ARTICLE, hidden=[1], activation="tanh")
    with pytest.raises(ValueError, match="unknown norm_at 'mid'; choose from pre, post"):
        MLP(**ARTICLE, hidden=[1], activation="relu", norm_at="mid")
