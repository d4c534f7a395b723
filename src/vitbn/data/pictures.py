"""Image files in class folders: any folder of them, and Imagenette."""

import os
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from vitbn.data.folder import Folder, digest, scan
from vitbn.data.image_cache import mapped
from vitbn.data.splits import Source, Split
from vitbn.errors import InputError

CACHE = ".vitbn-cache"  # beside the images, unless data.cache names another place
IMAGENETTE = {160: "imagenette2-160", 320: "imagenette2-320", "full": "imagenette2"}


def folder(root: Path, *, cache_size: int, channels: int, on_bad_image: str, cache: str | None = None) -> Source:
    """A folder of class folders (`vitbn.data.folder` tells its layout) as squares of `cache_size` pixels."""
    found = scan(str(root))
    images, bad = mapped(
        found.files, root=root, folder=_cache(root, cache) / f"{cache_size}px-{channels}ch",
        size=cache_size, channels=channels, skip=on_bad_image == "skip",
    )  # fmt: skip
    return _source(found, torch.from_numpy(images), bad)


def imagenette(root: Path, *, size: int | str, **options: object) -> Source:
    """Imagenette (Howard, 2019) from <root>/imagenette2[-160|-320], downloaded by torchvision unless it is there.

    The other options are those of `folder`.
    """
    if size not in IMAGENETTE:
        raise ValueError(f"data.size={size}: choose from {', '.join(map(str, IMAGENETTE))}")
    published = "full" if size == "full" else f"{size}px"
    if not (root / IMAGENETTE[size]).exists():
        _download(root, IMAGENETTE[size], published)
    source = folder(root / IMAGENETTE[size], **options)  # type: ignore[arg-type]
    return replace(source, classes=_spoken_classes(root, published))


def _source(found: Folder, images: Tensor, bad: list[int]) -> Source:
    splits, first = {}, 0
    readable = torch.ones(len(images), dtype=torch.bool)
    readable[bad] = False
    for part, files in found.parts.items():
        rows = torch.arange(first, first + len(files))
        split = Split(images, torch.tensor([file.label for file in files]), rows)
        splits[part] = split[readable[rows].nonzero().squeeze(1)]
        first += len(files)
        counts = splits[part].labels.bincount(minlength=len(found.classes))
        if not counts.all():
            empty = found.classes[int(counts.argmin())]
            raise InputError(f"data.root={found.root}: no image of class {empty} in {part} can be read")
    none = splits["train"][torch.arange(0)]
    return Source(splits["train"], splits.get("test", none), found.classes, splits.get("val"))


def _cache(root: Path, cache: str | None) -> Path:
    """Where the decoded images of `root` lie."""
    where = root.resolve()
    return root / CACHE if cache is None else Path(cache) / f"{where.name}-{digest(iter([(str(where),)]))}"


def _spoken_classes(root: Path, size: str) -> tuple[str, ...]:
    from torchvision.datasets import Imagenette

    return tuple(names[0] for names in Imagenette(root, "train", size).classes)


def _download(root: Path, name: str, size: str) -> None:
    """Fetch with torchvision into a temporary folder; only the complete data set is moved into place."""
    from torchvision.datasets import Imagenette

    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=root) as temporary:
            Imagenette(temporary, "train", size, download=True)
            os.replace(Path(temporary) / name, root / name)
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split()).rstrip(":")
        remedy = f"unpack {name}.tgz into {root}, or bring images of your own with data=folder data.root=DIR"
        raise InputError(f"{root / name}: is not there and cannot be downloaded ({reason}); {remedy}") from None
