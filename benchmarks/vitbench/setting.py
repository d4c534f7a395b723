"""What the arms of one benchmark share: the configuration, the images, the device."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vitbench import machine
from vitbench.options import Options
from vitbench.ours import compose_run
from vitbench.runner import Stopwatch
from vitbn.data.sources import load
from vitbn.data.splits import Source, Split
from vitbn.errors import InputError
from vitbn.models.factory import build

SIZE = ("image_size", "patch_size", "num_classes", "channels", "dim", "depth", "heads", "dim_head", "mlp_dim")


@dataclass(frozen=True)
class Setting:
    """The configuration train.py would have for these options, on this device."""

    options: Options
    device: torch.device

    @property
    def overrides(self) -> tuple[str, ...]:
        """What would be typed after train.py."""
        options, trainer = self.options, "gpu" if self.device.type == "cuda" else "cpu"
        keys = {"data": options.data, "depth": options.depth, "batch_size": options.batch_size, "trainer": trainer}
        return (*(f"{key}={value}" for key, value in keys.items()), *options.ours)

    @cached_property
    def config(self) -> dict[str, Any]:
        return compose_run(self.overrides).config

    @property
    def size(self) -> dict[str, Any]:
        """The network's size, as its constructor takes it."""
        return {key: self.config["model"][key] for key in SIZE}

    def shape(self, images: int) -> tuple[int, int, int, int]:
        """(B, C, S, S) of so many images."""
        side = self.size["image_size"]
        return images, self.size["channels"], side, side

    def source(self) -> Source:
        """The images of one epoch; InputError with the remedy if there are none."""
        data = self.config["data"]
        try:
            return shortened(load(data["name"], Path(data["root"])), self.options.images)
        except InputError as error:
            raise InputError(f"{error} (here: --data mnist5k, or --quick)") from None

    def new_net(self, seed: int) -> nn.Module:
        """Our network with the initial weights of that seed."""
        return build(self.config["model"], seed=seed)

    def new_watch(self) -> Stopwatch:
        """Waits for this device."""
        return Stopwatch(machine.finisher(self.device))

    def conditions(self) -> dict[str, Any]:
        """What has to be equal for two figures to be comparable."""
        config = self.config
        keys = {"data": config["data"]["name"], "depth": config["depth"], "batch size": config["batch_size"]}
        return {**keys, "precision": config["trainer"]["precision"], "further overrides": " ".join(self.options.ours)}


def shortened(source: Source, images: int | None) -> Source:
    """The first `images` training images and as large a share of the test images; the whole without a number."""
    if images is None or images >= len(source.train):
        return source
    tests = max(1, len(source.test) * images // len(source.train))
    return Source(first(source.train, images), first(source.test, tests), source.classes)


def first(split: Split, count: int) -> Split:
    """Its first `count` images, or all if there are not so many."""
    return split[torch.arange(min(count, len(split)))]


def image_counts(source: Source) -> dict[str, Any]:
    """How many images an epoch has."""
    return {"training images": len(source.train), "validation images": len(source.test)}
