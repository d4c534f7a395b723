"""Files and folders by their names: which are images, and how a name is printed. Imports no torch."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from vitbn.errors import InputError

MAX_NAMED = 5  # endings counted one by one in a message


def local_folder(root: str | Path) -> Path:
    """The folder that `root` names, `~` being the home folder; InputError for the address of another machine."""
    if match := re.match(r"([a-z][a-z0-9+.-]+):/", str(root), re.IGNORECASE):
        raise InputError(f"data.root={root}: only a folder of this machine; copy or mount what lies at {match[1]}://")
    try:
        return Path(root).expanduser()
    except RuntimeError as error:  # no such user
        raise InputError(f"data.root={root}: {error}") from None


def images_below(folder: Path | str) -> Iterator[str]:
    """Paths of all files that an image format claims, in any order; hidden files and folders are passed over."""
    return filter(is_image, files_below(folder))


def files_below(folder: Path | str) -> Iterator[str]:
    """Paths of all files, in any order; hidden files and folders are passed over."""
    yield from files_in(folder)
    for name in subfolders(folder):
        yield from files_below(os.path.join(folder, name))


def files_in(folder: Path | str) -> list[str]:
    """Paths of the files that are not hidden, in any order."""
    with os.scandir(folder) as entries:
        return [entry.path for entry in entries if not entry.name.startswith(".") and not entry.is_dir()]


def subfolders(folder: Path | str) -> list[str]:
    """Names of the folders that are not hidden, in alphabetical order."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())


def is_image(path: str) -> bool:
    """Whether a format that is read claims the name."""
    return os.path.splitext(path)[1].lower() in _suffixes()


@lru_cache(maxsize=1)
def _suffixes() -> frozenset[str]:
    from PIL import Image

    from vitbn.data.decode import readable_formats

    formats = readable_formats()
    return frozenset(end for end, kind in Image.registered_extensions().items() if kind in formats)


def ending(path: str) -> str:
    """What a message calls a file of no image format."""
    return as_text(os.path.splitext(path)[1]) or "without ending"


def listed(counts: Counter[str]) -> str:
    """The most frequent by name, the rest together."""
    named = counts.most_common(MAX_NAMED)
    rest = counts.total() - sum(count for _, count in named)
    return ", ".join([*(f"{count:,} {name}" for name, count in named), *([f"{rest:,} others"] if rest else [])])


def as_text(name: str) -> str:
    """A file's name as it can be printed anywhere: bytes that are no UTF-8 as \\xHH."""
    return os.fsencode(name).decode(errors="backslashreplace")
