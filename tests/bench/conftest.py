import pytest
from vitbench import machine
from vitbench.growth import made_up
from vitbench.runner import Stopwatch

from vitbn.data import sources

SMALL = ("model.dim=16", "model.heads=2", "model.dim_head=8", "model.mlp_dim=24")


class Clock:
    """Time passes only when it is told to."""

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


@pytest.fixture
def source():
    """40 random images, the first of which is the only test image."""
    return made_up(40, (1, 28, 28), 10)


@pytest.fixture
def as_mnist5k(monkeypatch, source):
    """Those images in the place of the digits that --quick trains on."""
    monkeypatch.setitem(sources.SOURCES, "mnist5k", lambda root: source)
