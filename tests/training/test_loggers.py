import csv

import pytest

from vitbn.errors import InputError
from vitbn.training import loggers
from vitbn.training.loggers import make_logger
from vitbn.training.outcome import attempt
from vitbn.training.train import train


def curve(run):
    return [float(row["val/acc"]) for row in csv.DictReader((run.folder / "metrics.csv").open())]


def interrupted_and_resumed(make_run, *words):
    """Two epochs, of which the second is begun anew from the first one's checkpoint."""
    run = make_run(*words)
    attempt(make_run(*words, "epochs=1"), train)
    first = make_run(*words, "epochs=1")
    first.folder.rename(run.folder)
    (run.folder / "result.json").unlink()
    assert attempt(run, train)["epochs"] == 2
    return run


def test_csv_holds_the_curves_and_loses_nothing_when_a_run_goes_on(make_run):
    run = interrupted_and_resumed(make_run, "logger=csv")
    found = []
    for number in (0, 1):
        rows = csv.DictReader((run.folder / "csv" / f"version_{number}" / "metrics.csv").open())
        found += [float(row["val/acc"]) for row in rows if row["val/acc"]]
    assert found == pytest.approx(curve(run))


def test_mlflow_has_one_run_per_run_also_when_it_was_interrupted(make_run):
    mlflow = pytest.importorskip("mlflow")
    run = interrupted_and_resumed(make_run, "logger=mlflow")
    client = mlflow.MlflowClient(f"sqlite:///{run.study.parent.resolve() / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(run.config["study"])
    assert [each.data.params["seed"] for each in client.search_runs([experiment.experiment_id])] == ["0"]
    known = (run.folder / "mlflow_run_id").read_text().strip()
    assert [point.value for point in client.get_metric_history(known, "val/acc")] == pytest.approx(curve(run))
    assert client.get_run(known).info.status == "FINISHED"


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_logger_without_its_package_says_what_to_install(make_run, monkeypatch, name):
    monkeypatch.setattr(loggers, "find_spec", lambda package: None)
    with pytest.raises(InputError, match=rf"logger={name}: needs .*pip install -e '.\[{name}\]'"):
        make_logger(make_run(f"logger={name}"))


def test_none_is_none(make_run):
    assert make_logger(make_run("logger=none")) is None
