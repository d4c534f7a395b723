"""The random numbers of an augmentation: a field per quantity, in it a row per sample."""

from abc import ABC, abstractmethod
from dataclasses import fields
from typing import Self

import torch
from torch import Tensor


class Draws(ABC):
    """Base of the augmentations' dataclasses; drawn on the CPU, and worked with wherever `to` has moved them."""

    def __getitem__(self, index: slice | Tensor) -> Self:
        """The draws of some samples, chosen as rows of a tensor are."""
        return type(self)(*(getattr(self, field.name)[index] for field in fields(self)))  # type: ignore[arg-type]

    def to(self, device: torch.device | str) -> Self:
        """The same draws on another device."""
        return type(self)(*(getattr(self, field.name).to(device) for field in fields(self)))  # type: ignore[arg-type]

    @abstractmethod
    def apply(self, images: Tensor, side: int) -> Tensor:
        """Augmented uint8 images (B, C, K, K): float32 (B, C, S, S) in [0, 1] for S = `side`."""
