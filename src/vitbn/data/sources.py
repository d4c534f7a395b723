"""Where images come from, by name: every source becomes uint8 tensors with labels."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from vitbn.data import mnist
from vitbn.data.download import download_folder
from vitbn.data.folder import digest, scan
from vitbn.data.image_cache import cached_images
from vitbn.data.splits import Source, Split
from vitbn.errors import InputError

CACHE = ".vitbn-cache"  # beside the images, unless data.cache names another place
IMAGENETTE = {160: "imagenette2-160", 320: "imagenette2-320", "full": "imagenette2"}


def load(name: str, root: Path, **options: Any) -> Source:
    """The source of that name; ValueError lists the names."""
    if name not in SOURCES:
        raise ValueError(f"unknown data {name!r}; choose from {', '.join(SOURCES)}")
    return SOURCES[name](root, **options)


def folder(root: Path, *, cache_size: int, channels: int, on_bad_image: str, cache: str | None = None) -> Source:
    """A folder of class folders (layout: `vitbn.data.folder`) as squares of `cache_size` pixels."""
    listing = scan(str(root))
    array, bad = cached_images(
        listing.files, root=root, folder=_cache_folder(root, cache) / f"{cache_size}px-{channels}ch",
        size=cache_size, channels=channels, skip_bad=on_bad_image == "skip",
    )  # fmt: skip
    images, readable = torch.from_numpy(array), torch.ones(len(array), dtype=torch.bool)
    readable[bad] = False
    splits, first = {}, 0
    for part, files in listing.parts.items():
        rows = torch.arange(first, first + len(files))
        split = Split(images, torch.tensor([file.label for file in files]), rows)
        splits[part] = split[readable[rows].nonzero().squeeze(1)]
        first += len(files)
        counts = splits[part].labels.bincount(minlength=len(listing.classes))
        if not counts.all():
            empty = listing.classes[int(counts.argmin())]
            raise InputError(f"data.root={root}: no image of class {empty} in {part} can be read")
    none = splits["train"][torch.arange(0)]
    return Source(splits["train"], splits.get("test", none), listing.classes, splits.get("val"))


def imagenette(root: Path, *, size: int | str, **options: Any) -> Source:
    """Imagenette (Howard, 2019) from <root>/imagenette2[-160|-320], downloaded by torchvision unless it is there.

    The other options are those of `folder`.
    """
    from torchvision.datasets import Imagenette

    if size not in IMAGENETTE:
        raise ValueError(f"data.size={size}: choose from {', '.join(map(str, IMAGENETTE))}")
    name, published_size = IMAGENETTE[size], "full" if size == "full" else f"{size}px"
    if not (root / name).exists():
        remedy = f"unpack {name}.tgz into {root}, or bring images of your own with data=folder data.root=DIR"
        with download_folder(root, name, remedy) as temporary:
            Imagenette(str(temporary), "train", published_size, download=True)
            os.replace(temporary / name, root / name)
    # class folders have WordNet's numbers for names
    class_names = tuple(synonyms[0] for synonyms in Imagenette(str(root), "train", published_size).classes)
    return replace(folder(root / name, **options), classes=class_names)


def _cache_folder(root: Path, cache: str | None) -> Path:
    """Where the decoded images of `root` lie."""
    path = root.resolve()
    return root / CACHE if cache is None else Path(cache) / f"{path.name}-{digest(iter([(str(path),)]))}"


SOURCES: dict[str, Callable[..., Source]] = {
    "mnist": mnist.mnist,
    "fashion_mnist": mnist.fashion_mnist,
    "mnist5k": mnist.mnist5k,
    "emnist": mnist.emnist,
    "folder": folder,
    "imagenette": imagenette,
}
