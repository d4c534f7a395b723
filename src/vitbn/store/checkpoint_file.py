"""Checksummed checkpoint files, written atomically and loaded without running code.

A file is torch's zip archive, then MARK, then the archive's SHA-256: torch ignores what follows the archive, and
the checksum cannot get lost or be of another version, because one rename puts both in place.
"""

import hashlib
import io
import logging
import re
import warnings
from pathlib import Path
from typing import Any

import torch

from vitbn.errors import InputError
from vitbn.store import atomic

log = logging.getLogger("vitbn")
MARK = b"vitbn-sha256:"
LAST, PREVIOUS = "last.ckpt", "previous.ckpt"  # the newest of a training, and the one before
OF_TRAINING = (LAST, PREVIOUS, "best.ckpt")


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


def load(path: str | Path, device: Any = "cpu") -> dict[str, Any]:
    """Under torch's safe loading; InputError for a file that holds code or is no checkpoint."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of what is refused anyway
            return torch.load(path, map_location=device, weights_only=True)
    except OSError:
        raise
    except Exception as error:  # torch's unpickler raises whatever arbitrary bytes lead it to
        code = re.search(r"GLOBAL (\S+) (was not|whose)", str(error))  # torch goes on to say how to run it
        reason = f"it wants {code[1]} to be called" if code else "damaged, or of another format"
        raise InputError(f"{path}: refused, not a checkpoint of weights and plain data ({reason})") from None
