"""Whether what looks like a digit is several that touch, or a digit on a line: a small convolutional network.

benchmarks/one_digit.py trains it. It knows nothing of which digit it is, so it stands before any network. No torch.
"""

from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vitbn.errors import InputError

FILE = Path(__file__).with_name("one_digit.npz")
SURE = 3.0  # logit from which a picture is refused
PADS = (2, 1, 1)  # of the three convolutions; their stride is 2


def require_one(digit: NDArray[np.uint8]) -> None:
    """InputError if the digit (28, 28) is rather several, or one with a line through it."""
    if several_logit(digit) > SURE:
        raise InputError("there is more than one digit, or a line that touches it; show one alone")


def several_logit(digit: NDArray[np.uint8]) -> float:
    """How sure it is that there is more than one digit."""
    weights = _weights()
    x = digit[None].astype(np.float32) / 255  # (channels, height, width)
    for layer, pad in zip((0, 2, 4), PADS, strict=True):
        kernel = weights[f"{layer}.weight"]
        padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape[2:], axis=(1, 2))[:, ::2, ::2]
        x = np.einsum("chwij,ocij->ohw", windows, kernel, optimize=True) + weights[f"{layer}.bias"][:, None, None]
        x = np.maximum(x, 0)
    return float(weights["7.weight"][0] @ x.ravel() + weights["7.bias"][0])


@lru_cache(maxsize=1)
def _weights() -> dict[str, NDArray[np.float32]]:
    with np.load(FILE, allow_pickle=False) as file:
        return {name: value.astype(np.float32) for name, value in file.items()}
