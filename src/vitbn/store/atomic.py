"""Atomic file writes: after a crash or on a full disk a file has its old content or its new content, nothing else."""

import csv
import errno
import io
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from vitbn.errors import DISK_FULL

TEMPORARY = ".*.tmp"  # what a killed process may leave beside the files it was writing
# Any other refusal of a hard link or of a folder's fsync says that the file system (SMB, FUSE, a network's) has none;
# which number it says it with differs.
BROKEN = (errno.EIO, *DISK_FULL)


def write(path: Path, fill: Callable[[BinaryIO], object]) -> None:
    """Let `fill` write a temporary file in the same folder, fsync it, rename it to `path`, fsync the folder."""
    temporary = temporary_beside(path)
    try:
        with open(temporary, "wb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk does not say where
        raise
    finally:
        temporary.unlink(missing_ok=True)
    _fsync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Replace the file by this text."""
    write(path, lambda file: file.write(text.encode()))


def write_json(path: Path, content: Any) -> None:
    """Indented JSON; NaN is refused, since no other tool could read it."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def write_csv(path: Path, columns: Iterable[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """A line with the columns' names, then one per row; what a row lacks is an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def copy(source: Path, path: Path) -> None:
    """Replace the file by what another one holds; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, lambda file: file.write(source.read_bytes()))


def keep_previous(path: Path, previous: Path) -> None:
    """Make `previous` a second name of the file that is about to be replaced; a copy where there are no hard links."""
    if not path.exists() or (previous.exists() and path.samefile(previous)):
        return  # renaming one name of a file to another name of it does nothing and leaves both
    link = temporary_beside(previous)
    try:
        os.link(path, link)
    except OSError as error:
        if error.errno in BROKEN:
            raise
        copy(path, previous)
    else:
        os.replace(link, previous)


def temporary_beside(path: Path) -> Path:
    """Where this process prepares the file before it is renamed."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def _fsync_folder(folder: Path) -> None:
    """So that a rename survives a power failure; some file systems cannot."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno in BROKEN:
            raise
