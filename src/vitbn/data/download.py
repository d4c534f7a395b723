"""Downloads that leave complete files or nothing."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vitbn.errors import InputError
from vitbn.store.lock import locked


@contextmanager
def download_folder(target: Path, name: str, remedy: str) -> Iterator[Path]:
    """A temporary folder inside `target` to download into; the caller moves what is complete into `target`.

    One process at a time gets there, so look again whether anything is missing.
    If the download fails, folders made for it are removed and InputError says why and what to do.
    """
    made = [folder for folder in (target, *target.parents) if not folder.exists()]
    try:
        target.mkdir(parents=True, exist_ok=True)
        with locked(target, wait=True), tempfile.TemporaryDirectory(prefix=".download-", dir=target) as temporary:
            try:
                yield Path(temporary)
            finally:  # whoever waits finds the files complete, so it may lock a file that has no name any more
                (target / ".lock").unlink(missing_ok=True)
    except (OSError, RuntimeError) as error:
        for folder in made:
            with suppress(OSError):
                folder.rmdir()
        reason = " ".join(str(error).split()).rstrip(":")
        raise InputError(f"{target}: {name} is not there and cannot be downloaded ({reason}); {remedy}") from None
