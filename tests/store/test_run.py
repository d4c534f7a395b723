import copy
import json
import math
from functools import reduce
from operator import getitem

import pytest

from vitbn import __version__
from vitbn.config.compose import compose_config, to_plain_dict
from vitbn.store.run import (
    NEUTRAL,
    config_hash,
    finite,
    last_line,
    read_result,
    run_id,
    skipped_line,
    warn_of_renamed_runs,
)


def composed(*overrides):
    return to_plain_dict(compose_config(overrides))


SAME = ["study=x", "runs=elsewhere", "rerun=true", "logger=none", "checkpoint.every_minutes=1", "data.root=/d",
        "trainer=cpu", "trainer.devices=2"]  # fmt: skip
OTHER = ["lr=0.005", "depth=5", "seed=1", "model=vitbn", "norm.qk=layer", "pool=mean", "epochs=3", "batch_size=50",
         "data=mnist5k", "data.augment=false", "trainer.precision=bf16-mixed", "model.qkv_bias=true"]  # fmt: skip


def test_a_run_is_named_by_what_can_change_its_result():
    name = run_id(composed())
    assert name.startswith("vit-d6-lr0.003-s0-") and not set("=, ") & set(name)
    assert {run_id(composed(o)) for o in SAME} == {name}
    assert len({name, *(run_id(composed(o)) for o in OTHER)}) == 1 + len(OTHER)


def test_runs_on_disk_keep_their_names():
    """Their folders are found by these names: a change here orphans what people have trained."""
    assert run_id(composed()) == "vit-d6-lr0.003-s0-e0cf6d9e"
    assert run_id(composed("model=vitbn", "depth=3", "lr=0.005")) == "vitbn-d3-lr0.005-s0-ba743c56"
    assert run_id(composed("schedule=constant", "test_train_mode=false")) == run_id(composed())


def test_import_paths_of_our_classes_are_not_part_of_the_name_those_of_others_are():
    moved, other = composed(), composed()
    moved["model"]["_target_"] = "vitbn.elsewhere.ViT"
    other["model"]["_target_"] = "timm.ViT"
    assert run_id(moved) == run_id(composed()) != run_id(other)
    other = composed()
    other["optimizer"]["_target_"] = "torch.optim.NAdam"
    assert run_id(other) != run_id(composed())


def test_the_highest_precision_is_the_same_as_none_mentioned():
    config = composed()
    config["matmul_precision"] = "highest"
    names = [run_id(config)]
    del config["matmul_precision"]
    names.append(run_id(config))
    config["matmul_precision"] = "medium"
    assert names[0] == names[1] != run_id(config)


@pytest.mark.parametrize("key", NEUTRAL)
def test_a_value_that_asks_for_nothing_leaves_the_name_alone(key):
    plain = composed()

    def named(value):
        config = copy.deepcopy(plain)
        *groups, name = key.split(".")
        reduce(getitem, groups, config)[name] = value
        return run_id(config)

    assert {named(value) for value in NEUTRAL[key]} == {run_id(plain)}
    assert run_id(plain) not in {named("another"), named(7)}


def test_one_batch_is_not_all_of_them():
    whole, one = composed(), composed()
    whole["trainer"]["limit_train_batches"], one["trainer"]["limit_train_batches"] = 1.0, 1
    assert run_id(whole) == run_id(composed()) != run_id(one)


def test_processes_that_normalise_alone_are_another_run_for_every_count_of_them():
    alone = [run_id(composed("trainer.sync_batchnorm=false", f"trainer.devices={n}")) for n in (1, 2, 3)]
    assert alone[0] == run_id(composed("trainer.devices=2")) and len(set(alone)) == 3


def test_a_key_that_comes_later_switched_off_leaves_the_name_alone():
    config = composed()
    config["new"], config["data"]["newer"] = None, False
    assert run_id(config) == run_id(composed())
    config["data"]["newer"] = True
    assert run_id(config) != run_id(composed())


def test_the_articles_figures_share_their_runs():
    def ids(experiment, depths, rates):
        return {run_id(composed(f"experiment={experiment}", f"depth={d}", f"lr={lr}")) for d in depths for lr in rates}

    fig8, fig9, fig10 = (
        ids("fig8", (4, 5), (0.003,)),
        ids("fig9", (2, 4), (0.005,)),
        ids("fig10", (2, 4), (0.003, 0.005)),
    )
    assert len(fig8 & fig10) == 1 and len(fig9 & fig10) == 2


def test_rerun_forgets_the_earlier_training(make_run):
    run = make_run("rerun=true")
    (run.folder / "csv" / "version_0").mkdir(parents=True)
    (run.folder / "csv" / "version_0" / "metrics.csv").write_text("step")
    (run.folder / "result.json").write_text('{"status": "done"}')
    (run.folder / "notes.txt").write_text("mine")
    run.begin()
    assert run.result() is None and (run.folder / "notes.txt").exists()
    assert not [*run.folder.glob("csv/**/*.csv")]


def test_json_has_no_nan():
    assert finite({"a": math.nan, "b": [1.0, -math.inf], "c": "x"}) == {"a": None, "b": [1.0, None], "c": "x"}


def test_a_result_says_which_version_wrote_it(make_run):
    run = make_run()
    run.begin()
    result = run.finish("done", metrics={"val/acc": math.nan}, epochs=1)
    assert result == json.loads((run.folder / "result.json").read_text()) == read_result(run.folder)
    assert result["vitbn"] == __version__ and result["config_hash"] == config_hash(run.config) == run.id[-8:]
    assert result["metrics"] == {"val/acc": None}


@pytest.mark.parametrize("content", [b"", b"[]", b'{"status": 5}', b"\xff", b"[" * 100_000])
def test_a_result_that_cannot_be_read_counts_as_missing_and_is_named(tmp_path, caplog, content):
    (tmp_path / "result.json").write_bytes(content)
    assert read_result(tmp_path) is None
    assert f"{tmp_path / 'result.json'}: " in caplog.text and "taken for missing" in caplog.text


def test_a_study_of_an_earlier_version_is_named(make_run, caplog):
    run = make_run()
    warn_of_renamed_runs(run.study)
    run.begin()
    warn_of_renamed_runs(run.study)
    assert not caplog.text
    (run.folder / "config.yaml").write_text("model: {name: vit}\nmatmul: null\n")
    warn_of_renamed_runs(run.study)
    assert f"{run.study}: has runs of an earlier version" in caplog.text


def test_a_skipped_run_names_what_was_typed_for_its_training(make_run):
    run = make_run()
    plain = f"{run.folder}: done, skipped (rerun=true trains it again)"
    assert skipped_line(run, "done", ["seed=0"]) == plain
    line = skipped_line(run, "done", ["seed=0", "logger=wandb", "logger.wandb.offline=true", "log_every=1"])
    assert line == f"{plain}; nothing is logged then, logger=wandb logger.wandb.offline=true log_every=1 has no effect"
    line = skipped_line(run, "done", ["callbacks=[default,instruments]", "callbacks=ema"])
    assert line == f"{plain}; nothing is logged then, callbacks=[default,instruments] has no effect"


@pytest.mark.parametrize(("error", "line"), [(None, None), ("", None), (" \n", None), ("a\nb: c\n", "b: c")])
def test_the_last_line_of_a_traceback(error, line):
    assert last_line(error) == line
