import shutil

import pytest
import torch

from vitbn.data.affine import to_float
from vitbn.data.datamodule import ImageData
from vitbn.data.folder import scan
from vitbn.errors import InputError


def data(clothes, **changes):
    options = {
        "name": "fashion_mnist", "root": str(clothes), "augment": True, "mean": 0.0, "std": 1.0, "holdout": 0,
        "batch_size": 50, "val_batch_size": 64, "seed": 0,
    }  # fmt: skip
    return ImageData(**{**options, **changes})


def test_validation_is_the_augmented_test_set_the_same_for_every_seed_and_test_the_clean_one(clothes):
    a, b = (data(clothes, seed=seed) for seed in (0, 1))
    for (x, _), (y, _), (clean, _) in zip(a.val_dataloader(), b.val_dataloader(), a.test_dataloader(), strict=True):
        assert torch.equal(x, y) and not torch.equal(x, clean)
    test = a.source.test
    assert torch.equal(torch.cat([images for images, _ in a.test_dataloader()]), to_float(test.images))
    assert torch.equal(torch.cat([labels for _, labels in a.val_dataloader()]), test.labels)


def test_holdout_validates_on_training_images_only(clothes):
    module = data(clothes, holdout=60)
    train, val = module.splits
    assert (len(train), len(val)) == (240, 60)
    assert len(module.val_dataloader()) == 1 and len(module.test_dataloader()) == 2
    every = {image.numpy().tobytes() for image in module.source.train.images}
    assert {image.numpy().tobytes() for image in torch.cat([train.images, val.images])} == every


def image_data(root, **changes):
    scan.cache_clear()
    options = {
        "name": "folder", "source": "folder", "root": str(root), "augment": "crop", "image_size": 16, "holdout": 0,
        "mean": [0.5, 0.4, 0.3], "std": 0.25, "batch_size": 5, "val_batch_size": 5, "seed": 0,
        "cache_size": 20, "channels": 3, "on_bad_image": "error",
    }  # fmt: skip
    return ImageData(**{**options, **changes})


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
    (images, labels), *_ = module.train_dataloader()
    assert images.shape == (5, 3, 16, 16) and images.dtype == torch.float32 and labels.shape == (5,)
    assert module.validation_draws() is None
    for (val, _), (test, _) in zip(module.val_dataloader(), module.test_dataloader(), strict=True):
        assert torch.equal(val, test) and val.shape[1:] == (3, 16, 16)


def said(caplog, **changes):
    caplog.clear()
    with caplog.at_level("INFO", "vitbn"):
        image_data(**changes).setup("fit")
    return caplog.messages[-1]


def test_what_was_understood_is_said_in_one_line(photos, clothes, caplog):
    (photos / "train" / "cat" / "cat8.HEIC").write_bytes(b"")
    assert said(caplog, root=photos) == "photos: 2 classes, 16 train, 8 validation; passed over 1 .HEIC"
    alone = said(caplog, root=photos / "train", holdout=0.25)
    assert alone == "train: 2 classes, 12 train, 4 validation (held out); passed over 1 .HEIC"
    (photos / "val").rename(photos / "test")
    assert said(caplog, root=photos) == "photos: 2 classes, 16 train, 8 test (and validation); passed over 1 .HEIC"
    held = said(caplog, root=photos, holdout=4)
    assert held == "photos: 2 classes, 12 train, 4 validation (held out), 8 test; passed over 1 .HEIC"
    caplog.clear()
    with caplog.at_level("INFO", "vitbn"):
        data(clothes).setup("fit")
    assert caplog.messages == ["fashion_mnist: 10 classes, 300 train, 100 test (and validation)"]


def test_a_home_folder_is_meant_by_its_sign(clothes, monkeypatch):
    monkeypatch.setenv("HOME", str(clothes.parent))
    assert len(data(f"~/{clothes.name}").source.train) == 300
    with pytest.raises(InputError, match="data.root=s3://x: only a folder of this machine"):
        data("s3://x")
