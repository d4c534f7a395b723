import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

import pytest

from tests.conftest import TINY
from tests.inference.conftest import scramble
from vitbn.models.factory import build
from vitbn.serve.app import create_app
from vitbn.serve.classifiers import load_classifiers
from vitbn.weights.files import Weights, write

TARGETS = {"vit": "vitbn.ViT", "vitbnffn": "vitbn.ViTBNFFN"}


@pytest.fixture(scope="session")
def packaged() -> Path:
    """The trained network that comes with the package."""
    file = Path(str(files("vitbn.serve") / "digits.safetensors"))
    assert file.is_file()
    return file


@pytest.fixture(scope="session")
def make_weights(tmp_path_factory):
    """A file of a small untrained network."""

    def make(name="vitbnffn", labels=tuple("0123456789"), **changes) -> Path:
        options = {**TINY, **changes}
        model = {"name": name, "_target_": TARGETS[name], **options}
        path = tmp_path_factory.mktemp("weights") / f"{name}.safetensors"
        state = scramble(build(model, seed=0)).state_dict()
        mean, std = (0.1,) * options["channels"], (0.3,) * options["channels"]
        write(Weights(state, options, labels, mean, std, path, {"model": model}))
        return path

    return make


@pytest.fixture(scope="session")
def two(make_weights):
    return [str(make_weights("vit")), str(make_weights("vitbnffn"))]


@pytest.fixture(scope="session")
def client(two):
    return create_app(load_classifiers(two)).test_client()


@contextmanager
def serving(*places: str) -> Iterator[str]:
    """The address of `vitbn serve`, run as a person would."""
    ckpt = ["--ckpt", *places] if places else []
    command = [sys.executable, "-m", "vitbn.cli", "serve", "--port", "0", *ckpt]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().split()[-1]
        finally:
            process.terminate()


@pytest.fixture(scope="session")
def address(two):
    """Where the two small networks are served."""
    with serving(*two) as found:
        yield found
