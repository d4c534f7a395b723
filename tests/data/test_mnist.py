import gzip
import hashlib
import os
import shutil
from pathlib import Path

import pytest
import torch

from tests.conftest import write_idx
from vitbn.data.mnist import MNIST_MD5, emnist, fashion_mnist, mnist, mnist5k, read_idx
from vitbn.errors import InputError


def test_idx_files_are_read(tmp_path):
    values = torch.randint(0, 256, (4, 5, 6), dtype=torch.uint8)
    write_idx(tmp_path / "f", values)
    assert torch.equal(read_idx(tmp_path / "f", 3), values)


def damaged(good: bytes) -> dict[str, tuple[bytes | None, str]]:
    return {
        "missing": (None, "cannot be read"),
        "empty": (b"", "is empty"),
        "truncated": (good[:-1], r"bytes where \d+ were expected"),
        "header only in part": (good[:6], r"bytes where \d+ were expected"),
        "longer": (good + b"x", r"bytes where \d+ were expected"),
        "another format": (b"\x89PNG" + good[4:], "not an idx file of bytes in 3 dimensions"),
        "labels for images": (b"\0\0\x08\x01" + good[4:], "not an idx file of bytes in 3 dimensions"),
    }


@pytest.mark.parametrize("how", damaged(b""))
def test_bad_idx_files_are_named(tmp_path, how):
    path = tmp_path / "train-images-idx3-ubyte"
    write_idx(path, torch.zeros(3, 4, 4))
    content, message = damaged(path.read_bytes())[how]
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        read_idx(path, 3)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_no_more_is_unpacked_than_announced(tmp_path, monkeypatch):
    path = tmp_path / "f.gz"
    write_idx(tmp_path / "f", torch.zeros(3, 4, 4))
    path.write_bytes(gzip.compress((tmp_path / "f").read_bytes() + bytes(10**7)))
    read = gzip.GzipFile.read
    asked = []
    monkeypatch.setattr(gzip.GzipFile, "read", lambda file, size=-1: (asked.append(size), read(file, size))[1])
    with pytest.raises(InputError, match="f.gz: more than 64 bytes where 64 were expected"):
        read_idx(path, 3)
    path.write_bytes(gzip.compress(bytes((0, 0, 8, 3)) + b"\xff" * 12))
    with pytest.raises(InputError, match="f.gz: announces 79,.* bytes, more than 1,073,741,824"):
        read_idx(path, 3)
    path.write_bytes(gzip.compress(b"no idx file" * 1000))
    with pytest.raises(InputError, match="f.gz: not an idx file"):
        read_idx(path, 3)
    assert all(0 <= size <= 64 for size in asked)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "f")
    with pytest.raises(InputError, match="f: not a regular file"):
        read_idx(tmp_path / "f", 3)


def test_another_content_than_the_published_is_refused(tmp_path):
    write_idx(tmp_path / "f", torch.zeros(3, 4, 4))
    md5 = hashlib.md5((tmp_path / "f").read_bytes()).hexdigest()
    read_idx(tmp_path / "f", 3, md5)
    with pytest.raises(InputError, match="its content is not the published file's"):
        read_idx(tmp_path / "f", 3, "0" * 32)


def test_folder_of_idx_files(clothes):
    source = fashion_mnist(clothes)
    assert source.train.images.shape == (300, 1, 28, 28) and source.train.images.dtype == torch.uint8
    assert len(source.test) == 100 and source.test.labels.dtype == torch.int64 and len(source.classes) == 10


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        ("train-images-idx3-ubyte", torch.zeros(3, 28, 28), "(3, 28, 28) images for 300 labels"),
        ("train-images-idx3-ubyte", torch.zeros(300, 27, 28), "(300, 27, 28) images for 300 labels"),
        ("t10k-labels-idx1-ubyte", torch.full((100,), 11), "label 11 where 0 to 9 is expected"),
    ],
)
def test_files_that_do_not_belong_together_are_named(clothes, tmp_path, file, values, message):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for path in (clothes / "FashionMNIST" / "raw").iterdir():
        (raw / path.name).write_bytes(path.read_bytes())
    write_idx(raw / file, values)
    with pytest.raises(InputError) as error:
        fashion_mnist(tmp_path)
    assert message in str(error.value) and file in str(error.value)


def failing_download(name):
    def dataset(root, train, download):
        raw = Path(root) / name / "raw"
        raw.mkdir(parents=True)
        (raw / "train-images-idx3-ubyte").write_bytes(b"half")
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz:\nno network")

    return dataset


def test_a_download_that_fails_says_what_to_do_and_leaves_nothing(tmp_path, monkeypatch):
    import torchvision

    monkeypatch.setattr(torchvision.datasets, "MNIST", failing_download("MNIST"))
    root = tmp_path / "data"
    with pytest.raises(InputError, match="no network.*put train-images-idx3-ubyte.*data=mnist5k") as error:
        mnist(root)
    assert "\n" not in str(error.value) and str(root) in str(error.value)
    assert not root.exists()


