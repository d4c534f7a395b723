from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.conftest import write_idx
from vitbn.config import compose as config
from vitbn.errors import InputError
from vitbn.inference.eval_data import fresh_statistics, inputs, load_eval_data, shuffled
from vitbn.inference.metrics import predict_logits
from vitbn.models.bn_statistics import batch_statistics, estimate_bn_stats


def test_batches_are_full_and_every_image_is_answered_once(network, source):
    test = source.test
    batches = list(inputs(network, test, 30))
    assert [len(batch) for batch in batches] == [30] * 4
    assert torch.equal(torch.cat(batches)[:100], network.normalise(test.images))
    assert torch.equal(batches[3][10:], batches[0][:20])
    with torch.no_grad(), batch_statistics(network.net):
        expected = torch.cat([network.net(batch) for batch in batches])[:100]
        assert torch.equal(predict_logits(network, test, 30), expected)
    with pytest.raises(InputError, match="--batch-sizes 101: there are only 100 images"):
        inputs(network, test, 101)


def test_a_shuffle_is_always_the_same_and_loses_nothing(source):
    a, b = shuffled(source.test, "evaluate"), shuffled(source.test, "evaluate")
    assert torch.equal(a.images, b.images) and not torch.equal(a.labels, source.test.labels)
    assert a.labels.bincount().tolist() == [10] * 10 and len(shuffled(source.test, "x", 7)) == 7


