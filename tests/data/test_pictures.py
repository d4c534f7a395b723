import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from vitbn.data import sources
from vitbn.data.datamodule import ImageData
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


def image_data(root, **changes):
    scan.cache_clear()
    options = {
        "name": "folder", "source": "folder", "root": str(root), "augment": "crop", "image_size": 16, "holdout": 0,
        "mean": [0.5, 0.4, 0.3], "std": 0.25, "batch_size": 5, "val_batch_size": 5, "seed": 0,
    }  # fmt: skip
    return ImageData(**{**options, **OPTIONS, **changes})


def test_what_is_measured_on_what(photos):
    val = image_data(photos)
    assert [len(split) for split in (*val.splits, val.test)] == [16, 8, 8]
    alone = image_data(photos / "train", holdout=4)
    assert [len(split) for split in (*alone.splits, alone.test)] == [12, 4, 4]
    assert alone.splits[1].labels.bincount().tolist() == [2, 2]
    shutil.copytree(photos / "val", photos / "test")
    (photos / "test" / "cat" / "cat0.png").unlink()
    every = image_data(photos)
    assert [len(split) for split in (*every.splits, every.test)] == [16, 8, 7]
    shutil.rmtree(photos / "val")
    test = image_data(photos, holdout=4)
    assert [len(split) for split in (*test.splits, test.test)] == [12, 4, 7]


@pytest.mark.parametrize(("part", "holdout", "message"), [("", 3, "its own to validate on"), ("train", 0, "has none")])
def test_nothing_or_two_things_to_validate_on(photos, part, holdout, message):
    with pytest.raises(InputError, match=f"data.holdout={holdout}: .*{message}"):
        image_data(photos / part, holdout=holdout).setup("fit")


def test_batches_have_the_networks_size_and_validation_is_never_cropped(photos):
    module = image_data(photos)
    ((images, labels, _),), *_ = module.train_dataloader()
    assert images.shape == (5, 3, 16, 16) and images.dtype == torch.float32 and labels.shape == (5,)
    assert module.validation_draws() is None
    for (val, *_), (test, *_) in zip(module.val_dataloader(), module.test_dataloader(), strict=True):
        assert torch.equal(val, test) and val.shape[1:] == (3, 16, 16)


@pytest.mark.parametrize(("image_size", "chunk"), [(16, 100), (224, 20), (2000, 1)])
def test_a_gpu_is_handed_fewer_batches_together_where_images_are_large(photos, monkeypatch, image_size, chunk):
    monkeypatch.setattr(ImageData, "_device", torch.device("cuda"))
    assert image_data(photos, image_size=image_size).state_dict()["chunk"] == chunk
    assert image_data(photos, image_size=image_size, chunk=7).state_dict()["chunk"] == 7


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
    monkeypatch.setattr("vitbn.data.pictures._download", None)
    assert len(load(root, "imagenette", size=160).train) == 16


def test_a_download_that_fails_says_what_to_do_and_leaves_nothing_half(tmp_path, monkeypatch):
    import torchvision

    def failing(root, split, size, download):
        (Path(root) / "imagenette2-160" / "train").mkdir(parents=True)
        raise RuntimeError("Error downloading:\nno network")

    monkeypatch.setattr(torchvision.datasets, "Imagenette", failing)
    with pytest.raises(InputError, match="imagenette2-160: .*no network.*unpack imagenette2-160.tgz.*data=folder"):
        load(tmp_path, "imagenette", size=160)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="data.size=200: choose from 160, 320, full"):
        load(tmp_path, "imagenette", size=200)
