"""One owner per folder, across processes and machines.

POSIX record locks (`fcntl.lockf`): the kernel drops them when the owner dies, however it dies; NFS carries them
to the server (v4 itself, v3 through lockd); and, unlike `flock`, a forked child does not keep them alive.
The file stays: deleting a lock file lets two processes lock two different files of one name.
"""

import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger("vitbn")


@contextmanager
def owned(folder: Path, *, wait: bool = False) -> Iterator[bool]:
    """Whether this process owns the folder now, or after its turn has come; it does until the block ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "a") as file:
        mine = _acquire(file.fileno())
        if wait and not mine:
            log.info(f"{folder}: in the hands of another process, waiting for it")
            mine = _acquire(file.fileno(), wait=True)
        yield mine


def is_owned(folder: Path) -> bool:
    """Whether some other process owns the folder now."""
    try:
        with open(folder / ".lock") as file:
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def _acquire(descriptor: int, wait: bool = False) -> bool:
    for attempt in range(3):  # an onlooker's `is_owned` holds a shared lock for an instant
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"{os.uname().nodename} {os.getpid()}\n".encode())
            return True
        except OSError:
            time.sleep(0.05 * attempt)
    return False
