"""Where images come from, by name: every source becomes uint8 tensors with labels."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from vitbn.data import mnist as digits
from vitbn.data import pictures
from vitbn.data.splits import Source

SOURCES: dict[str, Callable[..., Source]] = {
    "mnist": digits.mnist,
    "fashion_mnist": digits.fashion_mnist,
    "mnist5k": digits.mnist5k,
    "emnist": digits.emnist,
    "folder": pictures.folder,
    "imagenette": pictures.imagenette,
}


def load(name: str, root: Path, **options: Any) -> Source:
    """The source of that name; ValueError lists the names."""
    if name not in SOURCES:
        raise ValueError(f"unknown data {name!r}; choose from {', '.join(SOURCES)}")
    return SOURCES[name](root, **options)
