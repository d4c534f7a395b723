"""What a network sees in image files."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from vitbn.errors import InputError
from vitbn.inference.images import image_files, read
from vitbn.inference.network import Network, load_network

BATCH = 64
Prediction = list[tuple[str, float]]  # labels with their probabilities, the most probable first


@torch.inference_mode()
def predict(network: Network, images: Tensor, top: int) -> list[Prediction]:
    """The `top` labels of uint8 images (B, channels, K, K)."""
    probabilities = network.net(network.normalise(images)).double().softmax(-1)
    values, indices = probabilities.topk(min(top, len(network.labels)))
    return [
        [(network.labels[i], p) for i, p in zip(row, chances, strict=True)]
        for row, chances in zip(indices.tolist(), values.tolist(), strict=True)
    ]


def predict_files(network: Network, files: Sequence[Path], top: int) -> Iterator[Prediction]:
    """The same for image files, a batch in memory at a time."""
    for first in range(0, len(files), BATCH):
        some = files[first : first + BATCH]
        yield from predict(network, read(some, channels=network.channels, size=network.image_size), top)


def command(place: str, images: Sequence[Path], *, top: int, as_json: bool) -> int:
    """`vitbn predict`: a table, or a list with one entry per image."""
    if top < 1:
        raise InputError(f"--top {top}: must be at least 1")
    files = image_files(images)
    network = load_network(place)
    predictions = list(predict_files(network, files, top))
    if as_json:
        print(json.dumps([
            {"image": str(file), "top": [{"label": label, "probability": p} for label, p in prediction]}
            for file, prediction in zip(files, predictions, strict=True)
        ], indent=2))  # fmt: skip
    else:
        _print_table(network, files, predictions)
    return 0


def _print_table(network: Network, files: Sequence[Path], predictions: Sequence[Prediction]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{network.source}", title_justify="left")
    table.add_column("image", overflow="fold")
    for rank in range(1, len(predictions[0]) + 1):
        table.add_column(f"{rank}", no_wrap=True)
    for file, prediction in zip(files, predictions, strict=True):
        table.add_row(str(file), *(f"{label} {probability:.1%}" for label, probability in prediction))
    Console().print(table)
