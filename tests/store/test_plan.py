import json
import os

import pytest

from vitbn.store.labels import flatten
from vitbn.store.plan import hyperparameters, planned_configs, write_plan


def test_a_plan_gives_back_every_configuration_and_its_labels(make_run):
    runs = [make_run(f"batch_size={size}", f"model={model}") for size in (20, 50) for model in ("vit", "vitbnffn")]
    write_plan(runs[0].study, runs)
    assert planned_configs(runs[0].study) == {run.id: flatten(run.config) for run in runs}
    labels = {"model": "ViT", "data": "fashion_mnist", "depth": 1, "lr": 0.003, "batch_size": 20, "seed": 0}
    assert hyperparameters(runs[0]) == labels
    assert hyperparameters(runs[3]) == labels | {"model": "ViTBNFFN", "batch_size": 50}


def test_a_run_that_no_sweep_planned_has_the_labels_of_every_run(make_run):
    assert list(hyperparameters(make_run())) == ["model", "data", "depth", "lr", "seed"]


def test_a_search_tells_what_it_searches(make_run):
    run = make_run()
    run.study.mkdir(parents=True)
    search = {"name": "x", "metric": "val/acc", "space": ["lr", "model.dropout"], "trials": []}
    (run.study / "search.json").write_text(json.dumps(search))
    assert hyperparameters(run)["model.dropout"] == 0.0


def test_plans_of_an_earlier_version_are_read(make_run):
    run = make_run()
    (run.study / ".plans").mkdir(parents=True)
    named = {"model": "vit", "data": "mnist", "depth": 3, "lr": 0.1, "pool": "cls", "pos_emb": "learn", "seed": 4}
    (run.study / ".plans" / "0.json").write_text(json.dumps({"vit-1": {**named, "epochs": 5}}))
    (config,) = planned_configs(run.study).values()
    assert (config["model.name"], config["model.depth"], config["seed"], config["epochs"]) == ("vit", 3, 4, 5)


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b'{"runs": 5, "shared": 1}', b'{"x": 5}', b"[" * 100_000])
def test_a_plan_that_cannot_be_read_is_named_and_takes_no_other_with_it(make_run, caplog, content):
    run = make_run()
    write_plan(run.study, [run])
    (run.study / ".plans" / "bad.json").write_bytes(content)
    os.mkfifo(run.study / ".plans" / "worse.json")
    assert list(planned_configs(run.study)) == [run.id]
    assert "bad.json" in caplog.text and "worse.json" in caplog.text


def test_one_batch_and_all_of_them_are_told_apart(make_run):
    runs = [make_run(f"trainer.limit_train_batches={limit}") for limit in ("1", "1.0")]
    write_plan(runs[0].study, runs)
    limits = [config["trainer.limit_train_batches"] for config in planned_configs(runs[0].study).values()]
    assert [repr(limit) for limit in limits] == ["1", "1.0"]
