import csv
import math
import threading

import pytest

from vitbn.analysis.filters import fitting
from vitbn.analysis.table import print_table, study_configs, write_summary
from vitbn.cli import main
from vitbn.errors import InputError
from vitbn.store.labels import flatten
from vitbn.store.plan import write_plan


def configs_of(runs):
    return {run.folder: flatten(run.config) for run in runs}


@pytest.fixture
def ended(make_run, monkeypatch):
    """Runs with a result each: ended({"depth=1 seed=0": 0.5}); None is a run that has only begun."""

    monkeypatch.setenv("COLUMNS", "160")

    def end(accuracies):
        runs = [make_run(*typed.split()) for typed in accuracies]
        for run, accuracy in zip(runs, accuracies.values(), strict=True):
            run.begin()
            if accuracy is not None:
                metrics = {"val/acc": accuracy, "test/acc": 0.625}
                run.finish("done", metrics=metrics, epochs=1, seconds=3.21, fingerprint={"parameters": 7})
        return runs

    return end


def summary(study):
    return list(csv.DictReader((study / "summary.csv").open()))


def test_summary_and_table_hold_one_sorted_row_per_run(ended, capsys):
    typed = [f"depth={depth} model={model}" for depth in (10, 2) for model in ("vitbnffn", "vit")]
    runs = ended(dict(zip([*typed, "depth=1"], (0.5, 0.25, 0.75, math.nan, None), strict=True)))
    write_summary(runs[0].study)
    rows = summary(runs[0].study)
    assert [(row["depth"], row["model"], row["val/acc"]) for row in rows] == [
        ("1", "ViT", ""), ("2", "ViT", ""), ("2", "ViTBNFFN", "0.75"), ("10", "ViT", "0.25"), ("10", "ViTBNFFN", "0.5"),
    ]  # fmt: skip
    assert rows[0]["status"] == "interrupted" and rows[1]["parameters"] == "7"
    print_table(runs[0].study, configs_of(runs))
    printed = capsys.readouterr().out
    assert "lr=0.003" in printed and "75.00%" in printed and "3.2" in printed and "–" in printed
    assert printed.index("interrupted") < printed.index("75.00%") < printed.index("25.00%") < printed.index("50.00%")


def test_where_a_column_per_key_would_not_fit_one_column_names_the_changes(ended, capsys, monkeypatch):
    varied = ["mixup=0.5", "cutmix=0.5", "label_smoothing=0.1", "batch_size=50", "optimizer=sgd", "schedule=cosine"]
    runs = ended({"seed=0": 0.5, "seed=1": 0.5, "seed=2": 0.5} | {f"{key} epochs=2": 0.25 for key in varied})
    monkeypatch.setenv("COLUMNS", "80")
    print_table(runs[0].study, configs_of(runs))
    printed = capsys.readouterr().out
    assert max(len(line) for line in printed.splitlines()[1:]) <= 80
    assert all(f"│ {key} " in printed for key in ("mixup=0.5", "optimizer=SGD", "schedule=cosine"))


def test_whatever_a_sweep_varies_is_a_column(ended, capsys):
    slots = [f"norm.attn_out={out} norm.ffn_in={ffn}" for out in ("none", "batch") for ffn in ("none", "layer")]
    runs = ended({f"{typed} batch_size={size}": 0.5 for size, typed in zip((20, 50, 50, 20), slots, strict=True)})
    assert main(["table", str(runs[0].study)]) == 0
    printed = capsys.readouterr().out
    assert "ViT attn_out=batch ffn_in=none │         50 │ done" in printed and printed.count("│ done") == 4
    write_summary(runs[0].study)
    assert len({(row["model"], row["batch_size"]) for row in summary(runs[0].study)}) == 4


def test_seeds_give_a_mean_with_an_interval_for_every_arm(ended, capsys):
    runs = ended({f"lr={lr} seed={seed}": 0.5 + lr + 0.01 * seed for lr in (0.1, 0.2) for seed in range(3)})
    print_table(runs[0].study, configs_of(runs))
    printed = capsys.readouterr().out
    assert "61.0 % [58.5, 63.5]" in printed and "71.0 % [68.5, 73.5]" in printed


