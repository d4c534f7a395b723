import pytest

from vitbn.cli import main
from vitbn.store.plan import write_plan
from vitbn.store.status import Progress, humanize_seconds, progress, seconds_left


def row(state, done, seconds=None, model="vit", depth=2):
    return Progress("x", {"model": model, "depth": depth}, state, done, 10, seconds)


def test_time_left_is_that_of_like_runs():
    assert seconds_left([row("missing", 0)]) is None
    assert seconds_left([row("done", 10, 3.0), row("missing", 0), row("interrupted", 4, 2.0)]) == 10 * 2.5 + 6 * 2.0
    assert seconds_left([row("done", 10, 4.0), row("missing", 0, depth=6)]) == 10 * 12.0
    running = [row("running", 5, 2.0), row("running", 5, 2.0)]
    assert seconds_left(running) == 10.0  # two at once
    assert seconds_left([row("diverged", 3, 2.0), row("failed", 9, 2.0)]) == 2.0


@pytest.mark.parametrize(
    ("seconds", "words"), [(20, "20 seconds"), (600, "10.0 minutes"), (9000, "2.5 hours"), (2e5, "2.3 days")]
)
def test_time_is_humanize_seconds(seconds, words):
    assert humanize_seconds(seconds) == f"about {words}"


def test_status_names_every_state(make_run, capsys, lock_elsewhere):
    runs = [make_run(f"seed={seed}") for seed in range(6)]
    write_plan(runs[0].study, runs)
    for run, status in zip(runs, ("done", "failed", "diverged"), strict=False):
        run.begin()
        run.finish(status, metrics={}, epochs=2, seconds=1.0)
    for run in runs[3:5]:
        run.begin()
        (run.folder / "metrics.csv").write_text("epoch,seconds\n1,2.0\n")
    with lock_elsewhere(runs[4].folder):
        states = {p.id: p.state for p in progress(runs[0].study)}
        assert [states[run.id] for run in runs] == ["done", "failed", "diverged", "interrupted", "running", "missing"]
        assert main(["status", str(runs[0].study)]) == 0
    printed = capsys.readouterr().out
    assert "6 runs: 1 done, 1 running, 1 interrupted, 1 missing, 1 failed, 1 diverged" in printed
    assert "time left: about" in printed and runs[5].id in printed
    assert main(["status", "nope"]) == 2
    assert capsys.readouterr().err == "error: runs/nope: no study there\n"
