import errno
import multiprocessing

import pytest
import torch

from vitbn.store import atomic as durable
from vitbn.store import checkpoint_file as sealed
from vitbn.store.lock import is_owned, owned
from vitbn.store.run import Run
from vitbn.store.status import Progress, progress, seconds_left, spoken, write_plan
from vitbn.training.outcome import attempt
from vitbn.training.train import train


def test_a_run_that_raises_is_recorded_with_its_traceback_and_tried_again(make_run):
    run = make_run()

    def broken(run, signals):
        raise ZeroDivisionError("by design")

    result = attempt(run, broken)
    assert result == run.result() and result["status"] == "failed"
    assert result["error"] == "ZeroDivisionError: by design"
    assert "in broken" in (run.folder / "traceback.txt").read_text()
    assert attempt(run, train)["status"] == "done"
    assert not (run.folder / "traceback.txt").exists()


# checkpoints


def test_a_damaged_checkpoint_goes_back_one_and_ends_the_same(make_run):
    runs = [make_run("epochs=3", f"study={name}") for name in ("whole", "damaged")]
    for run in runs:
        attempt(run, train)
    last = runs[1].checkpoints / "last.ckpt"
    last.write_bytes(last.read_bytes()[:-1])
    (runs[1].folder / "result.json").unlink()
    attempt(runs[1], train)
    a, b = (torch.load(run.checkpoints / "last.ckpt", weights_only=True) for run in runs)
    assert all(torch.equal(a["state_dict"][name], b["state_dict"][name]) for name in a["state_dict"])


# full disks


@pytest.mark.parametrize("name", ["config.yaml", "metrics.csv", "last.ckpt", "best.ckpt", "result.json"])
def test_a_full_disk_keeps_the_state_before_and_says_so(make_run, monkeypatch, caplog, name):
    run = make_run("epochs=3")
    write, seen = durable.write, []

    def full(path, fill):
        seen.append(path.name)
        if path.name == name and seen.count(name) == (1 if name in ("config.yaml", "result.json") else 2):
            write(path, lambda file: (file.write(b"half"), fail(path)))
        else:
            write(path, fill)

    def fail(path):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(durable, "write", full)
    attempt(run, train)
    assert "disk full" in caplog.text and name in caplog.text and "type the same command again" in caplog.text
    monkeypatch.undo()
    assert not list(run.folder.rglob(durable.TEMPORARY))
    if name in ("last.ckpt", "metrics.csv", "best.ckpt"):
        assert (run.result() or {})["status"] == "failed" and sealed.newest_whole(run.checkpoints)
    result = attempt(run, train)
    reference = attempt(make_run("epochs=3", "study=reference"), train)
    assert {**result, "seconds": 0} == {**reference, "seconds": 0}


# locks


def hold(folder, ready, release):
    with owned(folder) as mine:
        ready.put(mine)
        release.get()


def test_a_run_has_one_owner_and_a_dead_owner_lets_go(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready, release = context.Queue(), context.Queue()
    owner = context.Process(target=hold, args=(tmp_path, ready, release))
    owner.start()
    assert ready.get(timeout=60) is True and is_owned(tmp_path)
    with owned(tmp_path) as mine:
        assert not mine
    owner.kill()
    owner.join()
    assert not is_owned(tmp_path) and not is_owned(tmp_path / "nowhere")
    with owned(tmp_path) as mine:
        assert mine


# status


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
def test_time_is_spoken(seconds, words):
    assert spoken(seconds) == f"about {words}"


def test_status_tells_every_state(make_run, capsys):
    from vitbn.cli import main

    runs: list[Run] = [make_run(f"seed={seed}") for seed in range(6)]
    write_plan(runs[0].study, runs)
    for run, status in zip(runs, ("done", "failed", "diverged"), strict=False):
        run.begin()
        run.finish(status, metrics={}, epochs=2, seconds=1.0)
    for run in runs[3:5]:
        run.begin()
        (run.folder / "metrics.csv").write_text("epoch,seconds\n1,2.0\n")
    with multiprocessing_lock(runs[4].folder):
        states = {p.id: p.state for p in progress(runs[0].study)}
        assert [states[run.id] for run in runs] == ["done", "failed", "diverged", "interrupted", "running", "missing"]
        assert main(["status", str(runs[0].study)]) == 0
    shown = capsys.readouterr().out
    assert "6 runs: 1 done, 1 running, 1 interrupted, 1 missing, 1 failed, 1 diverged" in shown
    assert "time left: about" in shown and runs[5].id in shown
    assert main(["status", "nope"]) == 2
    assert capsys.readouterr().err == "error: runs/nope: no study there\n"


class multiprocessing_lock:
    """Another process owns the folder while the block lasts (a process does not exclude itself)."""

    def __init__(self, folder):
        self.folder = folder

    def __enter__(self):
        context = multiprocessing.get_context("spawn")
        ready, self.release = context.Queue(), context.Queue()
        self.process = context.Process(target=hold, args=(self.folder, ready, self.release))
        self.process.start()
        assert ready.get(timeout=60)

    def __exit__(self, *args):
        self.release.put(None)
        self.process.join()
