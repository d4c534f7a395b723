import errno
import fcntl
import json
import multiprocessing
import os
import shutil

import numpy as np
import pytest

from vitbn.data import image_cache
from vitbn.data.decode import decode
from vitbn.data.folder import scan
from vitbn.errors import InputError


def cached_images(root, folder, **changes):
    scan.cache_clear()
    options = {"size": 20, "channels": 3, "skip_bad": False, **changes}
    return image_cache.cached_images(scan(str(root)).files, root=root, folder=folder, **options)


@pytest.fixture
def decoded(monkeypatch):
    """Counts the files that are decoded."""
    paths = []
    monkeypatch.setattr(image_cache, "decode", lambda path, **options: (paths.append(path), decode(path, **options))[1])
    return paths


def test_every_image_is_decoded_once_in_the_order_of_the_files(photos, tmp_path, decoded, monkeypatch):
    monkeypatch.setattr(image_cache, "CHUNK", 7)
    images, bad = cached_images(photos, tmp_path / "c")
    expected = np.stack([decode(photos / file.path, channels=3, size=20) for file in scan(str(photos)).files])
    assert np.array_equal(images, expected) and bad == [] and len(decoded) == 24
    again, _ = cached_images(photos, tmp_path / "c")
    assert np.array_equal(again, expected) and len(decoded) == 24
    assert isinstance(images, np.memmap) and sorted(os.listdir(tmp_path / "c")) == [".lock", "images.u8", "index.json"]


def touch(path):
    os.utime(path, (1, 1))


def replace(path):
    path.with_name("dog1.png").rename(path)


@pytest.mark.parametrize("change", [touch, replace, lambda path: path.rename(path.with_name("cow.png"))])
def test_a_changed_folder_is_decoded_again(photos, tmp_path, decoded, change):
    cached_images(photos, tmp_path / "c")
    change(photos / "train" / "dog" / "dog0.png")
    decoded.clear()
    images, _ = cached_images(photos, tmp_path / "c")
    files = scan(str(photos)).files
    assert len(decoded) == len(files) == len(images)
    assert np.array_equal(images[9], decode(photos / files[9].path, channels=3, size=20))


@pytest.mark.parametrize("changes", [{"size": 21}, {"channels": 1}])
def test_another_size_or_colour_is_decoded_again(photos, tmp_path, decoded, changes):
    cached_images(photos, tmp_path / "c")
    images, _ = cached_images(photos, tmp_path / "c", **changes)
    assert len(decoded) == 48 and images.shape == (24, changes.get("channels", 3), *[changes.get("size", 20)] * 2)


