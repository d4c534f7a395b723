"""Images for a network: some to calibrate it on, others to see what that did."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vitbn.data.datamodule import ImageData
from vitbn.data.splits import Source, Split
from vitbn.errors import InputError
from vitbn.inference.images import image_files, read
from vitbn.inference.network import Network
from vitbn.keyed import generator


@dataclass(frozen=True)
class Examples:
    """uint8 images (N, C, K, K); `truth` (N,) are labels of `measure`, None unless they are the network's."""

    calibrate: Tensor
    measure: Tensor
    truth: Tensor | None


def examples(network: Network, data: dict[str, Any] | Path | None, count: int) -> Examples:
    """At most `count` images of either sort: of a configured data set, of a folder, or of what the run trained on.

    Of a data set training images calibrate and test images measure; of a folder one half each.
    """
    if count < 2:
        raise InputError(f"--images {count}: must be at least 2")
    if isinstance(data, Path):
        return _of_folder(network, data, count)
    config = data or network.config
    if "data" not in config:
        raise InputError(f"{network.source}: imported weights; give --data: a data set's name or a folder of images")
    images = ImageData.of(config)
    return _of_source(network, images.source, images.test, count)


def _of_source(network: Network, source: Source, test: Split, count: int) -> Examples:
    channels = source.train.stored.shape[1]
    if channels != network.channels:
        raise InputError(f"{network.source}: sees {network.channels} channels, these images have {channels}")
    train, test = (split[_some(len(split), count)] for split in (source.train, test))
    return Examples(train.images, test.images, test.labels if source.classes == network.labels else None)


def _of_folder(network: Network, folder: Path, count: int) -> Examples:
    files = image_files([folder])
    if len(files) < 2:
        raise InputError(f"{folder}: one image; it takes at least two")
    order = [files[i] for i in _some(len(files), 2 * count).tolist()]
    images, half = read(order, channels=network.channels, size=network.image_size), len(order) // 2
    names = [file.parent.name for file in order[half:]]
    known = set(names) <= set(network.labels)
    return Examples(
        images[:half], images[half:], torch.tensor([network.labels.index(name) for name in names]) if known else None
    )


def _some(available: int, count: int) -> Tensor:
    """The same images every time."""
    return torch.randperm(available, generator=generator("examples", available))[:count]
