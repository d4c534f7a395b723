"""Checksummed checkpoint files, written atomically and loaded without running code.

A file is torch's zip archive, then MARK, then the archive's SHA-256: torch ignores what follows the archive, and
the checksum cannot get lost or be of another version, because one rename puts both in place.
"""

import hashlib
import io
import logging
import re
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch.serialization import safe_globals

from vitbn.errors import InputError
from vitbn.store import atomic

log = logging.getLogger("vitbn")
MARK = b"vitbn-sha256:"
LAST, PREVIOUS = "last.ckpt", "previous.ckpt"  # the newest of a training, and the one before
BEST = "best.ckpt"  # of the epoch with the highest val/acc
OF_TRAINING = (LAST, PREVIOUS, BEST)


def add_checksum(archive: bytes) -> bytes:
    """The archive followed by its checksum."""
    return archive + MARK + hashlib.sha256(archive).digest()


def is_valid(path: Path) -> bool:
    """Whether the file's checksum matches its content."""
    if not path.is_file():
        return False
    content = path.read_bytes()
    archive, mark = content[: -len(MARK) - 32], content[-len(MARK) - 32 : -32]
    return mark == MARK and hashlib.sha256(archive).digest() == content[-32:]


def is_sealed(path: Path) -> bool:
    """Whether the file ends as ours do, whole or not."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        file.seek(-min(file.seek(0, io.SEEK_END), len(MARK) + 32), io.SEEK_END)
        return file.read(len(MARK)) == MARK


def latest_valid_checkpoint(folder: Path) -> Path | None:
    """last.ckpt, previous.ckpt if that is corrupt, or None; logs corrupt files."""
    for path in (folder / LAST, folder / PREVIOUS):
        if path.exists():
            if is_valid(path):
                return path
            log.warning(f"{path}: damaged (its SHA-256 does not match), going back to the checkpoint before")
    return None


def save(content: dict[str, Any], path: Path) -> None:
    """Write the file atomically; the last.ckpt before is kept as previous.ckpt."""
    path.parent.mkdir(parents=True, exist_ok=True)
    archive = io.BytesIO()
    torch.save(content, archive)
    if path.name == LAST:
        atomic.keep_previous(path, path.with_name(PREVIOUS))
    atomic.write(path, lambda file: file.write(add_checksum(archive.getvalue())))


class StandIn:
    """In place of an object whose class is not imported for a file: it keeps the attributes and does nothing."""

    def __new__(cls, *args: Any) -> Any:
        return super().__new__(cls)

    def __init__(self, *args: Any) -> None:
        self.attributes: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        self.attributes = state if isinstance(state, dict) else {}


class DictStandIn:
    """The same for a kind of dictionary: a plain one."""

    def __new__(cls, *args: Any) -> Any:
        return OrderedDict()


def load(path: str | Path, device: Any = "cpu", *, stand_ins: bool = False) -> dict[str, Any]:
    """Under torch's safe loading; InputError for a file that holds code, is compressed or is no checkpoint.

    With `stand_ins`, what would need other people's classes, such as a training script's options, is kept as data.
    """
    try:
        _require_stored(Path(path))
        classes = _stand_ins(path) if stand_ins else []
        with warnings.catch_warnings(action="ignore"), safe_globals(classes):  # warnings of what is refused anyway
            return torch.load(path, map_location=device, weights_only=True)
    except (OSError, InputError):
        raise
    except Exception as error:  # torch's unpickler raises whatever arbitrary bytes lead it to
        code = re.search(r"GLOBAL (\S+) (was not|whose)", str(error))  # torch goes on to say how to run it
        reason = f"it wants {code[1]} to be called" if code else "damaged, or of another format"
        raise InputError(f"{path}: refused, not a checkpoint of weights and plain data ({reason})") from None


def _require_stored(path: Path) -> None:
    """Torch stores; a compressed archive, or one that says to be larger than it is, would fill the memory.

    So would a bytearray of any length, which torch's unpickler allows; no checkpoint has one.
    """
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":
            _require_no_bytearray(path, path.read_bytes())
            return
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            if any(e.compress_type != zipfile.ZIP_STORED for e in entries):
                raise InputError(f"{path}: refused, it is compressed, which torch's files never are")
            if (said := sum(e.file_size for e in entries)) > (there := file.seek(0, io.SEEK_END)):
                raise InputError(f"{path}: refused, {said:,} bytes are said to be in a file of {there:,}")
            for entry in entries:
                if entry.filename.endswith(".pkl"):
                    _require_no_bytearray(path, archive.read(entry))


def _require_no_bytearray(path: Path, pickle: bytes) -> None:
    if b"bytearray" in pickle:
        raise InputError(f"{path}: refused, it wants bytearray to be called")


def _stand_ins(path: str | Path) -> list[Any]:
    """Something harmless for every name in the file that torch does not allow by itself."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except ValueError:  # of before torch 1.6
        return []
    return [(DictStandIn if name.lower().endswith("dict") else StandIn, name) for name in names]
