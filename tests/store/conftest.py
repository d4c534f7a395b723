import multiprocessing
from contextlib import contextmanager

import pytest

from vitbn.store.lock import locked


def hold(folder, ready, release):
    with locked(folder) as acquired:
        ready.put(acquired)
        release.get()


@pytest.fixture
def lock_elsewhere():
    """Another process has the lock on the folder while the block lasts (a process does not exclude itself)."""

    @contextmanager
    def lock(folder):
        context = multiprocessing.get_context("spawn")
        ready, release = context.Queue(), context.Queue()
        process = context.Process(target=hold, args=(folder, ready, release))
        process.start()
        assert ready.get(timeout=60)
        yield process
        release.put(None)
        process.join()

    return lock