DAMAGES = ["cut", "gone", "no index", "half an index", "a list", "nested", "no reasons", "no text", "a pipe"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_is_made_again(photos, tmp_path, decoded, damage):
    expected = np.array(cached_images(photos, tmp_path / "c")[0])
    array, index = tmp_path / "c" / "images.u8", tmp_path / "c" / "index.json"
    {
        "cut": lambda: os.truncate(array, 100), "gone": array.unlink, "no index": index.unlink,
        "half an index": lambda: index.write_text(index.read_text()[:20]),
        "a list": lambda: index.write_text("[]"),
        "nested": lambda: index.write_text("[" * 100_000),
        "no reasons": lambda: index.write_text(index.read_text().replace('"bad": {}', '"bad": [1]')),
        "no text": lambda: index.write_bytes(b"\xff\xfe"),
        "a pipe": lambda: (index.unlink(), os.mkfifo(index)),
    }[damage]()  # fmt: skip
    assert np.array_equal(cached_images(photos, tmp_path / "c")[0], expected) and len(decoded) == 48


def test_an_interrupted_decoding_leaves_nothing_that_counts(photos, tmp_path, monkeypatch):
    def dies(path, **options):
        if path.name == "dog5.png":
            raise KeyboardInterrupt
        return decode(path, **options)

    monkeypatch.setattr(image_cache, "decode", dies)
    with pytest.raises(KeyboardInterrupt):
        cached_images(photos, tmp_path / "c")
    (tmp_path / "c" / ".images.u8.1.tmp").write_bytes(b"what a killed process leaves")
    assert not (tmp_path / "c" / "index.json").exists()
    monkeypatch.setattr(image_cache, "decode", decode)
    images, _ = cached_images(photos, tmp_path / "c")
    assert images[:, 0].any((1, 2)).all() and not list((tmp_path / "c").glob("*.tmp"))


def test_an_array_that_its_index_does_not_know_does_not_count(photos, tmp_path, decoded, monkeypatch):
    """Killed between the two: the new array beside the old index."""
    cached_images(photos, tmp_path / "c")
    touch(photos / "train" / "dog" / "dog0.png")
    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(image_cache.atomic, "write_json", lambda *args: (_ for _ in ()).throw(RuntimeError))
        cached_images(photos, tmp_path / "c")
    decoded.clear()
    cached_images(photos, tmp_path / "c")
    assert len(decoded) == 24


def build(root, folder, barrier, results):
    count = []
    image_cache.decode = lambda path, **options: (count.append(path), decode(path, **options))[
        1
    ]  # in this process only
    barrier.wait()
    results.put((cached_images(root, folder)[0].sum(), len(count)))


def test_two_processes_make_one_cache(photos, tmp_path):
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(2), context.Queue()
    workers = [context.Process(target=build, args=(photos, tmp_path / "c", barrier, results)) for _ in range(2)]
    for worker in workers:
        worker.start()
    sums, counts = zip(*(results.get(timeout=60) for _ in workers), strict=True)
    for worker in workers:
        worker.join()
    assert sums[0] == sums[1] == cached_images(photos, tmp_path / "other")[0].sum()
    assert sorted(counts) == [0, 24], "the second waits and finds what the first has made"


def test_a_folder_in_other_hands_is_waited_for(photos, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO", "vitbn")

    def busy(descriptor, how):
        if how & fcntl.LOCK_NB:
            raise BlockingIOError(errno.EAGAIN, "busy")  # to whoever does not wait

    monkeypatch.setattr(fcntl, "lockf", busy)
    assert len(cached_images(photos, tmp_path / "c")[0]) == 24
    assert f"{tmp_path / 'c'}: locked by another process, waiting for it" in caplog.text
    monkeypatch.setattr(fcntl, "lockf", lambda *args: (_ for _ in ()).throw(OSError(errno.EACCES, "refused")))
    with pytest.raises(InputError, match=f"{tmp_path / 'c'}: cannot be locked; .*data.cache=DIR"):
        cached_images(photos, tmp_path / "c")


@pytest.fixture
def damaged(photos):
    path = photos / "train" / "dog" / "dog3.png"
    path.write_bytes(path.read_bytes()[:-200])
    return path


def test_a_damaged_image_is_refused_by_name(photos, tmp_path, damaged):
    with pytest.raises(InputError, match=f"{damaged}: cannot be read .*data.on_bad_image=skip") as error:
        cached_images(photos, tmp_path / "c")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "c" / "images.u8").exists()


def test_a_damaged_image_is_skipped_and_reported(photos, tmp_path, damaged, caplog, decoded):
    for _ in range(2):  # newly decoded, then from the cache
        images, bad = cached_images(photos, tmp_path / "c", skip_bad=True)
        files = scan(str(photos)).files
        assert [files[row].path for row in bad] == ["train/dog/dog3.png"] and len(images) == 24
        assert "left out 1 image: " in caplog.text and str(damaged) in caplog.text
        caplog.clear()
    assert len(decoded) == 24
    with pytest.raises(InputError, match=f"{damaged}: cannot be read"):
        cached_images(photos, tmp_path / "c", skip_bad=False)


def test_of_many_damaged_images_some_are_named(photos, tmp_path, caplog):
    for path in (photos / "train").rglob("*.png"):
        path.write_bytes(b"")
    _, bad = cached_images(photos, tmp_path / "c", skip_bad=True)
    assert len(bad) == 16 and "left out 16 images" in caplog.text and "and 11 more, all of them in" in caplog.text
    index = json.loads((tmp_path / "c" / "index.json").read_text())
    assert len(index["bad"]) == 16 and str(tmp_path / "c" / "index.json") in caplog.text


def read_only(path, **options):
    raise PermissionError(13, "Permission denied", str(path))


def test_a_place_that_cannot_be_written_is_named(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(image_cache, "locked", read_only)
    with pytest.raises(InputError, match=f"{tmp_path / 'c'}: cannot be written.*data.cache=DIR"):
        cached_images(photos, tmp_path / "c")


def test_a_complete_cache_that_cannot_be_written_is_read(photos, tmp_path, monkeypatch):
    images, _ = cached_images(photos, tmp_path / "c")
    monkeypatch.setattr(image_cache, "locked", read_only)
    assert (cached_images(photos, tmp_path / "c")[0] == images).all()


def test_a_file_in_place_of_the_cache_is_named(photos, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/c: cannot be written \(Not a directory\); .*data.cache=DIR"):
        cached_images(photos, tmp_path / "file" / "c")


def test_a_disk_without_room_is_told_before_anything_is_decoded(photos, tmp_path, decoded, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=24 * 3 * 20 * 20 - 1))
    with pytest.raises(InputError, match=f"{tmp_path / 'c'}: the decoded images take 0.00 GB .*data.cache_size"):
        cached_images(photos, tmp_path / "c")
    assert not decoded
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=24 * 3 * 20 * 20))
    cached_images(photos, tmp_path / "c")


def test_a_disk_that_fills_up_is_named(photos, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")  # as the system says it: without a name

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="images.u8") as error:
        cached_images(photos, tmp_path / "c")
    assert error.value.errno == errno.ENOSPC and not list((tmp_path / "c").glob(".images*"))


def test_a_link_to_nothing_is_a_bad_image_not_a_bad_folder(photos, tmp_path, caplog):
    (photos / "train" / "cat" / "lost.png").symlink_to("nowhere.png")
    with pytest.raises(InputError, match="lost.png: no such file; .*data.on_bad_image=skip"):
        cached_images(photos, tmp_path / "c")
    images, bad = cached_images(photos, tmp_path / "c", skip_bad=True)
    assert len(images) == 25 and len(bad) == 1 and "lost.png: no such file" in caplog.text


def test_the_index_says_what_the_array_is(photos, tmp_path):
    cached_images(photos, tmp_path / "c")
    index = json.loads((tmp_path / "c" / "index.json").read_text())
    assert index["made_of"]["shape"] == [24, 3, 20, 20] and index["bad"] == {}
    shutil.copy(tmp_path / "c" / "images.u8", tmp_path / "raw")
    assert np.fromfile(tmp_path / "raw", np.uint8).size == 24 * 3 * 20 * 20
