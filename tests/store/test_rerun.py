import pytest

from vitbn.store.rerun import begin_rerun, end_rerun


def finish(run):
    run.begin()
    run.finish(status="done", metrics={}, seconds=1.0, epochs=1, error=None)


def test_a_sweep_is_trained_again_once(make_run):
    runs = [make_run(f"seed={seed}") for seed in range(3)]
    study = runs[0].study
    for run in runs[:2]:  # the third was never trained
        finish(run)
    assert begin_rerun(study, runs) == {runs[0].folder, runs[1].folder}
    (runs[0].folder / "result.json").unlink()
    finish(runs[0])
    assert begin_rerun(study, runs) == {runs[1].folder}  # interrupted, typed again
    (runs[1].folder / "result.json").unlink()
    assert begin_rerun(study, runs) == set()  # interrupted while that one trained: it goes on
    finish(runs[1])
    end_rerun(study, runs)
    assert begin_rerun(study, runs[:2]) == {runs[0].folder, runs[1].folder}
    assert begin_rerun(study, runs) == {runs[0].folder, runs[1].folder}  # a new wish


def test_what_an_incomplete_training_left_stays(make_run):
    run = make_run("rerun=true")
    finish(run)
    checkpoint = run.checkpoints / "last.ckpt"
    steps = run.folder / "steps.csv"
    for status, left in (("done", False), ("failed", True), (None, True)):
        checkpoint.touch()
        steps.touch()
        if status:
            run.finish(status=status, metrics={}, seconds=1.0, epochs=1, error=None)
        run.begin()
        assert checkpoint.exists() == steps.exists() == left and run.result() is None


@pytest.mark.parametrize("damage", ["", "[]", "[1", "{}"])
def test_a_damaged_file_counts_as_none(make_run, damage):
    run = make_run("seed=0")
    finish(run)
    begin_rerun(run.study, [run])
    (file,) = (run.study / ".plans").glob("*.rerun")
    file.write_text(damage)
    assert begin_rerun(run.study, [run]) == (set() if damage == "{}" else {run.folder})
