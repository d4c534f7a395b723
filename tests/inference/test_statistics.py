from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from vitbn.config import compose as config
from vitbn.data.sources import load
from vitbn.errors import InputError
from vitbn.inference.bn_report import panel
from vitbn.inference.eval_data import arriving, fresh_statistics, inputs, shuffled
from vitbn.inference.metrics import answers
from vitbn.models.bn_statistics import batch_norms, batch_statistics, measure, put
from vitbn.models.mlp import MLP
from vitbn.weights.network import load_network


@pytest.fixture(autouse=True)
def here(monkeypatch):
    monkeypatch.delenv("VITBN_DATA", raising=False)


@pytest.fixture
def network(make_saved):
    return load_network(make_saved("model=vitbn", "data.mean=0.3", "data.std=0.2"))


@pytest.fixture
def source(clothes):
    return load("fashion_mnist", clothes)


def buffers(network):
    return [value.clone() for value in network.net.state_dict().values()]


def test_batches_are_full_and_every_image_is_answered_once(network, source):
    test = source.test
    batches = list(inputs(network, test, 30))
    assert [len(batch) for batch in batches] == [30] * 4
    assert torch.equal(torch.cat(batches)[:100], network.normalise(test.images))
    assert torch.equal(batches[3][10:], batches[0][:20])
    with torch.no_grad(), batch_statistics(network.net):
        expected = torch.cat([network.net(batch) for batch in batches])[:100]
        assert torch.equal(answers(network, test, 30), expected)
    with pytest.raises(InputError, match="--batch-sizes 101: there are only 100 images"):
        inputs(network, test, 101)


def test_a_shuffle_is_always_the_same_and_loses_nothing(source):
    a, b = shuffled(source.test, "evaluate"), shuffled(source.test, "evaluate")
    assert torch.equal(a.images, b.images) and not torch.equal(a.labels, source.test.labels)
    assert a.labels.bincount().tolist() == [10] * 10 and len(shuffled(source.test, "x", 7)) == 7