def test_more_runs_than_a_table_holds_are_counted_and_averaged(ended, capsys, monkeypatch):
    monkeypatch.setattr("vitbn.analysis.table.MAX_TABLE_ROWS", 2)
    runs = ended({"seed=0": 0.5, "seed=1": 0.5, "seed=2": None})
    print_table(runs[0].study, configs_of(runs))
    shown = capsys.readouterr().out
    assert "3 runs: 2 done, 1 interrupted; a row for each in" in shown and "50.0 % [50.0, 50.0]" in shown
    assert "50.00%" not in shown


def test_a_run_that_has_not_begun_has_its_labels_from_the_plan(make_run, capsys):
    runs = [make_run(f"seed={seed}") for seed in (3, 4)]
    write_plan(runs[0].study, runs)
    assert main(["table", str(runs[0].study)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("missing") == 2 and "│    3 │" in printed and "│    4 │" in printed


def test_text_is_no_markup(make_run, capsys):
    run = make_run("runs='[/x]'")
    print_table(run.study, {run.folder: flatten(run.config) | {"model.name": "[red]one"}})
    printed = capsys.readouterr().out
    assert "[/x]" in printed and "[red]one" in printed


def test_a_broken_configuration_is_named_and_takes_no_other_run_with_it(ended, caplog):
    runs = ended({"seed=0": 0.5, "seed=1": 0.5})
    (runs[0].folder / "config.yaml").write_text("model: [")
    write_summary(runs[0].study)
    assert str(runs[0].folder / "config.yaml") in caplog.text
    assert sorted(row["status"] for row in summary(runs[0].study)) == ["done", "unreadable"]


def test_a_summary_that_cannot_be_written_is_a_warning(make_run, caplog):
    run = make_run()
    run.begin()
    (run.study / "summary.csv").mkdir()
    write_summary(run.study)
    assert f"{run.study / 'summary.csv'}: not written: " in caplog.text


def test_a_result_that_comes_in_while_the_summary_is_written_is_in_it(ended, monkeypatch):
    first, second = ended({"seed=0": 0.5, "seed=1": None})
    write = threading.Event()

    def read_meanwhile(study):
        if not write.is_set():
            write.set()
            second.finish("done", metrics={"val/acc": 0.25}, epochs=1)
            return configs_of([first])
        return study_configs(study)

    monkeypatch.setattr("vitbn.analysis.table.study_configs", read_meanwhile)
    write_summary(first.study)
    assert [row["val/acc"] for row in summary(first.study)] == ["0.5", "0.25"]


def test_a_filter_chooses_runs(ended, capsys):
    runs = ended({"seed=0": 0.5, "seed=1": 0.25, "seed=2": 0.75, "seed=0 pool=mean": 0.125})
    assert main(["table", str(runs[0].study), "pool=cls", "seed=1,2"]) == 0
    printed = capsys.readouterr().out
    assert "25.00%" in printed and "75.00%" in printed and "50.00%" not in printed and "12.50%" not in printed
    assert main(["table", str(runs[0].study), "sede=1"]) == 2
    assert "sede=1: no run has this key; they differ in pool, seed" in capsys.readouterr().err
    assert main(["table", str(runs[0].study), "seed=9"]) == 2
    assert "no run has seed=9; there are 0, 1, 2" in capsys.readouterr().err


def test_norms_with_options_are_chosen_as_shown_and_as_typed():
    configs = {
        "ghost": {"norm.ffn_in": "ghost_batch(momentum=0.2, virtual=20)", "schedule.name": None},
        "plain": {"norm.ffn_in": "batch", "schedule.name": "step"},
    }
    for typed in ("ghost_batch(momentum=0.2, virtual=20)", "{kind:ghost_batch,virtual:20,momentum:0.2}"):
        assert list(fitting(configs, [f"norm.ffn_in={typed}"])) == ["ghost"]
        assert len(fitting(configs, [f"norm.ffn_in=batch,{typed}"])) == 2
    with pytest.raises(InputError, match="there are null, step"):
        fitting(configs, ["schedule.name=none"])
