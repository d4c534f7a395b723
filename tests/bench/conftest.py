import pytest
import torch
from vitbench import machine
from vitbench.growth import random_images
from vitbench.runner import Stopwatch

from vitbn.data import sources
from vitbn.data.splits import Source


@pytest.fixture
def small():
    """Overrides for a tiny network."""
    return ("model.dim=16", "model.heads=2", "model.dim_head=8", "model.mlp_dim=24")


class Clock:
    """Stands still unless `now` is set."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def watch(clock):
    return Stopwatch(lambda: None, clock)


@pytest.fixture(autouse=True)
def small_products(monkeypatch):
    """Measuring the machine takes no time worth mentioning."""
    monkeypatch.setattr(machine, "SIDES", {"cpu": (8,)})


@pytest.fixture(autouse=True)
def processor(monkeypatch):
    """The same on every machine."""
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"avx512_bf16": True}, raising=False)


@pytest.fixture
def source():
    """40 random images, the first of which is the only test image."""
    images = random_images(40, (1, 28, 28), 10)
    return Source(images, images[torch.arange(1)], tuple("0123456789"))


@pytest.fixture
def as_mnist5k(monkeypatch, source):
    """Those images in the place of the digits that --quick trains on."""
    monkeypatch.setitem(sources.SOURCES, "mnist5k", lambda root: source)
