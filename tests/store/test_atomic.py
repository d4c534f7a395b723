import errno
import os

import pytest

from vitbn.store import atomic


def refuse(number):
    def refused(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    return refused


def test_a_write_that_fails_leaves_the_file_as_it_was_and_names_it(tmp_path):
    path = tmp_path / "x.json"
    atomic.write_json(path, {"a": 1})

    def fill(file):
        file.write(b"half")
        refuse(errno.ENOSPC)()

    with pytest.raises(OSError, match="No space left") as caught:
        atomic.write(path, fill)
    assert caught.value.filename == str(path)
    assert path.read_text() == '{\n  "a": 1\n}\n' and os.listdir(tmp_path) == ["x.json"]


def test_json_that_no_other_tool_could_read_is_refused(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        atomic.write_json(tmp_path / "x.json", float("nan"))
    assert os.listdir(tmp_path) == []


REFUSALS = [errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM, errno.EACCES, errno.EXDEV, errno.EMLINK]


@pytest.mark.parametrize("number", [*REFUSALS, errno.EBADF, errno.EISDIR])
def test_a_folder_that_cannot_be_synced_does_not_fail_the_write(tmp_path, monkeypatch, number):
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: sync(fd) if os.path.isfile(f"/proc/self/fd/{fd}") else refuse(number)())
    atomic.write_text(tmp_path / "x", "whole")
    assert (tmp_path / "x").read_text() == "whole"


def test_a_folder_that_may_not_be_opened_does_not_fail_the_write(tmp_path, monkeypatch):
    open_file = os.open
    monkeypatch.setattr(
        os, "open", lambda path, *more: refuse(errno.EACCES)() if path == tmp_path else open_file(path, *more)
    )
    atomic.write_text(tmp_path / "x", "whole")
    assert (tmp_path / "x").read_text() == "whole"


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_any_other_failure_of_the_folder_is_raised(tmp_path, monkeypatch, number):
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: sync(fd) if os.path.isfile(f"/proc/self/fd/{fd}") else refuse(number)())
    with pytest.raises(OSError):
        atomic.write_text(tmp_path / "x", "whole")


@pytest.mark.parametrize("number", [None, *REFUSALS])
def test_the_previous_file_is_kept_with_or_without_hard_links(tmp_path, monkeypatch, number):
    if number is not None:
        monkeypatch.setattr(os, "link", refuse(number))
    path, previous = tmp_path / "last", tmp_path / "previous"
    for content in ("one", "two", "three"):
        atomic.keep_previous(path, previous)
        atomic.write_text(path, content)
    assert (path.read_text(), previous.read_text()) == ("three", "two")
    assert sorted(os.listdir(tmp_path)) == ["last", "previous"]


def test_a_full_disk_is_no_missing_hard_link(tmp_path, monkeypatch):
    (tmp_path / "last").write_text("one")
    monkeypatch.setattr(os, "link", refuse(errno.ENOSPC))
    with pytest.raises(OSError, match="No space left"):
        atomic.keep_previous(tmp_path / "last", tmp_path / "previous")
