"""Batches made where the network trains: images stay uint8 on the device and whole chunks are augmented there."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from vitbn import keyed
from vitbn.data.augment import Draws, augment, draw, to_float
from vitbn.data.sources import Split

Batch = tuple[Tensor, Tensor]  # images (B, C, S, S) float32 in [0, 1], labels (B,) int64
AT_ONCE = {"cpu": 2_000, "cuda": 20_000}  # images augmented: enough to be efficient, few enough for caches


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

    Batches are handed out in lists of `chunk`, the last list of an epoch may be shorter. Lightning tells the epoch
    through `sampler.set_epoch` and the position of a resumed run through `load_state_dict`.
    """

    def __init__(
        self,
        split: Split,
        *,
        batch_size: int,
        seed: int,
        augmented: bool,
        device: torch.device,
        chunk: int = 1,
        pixels: Pixels = Pixels(),  # noqa: B008 - frozen
    ) -> None:
        self.pixels, self.chunk = pixels, chunk
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
        self._resume_at = state["position"] % self._batches

    @property
    def _batches(self) -> int:
        return -(-len(self.labels) // self.batch_size)

    def __len__(self) -> int:
        return -(-self._batches // self.chunk)

    def __iter__(self) -> Iterator[list[Batch]]:
        count, side = len(self.labels), self.images.shape[-1]
        order = keyed.order(self.seed, self.epoch, count).to(self.device)
        generator = keyed.generator(self.seed, "augment", self.epoch)
        draws = draw(count, side, generator).to(self.device) if self.augmented else None
        self.position, self._resume_at = self._resume_at, 0
        chunks = max(1, AT_ONCE.get(self.device.type, 2_000) // (self.batch_size * self.chunk))
        stride = chunks * self.chunk
        # parts start at the same images after a resume, so that rounding inside them is the same too
        for first in range(self.position - self.position % stride, self._batches, stride):
            images, labels = self._part(order[first * self.batch_size : (first + stride) * self.batch_size], draws)
            batches = list(zip(images.split(self.batch_size), labels.split(self.batch_size), strict=True))
            for start in range(self.position - first, len(batches), self.chunk):
                chunk = batches[start : start + self.chunk]
                self.position += len(chunk)
                yield chunk

    def _part(self, index: Tensor, draws: Draws | None) -> Batch:
        return self.pixels(self.images[index], None if draws is None else draws[index]), self.labels[index]


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
