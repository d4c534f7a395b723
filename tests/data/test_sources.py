import shutil
import sys
from importlib import invalidate_caches
from pathlib import Path

import numpy as np
import pytest

from vitbn.data import sources
from vitbn.data.decode import decode
from vitbn.data.folder import scan
from vitbn.errors import InputError

OPTIONS = {"cache_size": 20, "channels": 3, "on_bad_image": "error"}


def load(root, name="folder", **changes):
    scan.cache_clear()
    return sources.load(name, root, **{**OPTIONS, **changes})


def test_splits_are_rows_of_one_mapped_array(photos):
    source = load(photos)
    assert source.classes == ("cat", "dog") and len(source.test) == 0
    assert (len(source.train), len(source.val)) == (16, 8)
    assert source.train.stored.data_ptr() == source.val.stored.data_ptr()
    for part in ("train", "val"):
        split = getattr(source, part)
        for row, file in enumerate(scan(str(photos)).parts[part]):
            expected = decode(photos / file.path, channels=3, size=20)
            assert np.array_equal(split.images[row], expected) and split.labels[row] == file.label


def test_the_cache_lies_beside_the_images_or_where_it_is_told(photos, tmp_path):
    load(photos)
    assert (photos / ".vitbn-cache" / "20px-3ch" / "images.u8").exists()
    shutil.copytree(photos, tmp_path / "other" / "photos")
    for root in (photos, tmp_path / "other" / "photos"):
        load(root, cache=str(tmp_path / "elsewhere"))
    assert len(list((tmp_path / "elsewhere").glob("photos-*/20px-3ch/images.u8"))) == 2


def test_a_skipped_image_leaves_its_label_with_it(photos):
    (photos / "train" / "cat" / "cat2.png").write_bytes(b"")
    with pytest.raises(InputError, match="cat2.png: cannot be read"):
        load(photos)
    source = load(photos, on_bad_image="skip")
    assert len(source.train) == 15 and source.train.labels.bincount().tolist() == [7, 8]
    files = [file for file in scan(str(photos)).parts["train"] if "cat2" not in file.path]
    for row, file in enumerate(files):
        assert np.array_equal(source.train.images[row], decode(photos / file.path, channels=3, size=20))


def test_a_class_without_a_readable_image_is_named(photos):
    for path in (photos / "val" / "dog").iterdir():
        path.write_bytes(b"")
    with pytest.raises(InputError, match="no image of class dog in val can be read"):
        load(photos, on_bad_image="skip")


@pytest.fixture
def imagenette(photos, monkeypatch):
    """Stands for torchvision's data set, whose download is a copy of the photos."""
    import torchvision

    class Imagenette:
        def __init__(self, root, split, size, download=False):
            assert size == "160px"
            if download:
                shutil.copytree(photos, Path(root) / "imagenette2-160")
            self.classes = [("tabby", "tabby cat"), ("hound",)]

    monkeypatch.setattr(torchvision.datasets, "Imagenette", Imagenette)
    return Imagenette


def test_imagenette_is_downloaded_once_and_has_spoken_classes(imagenette, tmp_path, monkeypatch):
    root = tmp_path / "data"
    source = load(root, "imagenette", size=160)
    assert source.classes == ("tabby", "hound") and (len(source.train), len(source.val)) == (16, 8)
    assert [path.name for path in root.iterdir()] == ["imagenette2-160"]
    monkeypatch.setattr("vitbn.data.sources.download_folder", None)
    assert len(load(root, "imagenette", size=160).train) == 16


def test_a_download_that_fails_says_what_to_do_and_leaves_nothing_half(tmp_path, monkeypatch):
    import torchvision

    def failing(root, split, size, download):
        (Path(root) / "imagenette2-160" / "train").mkdir(parents=True)
        raise RuntimeError("Error downloading:\nno network")

    monkeypatch.setattr(torchvision.datasets, "Imagenette", failing)
    with pytest.raises(InputError, match="imagenette2-160 is not there .*no network.*unpack imagenette2.*data=folder"):
        load(tmp_path, "imagenette", size=160)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="data.size=200: choose from 160, 320, full"):
        load(tmp_path, "imagenette", size=200)


def test_unknown_names_are_listed():
    with pytest.raises(InputError, match="unknown data 'nmist'; choose from mnist, .*, folder, imagenette"):
        sources.load("nmist", None)


@pytest.fixture
def own(tmp_path, monkeypatch):
    """`own(body)` writes a module with a function `load(root, *, size)` of that body, and loads what it returns."""
    monkeypatch.syspath_prepend(tmp_path)

    def load_own(body, **options):
        monkeypatch.delitem(sys.modules, "rings", raising=False)
        imports = "import torch\nfrom vitbn.data.splits import Source, Split\n"
        (tmp_path / "rings.py").write_text(f"{imports}def load(root, *, size):\n    return {body}\n")
        invalidate_caches()
        sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
        try:
            return sources.load("rings.load", tmp_path, **{"size": 4, "unused": 1, **options})
        finally:
            sys.dont_write_bytecode = before

    return load_own


SPLIT = "Split(torch.zeros(6, 3, size, size, dtype=torch.uint8), torch.arange(6) % 2)"


def test_a_function_of_ones_own_gets_the_options_that_it_names(own):
    source = own(f"Source({SPLIT}, {SPLIT}, classes=('ring', 'disc'))", size=5, num_classes=2, channels=3)
    assert source.train.images.shape == (6, 3, 5, 5) and source.classes == ("ring", "disc")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (SPLIT, "returns Split, not vitbn.data.splits.Source"),
        (f"Source({SPLIT}, {SPLIT}, tuple('abc'))", "has 3 classes; type data.num_classes=3"),
        (f"Source({SPLIT}, Split(torch.zeros(6, 3, 4, 4), torch.arange(6)), tuple('ab'))", "test images must be uint8"),
        (f"Source({SPLIT.replace('6, 3', '6, 1')}, {SPLIT}, tuple('ab'))", "train images have 1 channels; type"),
        (f"Source({SPLIT}, {SPLIT.replace('size, size', '4, 5')}, tuple('ab'))", "test images must be uint8 .*4, 5"),
        (f"Source({SPLIT}, {SPLIT.replace('arange(6)', 'arange(5)')}, tuple('ab'))", "test labels must be int64 .6,."),
        (
            f"Source({SPLIT}, {SPLIT}, tuple('ab'), {SPLIT.replace('% 2', '+ 1')})",
            "val labels must lie between 0 and 1",
        ),
    ],
)
def test_what_is_wrong_with_images_of_ones_own_is_said(own, body, message):
    with pytest.raises(InputError, match=f"data.source=rings.load: {message}"):
        own(body, num_classes=2, channels=3)


def test_a_function_that_cannot_be_called_is_named(own):
    with pytest.raises(InputError, match="data.source=nowhere.load: No module named 'nowhere'; .*PYTHONPATH"):
        sources.load("nowhere.load", None)
    own(f"Source({SPLIT}, {SPLIT}, tuple('ab'))")
    with pytest.raises(InputError, match="data.source=rings.read: module 'rings' has no attribute 'read'"):
        sources.load("rings.read", None)
    with pytest.raises(InputError, match="data.source=rings.load: missing a required .*argument: 'size'"):
        sources.load("rings.load", None)
