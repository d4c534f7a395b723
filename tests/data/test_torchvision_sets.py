import bz2
import hashlib
import pickle
import re
import shutil

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from scipy.io import savemat

from tests.conftest import write_idx
from vitbn.config import compose as config
from vitbn.config.checks import check
from vitbn.config.messages import one_line
from vitbn.data import sources
from vitbn.data.datamodule import ImageData
from vitbn.data.torchvision_table import DATASETS
from vitbn.errors import InputError
from vitbn.models.factory import build


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


def write_cifar(root, monkeypatch, name, labels_key, names_key, classes):
    """Files in CIFAR's format, 20 images each, in place of those whose md5 torchvision knows."""
    dataset = getattr(torchvision.datasets, name)
    folder = root / dataset.base_folder
    folder.mkdir(parents=True)
    known = {"train_list": dataset.train_list, "test_list": dataset.test_list}
    for files, entries in known.items():
        for number, (file, _) in enumerate(entries):
            labels = [(number + row) % classes for row in range(20)]
            content = {"data": noise(20, 3072) // (number + 1), labels_key: labels}
            (folder / file).write_bytes(pickle.dumps(content))
        monkeypatch.setattr(dataset, files, [[file, md5(folder / file)] for file, _ in entries])
    path = folder / dataset.meta["filename"]
    path.write_bytes(pickle.dumps({names_key: [f"class{label}" for label in range(classes)]}))
    monkeypatch.setattr(dataset, "meta", {**dataset.meta, "md5": md5(path)})


@pytest.fixture
def cifar10(tmp_path, monkeypatch):
    write_cifar(tmp_path, monkeypatch, "CIFAR10", "labels", "label_names", 10)
    return tmp_path


@pytest.fixture
def svhn(tmp_path, monkeypatch):
    """30 + 20 house numbers, of which the 0 has the label 10."""
    known = {}
    for split, count in (("train", 30), ("test", 20)):
        path = tmp_path / f"{split}_32x32.mat"
        savemat(path, {"X": noise(32, 32, 3, count), "y": (np.arange(count) % 10 + 1)[:, None].astype(np.uint8)})
        known[split] = ["http://nowhere.invalid", path.name, md5(path)]
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", known)
    return tmp_path


@pytest.fixture
def kmnist(tmp_path):
    raw = tmp_path / "KMNIST" / "raw"
    raw.mkdir(parents=True)
    for prefix, count in (("train", 30), ("t10k", 20)):
        write_idx(raw / f"{prefix}-images-idx3-ubyte", torch.from_numpy(noise(count, 28, 28)))
        write_idx(raw / f"{prefix}-labels-idx1-ubyte", torch.arange(count) % 10)
    return tmp_path


def configured(*overrides):
    tree = config.to_plain_dict(config.compose_config([*overrides, "trainer=cpu", "batch_size=10", "depth=1"]))
    check(tree)
    return tree


def load(name, root, *overrides):
    return ImageData.of(configured(f"data={name}", f"data.root={root}", *overrides)).source


def test_cifar10_is_what_torchvision_reads(cifar10):
    source = load("cifar10", cifar10)
    assert source.classes == tuple(f"class{label}" for label in range(10)) and source.val is None
    for split, train in ((source.train, True), (source.test, False)):
        theirs = torchvision.datasets.CIFAR10(cifar10, train)
        assert torch.equal(split.images, torch.from_numpy(theirs.data).permute(0, 3, 1, 2))
        assert split.labels.tolist() == theirs.targets and len(split) == (100 if train else 20)


def test_cifar100_has_its_fine_labels(tmp_path, monkeypatch):
    write_cifar(tmp_path, monkeypatch, "CIFAR100", "fine_labels", "fine_label_names", 100)
    source = load("cifar100", tmp_path)
    assert len(source.classes) == 100 and source.train.labels.tolist() == list(range(20))


def test_svhn_has_the_digits_for_classes(svhn):
    source = load("svhn", svhn)
    assert source.classes == tuple("0123456789") and source.train.labels[:11].tolist() == [*range(1, 10), 0, 1]
    assert torch.equal(source.train.images, torch.from_numpy(noise(32, 32, 3, 30)).permute(3, 2, 0, 1))


def test_kmnist(kmnist):
    source = load("kmnist", kmnist)
    assert source.classes[:3] == ("o", "ki", "su") and torch.equal(source.test.labels, torch.arange(20) % 10)
    assert torch.equal(source.train.images[:, 0], torch.from_numpy(noise(30, 28, 28)))
    assert source.train.images.shape == (30, 1, 28, 28)


def test_images_of_any_size_become_squares_and_validate_on_their_own(tmp_path):
    folder = tmp_path / "rendered-sst2"
    for part in ("train", "valid", "test"):
        for label, grey in (("negative", 10), ("positive", 200)):
            (folder / part / label).mkdir(parents=True)
            Image.new("RGB", (60, 40), (grey, 0, 0)).save(folder / part / label / "0.png")
    source = load("torchvision", tmp_path, "data.dataset=RenderedSST2", "data.image_size=16")
    assert source.classes == ("negative", "positive")
    for split in (source.train, source.val, source.test):
        assert split.images.shape == (2, 3, 16, 16) and split.labels.tolist() == [0, 1]
        assert split.images[:, 0, 0, 0].tolist() == [10, 200] and not split.images[:, 1:].any()


def test_a_set_that_is_not_divided_has_no_test_images(tmp_path):
    for label in range(10):
        (tmp_path / "eurosat" / "2750" / f"class{label}").mkdir(parents=True)
        for number in range(3):
            pixels = noise(64, 64, 3)
            Image.fromarray(pixels).save(tmp_path / "eurosat" / "2750" / f"class{label}" / f"{number}.png")
    options = ["data=torchvision", "data.dataset=EuroSAT", f"data.root={tmp_path}", "data.holdout=10"]
    data = ImageData.of(configured(*options))
    assert (len(data.splits[0]), len(data.splits[1]), len(data.source.test)) == (20, 10, 0)
    assert torch.equal(data.test.images, data.splits[1].images)


def test_grey_images_in_colour_and_colour_in_grey(kmnist, cifar10):
    assert load("kmnist", kmnist, "data.channels=3").train.images.shape == (30, 3, 28, 28)
    assert load("cifar10", cifar10, "data.channels=1", "data.mean=0", "data.std=1").train.images.shape[1] == 1


def test_a_larger_network_gets_the_stored_images_resized(cifar10):
    data = ImageData.of(configured("data=cifar10", f"data.root={cifar10}", "data.image_size=64", "data.holdout=20"))
    assert data.source.train.images.shape == (100, 3, 32, 32)
    assert next(iter(data.train_dataloader())).images.shape == (10, 3, 64, 64)


@pytest.mark.parametrize("model", ["vit", "vitbnffn", "vitbn", "resnet34", "mlp_bn"])
def test_networks_have_the_data_sets_shape(cifar10, model):
    """`depth` means nothing to the latter two: composed, not typed."""
    tree = configured("data=cifar10", f"data.root={cifar10}", f"model={model}", "data.holdout=20")
    assert tree["model"].get("patch_size") in (None, 4)
    data = ImageData.of(tree)
    images, labels = next(iter(data.train_dataloader()))
    loss = torch.nn.functional.cross_entropy(build(tree["model"], seed=0)(images), labels)
    loss.backward()
    assert loss.isfinite() and (len(data.splits[1]), len(data.test)) == (20, 20)


@pytest.mark.slow
def test_5000_training_images_are_held_out_and_digits_are_not_mirrored():
    names = ("cifar10", "cifar100", "svhn", "kmnist")
    data = {name: configured(f"data={name}")["data"] for name in names}
    assert {name: keys["holdout"] for name, keys in data.items()} == dict.fromkeys(names, 5000)
    augment = {name: keys["augment"] for name, keys in data.items()}
    mirrored, not_mirrored = "pad_crop_flip", "pad_crop"
    assert augment == {"cifar10": mirrored, "cifar100": mirrored, "svhn": not_mirrored, "kmnist": not_mirrored}
    for name, dataset in zip(names, ("CIFAR10", "CIFAR100", "SVHN", "KMNIST"), strict=True):
        by_name = configured("data=torchvision", f"data.dataset={dataset}")["data"]
        differing = {key for key in by_name if by_name[key] != data[name][key]}
        assert differing <= {"name", "mean", "std"}, "the table and the data set's own file disagree"


@pytest.mark.parametrize("dataset", DATASETS)
def test_every_data_set_of_the_table_can_be_configured(dataset):
    known = DATASETS[dataset]
    assert len(known.files) in (1, len(known.splits)) and (known.holdout == 0) == (len(known.splits) == 3)
    tree = configured("data=torchvision", f"data.dataset={dataset}", *([] if known.side else ["data.image_size=64"]))
    assert tree["data"]["cache_size"] == tree["data"]["image_size"] == (known.side or 64)


@pytest.mark.parametrize("name", ["cifar10", "svhn", "kmnist"])
def test_a_set_that_is_one_array_is_read_at_once(name, request):
    root = request.getfixturevalue(name)
    dataset = {"cifar10": "CIFAR10", "svhn": "SVHN", "kmnist": "KMNIST"}[name]
    kind = getattr(torchvision.datasets, dataset)
    one_by_one, read = [], kind.__getitem__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "__getitem__", lambda self, row: (one_by_one.append(row), read(self, row))[1])
        source = load(name, root)
        assert len(one_by_one) == 6
        patch.setattr("vitbn.data.torchvision_sets._layouts", lambda data: [])
        slowly = load(name, root)
    for fast, slow in ((source.train, slowly.train), (source.test, slowly.test)):
        assert torch.equal(fast.images, slow.images) and torch.equal(fast.labels, slow.labels)


