"""Padding, a crop of the image's own size and a flip, the custom for small images, on whole batches.

Equal to torchvision's v2 functional on each image.
B images, C channels, K the side of a stored image, S of an output image.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from vitbn.data.crops import FLIP_PROBABILITY, resize
from vitbn.data.draws import Draws

PADDING = 4  # black pixels on every side (Lee et al., 2015: Deeply-supervised nets)


@dataclass(frozen=True)
class PadCrops(Draws):
    """Where in each of N padded images the crop lies, and whether it is mirrored; on the CPU or moved."""

    corner: Tensor  # (N, 2) integer pixels: top, left, each 0 … 2 PADDING
    flip: Tensor  # (N,) bool

    def apply(self, images: Tensor, side: int) -> Tensor:
        """Pad, crop and mirror uint8 images (B, C, K, K), resize them to S = `side`: float32 (B, C, S, S) in [0, 1]."""
        draws, stored = self.to(images.device), images.shape[-1]
        pixel = torch.arange(stored, device=images.device)
        down = draws.corner[:, :1] + pixel  # (B, K), rows of the padded image
        across = draws.corner[:, 1:] + torch.where(draws.flip[:, None], pixel.flip(0), pixel)
        index = down[:, :, None] * (stored + 2 * PADDING) + across[:, None, :]  # (B, K, K)
        padded = F.pad(images, [PADDING] * 4).flatten(2)
        cropped = padded.gather(2, index.flatten(1)[:, None].expand(-1, images.shape[1], -1))
        return resize(cropped.view(images.shape), side)


def draw(count: int, side: int, generator: torch.Generator, flip_probability: float = FLIP_PROBABILITY) -> PadCrops:
    """Draw for `count` images; row i is sample i and depends neither on `count` nor on the images' `side`."""
    u = torch.rand(count, 3, dtype=torch.float64, generator=generator, device=generator.device)
    return PadCrops(((2 * PADDING + 1) * u[:, :2]).long(), u[:, 2] < flip_probability)
