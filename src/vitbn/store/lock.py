"""One process per folder, across processes and machines.

POSIX record locks (`fcntl.lockf`): the kernel drops them when their process dies, however it dies; NFS carries them
to the server (v4 itself, v3 through lockd); and, unlike `flock`, a forked child does not keep them alive.
The file stays: deleting a lock file lets two processes lock two different files of one name.
"""

import errno
import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

log = logging.getLogger("vitbn")
LOCKED = (errno.EAGAIN, errno.EACCES)
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)  # mounts without locks


@contextmanager
def locked(folder: Path, *, wait: bool = False) -> Iterator[bool]:
    """Whether this process has the lock on the folder until the block ends; with `wait`, when its turn has come.

    Where the file system has no locks the answer is yes, with a warning.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "a") as file:
        acquired = _acquire(file.fileno(), folder)
        if wait and not acquired:
            log.info(f"{folder}: locked by another process, waiting for it")
            acquired = _acquire(file.fileno(), folder, wait=True)
        if acquired:
            with suppress(OSError):  # for people only; a full disk is reported by whoever writes the folder's files
                os.ftruncate(file.fileno(), 0)
                os.write(file.fileno(), f"{os.uname().nodename} {os.getpid()}\n".encode())
        yield acquired


def is_locked(folder: Path) -> bool:
    """Whether some other process has the lock on the folder now; False where that cannot be known."""
    try:
        with open(folder / ".lock") as file:
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in LOCKED and error.filename is None  # with a name it is `open` that was refused
    return False


def _acquire(descriptor: int, folder: Path, wait: bool = False) -> bool:
    for attempt in range(3):  # an onlooker's `is_locked` holds a shared lock for an instant
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            return True
        except OSError as error:
            if error.errno in NO_LOCKS:
                log.warning(
                    f"{folder}: this file system has no locks ({error.strerror}); "
                    "nothing stops a second process from writing here at the same time"
                )
                return True
            if error.errno not in LOCKED:
                raise
            time.sleep(0.05 * attempt)
    return False
