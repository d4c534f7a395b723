import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vitbn.analysis.search_sections import search_pictures, search_section
from vitbn.errors import InputError
from vitbn.plotting import style
from vitbn.store.search import Search, parameter

ROOT = Path(__file__).parents[1]
SPACE = {"lr": parameter("lr", {"low": 1e-5, "high": 1e-2, "log": True}),
         "depth": parameter("depth", {"low": 1, "high": 5}), "model": parameter("model", ["vit", "vitbn"])}  # fmt: skip


def opened(folder, **changes):
    return Search.opened(folder, **{"name": "a", "space": SPACE, "metric": "val/acc", "seed": 0, **changes})


def told(folder):
    return json.loads((folder / "search.json").read_text())["trials"]


def test_a_search_goes_on_where_it_was(tmp_path):
    """What was asked for and never told is asked for again; what failed is no value to Optuna, and counts."""
    first = opened(tmp_path)
    trials = [first.ask() for _ in range(3)]
    first.tell(trials[0], "run-0", 0.5)
    first.tell(trials[1], "run-1", None)
    again = opened(tmp_path)
    assert again.ended == 2 and again.best.number == 0
    waiting = again.ask()
    assert (waiting.number, waiting.params) == (2, trials[2].params)
    again.tell(waiting, "run-2", 0.75)
    assert again.best.params == trials[2].params
    assert [(each["run"], each["value"]) for each in told(tmp_path)] == [
        ("run-0", 0.5), ("run-1", None), ("run-2", 0.75)]  # fmt: skip
    assert again.ask().params not in [trial.params for trial in trials]
    assert opened(tmp_path, name="another configuration").ended == 0


def test_parameters_stay_in_their_space(tmp_path):
    search = opened(tmp_path)
    for _ in range(20):
        params = search.ask().params
        assert 1e-5 <= params["lr"] <= 1e-2 and params["depth"] in range(1, 6) and params["model"] in ("vit", "vitbn")


def test_the_best_loss_is_the_lowest(tmp_path):
    search = opened(tmp_path, metric="val/loss")
    for value in (0.5, 0.2, 0.9):
        search.tell(search.ask(), "run", value)
    assert search.best.value == 0.2


@pytest.mark.parametrize("value", [{"low": 5, "high": 1}, {"low": 1}, {"low": 1, "high": 2, "steps": 1}, [], "1,2", 3])
def test_a_parameter_that_is_none_is_refused(value):
    with pytest.raises(InputError, match="hydra.sweeper.space.depth"):
        parameter("depth", value)


def test_the_report_ranks_the_trials_and_draws_every_parameter(tmp_path):
    search = opened(tmp_path)
    for value in (0.5, None, 0.75):
        search.tell(search.ask(), f"run-{value}", value)
    found = json.loads((tmp_path / "search.json").read_text())
    section = search_section(found, [])
    assert [row[0] for row in section.tables[0].rows] == ["2", "0"] and "1 of them diverged" in section.paragraphs[0]
    with style():
        (picture,) = search_pictures(found)
        titles = [axes.get_title(loc="left") for axes in picture.figure.axes if axes.get_visible()]
    assert titles == ["over time", "lr", "depth", "model"]


def typed(folder, clothes, *words):
    fixed = ["search=lr_depth", "data=fashion_mnist", f"data.root={clothes}", "model.dim=16", "model.heads=2",
             "model.dim_head=8", "model.mlp_dim=24", "epochs=1", "trainer=cpu", "logger=none"]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, ROOT / "train.py", *fixed, *words], cwd=folder, env=environment,
                          capture_output=True, text=True)  # fmt: skip


def test_a_search_as_it_is_typed(tmp_path, clothes):
    """A divergence among the trials, a value that is fixed, listed ones that become choices, and the best of them."""
    words = ["data.holdout=50", "batch_size=25", "depth=1", "norm=none", "lr=1e30,0.003", "hydra.sweeper.trials=4"]
    done = typed(tmp_path, clothes, *words)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "lr_depth"
    found = told(folder)
    assert len(found) == 4 and {trial["value"] is None for trial in found if trial["params"]["lr"] == "1e30"} <= {True}
    assert {tuple(trial["params"]) for trial in found} == {("lr", "schedule.factor", "schedule.every")}
    assert "batch_size" in (folder / "experiment" / "best.yaml").read_text() and (folder / "summary.csv").exists()
    show = [sys.executable, ROOT / "train.py", "--config-dir", folder, "experiment=best", "--cfg", "job"]
    best = subprocess.run(show, cwd=tmp_path, capture_output=True, text=True)
    assert "lr: 0.003" in best.stdout and "holdout: 0" in best.stdout and "batch_size: 25" in best.stdout
    again = typed(tmp_path, clothes, *words)
    assert again.returncode == 0 and told(folder) == found


@pytest.mark.parametrize(("words", "message"), [
    (["data.holdout=0"], "data.holdout=0: a search needs held-out training images, e.g. data.holdout=5000"),
    (["hydra.sweeper.metric=test/acc"], "hydra.sweeper.metric=test/acc: must be val/acc or val/loss"),
    (["hydra.sweeper.space.depth=5"], "hydra.sweeper.space.depth=5: must be"),
])  # fmt: skip
def test_a_search_that_cannot_be_is_refused_in_one_line(tmp_path, clothes, words, message):
    done = typed(tmp_path, clothes, *words)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "runs" / "lr_depth" / "search.db").exists()


def test_without_optuna_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match=r"pip install -e '.\[optuna\]'"):
        opened(tmp_path)


def test_no_trial_done_yet(tmp_path):
    search = opened(tmp_path)
    search.tell(search.ask(), "run", None)
    assert search.best is None
    with style():
        assert search_pictures(json.loads((tmp_path / "search.json").read_text())) == []
