"""The images a trained network is evaluated on, and the training images that its BatchNorm statistics come from."""

import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitbn.data.batches import FixedBatches, Preprocess
from vitbn.data.decode import decode
from vitbn.data.files import as_text, images_below
from vitbn.data.sources import CACHE, IMAGENETTE, SOURCES
from vitbn.data.splits import Split
from vitbn.data.torchvision_table import DATASETS, dataset_facts
from vitbn.errors import InputError
from vitbn.models.bn_statistics import CALIBRATION_BATCH, CALIBRATION_IMAGES, BNStats, estimate_bn_stats
from vitbn.rng import generator
from vitbn.weights.files import readable
from vitbn.weights.network import Network

CPU = torch.device("cpu")
# by these a data root is known
DATA_FOLDERS = ("EMNIST", "imagenette2*", CACHE, *(file for known in DATASETS.values() for file in known.files))
LOADERS = {"batch_size": 100, "val_batch_size": 5000, "seed": 0}  # not used: `inputs` makes the batches
Data = dict[str, Any] | Path | None  # a data set's configuration, a folder of images, or the run's own data


@dataclass(frozen=True)
class EvalData:
    """Test images in an order that mixes the classes, and training images; `classes` is what their labels mean."""

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]

    def labelled_for(self, network: Network) -> "EvalData":
        """The same; InputError if their classes are not the network's."""
        if self.classes != network.labels:
            classes, labels = (", ".join(names) for names in (self.classes, network.labels))
            raise InputError(f"--data {self.name}: its classes are {classes}; the network answers {labels}")
        return self


def load_eval_data(
    network: Network, data: Data, root: Path | None = None, *, count: int | None = None, need_train: bool = True
) -> EvalData:
    """The images of a data set, or all of a folder, labelled by the folders they lie in, for training and test alike.

    With `count`, at most so many of either, and of a folder one half each. `root`: where a data set's files lie.
    Without `need_train` a data set's test files alone do. InputError if the images do not fit the network.
    """
    if data is None and "data" not in network.config:
        raise InputError(f"{network.source}: imported weights; give --data: a data set's name or a folder of images")
    loaded = (
        _from_folder(network, data, count) if isinstance(data, Path) else _from_source(network, data, root, need_train)
    )
    if (channels := loaded.test.stored.shape[1]) != network.channels:
        raise InputError(f"--data {loaded.name}: images of {channels} channels, the network sees {network.channels}")
    train = loaded.train if count is None else shuffled(loaded.train, "train", count)
    return EvalData(loaded.name, train, shuffled(loaded.test, "evaluate", count), loaded.classes)


def _from_source(network: Network, data: dict[str, Any] | None, root: Path | None, need_train: bool) -> EvalData:
    """The run's own data where the run found them; another data set in $VITBN_DATA or beside the run's own."""
    from vitbn.data.datamodule import ImageData  # with Lightning, which `vitbn predict` need not wait for

    own, environment = network.config.get("data", {}), os.environ.get("VITBN_DATA")
    cache = _existing(own.get("cache"), ["*/*px-*ch/index.json"])
    own_root = _existing(own.get("root"), ["*"] if cache else DATA_FOLDERS)
    if data is None:
        options, roots = _own_options(network, cache), (root, own_root, environment)
    else:  # a run on image files found nothing but these in its root
        options, roots = data["data"], (root, environment, None if own.get("source") else own_root)
    if not need_train:
        options = options | {"need_train": False}
    if data is not None and "dataset" in options and dataset_facts(options["dataset"]).side is None:
        options = options | {"cache_size": network.image_size}
    # an exported file does not say where its data were
    images = ImageData.of({**LOADERS, "data": {**options, "root": str(next(filter(None, roots), "data"))}})
    train = images.splits[0] if len(images.source.train) else images.source.train
    return EvalData(images.data_name, train, images.test, images.classes)


