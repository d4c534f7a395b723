"""Batches made where the network trains: images stay uint8 on the device and whole chunks are augmented there."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from vitbn import keyed
from vitbn.data.augment import Draws, augment, draw, to_float
from vitbn.data.sources import Split

Batch = tuple[Tensor, Tensor]  # images (B, C, S, S) float32 in [0, 1], labels (B,) int64
CHUNK_IMAGES = {
    "cpu": 2_000,
    "cuda": 20_000,
}  # augmented at once: large enough to be efficient, small enough for caches


@dataclass(frozen=True)
class Pixels:
    """How pixels in [0, 1] become the network's input: (pixel - mean) / std."""

    mean: float = 0.0
    std: float = 1.0

    def __call__(self, images: Tensor, draws: Draws | None) -> Tensor:
        """uint8 images (B, C, S, S), augmented if there are draws, as float32."""
        images = to_float(images) if draws is None else augment(images, draws)
        return images if (self.mean, self.std) == (0, 1) else images.sub_(self.mean).div_(self.std)


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
        augmented: bool,
        device: torch.device,
        pixels: Pixels = Pixels(),  # noqa: B008 - frozen
    ) -> None:
        self.pixels = pixels
        self.images, self.labels = split.images.to(device), split.labels.to(device)
        self.batch_size, self.seed, self.augmented, self.device = batch_size, seed, augmented, device
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
        return -(-len(self.labels) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        count, side = len(self.labels), self.images.shape[-1]
        order = keyed.order(self.seed, self.epoch, count)
        draws = draw(count, side, keyed.generator(self.seed, "augment", self.epoch)) if self.augmented else None
        self.position, self._resume_at = self._resume_at, 0
        per_chunk = max(1, CHUNK_IMAGES.get(self.device.type, 2_000) // self.batch_size)
        # chunks start at the same images after a resume, so that rounding inside them is the same too
        for first in range(self.position - self.position % per_chunk, len(self), per_chunk):
            index = order[first * self.batch_size : (first + per_chunk) * self.batch_size]
            images, labels = self._chunk(index, draws)
            for batch in range(self.position - first, -(-len(index) // self.batch_size)):
                rows = slice(batch * self.batch_size, (batch + 1) * self.batch_size)
                self.position += 1
                yield images[rows], labels[rows]

    def _chunk(self, index: Tensor, draws: Draws | None) -> Batch:
        here = index.to(self.device, non_blocking=True)
        draws = None if draws is None else draws[index].to(self.device)
        return self.pixels(self.images[here], draws), self.labels[here]


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
        self.batches: list[Batch] = []
        for first in range(0, len(split), batch_size):
            rows = slice(first, first + batch_size)
            here = None if draws is None else draws[rows].to(device)
            self.batches.append((pixels(split.images[rows].to(device), here), split.labels[rows].to(device)))

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)
