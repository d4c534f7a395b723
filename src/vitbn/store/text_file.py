"""Text and JSON files that anybody may have written: their content, or one line that says what is wrong."""

import json
import stat
from pathlib import Path
from typing import Any

from vitbn.errors import InputError


def read_text(path: Path, errors: str = "strict", most: int | None = None) -> str:
    """The text of a regular file of at most so many bytes; InputError for a folder, a FIFO or what is no UTF-8.

    OSError if it cannot be opened.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # opening a FIFO would wait for ever
        raise InputError(f"{path}: not a regular file")
    if most is not None and status.st_size > most:
        raise InputError(f"{path}: {status.st_size:,} bytes, more than {most:,}")
    try:
        return path.read_text(encoding="utf-8", errors=errors)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not text ({error})") from None


def read_json(path: Path) -> dict[str, Any]:
    """The mapping in a JSON file; InputError for anything else, OSError if it cannot be opened."""
    text = read_text(path)
    try:
        content = json.loads(text)
        if "\\ud" in text.lower():  # half of a character, which no file can hold; a name's bytes that are no text can
            json.dumps(content, ensure_ascii=False).encode(errors="surrogateescape")
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: broken JSON ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: not a JSON object")
    return content
