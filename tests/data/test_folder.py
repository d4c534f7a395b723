import os
import shutil
import unicodedata

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
    "nothing": (lambda root: [shutil.rmtree(root / part) for part in ("train", "val")], "no class folders in"),
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
    with pytest.raises(InputError, match="data.holdout=0: .* neither val/ nor test/.*data.holdout=0.2"):
        alone.require_validation(0)
    with pytest.raises(InputError, match="data.holdout=3: .* images of its own to validate on; use 0"):
        whole.require_validation(3)
    alone.require_validation(14)
    for holdout in (15, 0.99):
        with pytest.raises(
            InputError, match=f"data.holdout={holdout}: .*must lie between 1 and 14 of 16 images, so that"
        ):
            alone.require_validation(holdout)


def test_a_fifth_is_held_out_where_there_are_no_others(photos):
    assert scan(photos / "train").default_holdout == 0.2 and scan(photos).default_holdout == 0


def test_what_is_not_understood_is_counted(photos):
    assert scan(photos).passed_over == ""
    cats = photos / "train" / "cat"
    for name in ("a.HEIC", "b.HEIC", "notes", ".hidden.txt", "list.csv"):
        (cats / name).write_text("")
    (cats / "cat0.png").rename(photos / "train" / "cat0.png")
    (photos / "extra").mkdir()
    assert scan(photos).passed_over == "2 .HEIC, 1 without ending, 1 .csv, 1 images outside of class folders, extra/"
    for number, name in enumerate("abcdefg"):
        for copy in range(number + 3):
            (cats / f"{copy}.{name}").write_text("")
    assert scan(photos).passed_over == "9 .g, 8 .f, 7 .e, 6 .d, 5 .c, 12 others, extra/"


@pytest.mark.parametrize(("train", "val"), [("training", "testing"), ("Train", "Test"), ("TRAINING", "Validation")])
def test_parts_by_other_names(photos, train, val):
    (photos / "train").rename(photos / train)
    (photos / "val").rename(photos / val)
    found = scan(photos)
    assert found.classes == ("cat", "dog") and [len(part) for part in found.parts.values()] == [16, 8]
    assert list(found.parts) == ["train", "val" if val == "Validation" else "test"]


def rename(**names):
    return lambda root: [(root / old).rename(root / new) for old, new in names.items()]


def flat(root):
    for part in ("train", "val"):
        for path in list((root / part).glob("*/*")):
            path.rename(root / part / path.name)
        for path in (root / part).iterdir():
            path.is_dir() and path.rmdir()


LAYOUTS = {
    "sets": (
        rename(train="training_set", val="test_set"),
        r"no train/ .*did you mean training_set/\? Rename it to train/",
    ),
    "prefixes": (rename(train="seg_train", val="seg_test"), "seg_test/, seg_train/ but no train/ .*mean seg_train/"),
    "a test alone": (
        lambda root: (shutil.rmtree(root / "train"), rename(val="test")(root)),
        "test/ but no train/ .*expected",
    ),
    "a test among classes": (
        lambda root: (
            rename(val="Test")(root),
            [(root / "train" / name).rename(root / name) for name in ("cat", "dog")],
        ),
        "Test/, train/ but no train/ with class folders; expected",
    ),
    "nearly a val": (rename(val="eval"), r"no val/; did you mean eval/\? Rename it to val/"),
    "short names": (rename(train="trn", val="tst"), "trn/, tst/ but no train/ .*did you mean trn/"),
    "a short test": (rename(val="tst"), "no test/; did you mean tst/"),
    "a holdout": (rename(val="hold-out"), "no val/; did you mean hold-out/"),
    "names of one's own": (rename(train="fold_a", val="fold_b"), "fold_a/, fold_b/ hold the same folders cat/, dog/;"),
    "parts inside of classes": (
        lambda root: (
            [
                (root / part / name).rename((root / name / part, (root / name).mkdir(exist_ok=True))[0])
                for part in ("train", "val")
                for name in ("cat", "dog")
            ]
            + [(root / part).rmdir() for part in ("train", "val")]
        ),
        "train/, val/ inside of cat/, dog/; expected train/<class>/<image>, not the reverse",
    ),
    "no classes": (flat, "train/, val/ but no train/ with class folders; expected train/<class>/<image>"),
    "two of a part": (lambda root: shutil.copytree(root / "val", root / "valid"), "val/ and valid/; keep one"),
    "one folder above": (
        lambda root: (shutil.rmtree(root / "val"), rename(train="pets")(root)),
        "only one class .pets. in .*; did you mean data.root=.*photos/pets",
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_nearly_known_layouts_are_refused_by_name(photos, layout):
    arrange, message = LAYOUTS[layout]
    arrange(photos)
    with pytest.raises(InputError, match=f"data.root={photos}: .*{message}|data.root={photos}: {message}"):
        scan(photos)


def test_classes_may_have_words_of_parts_in_their_names(photos):
    (photos / "train" / "cat").rename(photos / "train" / "bullet train")
    (photos / "train" / "dog").rename(photos / "train" / "test tube")
    (photos / "train" / "spoon").mkdir()
    shutil.copy(next((photos / "val" / "cat").iterdir()), photos / "train" / "spoon")
    assert scan(photos / "train").classes == ("bullet train", "spoon", "test tube")


def test_classes_may_hold_the_same_folders_inside_of_train(photos):
    for name in ("cat", "dog"):
        for side in ("left", "right"):
            (photos / "train" / name / side).mkdir()
            (photos / "train" / name / f"{name}{int(side == 'left')}.png").rename(
                photos / "train" / name / side / "a.png"
            )
        assert scan(photos).classes == ("cat", "dog")


def test_accents_may_be_composed_differently_in_two_parts_but_not_in_one(photos):
    composed, decomposed = (unicodedata.normalize(form, "Café") for form in ("NFC", "NFD"))
    (photos / "train" / "cat").rename(photos / "train" / composed)
    (photos / "val" / "cat").rename(photos / "val" / decomposed)
    found = scan(photos)
    assert found.classes == ("Café", "dog") and len(found.parts["val"]) == 8
    shutil.copytree(photos / "val" / decomposed, photos / "train" / decomposed)
    with pytest.raises(InputError, match="train has two folders Café, which compose a letter differently"):
        scan(photos)


def test_names_that_are_no_text_can_be_printed(photos):
    for part in ("train", "val"):
        os.rename(os.fsencode(photos / part / "cat"), os.fsencode(photos / part) + b"/caf\xe9 $x$ [b]")
    assert scan(photos).classes == ("caf\\xe9 $x$ [b]", "dog")
    (photos / "train" / "dog").rename(photos / "train" / "hound")
    with pytest.raises(InputError, match="lacks hound and adds dog") as error:
        scan(photos)
    str(error.value).encode()


def test_only_folders_of_this_machine(photos, monkeypatch):
    monkeypatch.setenv("HOME", str(photos.parent))
    assert scan("~/photos").classes == ("cat", "dog")
    for root in ("s3://bucket/photos", "https://x.org/a", "gs:/bucket"):
        with pytest.raises(InputError, match=f"data.root={root}: only a folder of this machine"):
            scan(root)
    with pytest.raises(InputError, match="data.root=~nobody-here/x: "):
        scan("~nobody-here/x")
