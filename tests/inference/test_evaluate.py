import json
import shutil

import pytest
import torch
from PIL import Image
from rich.console import Console

from vitbn.cli import main
from vitbn.inference.evaluate import print_scores
from vitbn.inference.metrics import score_logits


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")


def call(*words):
    return main([str(word) for word in words])


def test_evaluate_shows_scores_and_the_report_with_its_picture(make_saved, capsys):
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


def test_a_network_without_batchnorm_has_no_report(make_saved, capsys):
    folder = make_saved("model=vit")
    assert call("evaluate", "--ckpt", folder) == 0
    shown = capsys.readouterr().out
    assert "calibration error" in shown and "BatchNorm" not in shown
    assert call("evaluate", "--ckpt", folder, "--statistics", "batch") == 2
    assert "--statistics batch: " in capsys.readouterr().err


def test_bad_input_is_one_line(tmp_path, make_saved, capsys):
    assert call("evaluate", "--ckpt", tmp_path / "nowhere") == 2
    assert call("evaluate", "--ckpt", make_saved("model=vitbn"), "--batch-sizes", "101") == 2
    lines = capsys.readouterr().err.splitlines()
    assert "nowhere: does not exist" in lines[0] and "--batch-sizes 101: there are only 100" in lines[1]
    for sizes in ("0", "a", "1,,2"):
        with pytest.raises(SystemExit):
            call("evaluate", "--ckpt", "x", "--batch-sizes", sizes)
        assert f"{sizes}: whole numbers, at least 1" in capsys.readouterr().err


def test_few_images_need_no_option(make_saved, tmp_path, capsys):
    for number in range(15):
        label = ("coat", "bag", "shirt")[number % 3]
        (tmp_path / "few" / label).mkdir(parents=True, exist_ok=True)
        Image.new("L", (28, 28), 10 * number).save(tmp_path / "few" / label / f"{number}.png")
    folder = make_saved("model=vitbn")
    assert call("evaluate", "--ckpt", folder, "--data", tmp_path / "few", "--json") == 0
    assert list(json.loads(capsys.readouterr().out)["batchnorm"]["by_batch_size"]) == ["1", "8"]


def test_class_names_are_shown_as_they_are(capsys):
    scores = score_logits(torch.eye(2), torch.tensor([0, 0]), ("[red]one", "[/x]"))
    print_scores(Console(), "title", scores)
    out = capsys.readouterr().out
    assert out.count("[red]one") == 1 and out.count("[/x]") == 2  # a class, and what the other is taken for


@pytest.mark.parametrize("model", ["vit", "vitbn"])
def test_test_files_alone_do(make_saved, clothes, tmp_path, capsys, model):
    shutil.copytree(clothes, tmp_path / "test-only")
    for path in (tmp_path / "test-only").glob("FashionMNIST/raw/train-*"):
        path.unlink()
    folder = make_saved(f"model={model}")
    assert call("evaluate", "--ckpt", folder, "--root", tmp_path / "test-only", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["n"] == 100
    if model == "vitbn":
        assert (
            list(found["batchnorm"]["compared"]) == ["running", "batch"] and found["batchnorm"]["recalibrated_on"] == 0
        )


def test_a_set_of_torchvision_goes_by_its_name(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr("vitbn.inference.evaluate.evaluate", lambda ckpt, *, data, **_: asked.append(data["data"]))
    for name in ("STL10", "Food101", "cifar10"):
        assert call("evaluate", "--ckpt", "x", "--data", name) == 0
    assert [data["dataset"] for data in asked] == ["STL10", "Food101", "CIFAR10"]
    assert call("evaluate", "--ckpt", "x", "--data", "torchvision") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --data torchvision: neither a folder nor one of cifar10, ") and "STL10" in error
