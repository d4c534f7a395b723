"""Dropout whose mask can be told: the same per layer, step and sample on every device."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

Draw = Callable[[torch.Size], Tensor]  # uniform [0, 1) numbers of the asked shape


class Dropout(nn.Module):
    """Inverted dropout. `draw` supplies the uniform numbers; without one, torch's global generator does."""

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {p}")
        self.p = p
        self.draw: Draw | None = None

    @property
    def active(self) -> bool:
        """Whether a mask is applied now."""
        return self.training and self.p > 0

    def mask(self, shape: torch.Size, like: Tensor) -> Tensor:
        """Mask of zeros and 1/(1-p) with `like`'s dtype and device."""
        uniform = torch.rand(shape, device=like.device) if self.draw is None else self.draw(shape)
        return (uniform.to(like.device) >= self.p).to(like.dtype) / (1 - self.p)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.mask(x.shape, x) if self.active else x

    def extra_repr(self) -> str:
        return f"p={self.p}"
