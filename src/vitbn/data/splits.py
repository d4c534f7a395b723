"""Labelled images and what they are for."""

from dataclasses import dataclass

import torch
from torch import Tensor

from vitbn.data.folder import holdout_count
from vitbn.rng import generator

# Of these as many images of each class are held out, as in kept runs. Of others it is the same share of each class,
# which for classes of equal size are the same images.
EQUALLY_MANY = ("mnist",)


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
    passed_over: str = ""  # what was found beside them and not understood


def hold_out(split: Split, holdout: float, purpose: str) -> tuple[Split, Split]:
    """(the rest, `holdout` images, or that share of them if it is below 1): the same images whatever the seed.

    They are the same share of each class, and never the last image of one.
    """
    sizes = split.labels.bincount()
    count = holdout_count(holdout, sizes[sizes > 0].tolist())
    order = torch.randperm(len(split), generator=generator("hold out", purpose))
    labels = split.labels[order]
    place = torch.empty(len(order), dtype=torch.float64)  # of an image among those of its class, 0 to 1
    is_last = torch.zeros(len(order), dtype=torch.bool)
    for label, size in enumerate(sizes.tolist()):
        place[labels == label] = (torch.arange(size, dtype=torch.float64) + 0.5) / (
            1 if purpose in EQUALLY_MANY else size
        )
        is_last[(labels == label).nonzero()[-1:]] = True
    by_place = torch.argsort(place, stable=True)
    held = torch.zeros(len(order), dtype=torch.bool)
    held[by_place[~is_last[by_place]][:count]] = True
    held, order = held[by_place], order[by_place]
    return split[order[~held]], split[order[held]]
