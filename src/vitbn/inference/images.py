"""Image files as one tensor for a network."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vitbn.data.decode import decode
from vitbn.data.folder import images_below
from vitbn.errors import InputError


def image_files(places: Iterable[Path]) -> list[Path]:
    """The files, and every image below the folders in the order of their names; InputError for what has none."""
    found = []
    for place in places:
        if not place.exists():
            raise InputError(f"{place}: does not exist")
        inside = sorted(map(Path, images_below(place))) if place.is_dir() else [place]
        if not inside:
            raise InputError(f"{place}: a folder without images")
        found += inside
    return found


def read(files: Sequence[Path], *, channels: int, size: int) -> Tensor:
    """uint8 (N, channels, size, size); InputError names a file that is no image."""
    return torch.from_numpy(np.stack([decode(file, channels=channels, size=size) for file in files]))
