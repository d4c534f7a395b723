import shutil

import numpy as np
import pytest

from vitbn.analysis.records import by_data, read_studies, read_study
from vitbn.errors import InputError


def test_reads_configuration_rows_and_result(run, study):
    run(model="vitbnffn", depth=5, lr=0.005, seed=2, values=[0.3, 0.6, 0.8], epochs=3)
    (found,) = read_study(study)
    assert found.status == "done" and found.seed == 2 and found.depth == 5 and found.lr == 0.005
    assert found.config["model.name"] == "vitbnffn" and found.config["norm.ffn_hidden"] == "batch"
    assert found.rows["epoch"].tolist() == [1, 2, 3] and found.rows["val/acc"].tolist() == [0.3, 0.6, 0.8]
    assert found.last("val/acc") == 0.8 and found.last("test/acc") == pytest.approx(0.82)
    assert found.at_epoch("val/acc", 2) == 0.6 and found.at_epoch("val/acc", 4) is None


def test_depth_only_for_networks_that_have_one(run, study):
    run(model="dnn")
    assert read_study(study)[0].depth is None


def test_run_without_result_is_interrupted_and_its_half_written_row_is_left_out(run, study):
    folder = run(status="running", values=[0.3, 0.6])
    path = folder / "metrics.csv"
    path.write_text(path.read_text() + "3,0.4,0.9")
    (found,) = read_study(study)
    assert found.status == "interrupted" and found.notes == ()
    assert found.rows["epoch"].tolist() == [1, 2]
    path.write_text(path.read_text() + "1,0.4,0.91,0.003,4.1")  # all fields, yet the writer may be inside a number
    assert read_study(study)[0].rows["epoch"].tolist() == [1, 2]


def test_half_written_row_of_an_ended_run_is_dropped_and_said(run, study):
    path = run(values=[0.3, 0.6]) / "metrics.csv"
    path.write_text(path.read_text() + "3,0.4")
    (found,) = read_study(study)
    assert found.status == "done" and len(found.rows["epoch"]) == 2
    assert str(path) in found.notes[0] and "line 4" in found.notes[0]


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("result.json", '{"status": "done", "metr', "broken JSON"),
        ("result.json", '{"status": "well"}', "'well' is none of done"),
        ("config.yaml", "a: [", "YAML"),
        ("config.yaml", "", "empty"),
        ("metrics.csv", "epoch,train/loss\n1,2\n", "no column train/acc"),
    ],
)
def test_a_broken_file_makes_one_run_unreadable_and_is_named(run, study, file, text, said):
    folder = run(seed=0)
    run(seed=1)
    (folder / file).write_text(text)
    runs, warnings = read_studies([study])
    assert sorted(found.status for found in runs) == ["done", "unreadable"]
    (warning,) = warnings
    assert str(folder / file) in warning and said in warning and "\n" not in warning


def test_done_run_without_metrics_is_unreadable(run, study):
    folder = run()
    run(seed=1)
    (folder / "metrics.csv").unlink()
    runs, warnings = read_studies([study])
    assert runs[0].status == "unreadable" and "missing" in warnings[0]


def test_failed_run_needs_no_metrics(run, study):
    (run(status="failed") / "metrics.csv").unlink()
    (found,) = read_study(study)
    assert found.status == "failed" and found.rows == {} and found.last("val/acc") is None


def test_folder_without_runs(study, run):
    run()
    with pytest.raises(InputError, match="no such folder.*there: article"):
        read_study(study.parent / "artcle")
    with pytest.raises(InputError, match="holds the studies article"):
        read_study(study.parent)
    empty = study.parent / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match="no runs in this folder"):
        read_study(empty)


def test_only_unreadable_runs(run, study):
    (run() / "config.yaml").write_text("")
    with pytest.raises(InputError, match="none of its 1 runs can be read"):
        read_study(study)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ({"name": "mnist5k"}, "mnist5k"),
        ({"augment": False}, "mnist data.augment=False"),
        ({"holdout": 5000}, "mnist data.holdout=5000"),
    ],
)
def test_runs_on_different_data_are_kept_apart(run, study, data, name):
    run(seed=0)
    run(seed=1, data=data)
    groups = by_data(read_study(study))
    assert {found: [each.seed for each in runs] for found, runs in groups.items()}[name] == [1] and len(groups) == 2


def test_an_image_folder_is_what_it_holds_wherever_it_lies(run, study):
    run(seed=0, data={"name": "pets", "root": "here", "content": "1"})
    run(seed=1, data={"name": "pets", "root": "there", "content": "1"})
    assert len(by_data(read_study(study))) == 1
    run(seed=2, data={"name": "pets", "root": "here", "content": "2"})
    assert list(by_data(read_study(study))) == ["pets", "pets 2"]


def test_two_image_folders_are_different_data(run, study):
    run(seed=0, data={"name": "folder", "root": "cats"})
    run(seed=1, data={"name": "folder", "root": "dogs"})
    assert list(by_data(read_study(study))) == ["cats", "dogs"]


@pytest.mark.parametrize("name", ["mnist", "emnist", "STL10"])
def test_data_may_lie_anywhere(run, study, name):
    for seed, root in enumerate("abc"):
        run(seed=seed, data={"name": name, "root": root})
    assert {found: len(runs) for found, runs in by_data(read_study(study)).items()} == {name: 3}


def test_no_data_set_goes_by_the_name_of_another(run, study):
    for seed, (name, root) in enumerate([("pets", "a"), ("folder", "b/pets"), ("folder", "c/pets")]):
        run(seed=seed, data={"name": name, "root": root, "content": None if seed < 2 else "3"})
    assert [len(runs) for runs in by_data(read_study(study)).values()] == [1, 1, 1]


def test_the_same_run_in_two_studies_counts_once_and_the_ended_one_wins(run, study, tmp_path):
    run(status="running", values=[0.2])
    run(into=tmp_path / "kept" / "article", values=[0.2, 0.5])
    runs, warnings = read_studies([study, tmp_path / "kept" / "article"])
    assert [found.status for found in runs] == ["done"] and "counted once" in warnings[0]


def test_steps(run, study):
    run(steps=[1.5, 1.0, 0.5])
    table = read_study(study)[0].steps()
    assert table["step"].tolist() == [1, 2, 3] and np.mean(table["train/loss"]) == 1.0
    run(seed=1)
    assert read_study(study)[1].steps() == {}


def test_a_copy_of_a_run_under_another_name_counts_once(run, study):
    folder = run(seed=1)
    shutil.copytree(folder, folder.with_name("copy"))
    runs, warnings = read_studies([study])
    assert len(runs) == 1 and "counted once" in warnings[0]
