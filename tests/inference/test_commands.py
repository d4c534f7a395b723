import json

import pytest
import torch

from vitbn.cli import main
from vitbn.data.sources import load
from vitbn.inference.eval_data import fresh_statistics
from vitbn.models.bn_statistics import batch_norms
from vitbn.store.checkpoint_file import is_whole
from vitbn.weights.network import load_network


@pytest.fixture(autouse=True)
def here(monkeypatch):
    monkeypatch.delenv("VITBN_DATA", raising=False)
    monkeypatch.setenv("COLUMNS", "120")


def call(*words):
    return main([str(word) for word in words])


def test_evaluate_shows_scores_and_the_panel_with_its_picture(make_saved, capsys):
    folder = make_saved("model=vitbn")
    assert call("evaluate", "--ckpt", folder, "--batch-sizes", "4,50") == 0
    shown = capsys.readouterr().out
    for words in ("on fashion_mnist, running statistics", "ankle boot", "recalibrated (300 images)",
                  "blocks.0.ffn.hidden_norm"):  # fmt: skip
        assert words in shown
    for ending in ("png", "svg"):
        assert (folder / "evaluation" / f"statistics-fashion-mnist.{ending}").stat().st_size > 5000


def test_evaluate_as_json_is_the_chosen_statistics(make_saved, capsys):
    folder = make_saved("model=vitbn")
    found = {}
    for statistics in ("running", "batch", "recalibrated"):
        call("evaluate", "--ckpt", folder, "--statistics", statistics, "--batch-sizes", "4", "--json")
        found = json.loads(capsys.readouterr().out)
        compared = found["batchnorm"]["compared"][statistics]
        assert {key: found[key] for key in compared} == compared and found["n"] == 100
    assert len(found["classes"]) == 10 and not (folder / "evaluation").exists()


def test_a_network_without_batchnorm_has_no_panel(make_saved, capsys):
    folder = make_saved("model=vit")
    assert call("evaluate", "--ckpt", folder) == 0
    shown = capsys.readouterr().out
    assert "calibration error" in shown and "BatchNorm" not in shown
    assert call("evaluate", "--ckpt", folder, "--statistics", "batch") == 2
    assert "--statistics batch: " in capsys.readouterr().err
    assert call("recalibrate", "--ckpt", folder) == 2
    assert "has no BatchNorm, there is nothing to recalibrate" in capsys.readouterr().err


def test_recalibrate_writes_a_checkpoint_that_differs_in_nothing_but_its_statistics(make_saved, clothes, capsys):
    folder = make_saved("model=vitbn")
    last = folder / "checkpoints" / "last.ckpt"
    before = last.read_bytes()
    assert call("recalibrate", "--ckpt", folder) == 0
    out = folder / "checkpoints" / "recalibrated.ckpt"
    assert capsys.readouterr().out == f"{out}\n" and is_whole(out) and last.read_bytes() == before
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


def test_bad_input_is_one_line(tmp_path, make_saved, capsys):
    assert call("evaluate", "--ckpt", tmp_path / "nowhere") == 2
    assert call("evaluate", "--ckpt", make_saved("model=vitbn"), "--batch-sizes", "101") == 2
    lines = capsys.readouterr().err.splitlines()
    assert "nowhere: does not exist" in lines[0] and "--batch-sizes 101: there are only 100" in lines[1]
    for sizes in ("0", "a", "1,,2"):
        with pytest.raises(SystemExit):
            call("evaluate", "--ckpt", "x", "--batch-sizes", sizes)
        assert f"{sizes}: whole numbers, at least 1" in capsys.readouterr().err