def _own_options(network: Network, cache: str | None) -> dict[str, Any]:
    """What tells the run's images apart, checked: anybody may have written the configuration."""
    own = network.config["data"]
    rules: dict[str, Callable[[Any], Any]] = {
        "source": lambda v: v is None or v in SOURCES,
        "name": lambda v: re.fullmatch(r"[\w.+-]{1,100}", v) and (own.get("source") or v in SOURCES),
        "holdout": lambda v: (type(v) is int and v >= 0) or (type(v) is float and 0 < v < 1),
        "size": lambda v: v in IMAGENETTE,
        "dataset": lambda v: v in DATASETS,
        "cache_size": lambda v: type(v) is int and 1 <= v <= 4096,
        "on_bad_image": lambda v: v in ("error", "skip"),
    }
    with readable(network.source):
        options = {"name": own["name"], "holdout": 0} | {key: own[key] for key in rules if key in own}
        if wrong := [key for key, value in options.items() if not rules[key](value)]:
            raise ValueError(f"data.{wrong[0]}={str(options[wrong[0]])[:60]} tells no images; give --data")
    if own.get("source"):
        options = {"cache_size": 256, "on_bad_image": "error", "cache": cache} | options
    return {"augment": False, "mean": 0.0, "std": 1.0, "channels": network.channels} | options


def _existing(folder: Any, content: Iterable[str]) -> str | None:
    """The folder that a run's configuration names, if some of the content is there: it says where to read only."""
    there = isinstance(folder, str) and any(any(Path(folder).glob(name)) for name in content)
    return folder if there else None


def _from_folder(network: Network, folder: Path, count: int | None) -> EvalData:
    files = image_files([folder])
    if count is not None:
        if len(files) < 2:
            raise InputError(f"{folder}: one image; it takes at least two")
        files = [files[i] for i in _order(len(files), "folder")[: 2 * count].tolist()]
    labels = {unicodedata.normalize("NFC", label): label for label in network.labels}
    found = [as_text(file.parent.name) for file in files]
    names = [labels.get(unicodedata.normalize("NFC", name), name) for name in found]
    classes = network.labels if set(names) <= set(network.labels) else tuple(sorted(set(names)))
    pixels = [decode(file, channels=network.channels, size=network.image_size) for file in files]
    split = Split(torch.from_numpy(np.stack(pixels)), torch.tensor([classes.index(name) for name in names]))
    half, rows = len(files) // 2, torch.arange(len(files))
    train, test = (split, split) if count is None else (split[rows[:half]], split[rows[half:]])
    return EvalData(folder.resolve().name, train, test, classes)


def image_files(paths: Sequence[Path]) -> list[Path]:
    """The files, and every image below the folders in the order of their names; InputError for what has none."""
    files = []
    for path in paths:
        if not path.exists():
            raise InputError(f"{path}: does not exist")
        inside = sorted(map(Path, images_below(path))) if path.is_dir() else [path]
        if not inside:
            raise InputError(f"{path}: a folder without images")
        files += inside
    return files


def shuffled(split: Split, purpose: str, count: int | None = None) -> Split:
    """`count` images (by default all) in an order that is always the same."""
    return split[_order(len(split), purpose)[:count]]


def _order(count: int, purpose: str) -> Tensor:
    return torch.randperm(count, generator=generator("arriving", purpose, count))


def default_batch_size(split: Split) -> int:
    """How many images at once, where their number changes nothing."""
    return min(CALIBRATION_BATCH, len(split))


def inputs(network: Network, split: Split, size: int, *, standardised: bool = True) -> Iterator[Tensor]:
    """Clean images as the network's input (or only in [0, 1]), in batches of exactly `size`, made one by one.

    The last batch is filled up with the first images. InputError if there are not so many images.
    """
    if size > len(split):
        raise InputError(f"--batch-sizes {size}: there are only {len(split)} images")
    filled = split[torch.arange(-(-len(split) // size) * size) % len(split)]
    side = network.image_size
    preprocess = Preprocess(network.mean, network.std, side) if standardised else Preprocess(side=side)
    return (b.images for b in FixedBatches(filled, batch_size=size, draws=None, device=CPU, preprocess=preprocess))


def fresh_statistics(network: Network, train: Split) -> tuple[BNStats, int]:
    """BatchNorm statistics over clean training images, and how many: 10,000, or all in whole batches."""
    size = default_batch_size(train)
    count = min(CALIBRATION_IMAGES, len(train) // size * size)
    try:
        return estimate_bn_stats(network.net, inputs(network, shuffled(train, "recalibrate", count), size)), count
    except InputError:
        raise
    except ValueError:  # of torch
        raise InputError(
            "one image is one sample for these BatchNorms and has no variance; take at least two"
        ) from None