def test_a_download_moves_only_complete_files_into_place(tmp_path, monkeypatch, clothes):
    import torchvision

    def dataset(root, train, download):
        shutil.copytree(clothes / "FashionMNIST", f"{root}/FashionMNIST")

    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", dataset)
    assert len(fashion_mnist(tmp_path).train) == 300
    assert sorted(p.name for p in (tmp_path / "FashionMNIST" / "raw").iterdir()) == sorted(MNIST_MD5)


def write_emnist(raw, packed=()):
    """Two images a split whose top right corner is white, stored mirrored at the diagonal as EMNIST's are."""
    raw.mkdir(parents=True)
    images = torch.zeros(2, 28, 28, dtype=torch.uint8)
    images[0, 2, 20], images[1, :3, 25:] = 255, 7
    for kind in ("train", "test"):
        for name, values in (("images-idx3", images.mT), ("labels-idx1", torch.tensor([3, 9]))):
            path = raw / f"emnist-digits-{kind}-{name}-ubyte"
            write_idx(path, values.contiguous())
            if kind in packed:
                path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
                path.unlink()
    return images


@pytest.mark.parametrize("packed", [(), ("train",), ("train", "test")])
def test_emnist_stands_upright_packed_or_not(tmp_path, packed):
    images = write_emnist(tmp_path / "EMNIST" / "raw", packed)
    source = emnist(tmp_path)
    for split in (source.train, source.test):
        assert torch.equal(split.images[:, 0], images) and split.labels.tolist() == [3, 9]
    assert source.classes == tuple("0123456789")


@pytest.mark.parametrize("harm", [lambda c: c[:-9], lambda c: b"no gzip", lambda c: c[:20] + b"xx" + c[22:]])
def test_a_damaged_packed_file_is_named(tmp_path, harm):
    raw = tmp_path / "EMNIST" / "raw"
    write_emnist(raw, ("test",))
    path = raw / "emnist-digits-test-images-idx3-ubyte.gz"
    path.write_bytes(harm(path.read_bytes()))
    with pytest.raises(InputError, match="images-idx3-ubyte.gz: not a whole gzip file"):
        emnist(tmp_path)


def test_emnist_is_downloaded_through_torchvision(tmp_path, monkeypatch):
    import torchvision

    def dataset(root, train, download, split):
        assert split == "digits"
        write_emnist(Path(root) / "EMNIST" / "raw")

    monkeypatch.setattr(torchvision.datasets, "EMNIST", dataset)
    assert len(emnist(tmp_path).train) == 2
    assert len(list((tmp_path / "EMNIST" / "raw").iterdir())) == 4


def test_a_data_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file/MNIST/raw: MNIST is not there and cannot be downloaded"):
        mnist(tmp_path / "file")


def test_mnist5k_is_stratified_and_complete():
    source = mnist5k(None)
    assert source.train.images.shape == (4000, 1, 28, 28) and source.test.images.shape == (1000, 1, 28, 28)
    assert source.train.labels.bincount().tolist() == [400] * 10
    assert source.test.labels.bincount().tolist() == [100] * 10
    digest = hashlib.sha256(source.test.images.numpy().tobytes()).hexdigest()
    assert digest[:12] == "03fed22e037e"  # the split never changes


ROOT = Path(os.environ.get("VITBN_DATA", "nowhere"))
HERE = all((ROOT / "MNIST" / "raw" / name).exists() for name in MNIST_MD5)
needs_mnist = pytest.mark.skipif(not HERE, reason="VITBN_DATA does not hold MNIST")


@needs_mnist
def test_mnist_is_what_was_published():
    source = mnist(ROOT)
    assert source.train.images.shape == (60_000, 1, 28, 28) and source.test.images.shape == (10_000, 1, 28, 28)
    assert source.train.labels[:8].tolist() == [5, 0, 4, 1, 9, 2, 1, 3]
    assert source.test.labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    mean = source.train.images.float().mean().item() / 255
    assert mean == pytest.approx(0.1307, abs=5e-5)  # the figure everyone normalises by


@needs_mnist
def test_mnist5k_holds_images_of_the_training_set():
    every = {image.numpy().tobytes() for image in mnist(ROOT).train.images}
    small = mnist5k(ROOT)
    assert all(image.numpy().tobytes() in every for image in small.test.images)


@needs_mnist
def test_a_flipped_bit_is_noticed(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in MNIST_MD5:
        content = bytearray((ROOT / "MNIST" / "raw" / name).read_bytes())
        if name == "t10k-images-idx3-ubyte":
            content[5000] ^= 1
        (raw / name).write_bytes(content)
    with pytest.raises(InputError, match="t10k-images-idx3-ubyte: its content is not the published file's"):
        mnist(tmp_path)
