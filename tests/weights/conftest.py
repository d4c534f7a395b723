import pytest

from tests.inference.conftest import make_saved
from vitbn.training.outcome import attempt
from vitbn.training.train import train

__all__ = ["make_saved"]


@pytest.fixture
def run(make_run):
    run = make_run("epochs=1", "data.mean=0.3", "data.std=0.2", "model=vitbnffn")
    assert attempt(run, train)["status"] == "done"
    return run
