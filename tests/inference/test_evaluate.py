import json

import pytest

from vitbn.cli import main


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
