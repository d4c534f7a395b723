"""Any classification set of torchvision, read into memory by torchvision's own class."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vitbn.data.decode import MODES, to_pixels
from vitbn.data.download import download_folder
from vitbn.data.splits import Source, Split
from vitbn.data.torchvision_table import dataset_facts
from vitbn.errors import InputError, describe
from vitbn.progress import track


def torchvision_set(root: Path, *, dataset: str, channels: int, cache_size: int) -> Source:
    """`torchvision.datasets.<dataset>` from below `root`, downloaded unless it is there.

    Images of another size become squares of `cache_size` pixels: their central square, resized.
    """
    known = dataset_facts(dataset)
    paths = known.files if len(known.files) > 1 else known.files * len(known.splits)
    parts = list(zip(paths, known.splits, strict=True))
    if missing := [(path, split) for path, split in parts if not (root / path).exists()]:
        missing_paths = sorted({path for path, _ in missing})
        remedy = f"put {', '.join(missing_paths)} there, or use data=mnist5k, which needs no network"
        with download_folder(root, dataset, remedy) as temporary:
            for _, split in missing:
                _open(dataset, temporary, split, download=True)
            for path in missing_paths:
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
    test = read[1] if len(read) > 1 else read[0][torch.arange(0)]
    return Source(read[0], test, tuple(map(str, names)), read[2] if len(read) > 2 else None)


def _open(dataset: str, root: Path, split: dict[str, Any], **options: Any) -> Any:
    import torchvision

    return getattr(torchvision.datasets, dataset)(str(root), **{"download": False} | split | options)


def _read(images: Any, title: str, *, channels: int, size: int) -> Split:
    count = len(images)
    pixels = np.empty((count, channels, size, size), np.uint8)
    labels = torch.empty(count, dtype=torch.int64)
    for row, (image, label) in enumerate(track((images[i] for i in range(count)), title, count)):
        pixels[row] = to_pixels(image.convert(MODES[channels]), size)
        labels[row] = label
    return Split(torch.from_numpy(pixels), labels)
