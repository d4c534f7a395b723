"""A network's layers as a table: shapes, parameters and FLOPs by Lightning's ModelSummary, each counted once."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.model_summary.model_summary import UNKNOWN_SIZE, ModelSummary
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from vitbn.models.attention import Attention
from vitbn.models.factory import build


@dataclass(frozen=True)
class Layer:
    """What a module owns and does itself, its submodules left out: parameters, floating point operations, shapes."""

    name: str
    kind: str
    shapes: tuple[str, str]
    parameters: int
    flops: int


class _Shown(pl.LightningModule):
    """A network on one black image, which is what Lightning sends through it."""

    def __init__(self, net: nn.Module, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.net, self.example_input_array = net, torch.zeros(shape)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.net(images)


def layers(net: nn.Module, *, channels: int, image_size: int) -> Iterator[Layer]:
    """Every module that owns parameters or works itself, in the order of the network; their sums are the network's."""
    shown = _Shown(net, (1, channels, image_size, image_size))
    for module in net.modules():
        if isinstance(module, Attention):
            module.route = "standard"  # the merged route's weight products are made once, not for every image
    with sdpa_kernel(SDPBackend.MATH):  # as products, which are counted; torch has no count for its CPU kernel
        summary = ModelSummary(shown, max_depth=-1)
    flops = {name: sum(counts.values()) for name, counts in summary.flop_counts.items()}

    def inside(name: str, module: nn.Module) -> int:
        """What the submodules do; a ModuleList is not called itself, so that its members count."""
        parts = [(f"{name}.{child}", part) for child, part in module.named_children()]
        return sum(flops[part] or inside(part, sub) for part, sub in parts)

    rows = zip(summary.layer_names, summary.in_sizes, summary.out_sizes, strict=True)
    for (name, *shapes), module in zip(rows, list(shown.modules())[1:], strict=True):
        parameters = sum(p.numel() for p in module.parameters(recurse=False))
        own = max(0, flops[name] - inside(name, module))
        used = shapes[0] != UNKNOWN_SIZE and not isinstance(module, nn.Identity)
        if parameters or own or (used and not list(module.children())):
            kind = type(module).__name__
            yield Layer(name.removeprefix("net."), kind, (_spelt(shapes[0]), _spelt(shapes[1])), parameters, own)


def _spelt(shape: Any) -> str:
    """The shape of one image's tensor, without the batch; the first of several inputs."""
    while isinstance(shape, list) and shape and isinstance(shape[0], list):
        shape = shape[0]
    return " x ".join(map(str, shape[1:])) if isinstance(shape, list) else str(shape)


def print_summary(model: dict[str, Any]) -> None:
    """The table for the model of a configuration, on one image, with the totals below."""
    from rich.console import Console
    from rich.table import Table

    channels, side = model["channels"], model["image_size"]
    with torch.device("meta"):  # shapes are all that is asked for
        found = list(layers(build(model, seed=0), channels=channels, image_size=side))
    table = Table(title=f"{model['name']}, one image of {channels} x {side} x {side}", title_justify="left")
    for column in ("layer", "type", "in", "out", "parameters", "FLOPs"):
        table.add_column(column, justify="right" if column in ("parameters", "FLOPs") else "left", no_wrap=True)
    for layer in found:
        table.add_row(layer.name, layer.kind, *layer.shapes, f"{layer.parameters:,}", f"{layer.flops:,}")
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    parameters, flops = (sum(getattr(layer, name) for layer in found) for name in ("parameters", "flops"))
    console.print(f"parameters {parameters:,}")
    console.print(f"FLOPs {flops:,} of matrix products and convolutions, a multiplication and an addition counting two")
