import pytest
import torch

from vitbn.data.mnist import CLOTHES
from vitbn.data.sources import load
from vitbn.models.factory import build
from vitbn.norms.batch import RunningNorm
from vitbn.store import checkpoint_file
from vitbn.weights.network import load_network

__all__ = ["scramble"]


def scramble(net, seed=0):
    """Random affine maps and running statistics for every norm, as after a training."""
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, (torch.nn.LayerNorm, RunningNorm)):
            module.weight.data = torch.empty_like(module.weight).uniform_(-2, 2, generator=generator)
            module.bias.data.normal_(generator=generator)
        if isinstance(module, RunningNorm):
            module.running_mean.normal_(generator=generator)
            module.running_var.uniform_(0.1, 3, generator=generator)
    return net


@pytest.fixture
def make_saved(make_run):
    """The folder of a run as if it had been trained: random statistics and affine maps, labels of clothes."""

    def make(*overrides):
        run = make_run(*overrides)
        run.begin()
        net = scramble(build(run.config["model"], seed=0))
        state = {f"net.{name}": value for name, value in net.state_dict().items()}
        content = {"state_dict": state, "ImageData": {"classes": list(CLOTHES)}}
        checkpoint_file.save(content, run.checkpoints / "last.ckpt")
        return run.folder

    return make


@pytest.fixture(autouse=True)
def no_data_root(monkeypatch):
    """The made-up data of a run are looked for where the run says."""
    monkeypatch.delenv("VITBN_DATA", raising=False)


@pytest.fixture
def network(make_saved):
    return load_network(make_saved("model=vitbn", "data.mean=0.3", "data.std=0.2"))


@pytest.fixture
def source(clothes):
    return load("fashion_mnist", clothes)
