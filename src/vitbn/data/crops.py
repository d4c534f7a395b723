"""Random resized crop and horizontal flip of whole batches, equal to torchvision's v2 functional on one float image.

B images, C channels, K the side of a stored image, S of an output image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vitbn.data.affine import to_float
from vitbn.data.draws import Draws

# Szegedy et al., 2015, as in torchvision's RandomResizedCrop
AREA = (0.08, 1.0)  # of the image
ASPECT = (3 / 4, 4 / 3)  # width over height, uniform in its logarithm
TRIES = 10  # for a box that fits; after that, the whole image
FLIP_PROBABILITY = 0.5
BLOCK_PIXELS = {"cpu": 2**21, "cuda": 2**27}  # pixels read at once: bounds the float64 copies


@dataclass(frozen=True)
class Crops(Draws):
    """Which box of each of N images becomes the output image, and whether it is mirrored; on the CPU or moved."""

    box: Tensor  # (N, 4) integer pixels: top, left, height, width
    flip: Tensor  # (N,) bool

    def apply(self, images: Tensor, side: int) -> Tensor:
        """Crop, resize and mirror uint8 images (B, C, K, K): float32 (B, C, S, S) in [0, 1] for S = `side`."""
        out = torch.empty((*images.shape[:2], side, side), dtype=torch.float32, device=images.device)
        block = max(1, BLOCK_PIXELS.get(images.device.type, BLOCK_PIXELS["cpu"]) // images.shape[1:].numel())
        for start in range(0, len(images), block):
            rows = slice(start, start + block)
            out[rows] = _resize(images[rows], self[rows].to(images.device), side)
        return out


def draw(count: int, side: int, generator: torch.Generator) -> Crops:
    """Draw for `count` images of K = `side`; row i is sample i and does not depend on `count`."""
    u = torch.rand(count, 2 * TRIES + 3, dtype=torch.float64, generator=generator, device=generator.device)
    area = side**2 * (AREA[0] + (AREA[1] - AREA[0]) * u[:, :TRIES])
    low, high = map(math.log, ASPECT)
    aspect = (low + (high - low) * u[:, TRIES : 2 * TRIES]).exp()
    sizes = torch.stack([(area / aspect).sqrt(), (area * aspect).sqrt()], 2).round().long()  # (N, TRIES, 2)
    fits = ((sizes > 0) & (sizes <= side)).all(2)
    first = fits.long().argmax(1)[:, None, None].expand(-1, 1, 2)
    size = torch.where(fits.any(1)[:, None], sizes.gather(1, first)[:, 0], side)
    corner = ((side - size + 1) * u[:, 2 * TRIES : 2 * TRIES + 2]).long()
    return Crops(torch.cat([corner, size], 1), u[:, -1] < FLIP_PROBABILITY)


def resize(images: Tensor, side: int) -> Tensor:
    """uint8 images (B, C, K, K) as float32 (B, C, S, S) in [0, 1]; to the last bit as they are if K = S = `side`."""
    count, stored = len(images), images.shape[-1]
    if stored == side:
        return to_float(images)
    whole = torch.tensor([0, 0, stored, stored]).expand(count, 4)
    return Crops(whole, torch.zeros(count, dtype=torch.bool)).apply(images, side)


def _resize(images: Tensor, crops: Crops, side: int) -> Tensor:
    stored = images.shape[-1]
    corner, size = crops.box.unflatten(1, (2, 2)).unbind(1)
    down, across = _weights(corner, size, stored, side).double().unbind(1)  # (B, S, K)
    across = torch.where(crops.flip[:, None, None], across.flip(1), across)
    # In float64: no setting of matmul precision (TF32, bfloat16, autocast) applies to it.
    return (down[:, None] @ to_float(images).double() @ across.mT[:, None]).float()


def _weights(corner: Tensor, size: Tensor, stored: int, side: int) -> Tensor:
    """Weights (..., S, K) of torch's antialiased bilinear resize from `size` pixels at `corner` to S.

    In float32 and in torch's order, so that they differ from torch's by rounding only.
    """
    scale = (size.float() / side)[..., None, None]
    center = scale * (torch.arange(side, device=size.device) + 0.5)[:, None]  # (..., S, 1), from the corner
    pixel = torch.arange(stored, device=size.device) - corner[..., None, None]  # (..., 1, K)
    weights = (1 - ((pixel - center + 0.5) * (1 / scale.clamp(min=1))).abs()).clamp(min=0)
    weights = weights * ((pixel >= 0) & (pixel < size[..., None, None]))
    return weights / weights.sum(-1, keepdim=True)
