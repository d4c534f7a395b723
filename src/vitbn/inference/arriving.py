"""The labelled images a trained network is tried on."""

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vitbn.data.batches import FixedBatches, Pixels
from vitbn.data.datamodule import ImageData
from vitbn.data.sources import NAMED, load
from vitbn.data.splits import Split
from vitbn.errors import InputError
from vitbn.inference.images import image_files, read
from vitbn.inference.network import Network
from vitbn.keyed import generator
from vitbn.models.statistics import BATCH, IMAGES, Buffers, measure

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Arriving:
    """Test images, and the training images that tell what their BatchNorm statistics should be."""

    name: str
    train: Split
    test: Split


def arriving(network: Network, data: str | None, root: Path | None) -> Arriving:
    """The data of that name, a folder of images in folders named by class, or by default the run's own.

    `root`: where a data set's files lie. Test images come in an order that mixes the classes, always the same.
    InputError if the data do not fit the network.
    """
    own = network.config.get("data", {})
    if data is None and not own:
        raise InputError(f"{network.source}: imported weights; give --data: {', '.join(NAMED)} or a folder of images")
    place = root or os.environ.get("VITBN_DATA") or own.get("root") or "data"
    if data is None:
        found = _of_run(network, str(root or own.get("root") or place))
    elif data in NAMED:
        found = _of_source(network, data, Path(place))
    else:
        found = _of_folder(network, Path(data))
    if (channels := found.test.stored.shape[1]) != network.channels:
        raise InputError(f"--data {found.name}: images of {channels} channels, the network sees {network.channels}")
    return Arriving(found.name, found.train, shuffled(found.test, "evaluate"))


def _of_run(network: Network, root: str) -> Arriving:
    own = ImageData.of({**network.config, "data": {**network.config["data"], "root": root}})
    return Arriving(own.data_name, own.splits[0], own.test)


def _of_source(network: Network, name: str, root: Path) -> Arriving:
    source = load(name, root)
    if source.classes != network.labels:
        theirs, ours = (", ".join(each) for each in (source.classes, network.labels))
        raise InputError(f"--data {name}: its classes are {theirs}; the network answers {ours}")
    return Arriving(name, source.train, source.test)


def _of_folder(network: Network, folder: Path) -> Arriving:
    """All images of the folder; there are no others to take statistics of."""
    if not folder.is_dir():
        raise InputError(f"--data {folder}: neither a folder nor one of {', '.join(NAMED)}")
    files = image_files([folder])
    if unknown := sorted({file.parent.name for file in files} - set(network.labels)):
        answers = ", ".join(network.labels)
        raise InputError(f"--data {folder}: folder {unknown[0]} is no class; the network answers {answers}")
    labels = torch.tensor([network.labels.index(file.parent.name) for file in files])
    split = Split(read(files, channels=network.channels, size=network.image_size), labels)
    return Arriving(folder.name, split, split)


def shuffled(split: Split, purpose: str, count: int | None = None) -> Split:
    """`count` images (by default all) in an order that is always the same."""
    return split[torch.randperm(len(split), generator=generator("arriving", purpose, len(split)))[:count]]


def batch_of(split: Split) -> int:
    """How many images at once, where their number changes nothing."""
    return min(BATCH, len(split))


def inputs(network: Network, split: Split, size: int, *, standardised: bool = True) -> list[Tensor]:
    """Clean images as the network's input (or only in [0, 1]), in batches of exactly `size`.

    The last batch is filled up with the first images. InputError if there are not so many images.
    """
    if size > len(split):
        raise InputError(f"--batch-sizes {size}: there are only {len(split)} images")
    filled = split[torch.arange(-(-len(split) // size) * size) % len(split)]
    side = network.image_size
    pixels = Pixels(network.mean, network.std, side) if standardised else Pixels(side=side)
    return [images for images, _ in FixedBatches(filled, batch_size=size, draws=None, device=CPU, pixels=pixels)]


def fresh_statistics(network: Network, train: Split) -> tuple[Buffers, int]:
    """BatchNorm statistics over clean training images, and how many: 10,000, or all in whole batches."""
    size = batch_of(train)
    count = min(IMAGES, len(train) // size * size)
    return measure(network.net, inputs(network, shuffled(train, "recalibrate", count), size)), count
