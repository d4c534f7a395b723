"""`vitbn predict`: the most probable labels of image files."""

import csv
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitbn.data.decode import decode
from vitbn.data.mnist import DIGITS
from vitbn.errors import InputError
from vitbn.inference.eval_data import image_files
from vitbn.progress import track
from vitbn.terminal import terminal_table
from vitbn.weights.network import Network, load_network

PREDICT_BATCH = 64
MAX_NAMED = 10  # labels in the line below the table
Reader = Callable[[Path], NDArray[np.uint8]]  # a file as the network's pixels, (channels, side, side)
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
    network: Network, files: Iterable[Path], top: int, on_error: Callable[[InputError], object], read: Reader
) -> Iterator[tuple[Path, Prediction]]:
    """The same for image files, a batch in memory at a time; files that cannot be read go to `on_error`."""

    def readable() -> Iterator[tuple[Path, NDArray[np.uint8]]]:
        for file in files:
            try:
                yield file, read(file)
            except InputError as error:
                on_error(error)

    images = readable()
    while batch := list(islice(images, PREDICT_BATCH)):
        names, pixels = zip(*batch, strict=True)
        yield from zip(names, predict(network, torch.from_numpy(np.stack(pixels)), top), strict=True)


def as_it_is(network: Network) -> Reader:
    """Pictures as the network was trained on them."""
    return partial(decode, channels=network.channels, size=network.image_size)


class DigitReader:
    """Pictures of digits as MNIST has them; what has its size and dark ground already stays as it is."""

    def __init__(self, as_mnist: Callable[[bytes], NDArray[np.uint8]]) -> None:
        self.as_mnist = as_mnist
        self.prepared = 0  # pictures that were changed

    def __call__(self, file: Path) -> NDArray[np.uint8]:
        """(1, 28, 28) uint8; InputError names the file."""
        digit = decode(file, channels=1)
        frame = np.concatenate([digit[0, 0], digit[0, -1], digit[0, :, 0], digit[0, :, -1]])
        if digit.shape == (1, 28, 28) and np.median(frame) < 128:
            return digit
        try:
            digit = self.as_mnist(file.read_bytes())[None]
        except InputError as error:
            raise InputError(f"{file}: {str(error).removeprefix('this file: ')}") from None
        self.prepared += 1
        return digit


def is_of_mnist(network: Network) -> bool:
    """Whether the network was trained on MNIST's digits or EMNIST's."""
    data = network.config.get("data") or {}
    return (
        network.labels == DIGITS
        and (network.channels, network.image_size) == (1, 28)
        and data.get("name") in ("mnist", "mnist5k", "emnist")
        and not data.get("source")
    )


def predict_command(
    ckpt: str, images: Sequence[Path], *, top: int, form: str, as_mnist: Callable[[bytes], NDArray[np.uint8]]
) -> int:
    """`vitbn predict`: a table, csv, or json with one entry per image; status 2 if one cannot be read."""
    if top < 1:
        raise InputError(f"--top {top}: must be at least 1")
    files = image_files(images)
    network = load_network(ckpt)
    digits = DigitReader(as_mnist) if is_of_mnist(network) else None
    errors: list[InputError] = []
    tracked = track(files, "predicting", len(files))
    predictions = list(predict_files(network, tracked, top, errors.append, digits or as_it_is(network)))
    for error in errors:
        print(f"error: {error}", file=sys.stderr)
    if digits and digits.prepared:
        print(f"{digits.prepared} of {len(files)} pictures prepared as vitbn serve does: white on black, 28 x 28",
              file=sys.stderr)  # fmt: skip
    elif network.labels == DIGITS and not digits:
        print("pictures are read as they are: the network was not trained on MNIST's digits", file=sys.stderr)
    if form == "json":
        print(json.dumps([
            {"image": str(file), "top": [{"label": label, "probability": p} for label, p in prediction]}
            for file, prediction in predictions
        ], indent=2))  # fmt: skip
    elif form == "csv":
        rows = csv.writer(sys.stdout, lineterminator="\n")
        rows.writerow(("image", "rank", "label", "probability"))
        for file, prediction in predictions:
            rows.writerows((file, rank, label, f"{p:.6f}") for rank, (label, p) in enumerate(prediction, start=1))
    elif predictions:
        _print_table(predictions)
    return 2 if errors else 0


def _print_table(predictions: Sequence[tuple[Path, Prediction]]) -> None:
    from rich.console import Console

    columns = ("image", *(str(rank) for rank in range(1, len(predictions[0][1]) + 1)))
    lines = [
        (str(file), *(f"{label} {probability:.1%}" for label, probability in prediction))
        for file, prediction in predictions
    ]
    console = Console()
    console.print(terminal_table(columns, lines, words=columns))
    answers = Counter(prediction[0][0] for _, prediction in predictions).most_common()
    listed = ", ".join(f"{label} ({count:,})" for label, count in answers[:MAX_NAMED])
    more = f", {len(answers) - MAX_NAMED} other labels" if len(answers) > MAX_NAMED else ""
    images = f"{len(predictions):,} image{'s' if len(predictions) > 1 else ''}"
    console.print(f"{images}: {listed}{more}", markup=False, highlight=False, soft_wrap=True)
