"""The article's augmentation of whole batches, equal to torchvision's v2 functional on one float image each.

B images, C channels, S the side of an image, K of a zoomed-out canvas, Z zoomed images, T taps of the resize.

A draw costs a few numbers per image and lives apart from the pixels, so the same draw can be made again,
moved, sliced or compared; `augment` itself has no randomness.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from vitbn.data.draws import Draws
from vitbn.errors import InputError

# Source of these constants: the article's get_datasets_mnist.
MAX_ANGLE = 20.0  # degrees, either way
MAX_SHIFT = 0.2  # of the side, either way
ZOOM_PROBABILITY = 0.2
MIN_ZOOM, MAX_ZOOM = 2.0, 3.0  # side of the canvas over side of the image

# An antialiased bilinear resize reads ceil(2 * zoom) pixels per output pixel, and one to spare.
TAPS = int(2 * MAX_ZOOM) + 1
# Worked on at once on a CPU, so that the temporaries stay in its cache: 256 of the article's images.
CPU_BLOCK_PIXELS = 256 * 28 * 28
# A coordinate far outside any image, in pixels: where a translation reads what it brings in.
OUTSIDE = 1e6


@dataclass(frozen=True)
class AffineDraws(Draws):
    """Augmentation parameters of N samples, on the CPU (or wherever `.to()` moved them)."""

    angle: Tensor  # (N,) degrees, float64, counter-clockwise
    shift: Tensor  # (N, 2) integer pixels, x (to the right) then y (down)
    canvas: Tensor  # (N,) integer side of the canvas, 2 S … 3 S; S where the image is not zoomed
    offset: Tensor  # (N, 2) left, top of the image in the canvas; 0 where it is not zoomed

    def apply(self, images: Tensor, side: int) -> Tensor:
        """The augmented images, see `augment`; S must be `side`."""
        if images.shape[-1] != side:
            stored = images.shape[-1]
            remedy = f"leaves the images' size as it is, {stored}; type that, or data.augment=crop"
            raise InputError(f"data.image_size={side}: data.augment=true {remedy}")
        return augment(images, self)


def draw(count: int, side: int, generator: torch.Generator) -> AffineDraws:
    """Draw for `count` samples of S = `side`; row i is sample i and does not depend on `count`."""
    # One matrix with a row per sample: every sample uses its seven numbers, zoomed or not.
    u = torch.rand(count, 7, dtype=torch.float64, generator=generator, device=generator.device)
    angle = MAX_ANGLE * (2 * u[:, 0] - 1)
    shift = (MAX_SHIFT * side * (2 * u[:, 1:3] - 1)).round().long()
    zoomed = u[:, 3] < ZOOM_PROBABILITY
    zoom = MIN_ZOOM + (MAX_ZOOM - MIN_ZOOM) * u[:, 4]
    canvas = torch.where(zoomed, (side * zoom).long(), side)
    offset = ((canvas - side)[:, None] * u[:, 5:7]).long()
    return AffineDraws(angle, shift, canvas, offset)


def to_float(images: Tensor) -> Tensor:
    """uint8 pixels to float32 in [0, 1], to the last bit as torchvision's `to_dtype(scale=True)`."""
    return images.to(torch.float32).mul_(1.0 / 255)


