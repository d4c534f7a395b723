"""On the real files, where VITBN_DATA has them."""

import os
from pathlib import Path

import pytest

from vitbn.data import sources
from vitbn.data.mnist import IDX_FILES

ROOT = Path(os.environ.get("VITBN_DATA", "nowhere"))
HERE = all((ROOT / "MNIST" / "raw" / name).exists() for name in IDX_FILES)
pytestmark = pytest.mark.skipif(not HERE, reason="VITBN_DATA does not hold MNIST")


def test_mnist_is_what_was_published():
    source = sources.load("mnist", ROOT)
    assert source.train.images.shape == (60_000, 1, 28, 28) and source.test.images.shape == (10_000, 1, 28, 28)
    assert source.train.labels[:8].tolist() == [5, 0, 4, 1, 9, 2, 1, 3]
    assert source.test.labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    mean = source.train.images.float().mean().item() / 255
    assert mean == pytest.approx(0.1307, abs=5e-5)  # the figure everyone normalises by


def test_mnist5k_holds_images_of_the_training_set():
    every = {image.numpy().tobytes() for image in sources.load("mnist", ROOT).train.images}
    small = sources.load("mnist5k", ROOT)
    assert all(image.numpy().tobytes() in every for image in small.test.images)


def test_a_flipped_bit_is_noticed(tmp_path):
    from vitbn.errors import InputError

    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in IDX_FILES:
        content = bytearray((ROOT / "MNIST" / "raw" / name).read_bytes())
        if name == "t10k-images-idx3-ubyte":
            content[5000] ^= 1
        (raw / name).write_bytes(content)
    with pytest.raises(InputError, match="t10k-images-idx3-ubyte: its content is not the published file's"):
        sources.load("mnist", tmp_path)
