import copy

import pytest
import torch
import torch.distributed as dist
from torch import multiprocessing, nn

from tests.conftest import TINY
from vitbn import ViTBN
from vitbn.errors import InputError
from vitbn.models.bn_statistics import batch_norms
from vitbn.models.sync_batchnorm import SyncBatchNorm, convert_sync_batchnorm
from vitbn.norms import NORMS, Norm, make_norm, set_progress


def step(norm, x, weight):
    """Output, gradients and statistics of one training step and of an evaluation after it."""
    leaf = x.clone().requires_grad_()
    out = norm(leaf)
    (out * weight).sum().backward()
    gradients = [parameter.grad for parameter in norm.parameters()]
    buffers = [buffer.clone() for buffer in norm.buffers()]
    evaluated = norm.eval()(x).detach()
    return {"out": [out.detach(), leaf.grad, evaluated], "gradients": gradients, "buffers": buffers}


class Activated(nn.BatchNorm2d):
    """As timm's BatchNormAct2d."""

    def __init__(self, features):
        super().__init__(features)
        self.act = nn.ReLU()

    def forward(self, x):
        return self.act(super().forward(x))


OPTIONS = {"ghost_batch": {"virtual": 1}}  # parts that no process shares with another
CASES = {
    **{kind: (make_norm({"kind": kind, **OPTIONS.get(kind, {})}, 4), (5, 3, 4)) for kind in NORMS},
    "features": (nn.BatchNorm1d(4), (5, 4)),
    "without weights, averaged over all steps": (nn.BatchNorm1d(4, affine=False, momentum=None), (5, 4)),
    "pixels": (nn.BatchNorm2d(4), (5, 4, 3, 2)),
    "pixels, with an activation behind": (Activated(4), (5, 4, 3, 2)),
}
SHARES = {"uneven": [3, 2], "empty": [5, 0]}


def case(name):
    """A norm, its input and the weights of a loss, the same in every process."""
    torch.manual_seed(0)
    norm, shape = CASES[name]
    norm = copy.deepcopy(norm).double()
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    set_progress(norm, 0.1)
    return norm, *torch.randn(2, *shape, dtype=torch.float64).mul(3).add(1)


def process(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    results = {}
    for name in CASES:
        for shares, sizes in SHARES.items():
            norm, x, weight = case(name)
            net = convert_sync_batchnorm(nn.Sequential(norm))
            results[name, shares] = step(net[0], x.split(sizes)[rank], weight.split(sizes)[rank])
    torch.save(results, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def of_two_processes(tmp_path_factory):
    """What each of two processes gets, by norm and shares."""
    folder = tmp_path_factory.mktemp("processes")
    multiprocessing.start_processes(process, (folder,), nprocs=2, start_method="spawn")
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


@pytest.mark.parametrize("shares", SHARES)
@pytest.mark.parametrize("name", CASES)
@pytest.mark.slow
def test_two_processes_norm_like_one(name, shares, of_two_processes):
    """Uneven shares and an empty one, tokens and pixels, against the norm itself on the whole batch."""
    norm, x, weight = case(name)
    whole = step(norm, x, weight)
    first, second = (results[name, shares] for results in of_two_processes)
    for a, b, expected in zip(first["out"], second["out"], whole["out"], strict=True):
        torch.testing.assert_close(torch.cat([a, b]), expected, rtol=0, atol=1e-10)
    for a, b, expected in zip(first["gradients"], second["gradients"], whole["gradients"], strict=True):
        torch.testing.assert_close(a + b, expected, rtol=0, atol=1e-10)
    for a, b, expected in zip(first["buffers"], second["buffers"], whole["buffers"], strict=True):
        torch.testing.assert_close(a, expected, rtol=0, atol=1e-10)
        torch.testing.assert_close(b, expected, rtol=0, atol=1e-10)


def test_names_and_values_stay():
    net = ViTBN(**TINY).eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    parameters = {name: id(parameter) for name, parameter in net.named_parameters()}
    synced = convert_sync_batchnorm(net)
    assert {type(norm) for norm in batch_norms(synced).values()} == {SyncBatchNorm}
    assert list(synced.state_dict()) == list(before)
    assert all(torch.equal(before[name], value) for name, value in synced.state_dict().items())
    assert parameters == {name: id(parameter) for name, parameter in synced.named_parameters()}
    assert not any(module.training for module in synced.modules())


def test_a_kind_that_does_not_say_how_it_pools_is_refused(monkeypatch):
    class OverTheBatch(nn.Module):
        pass

    monkeypatch.setitem(NORMS, "over_the_batch", Norm(OverTheBatch))
    with pytest.raises(InputError, match="1: OverTheBatch cannot be pooled over processes; .*docs/extending.md"):
        convert_sync_batchnorm(nn.Sequential(nn.BatchNorm1d(2), OverTheBatch()))