def test_fresh_statistics_are_those_of_clean_training_images(network, source):
    before = {name: value.clone() for name, value in network.net.state_dict().items()}
    fresh, count = fresh_statistics(network, source.train)
    assert count == 300 and all(torch.equal(before[n], v) for n, v in network.net.state_dict().items())
    direct = estimate_bn_stats(network.net.double(), [network.normalise(source.train.images).double()])
    for name, (mean, var) in direct.items():
        torch.testing.assert_close(fresh[name][0].double(), mean, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(fresh[name][1].double(), var, rtol=1e-3, atol=1e-5)


def configured(name):
    return config.to_plain_dict(config.compose_config([f"data={name}"]))


def test_labels_that_are_not_the_networks_are_named(network):
    images = load_eval_data(network, configured("mnist5k"))
    assert len(images.train) == 4000 and images.classes == tuple("0123456789")
    with pytest.raises(InputError, match="--data mnist5k: its classes are 0, 1, .*; the network answers T-shirt/top"):
        images.labelled_for(network)


def test_the_default_is_the_runs_own_data(network, source):
    images = load_eval_data(network, None)
    assert images.name == "fashion_mnist" and torch.equal(images.train.images, source.train.images)
    assert torch.equal(images.test.images, shuffled(source.test, "evaluate").images)
    assert images.labelled_for(network) is images


def test_a_data_set_lies_where_it_is_said_to_or_where_the_runs_own_does(network, source, clothes, monkeypatch):
    roots = []
    monkeypatch.setattr("vitbn.data.datamodule.load", lambda name, root, **_: (roots.append(str(root)), source)[1])
    other = configured("mnist")
    for data, typed in ((None, None), (other, None), (None, Path("typed")), (other, Path("typed"))):
        load_eval_data(network, data, typed)
    monkeypatch.setenv("VITBN_DATA", "environment")
    for data, typed in ((None, None), (other, None), (other, Path("typed"))):
        load_eval_data(network, data, typed)
    assert roots == [str(clothes), str(clothes), "typed", "typed", str(clothes), "environment", "typed"]
    monkeypatch.delenv("VITBN_DATA")
    own = {**network.config, "data": {**network.config["data"], "source": "folder", "root": "photos"}}
    load_eval_data(replace(network, config=own), other)
    assert roots[-1] == "data", "where a run on a folder found its images nothing else lies"
    del own["data"]["root"]  # as in an exported file
    load_eval_data(replace(network, config=own), None)
    assert roots[-1] == "data"


def test_a_runs_configuration_names_no_folder_in_which_anything_is_made(network, source, tmp_path, monkeypatch):
    called = []
    monkeypatch.setattr("vitbn.data.datamodule.load", lambda name, root, **o: (called.append((root, o)), source)[1])
    photos, cache = tmp_path / "photos", tmp_path / "cache"
    (photos / "cat").mkdir(parents=True)
    cache.mkdir()
    own = {"name": "photos", "source": "folder", "root": str(photos), "cache": str(cache)}
    stranger = replace(network, config={"data": own})
    load_eval_data(stranger, None)
    assert called[-1] == (Path("data"), {"channels": 1, "cache": None, "cache_size": 256, "on_bad_image": "error"})
    load_eval_data(stranger, None, tmp_path)
    assert called[-1][0] == tmp_path
    (cache / "photos-123" / "256px-1ch").mkdir(parents=True)
    (cache / "photos-123" / "256px-1ch" / "index.json").write_text("{}")
    load_eval_data(stranger, None)
    assert called[-1][0] == photos and called[-1][1]["cache"] == str(cache)
    for key, value in (("source", "evil"), ("name", "$x$"), ("holdout", "a"), ("size", 7), ("on_bad_image", "x")):
        with pytest.raises(InputError, match=f"data.{key}="):
            load_eval_data(replace(network, config={"data": {**own, key: value}}), None)
    with pytest.raises(InputError, match="data.name=photos tells no images; give --data"):
        load_eval_data(replace(network, config={"data": {"name": "photos"}}), None)


def test_a_runs_configuration_imports_nothing(network, tmp_path, monkeypatch):
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    stranger = replace(network, config={"data": {"name": "rings", "source": "evil.load", "root": str(tmp_path)}})
    with pytest.raises(InputError, match="data.source=evil.load tells no images; give --data"):
        load_eval_data(stranger, None)


def test_the_default_of_a_run_on_a_set_of_torchvision_is_that_set(network, tmp_path):
    raw = tmp_path / "KMNIST" / "raw"
    raw.mkdir(parents=True)
    for prefix, count in (("train", 30), ("t10k", 20)):
        write_idx(raw / f"{prefix}-images-idx3-ubyte", torch.arange(count)[:, None, None].expand(-1, 28, 28))
        write_idx(raw / f"{prefix}-labels-idx1-ubyte", torch.arange(count) % 10)
    own = {**configured("kmnist")["data"], "root": str(tmp_path), "holdout": 10}
    images = load_eval_data(replace(network, config={**network.config, "data": own}), None)
    assert images.name == "kmnist" and images.classes[:2] == ("o", "ki")
    assert len(images.train) == 20 and sorted(images.test.images[:, 0, 0, 0].tolist()) == list(range(20))
    with pytest.raises(InputError, match="data.dataset=Evil tells no images"):
        load_eval_data(replace(network, config={"data": {**own, "dataset": "Evil"}}), None)


def test_some_images_of_either_sort(network, source):
    images = load_eval_data(network, None, count=40)
    assert len(images.train) == len(images.test) == 40
    whole = {image.numpy().tobytes() for image in source.train.images}
    assert {image.numpy().tobytes() for image in images.train.images} < whole


def test_imported_weights_have_no_data_of_their_own(network):
    with pytest.raises(InputError, match="imported weights; give --data: a data set's name or a folder of images"):
        load_eval_data(replace(network, config={"model": network.config["model"]}), None)


def test_a_folder_of_folders_named_by_class(network, tmp_path):
    greys = {"coat": 10, "bag": 200}
    for label, grey in greys.items():
        (tmp_path / "photos" / label).mkdir(parents=True)
        Image.new("L", (40, 40), grey).save(tmp_path / "photos" / label / "a.png")
    images = load_eval_data(network, tmp_path / "photos").labelled_for(network)
    assert images.name == "photos" and images.test.images.shape == (2, 1, 28, 28)
    shown = {network.labels[int(label)]: int(image.max()) for image, label in
             zip(images.test.images, images.test.labels, strict=True)}  # fmt: skip
    assert shown == greys
    (tmp_path / "photos" / "bag").rename(tmp_path / "photos" / "beg")
    images = load_eval_data(network, tmp_path / "photos")
    with pytest.raises(InputError, match="--data photos: its classes are beg, coat; the network answers T-shirt/top"):
        images.labelled_for(network)
    halves = load_eval_data(network, tmp_path / "photos", count=9)
    assert len(halves.train) == len(halves.test) == 1
    assert {int(part.images.max()) for part in (halves.train, halves.test)} == {10, 200}


def test_images_of_other_channels_are_named(network, tmp_path):
    with pytest.raises(InputError, match="images of 1 channels, the network sees 3"):
        load_eval_data(replace(network, channels=3), configured("mnist5k"))
