"""Labelled images and what they are for."""

from dataclasses import dataclass

import torch
from torch import Tensor

from vitbn.errors import InputError
from vitbn.rng import generator


@dataclass(frozen=True)
class Split:
    """Labels (N,) int64 and, of the `stored` images (M, C, S, S) uint8, the `rows` (N,) they belong to.

    Without `rows`, all of them. What is stored may be a memory-mapped file: only `images` reads it as a whole.
    """

    stored: Tensor
    labels: Tensor
    rows: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor) -> "Split":
        return Split(self.stored, self.labels[index], index if self.rows is None else self.rows[index])

    def take(self, index: Tensor | slice) -> Tensor:
        """The images of some samples."""
        return self.stored[index if self.rows is None else self.rows[index]]

    @property
    def images(self) -> Tensor:
        """All images of the split (N, C, S, S)."""
        return self.stored if self.rows is None else self.stored[self.rows]

    def to(self, device: torch.device) -> "Split":
        """On the device; where they are if the images would take more than half of a GPU's free memory."""
        size = len(self) * self.stored[0].numel()
        if device.type == "cuda" and 2 * size > torch.cuda.mem_get_info(device)[0]:
            return self
        return self if device == self.stored.device else Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Source:
    """Training, test (empty where there are none) and perhaps validation images, and what the labels mean."""

    train: Split
    test: Split
    classes: tuple[str, ...]
    val: Split | None = None


def hold_out(split: Split, count: int, purpose: str) -> tuple[Split, Split]:
    """(the rest, `count` images drawn evenly from the classes): the same images whatever the seed."""
    if not 0 < count < len(split):
        raise InputError(f"data.holdout={count}: must lie between 1 and {len(split) - 1}")
    order = torch.randperm(len(split), generator=generator("hold out", purpose))
    labels = split.labels[order]
    # an image's rank among those of its class: the lowest ranks leave equally many of each class
    rank = torch.empty_like(labels)
    for label in labels.unique():
        members = labels == label
        rank[members] = torch.arange(int(members.sum()))
    order = order[torch.argsort(rank, stable=True)]
    return split[order[count:]], split[order[:count]]
