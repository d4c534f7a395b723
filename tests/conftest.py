import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vitbn.config.compose import compose_config, to_plain_dict
from vitbn.store.run import Run

torch.set_num_threads(1)  # the networks here are so small that a second thread only waits

ARTICLE = {
    "image_size": 28, "patch_size": 7, "num_classes": 10, "channels": 1, "dim": 64, "depth": 6, "heads": 8,
    "dim_head": 64, "mlp_dim": 128, "pool": "cls", "dropout": 0.0, "emb_dropout": 0.0, "pos_emb": "learn",
}  # fmt: skip
SMALL = ["data=fashion_mnist", "trainer=cpu", "model.dim=16", "model.heads=2", "model.dim_head=8", "model.mlp_dim=24",
         "depth=1", "epochs=2", "batch_size=50"]  # fmt: skip
TINY = {**ARTICLE, "dim": 16, "depth": 2, "heads": 2, "dim_head": 8, "mlp_dim": 24}


def write_idx(path: Path, values: torch.Tensor) -> None:
    header = bytes((0, 0, 8, values.dim())) + struct.pack(f">{values.dim()}I", *values.shape)
    path.write_bytes(header + values.to(torch.uint8).numpy().tobytes())


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory) -> Iterator[Path]:
    """What is remembered per machine stays out of the user's own cache, and is probed once for all tests."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture(scope="session")
def clothes(tmp_path_factory) -> Path:
    """A data root with a small made-up data set in Fashion-MNIST's place: class k has a bright row k."""
    root = tmp_path_factory.mktemp("clothes")
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    for prefix, count in (("train", 300), ("t10k", 100)):
        labels = torch.arange(count) % 10
        images = torch.randint(0, 120, (count, 28, 28), generator=generator)
        images[torch.arange(count), 9 + labels] = 255
        write_idx(raw / f"{prefix}-images-idx3-ubyte", images)
        write_idx(raw / f"{prefix}-labels-idx1-ubyte", labels)
    return root


@pytest.fixture
def make_run(tmp_path, clothes):
    """A small run on the made-up data set, 6 steps per epoch; overrides as on the command line."""

    def make(*overrides: str) -> Run:
        fixed = [f"data.root={clothes}", f"runs={tmp_path}/runs"]
        return Run(to_plain_dict(compose_config([*SMALL, *fixed, *overrides])))

    return make


@pytest.fixture
def photos(tmp_path) -> Path:
    """A folder of class folders: 8 cats and 8 dogs to train on, 4 each to validate on, oblong and in colour."""
    root = tmp_path / "photos"
    noise = np.random.default_rng(0)
    for part, count in (("train", 8), ("val", 4)):
        for name in ("cat", "dog"):
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = noise.integers(0, 256, (40, 60, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{name}{number}.png")
    return root
