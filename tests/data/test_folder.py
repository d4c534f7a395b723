import os
import shutil

import pytest
from torchvision.datasets import ImageFolder

from vitbn.data import folder
from vitbn.errors import InputError


@pytest.fixture(autouse=True)
def forget():
    """Tests change folders, which a process reads once."""
    folder.scan.cache_clear()


def scan(root):
    folder.scan.cache_clear()
    return folder.scan(str(root))


def test_parts_classes_and_files_are_found_as_torchvision_finds_them(photos):
    found = scan(photos)
    assert found.classes == ("cat", "dog") and list(found.parts) == ["train", "val"]
    for part, files in found.parts.items():
        theirs = ImageFolder(photos / part)
        assert {(str(photos / file.path), file.label) for file in files} == set(theirs.samples)
        assert found.classes == tuple(theirs.classes)
    assert [len(part) for part in found.parts.values()] == [16, 8] and len(found.files) == 24


@pytest.mark.parametrize("name", ["valid", "validation"])
def test_other_names_of_val_and_a_test_part(photos, name):
    (photos / "val").rename(photos / name)
    shutil.copytree(photos / name, photos / "test")
    assert list(scan(photos).parts) == ["train", "val", "test"]


def test_class_folders_alone_are_training_images(photos):
    found = scan(photos / "train")
    assert list(found.parts) == ["train"] and len(found.files) == 16


def test_a_class_may_be_called_train(photos):
    (photos / "train" / "cat").rename(photos / "train" / "train")
    assert scan(photos / "train").classes == ("dog", "train")


def test_folders_inside_classes_are_searched_hidden_and_other_files_passed_over(photos):
    cats = photos / "train" / "cat"
    (cats / "kittens").mkdir()
    (cats / "cat0.png").rename(cats / "kittens" / "cat0.PNG")
    (cats / "notes.txt").write_text("")
    (cats / "._cat1.png").write_text("")
    (photos / "train" / ".git").mkdir()
    found = scan(photos)
    assert found.classes == ("cat", "dog") and len(found.parts["train"]) == 16
    assert "train/cat/kittens/cat0.PNG" in {file.path for file in found.files}


def test_files_are_in_the_order_of_their_names_whatever_their_class(photos):
    for number in range(8):
        for name in ("cat", "dog"):
            path = photos / "train" / name / f"{name}{number}.png"
            path.rename(path.with_name(f"{2 * number + (name == 'cat'):03}.png"))
    labels = [file.label for file in scan(photos).parts["train"]]
    assert labels == [1, 0] * 8


def test_the_content_is_names_and_sizes_wherever_the_folder_lies(photos, tmp_path):
    before = scan(photos).content
    shutil.copytree(photos, tmp_path / "copy")
    os.utime(tmp_path / "copy" / "train" / "cat" / "cat0.png", (1, 1))
    assert scan(tmp_path / "copy").content == before
    with open(tmp_path / "copy" / "train" / "cat" / "cat0.png", "ab") as file:
        file.write(b"x")
    assert scan(tmp_path / "copy").content != before
    (photos / "train" / "dog" / "dog1.png").rename(photos / "train" / "dog" / "hound.png")
    assert scan(photos).content != before


def empty(root):
    for path in (root / "val" / "dog").iterdir():
        path.unlink()


MISTAKES = {
    "no folder": (shutil.rmtree, "no such folder"),
    "a file": (lambda root: (shutil.rmtree(root), root.write_text("")), "a file, not a folder"),
    "a ring": (lambda root: (root / "val" / "dog" / "ring").symlink_to("."), "Too many levels of symbolic links"),
    "empty class": (empty, "photos/val/dog holds no images"),
    "one class": (lambda root: shutil.rmtree(root / "train" / "dog"), r"only one class \(cat\) in .*train"),
    "no classes": (lambda root: [shutil.rmtree(root / part) for part in ("train", "val")], "no class folders in"),
    "a class less": (lambda root: shutil.rmtree(root / "val" / "dog"), "val/ lacks dog and adds nothing"),
    "a class more": (lambda root: (root / "val" / "eel").mkdir(), "val/ lacks nothing and adds eel"),
    "another class": (lambda root: (root / "val" / "dog").rename(root / "val" / "eel"), "val/ lacks dog and adds eel"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named_in_one_line(photos, mistake):
    spoil, message = MISTAKES[mistake]
    spoil(photos)
    with pytest.raises(InputError, match=f"data.root={photos}: .*{message}|data.root={photos}: {message}") as error:
        scan(photos)
    assert "\n" not in str(error.value)


def test_something_must_be_there_to_validate_on_and_only_one_thing(photos):
    whole, alone = scan(photos), scan(photos / "train")
    whole.require_validation(0)
    alone.require_validation(3)
    with pytest.raises(InputError, match="data.holdout=0: .* neither val/ nor test/.*data.holdout=1000"):
        alone.require_validation(0)
    with pytest.raises(InputError, match="data.holdout=3: .* images of its own to validate on; use 0"):
        whole.require_validation(3)
    alone.require_validation(15)
    with pytest.raises(InputError, match="data.holdout=16: must lie between 1 and 15"):
        alone.require_validation(16)
