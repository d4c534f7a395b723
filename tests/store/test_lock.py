import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vitbn.store.lock import is_locked, locked


def refuse(number):
    def refused(*args):
        raise OSError(number, os.strerror(number))

    return refused


def test_a_folder_has_one_owner_and_a_dead_owner_lets_go(tmp_path, lock_elsewhere):
    with lock_elsewhere(tmp_path) as process:
        assert is_locked(tmp_path)
        with locked(tmp_path) as acquired:
            assert not acquired
        process.kill()
        process.join()
        assert not is_locked(tmp_path)
        with locked(tmp_path) as acquired:
            assert acquired
        assert (tmp_path / ".lock").read_text() == f"{os.uname().nodename} {os.getpid()}\n"


def test_a_folder_that_is_not_there_is_not_locked(tmp_path):
    assert not is_locked(tmp_path / "nowhere")


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EACCES])
def test_only_a_refused_lock_is_another_process(tmp_path, monkeypatch, caplog, number):
    (tmp_path / ".lock").touch()
    monkeypatch.setattr(fcntl, "lockf", refuse(number))
    with locked(tmp_path) as acquired:
        assert not acquired and is_locked(tmp_path)
    assert not caplog.text


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_excludes_nobody_and_says_so(tmp_path, monkeypatch, caplog, number):
    (tmp_path / ".lock").touch()
    monkeypatch.setattr(fcntl, "lockf", refuse(number))
    with locked(tmp_path) as acquired:
        assert acquired and not is_locked(tmp_path)
    (record,) = caplog.records
    assert "no locks" in record.message and os.strerror(number) in record.message


def test_any_other_failure_is_raised(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "lockf", refuse(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"), locked(tmp_path):
        raise AssertionError("not reached")


def test_a_full_disk_is_no_other_process(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "write", refuse(errno.ENOSPC))
    with locked(tmp_path) as acquired:
        assert acquired


ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("typed", ["train.py model=vit", "-m vitbn train model=vit", "-m vitbn status default"])
def test_without_posix_locks_one_line_names_the_systems(tmp_path, typed):
    """As on Windows, which has no fcntl."""
    module = typed.startswith("-m ")
    program, *arguments = typed.removeprefix("-m ").split()
    run = f"runpy.run_module({program!r}, " if module else f"runpy.run_path({str(ROOT / program)!r}, "
    code = (
        f"import runpy, sys; sys.modules['fcntl'] = None; sys.argv = {[program, *arguments]}; {run}run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == "error: vitbn runs on Linux and macOS; on Windows use its Subsystem for Linux (WSL)\n"
