import errno
import shutil

import pytest
import torch

from vitbn.errors import InputError
from vitbn.store import atomic as durable
from vitbn.store import checkpoint_file
from vitbn.training.outcome import attempt
from vitbn.training.train import train
from vitbn.weights.runs import newest_checkpoint


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


@pytest.mark.parametrize(("hook", "n"), [("on_train_batch_start", 8), ("on_test_batch_start", 1)])
@pytest.mark.parametrize("what", ["run", "study"])
def test_a_folder_that_is_deleted_meanwhile_is_a_failure_in_one_line(make_run, at, caplog, hook, n, what):
    run = make_run("logger=none")  # TensorBoard's would make it again
    at(hook, n, lambda: shutil.rmtree(run.folder if what == "run" else run.study))
    assert attempt(run, train)["status"] == "failed"
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.message.startswith(f"{run.folder}: failed: its folder was deleted while it was trained")
    assert not run.folder.exists() and attempt(run, train)["status"] == "done"


# checkpoints


@pytest.mark.slow
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


@pytest.mark.parametrize(
    ("keep", "left"),
    [("all", {"best", "last", "previous"}), ("best", {"best"}), ("last", {"last"}), ("none", set())],
)
def test_which_checkpoints_of_a_finished_run_stay(make_run, keep, left):
    run = make_run(f"checkpoint.keep={keep}")
    result = attempt(run, train)
    assert result["status"] == "done" and {path.stem for path in run.checkpoints.iterdir()} == left
    assert run.id == make_run().id
    if left:
        assert newest_checkpoint(run.folder).stem == ("best" if keep == "best" else "last")
    else:
        with pytest.raises(InputError, match="were not kept .*rerun=true checkpoint.keep=last"):
            newest_checkpoint(run.folder)


def test_an_interrupted_rerun_goes_on(make_run, kill, caplog):
    caplog.set_level("INFO")
    run = make_run("rerun=true", "epochs=3")
    first = attempt(run, train)
    kill(run, "on_train_epoch_start", 3)
    begun = torch.load(run.checkpoints / "last.ckpt", weights_only=True)["epoch"]
    assert begun == 1  # epochs count from 0: it has begun anew, and two of three are done
    caplog.clear()
    assert {**attempt(run, train), "seconds": 0} == {**first, "seconds": 0}
    assert caplog.text.count("train/loss") == 1


# full disks


@pytest.mark.parametrize("name", ["config.yaml", "metrics.csv", "last.ckpt", "best.ckpt", "result.json"])
@pytest.mark.slow
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
        assert (run.result() or {})["status"] == "failed" and checkpoint_file.latest_valid_checkpoint(run.checkpoints)
    result = attempt(run, train)
    reference = attempt(make_run("epochs=3", "study=reference"), train)
    assert {**result, "seconds": 0} == {**reference, "seconds": 0}
