"""Any classification set of torchvision, read into memory by torchvision's own class."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vitbn.data.decode import MODES, to_pixels
from vitbn.data.download import download_folder
from vitbn.data.splits import Source, Split
from vitbn.data.torchvision_table import dataset_facts
from vitbn.errors import InputError, describe
from vitbn.progress import track


def torchvision_set(root: Path, *, dataset: str, channels: int, cache_size: int, need_train: bool = True) -> Source:
    """`torchvision.datasets.<dataset>` from below `root`, downloaded unless it is there.

    Images of another size become squares of `cache_size` pixels: their central square, resized. Without `need_train`
    test files alone do: there are no training images then.
    """
    known = dataset_facts(dataset)
    paths = known.files if len(known.files) > 1 else known.files * len(known.splits)
    parts = list(zip(paths, known.splits, strict=True))
    if not need_train and len(parts) > 1 and _test_alone(dataset, root, parts):
        parts = parts[1:2]
    if missing := _missing(root, parts):
        remedy = f"put {', '.join(sorted(missing))} there, or use data=mnist5k, which needs no network"
        with download_folder(root, dataset, remedy) as temporary:
            missing = _missing(root, parts)
            for splits in missing.values():
                for split in splits:
                    _open(dataset, temporary, split, download=True)
            for path in missing:
                os.replace(temporary / path, root / path)
    read = []
    for path, split in parts:
        try:
            images = _open(dataset, root, split)
            read.append(_read(images, f"reading {dataset}", channels=channels, size=cache_size))
        except ImportError as error:
            raise InputError(f"data.dataset={dataset}: needs a package that is not installed ({error})") from None
        except MemoryError as error:
            raise InputError(f"data.cache_size={cache_size}: {describe(error)}; type a smaller one") from None
        except Exception as error:  # torchvision checks some files by their md5; of others readers raise what they meet
            reason = describe(error).partition(" You can use download")[0] or type(error).__name__
            remedy = "delete it to have it downloaded again, or put a good copy in its place"
            raise InputError(f"{root / path}: incomplete or damaged ({reason.rstrip('.')}); {remedy}") from None
    names = getattr(images, "classes", None) or getattr(images, "categories", None) or range(known.num_classes)
    none = read[0][torch.arange(0)]
    if parts[0][1] != known.splits[0]:  # only the test files are there
        return Source(none, read[0], tuple(map(str, names)))
    return Source(
        read[0], read[1] if len(read) > 1 else none, tuple(map(str, names)), read[2] if len(read) > 2 else None
    )


def _missing(root: Path, parts: list[tuple[str, dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """What is not below `root`, and the splits that are read from there."""
    missing: dict[str, list[dict[str, Any]]] = {}
    for path, split in parts:
        if not (root / path).exists():
            missing.setdefault(path, []).append(split)
    return missing


def _test_alone(dataset: str, root: Path, parts: list[tuple[str, dict[str, Any]]]) -> bool:
    """Whether torchvision finds the test images and not the training images."""
    if _missing(root, parts[1:2]):
        return False
    if parts[0][0] != parts[1][0]:
        return bool(_missing(root, parts[:1]))
    try:
        _open(dataset, root, parts[0][1])
    except Exception as error:
        return "not found" in str(error) or isinstance(error, FileNotFoundError)
    return False


def _open(dataset: str, root: Path, split: dict[str, Any], **options: Any) -> Any:
    import torchvision

    return getattr(torchvision.datasets, dataset)(str(root), **{"download": False} | split | options)


def _read(images: Any, title: str, *, channels: int, size: int) -> Split:
    """All images; at once where the set holds them as one array, which some rows prove."""
    count = len(images)
    some = sorted({0, count // 2, count - 1}) if count else []
    few = [images[row] for row in some]
    targets: Any = getattr(images, "targets", getattr(images, "labels", None))
    if (
        few
        and np.shape(targets) == (count,)
        and [int(targets[row]) for row in some] == [int(label) for _, label in few]
    ):
        expected = np.stack([to_pixels(image.convert(MODES[channels]), size) for image, _ in few])
        for array in _layouts(getattr(images, "data", None)):
            if len(array) == count and np.array_equal(array[some], expected):
                whole = torch.from_numpy(np.ascontiguousarray(array))
                return Split(whole, torch.as_tensor(np.asarray(targets), dtype=torch.int64))
    pixels = np.empty((count, channels, size, size), np.uint8)
    labels = torch.empty(count, dtype=torch.int64)
    for row, (image, label) in enumerate(track((images[i] for i in range(count)), title, count)):
        pixels[row] = to_pixels(image.convert(MODES[channels]), size)
        labels[row] = label
    return Split(torch.from_numpy(pixels), labels)


def _layouts(data: Any) -> list[NDArray[np.uint8]]:
    """What an array of a set's images may be as (N, C, S, S): it may have its channels last, or none."""
    if not isinstance(data, np.ndarray | torch.Tensor):
        return []
    array = np.asarray(data)
    if array.dtype != np.uint8 or array.ndim not in (3, 4):
        return []
    return [array[:, None]] if array.ndim == 3 else [array, array.transpose(0, 3, 1, 2)]
