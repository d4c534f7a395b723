import csv
import logging
import os
import sys
import threading

import pytest
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger
from pytorch_lightning.loggers.logger import DummyLogger

from vitbn.store.plan import write_plan
from vitbn.training.loggers import guard
from vitbn.training.loggers.make import open_loggers
from vitbn.training.outcome import attempt
from vitbn.training.train import train


class Broken(CSVLogger):
    """Raises, or never answers, when its method `broken` is called."""

    def __init__(self, save_dir, broken, hangs=False):
        super().__init__(save_dir, name="own")

        def fail(*args, **kwargs):
            if hangs:
                threading.Event().wait()
            raise ConnectionError("the server\nis gone")

        if broken == "__init__":
            fail()
        setattr(self, broken, fail)


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


def warnings(caplog):
    return [record.message for record in caplog.records if record.levelno >= logging.WARNING]


def test_csv_holds_the_curves_and_loses_nothing_when_a_run_goes_on(make_run):
    run = interrupted_and_resumed(make_run, "logger=csv")
    found = []
    for number in (0, 1):
        rows = csv.DictReader((run.folder / "csv" / f"version_{number}" / "metrics.csv").open())
        found += [float(row["val/acc"]) for row in rows if row["val/acc"]]
    assert found == pytest.approx(curve(run))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of SQLAlchemy, in MLflow
def test_mlflow_has_one_run_per_run_also_when_it_was_interrupted(make_run):
    mlflow = pytest.importorskip("mlflow")
    run = interrupted_and_resumed(make_run, "logger=mlflow")
    client = mlflow.MlflowClient(f"sqlite:///{run.study.parent.resolve() / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(run.config["study"])
    (params,) = [each.data.params for each in client.search_runs([experiment.experiment_id])]
    assert params["seed"] == "0" and params["norm.ffn_in"] == "layer" and "logger.mlflow.uri" not in params
    known = (run.folder / "mlflow_run_id").read_text().strip()
    assert [point.value for point in client.get_metric_history(known, "val/acc")] == pytest.approx(curve(run))
    assert client.get_run(known).info.status == "FINISHED"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_mlflow_experiment_in_the_trash_is_a_warning(make_run, caplog):
    mlflow = pytest.importorskip("mlflow")
    run = make_run("logger=mlflow", "epochs=1")
    run.begin()
    with open_loggers(run):
        client = mlflow.MlflowClient(f"sqlite:///{run.study.parent.resolve() / 'mlflow.db'}")
        client.delete_experiment(client.get_experiment_by_name(run.config["study"]).experiment_id)
    assert attempt(make_run("logger=mlflow", "epochs=1", "seed=1"), train)["status"] == "done"
    (warning,) = warnings(caplog)
    assert "logger=mlflow: " in warning and "is deleted; restore it" in warning


@pytest.mark.slow
def test_runs_of_one_process_are_runs_of_wandb(make_run):
    wandb = pytest.importorskip("wandb")
    words = "logger=[tensorboard,wandb]", "logger.wandb.offline=true"
    ids, names = set(), set()
    for seed in (0, 1):
        with open_loggers(make_run(*words, f"seed={seed}")) as loggers:
            run = loggers[1].experiment
            assert run is wandb.run and run.config["seed"] == seed and run.config["norm.ffn_in"] == "layer"
            ids.add(run.id)
            names.add(run.name)
        assert wandb.run is None
    assert len(ids) == 2 and names == {make_run("seed=0").id, make_run("seed=1").id}
    with open_loggers(make_run(*words)) as loggers:
        assert loggers[1].experiment.id in ids  # goes on


def test_wandb_asks_nobody_for_a_key(make_run, monkeypatch, caplog, tmp_path):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setattr(wandb, "login", lambda prompt: prompt)
    with open_loggers(make_run("logger=wandb")) as loggers:
        assert isinstance(loggers[0], DummyLogger)
    (warning,) = warnings(caplog)
    assert warning.startswith("logger=wandb: ") and "no API key" in warning


def test_hparams_are_what_tells_the_runs_of_a_sweep_apart(make_run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    runs = [make_run(f"batch_size={size}") for size in (50, 100)]
    write_plan(runs[0].study, runs)
    with open_loggers(runs[0]) as loggers:
        loggers[0].save()
    events = EventAccumulator(str(runs[0].folder)).Reload()
    start = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    shown = dict(HParamsPluginData.FromString(start).session_start_info.hparams)
    assert shown.keys() == {"model", "data", "depth", "lr", "batch_size", "seed"}
    assert shown["batch_size"].number_value == 50


def train_with_broken(make_run, broken, hangs):
    own = "+logger.own.save_dir=${runs}/${run_id:}", f"+logger.own.broken={broken}", f"+logger.own.hangs={hangs}"
    run = make_run("logger=none", f"+logger.own._target_={__name__}.Broken", *own, "epochs=2")
    assert attempt(run, train)["status"] == "done" and len(curve(run)) == 2


@pytest.mark.parametrize("broken", ["__init__", "log_hyperparams", "log_metrics", "save", "finalize"])
@pytest.mark.slow
def test_a_logger_that_fails_is_one_warning_and_costs_nothing(make_run, caplog, broken):
    train_with_broken(make_run, broken, hangs=False)
    reason = "the server is gone (the curves are in metrics.csv)"
    assert warnings(caplog) == [f"logger=own: not used from here on: {reason}"]


@pytest.mark.parametrize("broken", ["__init__", "log_metrics"])
def test_a_logger_that_hangs_is_waited_for_once(make_run, caplog, monkeypatch, broken):
    monkeypatch.setattr(guard, "SECONDS", 0.5)
    train_with_broken(make_run, broken, hangs=True)
    reason = "no answer within 0.5 seconds (the curves are in metrics.csv)"
    assert warnings(caplog) == [f"logger=own: not used from here on: {reason}"]


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_missing_package_is_a_warning_that_says_what_to_install(make_run, monkeypatch, caplog, name):
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, f"vitbn.training.loggers.{name}", raising=False)
    monkeypatch.delattr(f"vitbn.training.loggers.{name}", raising=False)
    with open_loggers(make_run(f"logger={name}")):
        pass
    (warning,) = warnings(caplog)
    assert warning.startswith(f"logger={name}: ") and f"pip install -e '.[{name}]'" in warning


def test_callbacks_find_the_loggers_of_lightning(make_run, add_callback):
    found = []

    class Look(Callback):
        def on_train_start(self, trainer, pl_module):
            found.extend(trainer.loggers)
            trainer.logger.experiment.add_scalar("own", 1.0, 0)

    add_callback(Look())
    assert attempt(make_run("logger=[tensorboard,csv]", "epochs=1"), train)["status"] == "done"
    assert [type(each).__mro__[1] for each in found] == [TensorBoardLogger, CSVLogger]


@pytest.mark.parametrize("words", ["logger=none", "~logger", "logger=[]"])
def test_without_loggers_callbacks_still_find_one(make_run, words):
    with open_loggers(make_run(words)) as loggers:
        assert len(loggers) == 1 and isinstance(loggers[0], Logger)


def test_nobody_is_told_of_a_training_unless_one_says_so(make_run, monkeypatch):
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "false")
    with open_loggers(run := make_run("logger=csv")):
        assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "false"
    monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY")
    with open_loggers(run):
        assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
