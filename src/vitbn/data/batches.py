"""Batches made where the network trains: images stay uint8 on the device and are augmented there, many at once."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from vitbn import rng
from vitbn.data import affine, crops, pad_crops
from vitbn.data.draws import Draws
from vitbn.data.splits import Split

# Pixels augmented in one call, enough to be efficient, few enough for caches: 2,000 and 20,000 images of MNIST
AUGMENT_CHUNK = {"cpu": 2_000 * 28 * 28, "cuda": 20_000 * 28 * 28}
KEEP_BYTES = 2**28  # validation images are kept preprocessed for the next epoch if they take at most this much


class Batch(NamedTuple):
    """A process's share of a batch; all of it where there is one process."""

    images: Tensor  # (B, C, S, S) float32
    labels: Tensor  # (B,) int64


Draw = Callable[[int, int, torch.Generator], Draws]  # (samples, side of a stored image, generator)

# data.augment -> how the training images are augmented
AUGMENTATIONS: dict[bool | str, Draw | None] = {
    True: affine.draw,
    False: None,
    "crop": crops.draw,
    "pad_crop": partial(pad_crops.draw, flip_probability=0.0),
    "pad_crop_flip": pad_crops.draw,
}


@dataclass(frozen=True)
class Preprocess:
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


def share(total: int, rank: int, world: int) -> slice:
    """The rows of a batch that process `rank` of `world` works on: as even as can be, the larger shares first."""
    part, larger = divmod(total, world)
    start = rank * part + min(rank, larger)
    return slice(start, start + part + (rank < larger))


class TrainBatches:
    """Every image once per epoch, in an order and under an augmentation keyed by (seed, epoch).

    With `same_order` every epoch has the first one's order, so that its first batches can be overfitted. Lightning
    passes the epoch through `sampler.set_epoch` and a resumed run's position through `load_state_dict`. Process
    `rank` of `world` gets its share of every batch.
    """

    def __init__(
        self,
        split: Split,
        *,
        batch_size: int,
        seed: int,
        draw: Draw | None,
        device: torch.device,
        preprocess: Preprocess = Preprocess(),  # noqa: B008 - frozen
        same_order: bool = False,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.split = split.to(device)
        self.batch_size = batch_size
        self.seed = seed
        self.draw = draw
        self.device = device
        self.preprocess = preprocess
        self.rank = rank
        self.world = world
        self.same_order = same_order
        self.epoch = self.position = 0
        self._resume_at: dict[str, int] = {}
        self.sampler = self

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def state_dict(self) -> dict[str, int]:
        """Batches of the current epoch already handed out; all that are wanted of it may be fewer than there are."""
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue that epoch's iteration after `position` batches."""
        self._resume_at = dict(state)

    def __len__(self) -> int:
        return -(-len(self.split) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        count = len(self.split)
        channels, stored, _ = self.split.stored.shape[1:]
        order = rng.order(self.seed, 0 if self.same_order else self.epoch, count).to(self.device)
        generator = rng.generator(self.seed, "augment", self.epoch)
        draws = None if self.draw is None else self.draw(count, stored, generator).to(self.device)
        resume, self._resume_at = self._resume_at, {}
        is_its_epoch = resume.get("epoch", self.epoch) == self.epoch  # older checkpoints do not name it
        self.position = resume.get("position", 0) % len(self) if is_its_epoch else 0
        pixels_per_batch = self.batch_size * channels * (self.preprocess.side or stored) ** 2
        chunk = max(1, AUGMENT_CHUNK.get(self.device.type, AUGMENT_CHUNK["cpu"]) // pixels_per_batch)
        # chunks start at the same images after a resume, so that rounding inside them is the same, too
        for first in range(self.position - self.position % chunk, len(self), chunk):
            batches = order[first * self.batch_size : (first + chunk) * self.batch_size].split(self.batch_size)
            shares = [index[share(len(index), self.rank, self.world)] for index in batches]
            images, labels = self._augmented(torch.cat(shares), draws)
            sizes = [len(index) for index in shares]
            ready = list(map(Batch, images.split(sizes), labels.split(sizes)))
            for batch in ready[self.position - first :]:
                self.position += 1
                yield batch

    def _augmented(self, index: Tensor, draws: Draws | None) -> tuple[Tensor, Tensor]:
        rows = index.to(self.split.labels.device)
        images, labels = self.split.take(rows).to(self.device), self.split.labels[rows].to(self.device)
        return self.preprocess(images, None if draws is None else draws[index]), labels


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
        preprocess: Preprocess = Preprocess(),  # noqa: B008 - frozen
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.split = split
        self.batch_size = batch_size
        self.draws = draws
        self.device = device
        self.preprocess = preprocess
        self.rank = rank
        self.world = world
        channels, stored, _ = split.stored.shape[1:]
        self._keep = 4 * len(split) * channels * (preprocess.side or stored) ** 2 <= KEEP_BYTES
        self._kept: dict[int, Batch] = {}  # filled on first use: training starts sooner

    def __len__(self) -> int:
        return -(-len(self.split) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        return map(self._batch, range(len(self)))

    def _batch(self, number: int) -> Batch:
        batch = self._kept.get(number) or self._make(number)
        if self._keep:
            self._kept[number] = batch
        return batch

    def _make(self, number: int) -> Batch:
        first = number * self.batch_size
        part = share(min(self.batch_size, len(self.split) - first), self.rank, self.world)
        rows = slice(first + part.start, first + part.stop)
        draws = None if self.draws is None else self.draws[rows].to(self.device)
        images = self.preprocess(self.split.take(rows).to(self.device), draws)
        return Batch(images, self.split.labels[rows].to(self.device))
