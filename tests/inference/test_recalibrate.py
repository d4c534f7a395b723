from dataclasses import replace

import pytest
import torch

from vitbn.cli import main
from vitbn.data.sources import load
from vitbn.errors import InputError
from vitbn.inference.eval_data import fresh_statistics
from vitbn.models.bn_statistics import batch_norms
from vitbn.store.checkpoint_file import is_valid
from vitbn.weights.network import load_network


def call(*words):
    return main([str(word) for word in words])


def test_recalibrate_writes_a_checkpoint_that_differs_in_nothing_but_its_statistics(make_saved, clothes, capsys):
    folder = make_saved("model=vitbn")
    last = folder / "checkpoints" / "last.ckpt"
    before = last.read_bytes()
    assert call("recalibrate", "--ckpt", folder) == 0
    out = folder / "checkpoints" / "recalibrated.ckpt"
    assert capsys.readouterr().out == f"{out}\n" and is_valid(out) and last.read_bytes() == before
    old, new = load_network(last), load_network(out)
    fresh, _ = fresh_statistics(old, load("fashion_mnist", clothes).train)
    for name, norm in batch_norms(new.net).items():
        torch.testing.assert_close(norm.running_mean.double(), fresh[name][0], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(norm.running_var.double(), fresh[name][1], rtol=1e-6, atol=1e-6)
    changed = [n for n, v in new.net.state_dict().items() if not torch.equal(v, old.net.state_dict()[n])]
    assert all("running_" in name for name in changed) and len(changed) == 2 * len(fresh)
    content = torch.load(out, weights_only=True)
    assert content["recalibrated"] == {"data": "fashion_mnist", "images": 300}


def test_training_checkpoints_are_not_overwritten(make_saved, capsys):
    folder = make_saved("model=vitbn")
    for name in ("last", "previous", "best"):
        assert call("recalibrate", "--ckpt", folder, "--out", folder / "checkpoints" / f"{name}.ckpt") == 2
        assert "training goes on from this file; choose another name" in capsys.readouterr().err


def test_a_file_that_nothing_describes_and_a_lone_image_are_refused(make_saved, clothes, tmp_path, capsys):
    folder = make_saved("model=vitbn")
    assert call("recalibrate", "--ckpt", folder, "--out", tmp_path / "elsewhere" / "r.ckpt") == 2
    assert "r.ckpt: nothing there would say what network it is" in capsys.readouterr().err
    flat = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.BatchNorm1d(784))
    with pytest.raises(InputError, match="^one image is one sample for these BatchNorms"):
        fresh_statistics(replace(load_network(folder), net=flat), load("fashion_mnist", clothes).train[torch.arange(1)])


def test_a_network_without_batchnorm_is_refused(make_saved, capsys):
    assert call("recalibrate", "--ckpt", make_saved("model=vit")) == 2
    assert "has no BatchNorm, there is nothing to recalibrate" in capsys.readouterr().err
