"""`vitbn summary`: Lightning's table of a network's layers on one image, FLOPs counted by torch."""

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.model_summary import ModelSummary
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from vitbn.models.factory import build


class _OneImage(pl.LightningModule):
    """A network on one black image, which is what Lightning sends through it."""

    def __init__(self, net: nn.Module, channels: int, image_size: int) -> None:
        super().__init__()
        self.net = net
        self.example_input_array = torch.zeros(1, channels, image_size, image_size)

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)


def summarize(net: nn.Module, *, channels: int, image_size: int) -> ModelSummary:
    """Every module with its shapes, parameters and FLOPs of matrix products and convolutions."""
    with sdpa_kernel(SDPBackend.MATH):  # as matrix products; torch has no count for its fused kernel on a CPU
        return ModelSummary(_OneImage(net, channels, image_size), max_depth=-1)


def print_summary(model: dict[str, Any]) -> None:
    """The table for the model of a configuration, with the exact totals below."""
    channels, side = model["channels"], model["image_size"]
    with torch.device("meta"):  # shapes are all that is asked for
        summary = summarize(build(model, seed=0), channels=channels, image_size=side)
    print(f"{model['name']}, one image of {channels} x {side} x {side}\n{summary}")
    print(f"parameters {summary.total_parameters:,}")
    print(f"FLOPs {summary.total_flops:,}, two for a multiplication and an addition")
