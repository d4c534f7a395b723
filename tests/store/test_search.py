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


def ask(search):
    """The next trial, as if there were no end of them."""
    (trial,) = search.next_round(1, 1000)
    return trial


def score(params):
    """In the place of a training."""
    return None if params["depth"] == 4 else params["lr"] * params["depth"] + (params["model"] == "vit")


def tell(search, trial):
    search.tell(trial, f"run-{trial.number}", score(trial.params))


def test_a_search_goes_on_where_it_was(tmp_path):
    """What was asked for and never told is asked for again; what failed is no value to Optuna, and counts."""
    first = open_search(tmp_path)
    trials = first.next_round(3, 1000)
    first.tell(trials[0], "run-0", 0.5)
    first.tell(trials[1], "run-1", None)
    again = open_search(tmp_path)
    assert again.ended == 2 and again.best.number == 0
    (waiting,) = again.next_round(3, 1000)
    assert (waiting.number, waiting.params) == (2, trials[2].params)
    again.tell(waiting, "run-2", 0.75)
    assert again.best.params == trials[2].params
    assert [(each["run"], each["value"]) for each in read_search(tmp_path)["trials"]] == [
        ("run-0", 0.5), ("run-1", None), ("run-2", 0.75)]  # fmt: skip
    assert ask(again).params not in [trial.params for trial in trials]
    assert open_search(tmp_path, name="another configuration").ended == 0


@pytest.mark.parametrize(("size", "count"), [(2, 4), pytest.param(3, 16, marks=pytest.mark.slow)])
@pytest.mark.slow
def test_a_search_that_is_killed_anywhere_has_the_trials_it_would_have_had(tmp_path, size, count):
    """Killed between the draws of a round and after every trial; the sampler takes 10 to begin with."""
    for name in ("undisturbed", "killed"):
        (tmp_path / name).mkdir()
    search = open_search(tmp_path / "undisturbed")
    while batch := search.next_round(size, count):
        for trial in batch:
            tell(search, trial)
    while batch := open_search(tmp_path / "killed").next_round(size, count):
        tell(open_search(tmp_path / "killed"), batch[0])
        begun = len(open_search(tmp_path / "killed").study.trials)
        if begun % size == 0 and begun < count and len(batch) == 1:
            assert ask(open_search(tmp_path / "killed")).number == begun
    undisturbed, killed = (read_search(tmp_path / name)["trials"] for name in ("undisturbed", "killed"))
    assert killed == undisturbed and len(killed) == count
    assert open_search(tmp_path, seed=1).next_round(1, 1)[0].params != undisturbed[0]["params"]


def test_fewer_trials_than_were_begun_end_the_search(tmp_path):
    search = open_search(tmp_path)
    for trial in search.next_round(3, 3)[:2]:
        tell(search, trial)
    assert open_search(tmp_path).next_round(3, 2) == []


@pytest.mark.parametrize("damage", ["empty folder", "text", "half"])
def test_a_damaged_search_is_one_line_that_names_the_file(tmp_path, damage):
    path = tmp_path / "search.db"
    tell(search := open_search(tmp_path), ask(search))
    content = path.read_bytes()
    path.unlink()
    if damage == "empty folder":
        path.mkdir()
    else:
        path.write_bytes(b"no database" * 100 if damage == "text" else content[: len(content) // 2])
    with pytest.raises(InputError, match="search.db: cannot be read .*; delete it to search anew") as caught:
        open_search(tmp_path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


@pytest.mark.parametrize("text", ["", "[]", '{"trials": 3}', '{"metric": "val/acc", "space": [], "trials": [[]]}'])
def test_a_damaged_list_of_trials_is_named_and_written_again(tmp_path, caplog, text):
    tell(search := open_search(tmp_path), ask(search))
    (tmp_path / "search.json").write_text(text)
    tell(search, ask(search))
    assert "search.json" in caplog.text and "taken for missing" in caplog.text
    assert [trial["run"] for trial in read_search(tmp_path)["trials"]] == [None, "run-1"]


def test_parameters_stay_in_their_space(tmp_path):
    for trial in open_search(tmp_path).next_round(20, 20):
        params = trial.params
        assert 1e-5 <= params["lr"] <= 1e-2 and params["depth"] in range(1, 6) and params["model"] in ("vit", "vitbn")


def test_the_best_loss_is_the_lowest(tmp_path):
    search = open_search(tmp_path, metric="val/loss")
    for value in (0.5, 0.2, 0.9):
        search.tell(ask(search), "run", value)
    assert search.best.value == 0.2


@pytest.mark.parametrize("value", [{"low": 5, "high": 1}, {"low": 1}, {"low": 1, "high": 2, "steps": 1}, [], "1,2", 3])
def test_a_parameter_that_is_none_is_refused(value):
    with pytest.raises(InputError, match="hydra.sweeper.space.depth"):
        parameter("depth", value)


def test_the_report_ranks_the_trials_and_draws_every_parameter(tmp_path):
    search = open_search(tmp_path)
    for value in (0.5, None, 0.75):
        search.tell(ask(search), f"run-{value}", value)
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
    search.tell(ask(search), "run", None)
    assert search.best is None
    with style():
        assert search_pictures(json.loads((tmp_path / "search.json").read_text())) == []
