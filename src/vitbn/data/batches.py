"""Batches made where the network trains: images stay uint8 on the device and whole chunks are augmented there."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from vitbn import keyed
from vitbn.data import augment, crops
from vitbn.data.splits import Split

Batch = tuple[Tensor, Tensor]  # images (B, C, S, S) float32 in [0, 1], labels (B,) int64
# Finished pixels made at once, large enough to be efficient, small enough for caches: 2,000 and 20,000 of MNIST's
CHUNK_PIXELS = {"cpu": 2_000 * 28 * 28, "cuda": 20_000 * 28 * 28}
KEEP_BYTES = 2**28  # finished validation images are kept for the next epoch if they take at most this much


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


class TrainBatches:
    """Every image once per epoch, in an order and under an augmentation keyed by (seed, epoch).

    Lightning tells the epoch through `sampler.set_epoch` and the position of a resumed run through
    `load_state_dict`.
    """

    def __init__(
        self,
        split: Split,
        *,
        batch_size: int,
        seed: int,
        draw: Draw | None,
        device: torch.device,
        pixels: Pixels = Pixels(),  # noqa: B008 - frozen
    ) -> None:
        self.split, self.pixels, self.draw = split.to(device), pixels, draw
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
        self._resume_at = state["position"] % len(self)

    def __len__(self) -> int:
        return -(-len(self.split) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        count, (channels, stored, _) = len(self.split), self.split.stored.shape[1:]
        order = keyed.order(self.seed, self.epoch, count)
        generator = keyed.generator(self.seed, "augment", self.epoch)
        draws = None if self.draw is None else self.draw(count, stored, generator)
        self.position, self._resume_at = self._resume_at, 0
        per_batch = self.batch_size * channels * (self.pixels.side or stored) ** 2
        per_chunk = max(1, CHUNK_PIXELS.get(self.device.type, CHUNK_PIXELS["cpu"]) // per_batch)
        # chunks start at the same images after a resume, so that rounding inside them is the same too
        for first in range(self.position - self.position % per_chunk, len(self), per_chunk):
            index = order[first * self.batch_size : (first + per_chunk) * self.batch_size]
            images, labels = self._chunk(index, draws)
            for batch in range(self.position - first, -(-len(index) // self.batch_size)):
                rows = slice(batch * self.batch_size, (batch + 1) * self.batch_size)
                self.position += 1
                yield images[rows], labels[rows]

    def _chunk(self, index: Tensor, draws: Draws | None) -> Batch:
        here = index.to(self.split.labels.device, non_blocking=True)
        images, labels = self.split.take(here).to(self.device), self.split.labels[here].to(self.device)
        return self.pixels(images, None if draws is None else draws[index].to(self.device)), labels


class FixedBatches:
    """The same batches every time, in the split's order; augmented once by `draws` if given."""

    def __init__(
        self,
        split: Split,
        *,
        batch_size: int,
        draws: Draws | None,
        device: torch.device,
        pixels: Pixels = Pixels(),  # noqa: B008 - frozen
    ) -> None:
        self.split, self.batch_size, self.draws, self.device, self.pixels = split, batch_size, draws, device, pixels
        channels, stored, _ = split.stored.shape[1:]
        kept = 4 * len(split) * channels * (pixels.side or stored) ** 2 <= KEEP_BYTES
        self._kept = [self._batch(number) for number in range(len(self))] if kept else None

    def __len__(self) -> int:
        return -(-len(self.split) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._kept) if self._kept is not None else map(self._batch, range(len(self)))

    def _batch(self, number: int) -> Batch:
        rows = slice(number * self.batch_size, (number + 1) * self.batch_size)
        draws = None if self.draws is None else self.draws[rows].to(self.device)
        images = self.pixels(self.split.take(rows).to(self.device), draws)
        return images, self.split.labels[rows].to(self.device)
