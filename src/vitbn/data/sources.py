"""Where images come from, by name: every source becomes uint8 tensors with labels."""

import os
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

import torch

from vitbn.data import mnist
from vitbn.data.download import download_folder
from vitbn.data.folder import digest, scan
from vitbn.data.image_cache import cached_images
from vitbn.data.splits import Source, Split
from vitbn.data.torchvision_sets import torchvision_set
from vitbn.errors import InputError

CACHE = ".vitbn-cache"  # beside the images, unless data.cache names another place
IMAGENETTE = {160: "imagenette2-160", 320: "imagenette2-320", "full": "imagenette2"}


def load(name: str, root: Path, **options: Any) -> Source:
    """The source of that name, or of the function that `module.function` names; InputError says what is wrong.

    It gets the options that its parameters name. A module is imported, so pass no name that a stranger's file holds.
    """
    loader = SOURCES.get(name) or _import(name)
    named = signature(loader).parameters
    chosen = {key: value for key, value in options.items() if key in named}
    try:
        signature(loader).bind(root, **chosen)
    except TypeError as error:
        raise InputError(f"data.source={name}: {error}; its parameters are data.root and other keys of data") from None
    source = loader(root, **chosen)
    if problem := _problem(source, options):
        raise InputError(f"data.source={name}: {problem}")
    return source


def _import(name: str) -> Callable[..., Source]:
    module, _, function = name.rpartition(".")
    if not module:
        raise InputError(f"unknown data {name!r}; choose from {', '.join(SOURCES)}, or module.function for your own")
    try:
        return getattr(import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise InputError(f"data.source={name}: {error}; Python looks for modules in PYTHONPATH") from None


def _problem(source: Any, options: dict[str, Any]) -> str | None:
    """What is wrong with the images and labels, measured against the keys of `data` as well."""
    if not isinstance(source, Source):
        return f"returns {type(source).__name__}, not vitbn.data.splits.Source"
    count = len(source.classes)
    if options.get("num_classes", count) != count:
        return f"has {count} classes; type data.num_classes={count}"
    for name, split in (("train", source.train), ("test", source.test), ("val", source.val)):
        if split is None:
            continue
        stored, labels, rows = split.stored, split.labels, split.stored if split.rows is None else split.rows
        shape, channels = tuple(stored.shape), options.get("channels")
        if stored.dtype != torch.uint8 or stored.ndim != 4 or shape[2] != shape[3]:
            return f"{name} images must be uint8 (N, C, S, S), not {stored.dtype} {shape}"
        if channels not in (None, shape[1]):
            return f"{name} images have {shape[1]} channels; type data.channels={shape[1]}"
        if labels.dtype != torch.int64 or labels.shape != rows.shape[:1]:
            return f"{name} labels must be int64 ({len(rows)},), not {labels.dtype} {tuple(labels.shape)}"
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < count:
            return f"{name} labels must lie between 0 and {count - 1}, the number of classes less one"
    return None


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
    return Source(splits["train"], splits.get("test", none), listing.classes, splits.get("val"), listing.passed_over)


def imagenette(
    root: Path, *, size: int | str, cache_size: int, channels: int, on_bad_image: str, cache: str | None = None
) -> Source:
    """Imagenette (Howard, 2019) from <root>/imagenette2[-160|-320], downloaded by torchvision unless it is there."""
    from torchvision.datasets import Imagenette

    if size not in IMAGENETTE:
        raise ValueError(f"data.size={size}: choose from {', '.join(map(str, IMAGENETTE))}")
    name, published_size = IMAGENETTE[size], "full" if size == "full" else f"{size}px"
    if not (root / name).exists():
        remedy = f"unpack {name}.tgz into {root}, or bring images of your own with data=folder data.root=DIR"
        with download_folder(root, name, remedy) as temporary:
            if not (root / name).exists():
                Imagenette(str(temporary), "train", published_size, download=True)
                os.replace(temporary / name, root / name)
    # class folders have WordNet's numbers for names
    class_names = tuple(synonyms[0] for synonyms in Imagenette(str(root), "train", published_size).classes)
    images = folder(root / name, cache_size=cache_size, channels=channels, on_bad_image=on_bad_image, cache=cache)
    return replace(images, classes=class_names)


def _cache_folder(root: Path, cache: str | None) -> Path:
    """Where the decoded images of `root` lie."""
    path = root.resolve()
    return root / CACHE if cache is None else Path(cache).expanduser() / f"{path.name}-{digest(iter([(str(path),)]))}"


SOURCES: dict[str, Callable[..., Source]] = {
    "mnist": mnist.mnist,
    "fashion_mnist": mnist.fashion_mnist,
    "mnist5k": mnist.mnist5k,
    "emnist": mnist.emnist,
    "folder": folder,
    "imagenette": imagenette,
    "torchvision": torchvision_set,
}