def test_fresh_statistics_are_those_of_clean_training_images(network, source):
    before = buffers(network)
    fresh, count = fresh_statistics(network, source.train)
    assert count == 300 and all(torch.equal(a, b) for a, b in zip(before, buffers(network), strict=True))
    direct = measure(network.net.double(), [network.normalise(source.train.images).double()])
    for name, (mean, var) in direct.items():
        torch.testing.assert_close(fresh[name][0].double(), mean, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(fresh[name][1].double(), var, rtol=1e-3, atol=1e-5)


def test_the_panel_compares_the_three_sources_and_restores_the_running_ones(network, source):
    before = buffers(network)
    found = panel(network, source.train, source.test, [1, 7, 100])
    assert all(torch.equal(a, b) for a, b in zip(before, buffers(network), strict=True))
    assert list(found.compared) == ["running", "batch", "recalibrated"] and found.batch_size == 50
    assert len({scores.loss for scores in found.compared.values()}) == 3
    assert list(found.by_batch_size) == [1, 7, 100] and len({s.loss for s in found.by_batch_size.values()}) == 3
    assert found.beside == {name: found.compared[name] for name in ("running", "recalibrated")}  # all are few
    put(network.net, fresh_statistics(network, source.train)[0])
    again = panel(network, source.train, source.test, [])
    assert again.compared["running"] == found.compared["recalibrated"]
    assert again.compared["batch"] == found.compared["batch"]
    assert max(layer.pooled_mean for layer in again.layers) < min(layer.pooled_mean for layer in found.layers)


def test_distances_of_the_first_norm_follow_the_definition(network, source):
    found = panel(network, source.train, source.test, []).layers
    assert [layer.name for layer in found] == list(batch_norms(network.net))
    x = network.normalise(source.test.images).double()
    patches = x.unflatten(3, (4, 7)).unflatten(2, (4, 7)).permute(0, 2, 4, 3, 5, 1).flatten(3).reshape(100, 16, 49)
    norm = network.net.embedding.in_norm
    sigma = (norm.running_var.double() + norm.eps).sqrt()

    def distances(part):
        rows = part.reshape(-1, 49)
        shift = ((rows.mean(0) - norm.running_mean) / sigma).abs().mean()
        return shift.item(), ((rows.var(0) + norm.eps) / sigma**2).log().abs().mean().item()

    halves = [distances(part) for part in patches.split(50)]  # the training's batch size
    assert found[0].batch_mean == pytest.approx(sum(shift for shift, _ in halves) / 2, rel=1e-6)
    assert found[0].batch_log_var == pytest.approx(sum(change for _, change in halves) / 2, rel=1e-6)
    assert (found[0].pooled_mean, found[0].pooled_log_var) == pytest.approx(distances(patches), rel=1e-6)


def test_one_value_per_feature_has_no_statistics(network, source):
    mlp = MLP(image_size=28, channels=1, num_classes=10, hidden=[8], activation="relu", norm="batch").eval()
    found = panel(replace(network, net=mlp), source.train, source.test, [1, 2])
    assert found.by_batch_size[1] is None and found.by_batch_size[2].n == 100


def configured(name):
    return config.plain(config.read([f"data={name}"]))


def test_labels_that_are_not_the_networks_are_named(network):
    given = arriving(network, configured("mnist5k"))
    assert len(given.train) == 4000 and given.classes == tuple("0123456789")
    with pytest.raises(InputError, match="--data mnist5k: its classes are 0, 1, .*; the network answers T-shirt/top"):
        given.labelled_for(network)


def test_the_default_is_the_runs_own_data(network, source):
    given = arriving(network, None)
    assert given.name == "fashion_mnist" and torch.equal(given.train.images, source.train.images)
    assert torch.equal(given.test.images, shuffled(source.test, "evaluate").images)
    assert given.labelled_for(network) is given


def test_a_data_set_lies_where_it_is_said_to_or_where_the_runs_own_does(network, source, clothes, monkeypatch):
    roots = []
    monkeypatch.setattr("vitbn.data.datamodule.load", lambda name, root, **_: (roots.append(str(root)), source)[1])
    other = configured("mnist")
    for data, typed in ((None, None), (other, None), (None, Path("typed")), (other, Path("typed"))):
        arriving(network, data, typed)
    monkeypatch.setenv("VITBN_DATA", "environment")
    for data, typed in ((None, None), (other, None), (other, Path("typed"))):
        arriving(network, data, typed)
    assert roots == [str(clothes), str(clothes), "typed", "typed", str(clothes), "environment", "typed"]
    monkeypatch.delenv("VITBN_DATA")
    own = {**network.config, "data": {**network.config["data"], "source": "folder", "root": "photos"}}
    arriving(replace(network, config=own), other)
    assert roots[-1] == "data", "where a run on a folder found its images nothing else lies"
    del own["data"]["root"]  # as in an exported file
    arriving(replace(network, config=own), None)
    assert roots[-1] == "data"


def test_a_runs_configuration_names_no_folder_in_which_anything_is_made(network, source, tmp_path, monkeypatch):
    called = []
    monkeypatch.setattr("vitbn.data.datamodule.load", lambda name, root, **o: (called.append((root, o)), source)[1])
    photos, cache = tmp_path / "photos", tmp_path / "cache"
    (photos / "cat").mkdir(parents=True)
    cache.mkdir()
    own = {"name": "photos", "source": "folder", "root": str(photos), "cache": str(cache)}
    stranger = replace(network, config={"data": own})
    arriving(stranger, None)
    assert called[-1] == (Path("data"), {"channels": 1, "cache": None, "cache_size": 256, "on_bad_image": "error"})
    arriving(stranger, None, tmp_path)
    assert called[-1][0] == tmp_path
    (cache / "photos-123" / "256px-1ch").mkdir(parents=True)
    (cache / "photos-123" / "256px-1ch" / "index.json").write_text("{}")
    arriving(stranger, None)
    assert called[-1][0] == photos and called[-1][1]["cache"] == str(cache)
    for key, value in (("source", "evil"), ("name", "$x$"), ("holdout", "a"), ("size", 7), ("on_bad_image", "x")):
        with pytest.raises(InputError, match=f"data.{key}="):
            arriving(replace(network, config={"data": {**own, key: value}}), None)
    with pytest.raises(InputError, match="data.name=photos tells no images; give --data"):
        arriving(replace(network, config={"data": {"name": "photos"}}), None)


def test_some_images_of_either_sort(network, source):
    given = arriving(network, None, count=40)
    assert len(given.train) == len(given.test) == 40
    whole = {image.numpy().tobytes() for image in source.train.images}
    assert {image.numpy().tobytes() for image in given.train.images} < whole


def test_imported_weights_have_no_data_of_their_own(network):
    with pytest.raises(InputError, match="imported weights; give --data: a data set's name or a folder of images"):
        arriving(replace(network, config={"model": network.config["model"]}), None)


def test_a_folder_of_folders_named_by_class(network, tmp_path):
    images = {"coat": 10, "bag": 200}
    for label, grey in images.items():
        (tmp_path / "photos" / label).mkdir(parents=True)
        Image.new("L", (40, 40), grey).save(tmp_path / "photos" / label / "a.png")
    given = arriving(network, tmp_path / "photos").labelled_for(network)
    assert given.name == "photos" and given.test.images.shape == (2, 1, 28, 28)
    shown = {network.labels[int(label)]: int(image.max()) for image, label in
             zip(given.test.images, given.test.labels, strict=True)}  # fmt: skip
    assert shown == images
    (tmp_path / "photos" / "bag").rename(tmp_path / "photos" / "beg")
    given = arriving(network, tmp_path / "photos")
    with pytest.raises(InputError, match="--data photos: its classes are beg, coat; the network answers T-shirt/top"):
        given.labelled_for(network)
    halves = arriving(network, tmp_path / "photos", count=9)
    assert len(halves.train) == len(halves.test) == 1
    assert {int(part.images.max()) for part in (halves.train, halves.test)} == {10, 200}


def test_images_of_other_channels_are_named(network, tmp_path):
    with pytest.raises(InputError, match="images of 1 channels, the network sees 3"):
        arriving(replace(network, channels=3), None)