def test_unknown_data_sets_and_missing_sizes_are_named():
    for overrides, message in (
        (["data.dataset=CIFAR"], "data.dataset=CIFAR: choose from CIFAR10, CIFAR100, .*, USPS"),
        (["data.dataset=Food101"], "data.image_size: Food101 has none of its own; type data.image_size=64"),
    ):
        with pytest.raises(Exception) as error:
            configured("data=torchvision", *overrides)
        assert re.match(message, one_line(error.value))


def test_classes_that_are_not_the_configured_ones_are_named(cifar10):
    with pytest.raises(InputError, match="has 10 classes; type data.num_classes=10"):
        load("cifar10", cifar10, "data.num_classes=9")


def test_a_damaged_file_is_named_in_one_line(cifar10):
    (cifar10 / "cifar-10-batches-py" / "data_batch_3").write_bytes(b"half")
    with pytest.raises(InputError, match="incomplete or damaged .*delete it to have it downloaded again") as error:
        load("cifar10", cifar10)
    assert str(cifar10 / "cifar-10-batches-py") in str(error.value) and "\n" not in str(error.value)
    assert "download=True" not in str(error.value)


def test_the_damaged_one_of_two_files_is_named(svhn):
    path = svhn / "test_32x32.mat"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match="test_32x32.mat: incomplete or damaged"):
        load("svhn", svhn)


