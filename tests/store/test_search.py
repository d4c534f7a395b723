import json
import sys

import pytest

from vitbn.analysis.search_sections import search_pictures, search_section
from vitbn.errors import InputError
from vitbn.plotting import style
from vitbn.store.search import Search, parameter, read_search

SPACE = {"lr": parameter("lr", {"low": 1e-5, "high": 1e-2, "log": True}),
         "depth": parameter("depth", {"low": 1, "high": 5}), "model": parameter("model", ["vit", "vitbn"])}  # fmt: skip


def open_search(folder, **changes):
    return Search.open(folder, **{"name": "a", "space": SPACE, "metric": "val/acc", "seed": 0, **changes})


def test_a_search_goes_on_where_it_was(tmp_path):
    """What was asked for and never told is asked for again; what failed is no value to Optuna, and counts."""
    first = open_search(tmp_path)
    trials = [first.ask() for _ in range(3)]
    first.tell(trials[0], "run-0", 0.5)
    first.tell(trials[1], "run-1", None)
    again = open_search(tmp_path)
    assert again.ended == 2 and again.best.number == 0
    waiting = again.ask()
    assert (waiting.number, waiting.params) == (2, trials[2].params)
    again.tell(waiting, "run-2", 0.75)
    assert again.best.params == trials[2].params
    assert [(each["run"], each["value"]) for each in read_search(tmp_path)["trials"]] == [
        ("run-0", 0.5), ("run-1", None), ("run-2", 0.75)]  # fmt: skip
    assert again.ask().params not in [trial.params for trial in trials]
    assert open_search(tmp_path, name="another configuration").ended == 0


def test_parameters_stay_in_their_space(tmp_path):
    search = open_search(tmp_path)
    for _ in range(20):
        params = search.ask().params
        assert 1e-5 <= params["lr"] <= 1e-2 and params["depth"] in range(1, 6) and params["model"] in ("vit", "vitbn")


def test_the_best_loss_is_the_lowest(tmp_path):
    search = open_search(tmp_path, metric="val/loss")
    for value in (0.5, 0.2, 0.9):
        search.tell(search.ask(), "run", value)
    assert search.best.value == 0.2


@pytest.mark.parametrize("value", [{"low": 5, "high": 1}, {"low": 1}, {"low": 1, "high": 2, "steps": 1}, [], "1,2", 3])
def test_a_parameter_that_is_none_is_refused(value):
    with pytest.raises(InputError, match="hydra.sweeper.space.depth"):
        parameter("depth", value)


def test_the_report_ranks_the_trials_and_draws_every_parameter(tmp_path):
    search = open_search(tmp_path)
    for value in (0.5, None, 0.75):
        search.tell(search.ask(), f"run-{value}", value)
    found = json.loads((tmp_path / "search.json").read_text())
    section = search_section(found, [])
    assert [row[0] for row in section.tables[0].rows] == ["2", "0"] and "1 of them diverged" in section.paragraphs[0]
    with style():
        (picture,) = search_pictures(found)
        titles = [axes.get_title(loc="left") for axes in picture.figure.axes if axes.get_visible()]
    assert titles == ["over time", "lr", "depth", "model"]


def test_without_optuna_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match=r"pip install -e '.\[optuna\]'"):
        open_search(tmp_path)


def test_no_trial_done_yet(tmp_path):
    search = open_search(tmp_path)
    search.tell(search.ask(), "run", None)
    assert search.best is None
    with style():
        assert search_pictures(json.loads((tmp_path / "search.json").read_text())) == []
