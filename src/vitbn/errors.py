"""Errors whose message is meant for the person at the keyboard."""

import errno

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class InputError(ValueError):
    """Bad input: one line that names the key or file, the value, and the choices or the remedy."""


class RunFailed(Exception):
    """A training failed and has logged why; Hydra counts the job as failed."""


def describe(error: BaseException) -> str:
    """The error in one line, with the remedy for a full disk."""
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        where = f" at {error.filename}" if error.filename else ""
        return f"disk full{where}: free some space and type the same command again; the last checkpoint is whole"
    return " ".join(str(error).split())