@pytest.mark.parametrize("need_train", [True, False])
def test_test_files_alone_do_where_no_training_image_is_needed(svhn, need_train, monkeypatch):
    whole, options = load("svhn", svhn), {"dataset": "SVHN", "channels": 3, "cache_size": 32}
    (svhn / "train_32x32.mat").unlink()
    monkeypatch.setattr(torchvision.datasets.SVHN, "download", lambda self: svhn.joinpath("asked").touch())
    if need_train:
        with pytest.raises(InputError, match="SVHN is not there"):
            sources.load("torchvision", svhn, **options)
        return
    found = sources.load("torchvision", svhn, need_train=False, **options)
    assert (len(found.train), len(found.test)) == (0, 20) and torch.equal(found.test.images, whole.test.images)
    assert found.classes == whole.classes and not (svhn / "asked").exists()


def test_test_folders_alone_do_too(tmp_path):
    folder = tmp_path / "gtsrb" / "GTSRB" / "Final_Test" / "Images"
    folder.mkdir(parents=True)
    rows = ["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"]
    for row in range(4):
        Image.fromarray(noise(30, 30, 3)).save(folder / f"{row:05}.ppm")
        rows.append(f"{row:05}.ppm;30;30;0;0;30;30;{row}")
    (tmp_path / "gtsrb" / "GT-final_test.csv").write_text("\n".join(rows))
    options = {"dataset": "GTSRB", "channels": 3, "cache_size": 32}
    found = sources.load("torchvision", tmp_path, need_train=False, **options)
    assert not len(found.train) and found.test.labels.tolist() == [0, 1, 2, 3] and len(found.classes) == 43
    with pytest.raises(InputError, match="gtsrb: incomplete or damaged"):
        sources.load("torchvision", tmp_path, **options)


