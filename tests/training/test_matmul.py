import copy
import itertools

import pytest
import pytorch_lightning as pl
import torch

from tests.conftest import TINY
from vitbn import ViTBNFFN
from vitbn.training import matmul
from vitbn.training.callbacks import metrics as recording
from vitbn.training.outcome import attempt
from vitbn.training.train import train

CPU = torch.device("cpu")
IMAGES = matmul.probe_images(4, 1, 28)


@pytest.fixture
def net():
    return ViTBNFFN(**{**TINY, "dropout": 0.1})


@pytest.fixture
def fake(monkeypatch):
    """Gradients and seconds as told, per route; float64 gives the exact gradients, all 1."""

    def install(seconds, errors):
        now = 0.0

        def gradients(trial, images):
            nonlocal now
            if images.dtype == torch.float64:
                return torch.ones(3, dtype=torch.float64)
            route = torch.get_float32_matmul_precision()
            now += seconds[route]
            return torch.ones(3, dtype=torch.float64) + errors[route]

        monkeypatch.setattr(matmul, "_gradients", gradients)
        return lambda: now

    return install


@pytest.mark.parametrize(
    ("gain", "error", "route"),
    [(2.0, 1.0, "medium"), (2.0, 1.9, "medium"), (2.0, 2.1, "highest"), (1.05, 0.5, "highest"), (0.3, 1.0, "highest")],
)
def test_the_fastest_route_that_is_as_exact_wins(net, fake, gain, error, route):
    clock = fake({"highest": 1.0, "medium": 1 / gain}, {"highest": 1e-6, "medium": error * 1e-6})
    found = matmul.probe(net, IMAGES, clock)
    assert found == {"route": route, "gain": pytest.approx(gain), "error": pytest.approx(error, rel=1e-6)}
    assert torch.get_float32_matmul_precision() == "highest"


def test_probing_leaves_no_trace(net):
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.get_rng_state()
    matmul.probe(net, IMAGES)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
    assert torch.equal(torch.get_rng_state(), state) and torch.get_float32_matmul_precision() == "highest"


def test_float32_is_held_against_float64(net):
    """The same step twice, once rounded: the difference is that of float32, not of another mask or another batch."""
    double = matmul._gradients(copy.deepcopy(net).double(), IMAGES.double())
    single = matmul._gradients(net, IMAGES)
    assert 0 < (single.double() - double).norm() < 1e-4 * double.norm()


@pytest.fixture
def probes(monkeypatch, tmp_path):
    """A probe that finds `medium`, and how often it was asked; nothing is remembered yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    calls = itertools.count()

    def probe(net, images):
        next(calls)
        return {"route": "medium", "gain": 2.0, "error": 1.0}

    monkeypatch.setattr(matmul, "probe", probe)
    return lambda: calls.__reduce__()[1][0]


def test_the_route_is_set_within_and_restored(net, probes):
    with pytest.raises(RuntimeError, match="inside"), matmul.routed(None, net, IMAGES, CPU) as chosen:
        assert chosen == torch.get_float32_matmul_precision() == "medium"
        raise RuntimeError("inside")
    assert torch.get_float32_matmul_precision() == "highest"


def test_a_forced_route_is_not_probed(net, probes):
    with matmul.routed("high", net, IMAGES, CPU) as chosen:
        assert chosen == torch.get_float32_matmul_precision() == "high"
    assert probes() == 0


def test_a_gpu_keeps_plain_float32(net, probes):
    assert matmul.best(net, IMAGES, torch.device("cuda")) == "highest" and probes() == 0


def test_a_machine_is_probed_once_per_network(net, probes, tmp_path):
    assert [matmul.best(net, IMAGES, CPU) for _ in range(3)] == ["medium"] * 3 and probes() == 1
    matmul.best(ViTBNFFN(**TINY), IMAGES, CPU)
    matmul.best(net, IMAGES[:2], CPU)
    assert probes() == 3
    for record in tmp_path.glob("vitbn/matmul/*.json"):
        record.write_text("{")
    assert matmul.best(net, IMAGES, CPU) == "medium" and probes() == 4


def test_what_cannot_be_remembered_is_said(net, probes, tmp_path, caplog):
    (tmp_path / "vitbn").write_text("a file in the way")
    assert matmul.best(net, IMAGES, CPU) == "medium"
    assert "not remembered" in caplog.text


def test_large_images_are_probed_with_few():
    assert len(matmul.probe_images(256, 1, 28)) == 100 and len(matmul.probe_images(256, 3, 224)) == 2


def test_a_training_flushes_denormal_numbers_and_leaves_them_to_others(make_run, monkeypatch):
    tiny, seen = torch.full((100_000,), 1e-40), []

    class Watch(pl.Callback):
        def on_train_batch_end(self, *_):
            seen.append((tiny * 1).count_nonzero().item())

    monkeypatch.setattr(recording, "progress", Watch)
    attempt(make_run("epochs=1"), train)
    assert len(seen) == 6 and set(seen) == {0} and (tiny * 1).count_nonzero() == 100_000
