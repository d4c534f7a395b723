"""Image files decoded once into one array on disk, which is mapped into memory and never read as a whole.

<folder>/images.u8    uint8 (N, C, S, S), one image after the other in the order of the files; black for a bad one
<folder>/index.json   what the array was made of, its shape and the bad files; written last, so it vouches for the array
"""

import errno
import json
import logging
import math
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from vitbn.data.decode import decode
from vitbn.data.folder import File, digest
from vitbn.errors import InputError
from vitbn.progress import track
from vitbn.store import atomic
from vitbn.store.lock import locked

log = logging.getLogger("vitbn")
VERSION = 2  # of what `decode` makes of a file
CHUNK = 512  # files handed to the threads at a time: bounds what waits to be written
MAX_NAMED = 5  # bad files named in a message
UNUSABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)  # of a place, whatever is written


def cached_images(
    files: Sequence[File], *, root: Path, folder: Path, size: int, channels: int, skip_bad: bool
) -> tuple[NDArray[np.uint8], list[int]]:
    """(the images of the files below `root`, the rows of bad ones), from the cache in `folder` or newly decoded.

    The images are decoded again when a name, a size or a time of the files has changed. Without `skip_bad` a bad
    file is an InputError that names it; with it, bad files are reported.
    """
    shape = (len(files), channels, size, size)
    made_of = {
        "version": VERSION, "shape": list(shape),
        "files": digest((file.path, file.size, file.mtime) for file in files),
    }  # fmt: skip
    try:
        with locked(folder, wait=True) as mine:
            if not mine:
                raise InputError(f"{folder}: cannot be locked; name a folder that can, data.cache=DIR")
            bad = _read_index(folder, made_of)
            if bad is None:
                bad = _decode_all(files, root, folder, made_of, skip_bad)
            images = _mapped(folder, shape)
    except OSError as error:
        if error.errno not in UNUSABLE:
            raise
        bad = _read_index(folder, made_of)
        if bad is None:
            remedy = "name a folder that can, data.cache=DIR"
            raise InputError(f"{error.filename}: cannot be written ({error.strerror}); {remedy}") from None
        images = _mapped(folder, shape)  # nothing to write where everything is there
    _report(bad, skip_bad, folder)
    return images, [row for row, file in enumerate(files) if file.path in bad]


def _mapped(folder: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    # copy on write: torch asks for an array that could be written to; the file itself never is
    return np.memmap(folder / "images.u8", np.uint8, mode="c", shape=shape)


def _read_index(folder: Path, made_of: dict[str, Any]) -> dict[str, str] | None:
    """The bad files of a cache that is whole and made of just these files; None if there is no such cache."""
    index_file = folder / "index.json"
    try:
        index = json.loads(index_file.read_text()) if index_file.is_file() else None  # a pipe would never end
        whole = (folder / "images.u8").stat().st_size == math.prod(made_of["shape"])
    except (OSError, ValueError, RecursionError):
        return None
    if not whole or not isinstance(index, dict) or index.get("made_of") != made_of:
        return None
    bad = index.get("bad")
    return bad if isinstance(bad, dict) and all(isinstance(reason, str) for reason in bad.values()) else None


def _decode_all(
    files: Sequence[File], root: Path, folder: Path, made_of: dict[str, Any], skip_bad: bool
) -> dict[str, str]:
    for leftover in folder.glob(atomic.TEMPORARY):
        leftover.unlink()
    _, channels, size, _ = made_of["shape"]
    _require_space(folder, math.prod(made_of["shape"]))
    bad: dict[str, str] = {}

    def decode_one(file: File) -> NDArray[np.uint8]:
        try:
            return decode(root / file.path, channels=channels, size=size)
        except InputError as error:
            if not skip_bad:
                raise InputError(f"{error}; mend or remove it, or leave it out with data.on_bad_image=skip") from None
            bad[file.path] = str(error)
            return np.zeros((channels, size, size), np.uint8)

    def write_images(out: BinaryIO) -> None:
        with ThreadPoolExecutor() as pool:  # Pillow decodes and resizes outside of Python's lock
            chunks = (files[first : first + CHUNK] for first in range(0, len(files), CHUNK))
            images = (pixels for chunk in chunks for pixels in pool.map(decode_one, chunk))
            for pixels in track(images, f"decoding {root}", len(files)):
                out.write(pixels.tobytes())

    log.info(f"{root}: decoding {len(files):,} images into {folder}")
    atomic.write(folder / "images.u8", write_images)
    atomic.write_json(folder / "index.json", {"made_of": made_of, "bad": bad})
    return bad


def _require_space(folder: Path, needed: int) -> None:
    if needed > (free := shutil.disk_usage(folder).free):
        sizes = f"the decoded images take {needed / 1e9:.2f} GB and {free / 1e9:.2f} GB are free"
        raise InputError(f"{folder}: {sizes}; make room, lower data.cache_size, or name another folder, data.cache=DIR")


def _report(bad: dict[str, str], skip_bad: bool, folder: Path) -> None:
    if not bad:
        return
    named = "; ".join(sorted(bad.values())[:MAX_NAMED])
    if len(bad) > MAX_NAMED:
        named += f" and {len(bad) - MAX_NAMED} more, all of them in {folder / 'index.json'}"
    if not skip_bad:
        raise InputError(f"{named}; mend or remove them, or leave them out with data.on_bad_image=skip")
    log.warning(f"left out {len(bad)} image{'s' if len(bad) > 1 else ''}: {named}")
