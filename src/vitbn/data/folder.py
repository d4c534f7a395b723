"""The listing of a folder of class folders, from names and sizes alone. Imports no torch."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from vitbn.errors import InputError

# part -> the names its folder may have
PARTS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}


@dataclass(frozen=True)
class File:
    """One image file: its path below the folder's root, its label, and size and time to notice changes."""

    path: str
    label: int
    size: int
    mtime: int


@dataclass(frozen=True)
class Folder:
    """The classes, in alphabetical order, and the files of each part that is there, sorted by name."""

    root: Path
    classes: tuple[str, ...]
    parts: dict[str, tuple[File, ...]]

    @property
    def files(self) -> list[File]:
        """Those of all parts, one part after the other."""
        return [file for part in self.parts.values() for file in part]

    @cached_property
    def content(self) -> str:
        """Twelve hex digits of names and sizes: the same wherever the folder lies."""
        return digest((file.path, file.size) for file in self.files)

    def require_validation(self, holdout: int) -> None:
        """InputError unless there is exactly one thing to measure val/* on."""
        own = [part for part in self.parts if part != "train"]
        if not own and not holdout:
            remedy = "hold out some images, such as data.holdout=1000, or add a folder val/ beside train/"
            raise InputError(f"data.holdout=0: {self.root} has neither val/ nor test/ to measure on; {remedy}")
        if "val" in own and holdout:
            raise InputError(f"data.holdout={holdout}: {self.root} has images of its own to validate on; use 0")
        if holdout >= (count := len(self.parts["train"])):
            raise InputError(f"data.holdout={holdout}: must lie between 1 and {count - 1}")


def digest(rows: Iterator[tuple[str | int, ...]]) -> str:
    """Twelve hex digits of rows of names and numbers."""
    total = hashlib.sha256()
    for row in rows:
        total.update(os.fsencode("\0".join(map(str, row)) + "\n"))
    return total.hexdigest()[:12]


@lru_cache(maxsize=8)
def scan(root: str) -> Folder:
    """<root>/train/<class>/<image> beside val/ and test/, or <root>/<class>/<image>; read once per process.

    Hidden files and files that no image format claims are passed over. InputError if classes are missing, empty,
    fewer than two or not the same in every part.
    """
    top = Path(root)
    if not top.is_dir():
        raise InputError(f"data.root={root}: {'a file, not a folder' if top.exists() else 'no such folder'}")
    try:
        return _scan(root, top)
    except OSError as error:
        raise InputError(f"data.root={root}: {error.filename}: {error.strerror}") from None


def _scan(root: str, top: Path) -> Folder:
    folders = {part: top / name for part, names in PARTS.items() for name in names if _subfolders(top / name)}
    if "train" not in folders:
        folders = {"train": top}
    classes = _classes(root, folders)
    parts = {part: _files(top, folder, classes) for part, folder in folders.items()}
    return Folder(top, classes, parts)


def _classes(root: str, folders: dict[str, Path]) -> tuple[str, ...]:
    names = {part: _subfolders(folder) for part, folder in folders.items()}
    classes = names["train"]
    if len(classes) < 2:
        problem = f"only one class ({classes[0]})" if classes else "no class folders"
        layout = "expected train/<class>/<image> beside val/, or <class>/<image>"
        raise InputError(f"data.root={root}: {problem} in {folders['train']}; {layout}")
    for part, others in names.items():
        if others != classes:
            missing = ", ".join(sorted({*classes} - {*others})) or "nothing"
            added = ", ".join(sorted({*others} - {*classes})) or "nothing"
            raise InputError(f"data.root={root}: {part}/ lacks {missing} and adds {added} to the classes of train/")
    return tuple(classes)


def _files(root: Path, folder: Path, classes: tuple[str, ...]) -> tuple[File, ...]:
    files = []
    for label, name in enumerate(classes):
        paths = list(images_below(folder / name))
        if not paths:
            raise InputError(f"data.root={root}: {folder / name} holds no images")
        for path in paths:
            size, mtime = _stat(path)
            files.append(File(os.path.relpath(path, root), label, size, mtime))
    # by name before class: numbered files keep their order, whichever class they are of
    return tuple(sorted(files, key=lambda file: (os.path.basename(file.path), file.path)))


def images_below(folder: Path | str) -> Iterator[str]:
    """Paths of all files that an image format claims, in any order; hidden files and folders are passed over."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from images_below(entry.path)
            elif os.path.splitext(entry.name)[1].lower() in _suffixes():
                yield entry.path


def _stat(path: str) -> tuple[int, int]:
    """Size and time; zeros for a link to nothing, which is a bad image and not a bad folder."""
    try:
        stat = os.stat(path)
    except FileNotFoundError:
        return 0, 0
    return stat.st_size, stat.st_mtime_ns


def _subfolders(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


@lru_cache(maxsize=1)
def _suffixes() -> frozenset[str]:
    """The endings of the formats that are read."""
    from PIL import Image

    from vitbn.data.decode import readable_formats

    formats = readable_formats()
    return frozenset(end for end, kind in Image.registered_extensions().items() if kind in formats)