def test_files_that_do_not_belong_together_are_named(kmnist):
    write_idx(kmnist / "KMNIST" / "raw" / "train-labels-idx1-ubyte", torch.arange(29) % 10)
    with pytest.raises(InputError, match="KMNIST: incomplete or damaged"):
        load("kmnist", kmnist)


def test_labels_beyond_the_classes_are_named(kmnist):
    write_idx(kmnist / "KMNIST" / "raw" / "train-labels-idx1-ubyte", torch.full((30,), 11))
    with pytest.raises(InputError, match="train labels must lie between 0 and 9"):
        load("kmnist", kmnist)


def test_only_what_is_missing_is_downloaded_and_moved_into_place_when_complete(svhn, tmp_path, monkeypatch):
    published = tmp_path / "published"
    published.mkdir()
    shutil.move(svhn / "test_32x32.mat", published)
    asked = []

    def download(self):
        asked.append(self.filename)
        shutil.copy(published / self.filename, self.root)

    monkeypatch.setattr(torchvision.datasets.SVHN, "download", download)
    assert len(load("svhn", svhn).test) == 20 and asked == ["test_32x32.mat"]
    assert sorted(path.name for path in svhn.glob("*.mat")) == ["test_32x32.mat", "train_32x32.mat"]
    assert not list(svhn.glob(".*")) and len(load("svhn", svhn).test) == 20 and len(asked) == 1


def test_a_download_that_fails_says_what_to_do_and_leaves_nothing(tmp_path, monkeypatch):
    def download(self):
        raise RuntimeError("Error downloading:\nno network")

    monkeypatch.setattr(torchvision.datasets.CIFAR10, "download", download)
    root = tmp_path / "data"
    message = "CIFAR10 is not there .*no network.*put cifar-10-batches-py there, or use data=mnist5k"
    with pytest.raises(InputError, match=message) as error:
        load("cifar10", root)
    assert "\n" not in str(error.value) and not root.exists()


def test_usps_is_read_by_name(tmp_path):
    line = " ".join(["3", *(f"{pixel + 1}:{-1.0 if pixel else 1.0}" for pixel in range(256))])
    for file, count in (("usps.bz2", 4), ("usps.t.bz2", 2)):
        (tmp_path / file).write_bytes(bz2.compress("\n".join([line] * count).encode()))
    source = sources.load("torchvision", tmp_path, dataset="USPS", channels=1, cache_size=16)
    assert (len(source.train), len(source.test)) == (4, 2) and source.test.labels.tolist() == [2, 2]
    assert source.train.images.flatten(1).tolist()[0] == [255] + [0] * 255
