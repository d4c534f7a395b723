"""`vitbn predict`: the most probable labels of image files."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitbn.data.decode import decode
from vitbn.errors import InputError
from vitbn.inference.eval_data import image_files
from vitbn.progress import track
from vitbn.weights.network import Network, load_network

PREDICT_BATCH = 64
Prediction = list[tuple[str, float]]  # labels with their probabilities, the most probable first


@torch.inference_mode()
def predict(network: Network, images: Tensor, top: int) -> list[Prediction]:
    """The `top` labels of uint8 images (B, channels, K, K)."""
    probabilities = network.net(network.normalise(images)).double().softmax(-1)
    values, indices = probabilities.topk(min(top, len(network.labels)))
    return [
        [(network.labels[i], probability) for i, probability in zip(row, row_values, strict=True)]
        for row, row_values in zip(indices.tolist(), values.tolist(), strict=True)
    ]


def predict_files(
    network: Network, files: Iterable[Path], top: int, on_error: Callable[[InputError], object]
) -> Iterator[tuple[Path, Prediction]]:
    """The same for image files, a batch in memory at a time; files that cannot be read go to `on_error`."""

    def readable() -> Iterator[tuple[Path, NDArray[np.uint8]]]:
        for file in files:
            try:
                yield file, decode(file, channels=network.channels, size=network.image_size)
            except InputError as error:
                on_error(error)

    images = readable()
    while batch := list(islice(images, PREDICT_BATCH)):
        names, pixels = zip(*batch, strict=True)
        yield from zip(names, predict(network, torch.from_numpy(np.stack(pixels)), top), strict=True)


def predict_command(ckpt: str, images: Sequence[Path], *, top: int, as_json: bool) -> int:
    """`vitbn predict`: a table, or a list with one entry per image; status 2 if one cannot be read."""
    if top < 1:
        raise InputError(f"--top {top}: must be at least 1")
    files = image_files(images)
    network = load_network(ckpt)
    errors: list[InputError] = []
    predictions = list(predict_files(network, track(files, "predicting", len(files)), top, errors.append))
    for error in errors:
        print(f"error: {error}", file=sys.stderr)
    if as_json:
        print(json.dumps([
            {"image": str(file), "top": [{"label": label, "probability": p} for label, p in prediction]}
            for file, prediction in predictions
        ], indent=2))  # fmt: skip
    elif predictions:
        _print_table(network, predictions)
    return 2 if errors else 0


def _print_table(network: Network, predictions: Sequence[tuple[Path, Prediction]]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(str(network.source)), title_justify="left")
    table.add_column("image", overflow="fold")
    for rank in range(1, len(predictions[0][1]) + 1):
        table.add_column(f"{rank}", no_wrap=True)
    for file, prediction in predictions:
        table.add_row(*map(escape, (str(file), *(f"{label} {probability:.1%}" for label, probability in prediction))))
    Console().print(table)