def augment(images: Tensor, draws: AffineDraws) -> Tensor:
    """Rotate, translate and zoom out uint8 images (B, C, S, S); float32 in [0, 1], same shape and device.

    Draws may stay on the CPU or lie beside the images; neither makes an accelerator wait. Give it batches or
    chunks of some thousand images: the zoom works on all zoomed images of a call at once.
    """
    if images.ndim != 4 or images.shape[-1] != images.shape[-2]:
        raise ValueError(f"augment needs square images (B, C, S, S), got shape {tuple(images.shape)}")
    if images.dtype != torch.uint8:
        raise ValueError(f"augment needs uint8 images, got {images.dtype}")
    if len(draws.angle) != len(images):
        raise ValueError(f"augment got {len(draws.angle)} draws for {len(images)} images")
    block = max(1, len(images))
    if images.device.type == "cpu":
        block = max(1, CPU_BLOCK_PIXELS // images.shape[1:].numel())
        draws = draws.to("cpu")
    out = torch.empty(images.shape, dtype=torch.float32, device=images.device)
    rounded, exact = _source_coordinates(draws, images.shape[-1], images.device)
    for start in range(0, len(images), block):
        rows = slice(start, start + block)
        out[rows] = to_float(_read_nearest(images[rows], rounded[rows], exact[rows]))
    return _zoom_out(out, draws.canvas, draws.offset)


def _source_coordinates(draws: AffineDraws, side: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Where each output pixel is read, x then y in [-1, 1] over the image: the sum of two parts.

    Of its column, rounded to float32 (N, 2, 1, S), and of its row, exact in float64 (N, 2, S, 1).
    """
    # torchvision: angle modulo 360, cos and sin in float64, rounded to float32, then divided by S / 2.
    radians = torch.deg2rad(draws.angle.remainder(360)).neg()
    cos, sin = radians.cos(), radians.sin()
    of_column = torch.stack([cos, -sin], 1).to(device, torch.float32, non_blocking=True) / (0.5 * side)
    of_row = torch.stack([sin, cos], 1).to(device, torch.float32, non_blocking=True) / (0.5 * side)
    # An integer translation only moves the point where the rotated image is read: (N, 2, S), from its centre.
    point = torch.arange(side, dtype=torch.float32, device=device) - (side - 1) / 2
    point = point - draws.shift.to(device, torch.float32, non_blocking=True)[..., None]
    # What the translation brings in is black: from this far at least one source coordinate leaves the image.
    point.masked_fill_(point.abs() > side / 2, OUTSIDE)
    x, y = point[:, :1], point[:, 1:].double()
    # torchvision's matrix product is fma(y, sin, x * cos) on Intel processors: x * cos is rounded, y * sin is not. A
    # float64 sum does the same on any device: 0 differences in 100 million pixels (torchvision on an AMD processor, in
    # plain float32, has 18). A matrix product of ours would depend on the make of processor and on TF32.
    return (x * of_column[..., None])[:, :, None, :], (y * of_row[..., None])[..., None]


def _read_nearest(images: Tensor, rounded: Tensor, exact: Tensor) -> Tensor:
    """Nearest pixels (B, C, S, S) at the sums of `_source_coordinates`, zero outside the image."""
    batch, channels, side, _ = images.shape
    grid = torch.add(rounded, exact).float()  # (B, 2, S, S)
    # To pixels as grid_sample does, halves to even; -1 and S stand for everything outside.
    grid.add_(1).mul_(0.5 * side).sub_(0.5).round_().clamp_(-1, side)
    index = grid[:, 0].add_(grid[:, 1], alpha=side + 2).add_(side + 3).long()
    framed = images.new_zeros(batch, channels, side + 2, side + 2)
    framed[..., 1:-1, 1:-1] = images
    index = index.view(batch, 1, -1).expand(-1, channels, -1)
    return framed.flatten(2).gather(2, index).view(images.shape)


def _zoom_out(images: Tensor, canvas: Tensor, offset: Tensor) -> Tensor:
    """Images (B, C, S, S) put into black canvases and resized to S, in place: two matrices per image."""
    side, device = images.shape[-1], images.device
    zoomed: slice | Tensor = slice(None)
    if canvas.device.type == "cpu":
        zoomed = (canvas > side).nonzero().squeeze(1)
        canvas, offset = canvas[zoomed], offset[zoomed]
        zoomed = zoomed.to(device, non_blocking=True)
    # else: counting the zoomed images would wait for the device. For a canvas of side S both matrices are the
    # identity, so zooming every image is the same function to the last bit.
    table = _resize_table(side, device)
    number = (canvas - int(MIN_ZOOM * side) + 1).clamp(min=0)[:, None]  # row of the table
    first = (number * table.shape[1] + offset).to(device, non_blocking=True)[..., None]  # (Z, 2, 1)
    windows = table.flatten(0, 1)[first + torch.arange(side, device=device)]  # (Z, 2, S, S)
    # In float64: no setting of matmul precision (TF32, bfloat16, autocast) applies to it, and it is cheap.
    across, down = windows.double()[:, :, None].unbind(1)  # (Z, 1, S, S), pixel read by pixel made
    images[zoomed] = (down.mT @ images[zoomed].double() @ across).float().clamp_(max=1)
    return images


@lru_cache(maxsize=8)
def _resize_table(side: int, device: torch.device) -> Tensor:
    """Weights of torch's antialiased bilinear resize from K canvas pixels (rows, 0 after K) to S (columns).

    For K = S, the identity, then each of 2 S … 3 S; the rows of any window lie together in memory.
    In float32 and in torch's order, so within 4e-7 of torch; in float64 a side of 224 would be 9e-6 away.
    Takes 12 S^3 bytes: 0.3 MB for S = 28, 135 MB for 224.
    """
    sides = [side, *range(int(MIN_ZOOM * side), int(MAX_ZOOM * side) + 1)]
    canvas = torch.tensor(sides, dtype=torch.float32)[:, None, None]  # (K, 1, 1)
    scale = canvas / side
    center = scale * (torch.arange(side, dtype=torch.float32) + 0.5)  # (K, 1, S)
    taps = (center - scale + 0.5).floor().clamp(min=0) + torch.arange(TAPS)[:, None]  # (K, T, S)
    weights = (1 - ((taps - center + 0.5) * (1 / scale)).abs()).clamp(min=0) * (taps < canvas)
    weights /= weights.sum(1, keepdim=True)
    table = torch.zeros(len(sides), int(MAX_ZOOM * side) + TAPS, side, dtype=torch.float32)
    return table.scatter_(1, taps.long(), weights).to(device)
