"""Batches made where the network trains: images stay uint8 on the device and whole chunks are augmented there."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from vitbn import rng as keyed
from vitbn.data import affine as augment
from vitbn.data import crops
from vitbn.data.splits import Split

# Finished pixels made at once, enough to be efficient, few enough for caches: 2,000 and 20,000 images of MNIST
AT_ONCE = {"cpu": 2_000 * 28 * 28, "cuda": 20_000 * 28 * 28}
KEEP_BYTES = 2**28  # finished validation images are kept for the next epoch if they take at most this much


class Batch(NamedTuple):
    """One process's share of a batch."""

    images: Tensor  # (B, C, S, S) float32 in [0, 1]
    labels: Tensor  # (B,) int64
    total: int  # how many images the processes have together: B, if there is but one


class Draws(Protocol):
    """One augmentation's random numbers, a row per sample, and what they do to images."""

    def __getitem__(self, index: slice | Tensor) -> "Draws": ...

    def to(self, device: torch.device | str) -> "Draws": ...

    def apply(self, images: Tensor, side: int) -> Tensor: ...


Draw = Callable[[int, int, torch.Generator], Draws]  # (samples, side of a stored image, generator)

# data.augment -> what is drawn for the training images
AUGMENTATIONS: dict[bool | str, Draw | None] = {True: augment.draw, False: None, "crop": crops.draw}


@dataclass(frozen=True)
class Pixels:
    """How stored pixels become the network's input of `side`: resized, augmented, then (pixel - mean) / std.

    Mean and std are for pixels in [0, 1], for all channels or for each; without `side` the size stays.
    """

    mean: float | tuple[float, ...] = 0.0
    std: float | tuple[float, ...] = 1.0
    side: int | None = None

    def __call__(self, images: Tensor, draws: Draws | None) -> Tensor:
        """uint8 images (B, C, K, K) as float32 (B, C, S, S), augmented if there are draws."""
        side = self.side or images.shape[-1]
        images = crops.resize(images, side) if draws is None else draws.apply(images, side)
        if (self.mean, self.std) == (0, 1):
            return images
        return images.sub_(_per_channel(self.mean, images)).div_(_per_channel(self.std, images))


def _per_channel(value: float | tuple[float, ...], images: Tensor) -> float | Tensor:
    return images.new_tensor(value)[:, None, None] if isinstance(value, tuple) else value


def batches_at_once(split: Split, batch_size: int, side: int | None, device: torch.device) -> int:
    """How many batches of finished images fit into what is made at once; at least one."""
    channels, stored, _ = split.stored.shape[1:]
    pixels = batch_size * channels * (side or stored) ** 2
    return max(1, AT_ONCE.get(device.type, AT_ONCE["cpu"]) // pixels)


def share(total: int, rank: int, world: int) -> slice:
    """The rows of a batch that process `rank` of `world` works on: as even as can be, the larger shares first."""
    part, larger = divmod(total, world)
    start = rank * part + min(rank, larger)
    return slice(start, start + part + (rank < larger))


class TrainBatches:
    """Every image once per epoch, in an order and under an augmentation keyed by (seed, epoch).

    Batches are handed out in lists of `chunk`, the last list of an epoch may be shorter. Lightning tells the epoch
    through `sampler.set_epoch` and the position of a resumed run through `load_state_dict`. Process `rank` of `world`
    gets its share of every batch.
    """

    def __init__(
        self,
        split: Split,
        *,
        batch_size: int,
        seed: int,
        draw: Draw | None,
        device: torch.device,
        chunk: int = 1,
        pixels: Pixels = Pixels(),  # noqa: B008 - frozen
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.split, self.pixels, self.draw, self.chunk = split.to(device), pixels, draw, chunk
        self.rank, self.world = rank, world
        self.batch_size, self.seed, self.device = batch_size, seed, device
        self.epoch = self.position = self._resume_at = 0
        self.sampler = self

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def state_dict(self) -> dict[str, int]:
        """Batches of the current epoch already handed out."""
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue the next epoch's iteration after `position` batches."""
        self._resume_at = state["position"] % self._batches

    @property
    def _batches(self) -> int:
        return -(-len(self.split) // self.batch_size)

    def __len__(self) -> int:
        return -(-self._batches // self.chunk)

    def __iter__(self) -> Iterator[list[Batch]]:
        count = len(self.split)
        order = keyed.order(self.seed, self.epoch, count).to(self.device)
        generator = keyed.generator(self.seed, "augment", self.epoch)
        stored = self.split.stored.shape[-1]
        draws = None if self.draw is None else self.draw(count, stored, generator).to(self.device)
        self.position, self._resume_at = self._resume_at, 0
        at_once = batches_at_once(self.split, self.batch_size, self.pixels.side, self.device)
        stride = max(1, at_once // self.chunk) * self.chunk
        # parts start at the same images after a resume, so that rounding inside them is the same too
        for first in range(self.position - self.position % stride, self._batches, stride):
            whole = order[first * self.batch_size : (first + stride) * self.batch_size].split(self.batch_size)
            mine = [index[share(len(index), self.rank, self.world)] for index in whole]
            sizes = [len(index) for index in mine]
            images, labels = (tensor.split(sizes) for tensor in self._part(torch.cat(mine), draws))
            batches = list(map(Batch, images, labels, map(len, whole)))
            for start in range(self.position - first, len(batches), self.chunk):
                chunk = batches[start : start + self.chunk]
                self.position += len(chunk)
                yield chunk

    def _part(self, index: Tensor, draws: Draws | None) -> tuple[Tensor, Tensor]:
        here = index.to(self.split.labels.device)
        images, labels = self.split.take(here).to(self.device), self.split.labels[here].to(self.device)
        return self.pixels(images, None if draws is None else draws[index]), labels


class FixedBatches:
    """The same batches every time, in the split's order; augmented once by `draws` if given.

    Process `rank` of `world` gets its share of every batch.
    """

    def __init__(
        self,
        split: Split,
        *,
        batch_size: int,
        draws: Draws | None,
        device: torch.device,
        pixels: Pixels = Pixels(),  # noqa: B008 - frozen
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.split, self.batch_size, self.draws, self.device, self.pixels = split, batch_size, draws, device, pixels
        self.rank, self.world = rank, world
        channels, stored, _ = split.stored.shape[1:]
        self._keeps = 4 * len(split) * channels * (pixels.side or stored) ** 2 <= KEEP_BYTES
        self._kept: dict[int, Batch] = {}  # made when they are asked for: training starts sooner

    def __len__(self) -> int:
        return -(-len(self.split) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        return map(self._batch, range(len(self)))

    def _batch(self, number: int) -> Batch:
        batch = self._kept.get(number) or self._made(number)
        if self._keeps:
            self._kept[number] = batch
        return batch

    def _made(self, number: int) -> Batch:
        first = number * self.batch_size
        total = min(self.batch_size, len(self.split) - first)
        mine = share(total, self.rank, self.world)
        rows = slice(first + mine.start, first + mine.stop)
        draws = None if self.draws is None else self.draws[rows].to(self.device)
        images = self.pixels(self.split.take(rows).to(self.device), draws)
        return Batch(images, self.split.labels[rows].to(self.device), total)
