"""Sweeps as they are typed; what they train is made-up images, or cannot be trained."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SMALL = ["data=fashion_mnist", "trainer=cpu", "model.dim=16", "model.heads=2", "model.dim_head=8", "model.mlp_dim=24",
         "depth=1", "epochs=1", "batch_size=50", "logger=none", "study=x"]  # fmt: skip


@pytest.fixture
def typed(tmp_path, clothes):
    """`typed("-m", "seed=0,1")`: train.py with these arguments, `patch` run before it."""

    def type_it(*arguments, patch="pass"):
        code = f"import sys, runpy; sys.argv = sys.argv[1:]; {patch}; runpy.run_path(sys.argv[0], run_name='__main__')"
        command = [sys.executable, "-c", code, str(ROOT / "train.py"), *arguments, *SMALL, f"data.root={clothes}"]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    return type_it


FAILS = "data.holdout=300"  # of 300 images


def test_the_same_command_trains_what_is_missing(tmp_path, typed):
    first = typed("-m", "seed=0,1")
    assert first.returncode == 0 and first.stdout.count("epoch 1/1") == 2, first.stderr
    (folder,) = (tmp_path / "runs" / "x").glob("*-s0-*")
    (folder / "result.json").unlink()
    again = typed("-m", "seed=0,1")
    assert again.returncode == 0 and "Launching 1 jobs" in again.stdout
    assert again.stdout.count("done, skipped (rerun=true trains it again)") == 1
    assert typed("-m", "seed=0,1").stdout.count("skipped") == 2
    assert len((tmp_path / "runs" / "x" / "summary.csv").read_text().splitlines()) == 3


def test_a_failing_run_is_named_and_the_others_are_trained(tmp_path, typed):
    done = typed("-m", f"{FAILS},0", "seed=0")
    assert done.returncode == 1 and done.stdout.count("epoch 1/1") == 1
    (failed,) = [path.parent for path in (tmp_path / "runs" / "x").glob("*/traceback.txt")]
    assert f"failed: runs/x/{failed.name}\n" in done.stdout and "Traceback" not in done.stderr


def test_a_sweep_stops_at_its_first_failure_if_asked_to(tmp_path, typed):
    done = typed("-m", f"{FAILS},0", "seed=0", "fail_fast=true")
    assert done.returncode == 1 and done.stdout.count("epoch 1/1") == 0


@pytest.mark.parametrize("mode", [[], ["-m"]])
def test_a_failure_is_an_exit_status_without_any_file(tmp_path, typed, mode):
    """A folder where summary.csv belongs, and a result.json that cannot be written."""
    (tmp_path / "runs" / "x" / "summary.csv").mkdir(parents=True)
    assert typed(*mode, FAILS).returncode == 1
    full = "from vitbn.store import atomic; atomic.write_json = lambda *_: (_ for _ in ()).throw(OSError(28, 'full'))"
    done = typed(*mode, FAILS, "seed=1", patch=full)
    assert done.returncode == 1 and "disk full" in done.stdout and "Traceback" not in done.stderr
    done = typed(*mode, "seed=2", patch=full)
    assert done.returncode == 1 and "failed: disk full" in done.stdout and "epoch 1/1" in done.stdout


@pytest.mark.parametrize("mode", [[], ["-m"]])
def test_a_full_disk_is_never_another_process(typed, mode):
    full = "import vitbn.store.lock as lock; lock.open = lambda *_: (_ for _ in ()).throw(OSError(28, 'full'))"
    log = "import logging; logging.FileHandler.emit = logging.Handler.handleError"
    done = typed(*mode, patch=f"{full}; {log}")
    assert done.returncode == 1 and "failed: disk full" in done.stdout
    assert "Traceback" not in done.stderr and "Logging error" not in done.stderr


@pytest.mark.parametrize("mode", [[], ["-m"]])
def test_a_run_in_another_process_is_left_to_it(typed, mode):
    done = typed(
        *mode, patch="import fcntl; fcntl.lockf = lambda *_: (_ for _ in ()).throw(BlockingIOError(11, 'held'))"
    )
    assert done.returncode == 0 and "locked by another process, which trains it: skipped" in done.stdout
    assert "runs/x/vit-d1-" in done.stdout and "epoch 1/1" not in done.stdout


def test_without_locks_it_trains(typed):
    done = typed(patch="import fcntl; fcntl.lockf = lambda *_: (_ for _ in ()).throw(OSError(37, 'No locks'))")
    assert done.returncode == 0 and "epoch 1/1" in done.stdout and done.stdout.count("no locks") == 1


def test_a_single_run_is_checked_before_a_folder_is_made(tmp_path, typed):
    done = typed("lr=0")
    assert (done.returncode, done.stderr) == (2, "error: lr=0.0: must be a number above 0\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("sweep", [[], ["-m"]], ids=["single", "sweep"])
def test_a_debugging_run_is_trained_every_time_it_is_typed(tmp_path, typed, sweep):
    for _ in range(2):
        assert typed(*sweep, "+trainer.fast_dev_run=true").stdout.count("epoch 1/1") == 1
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["debug"]


def test_what_another_process_has_done_since_a_rerun_began_is_not_done_again(typed):
    typed("-m", "seed=0,1")
    again = typed("-m", "seed=0,1", "rerun=true", patch="import time; time.time_ns = lambda: 0")
    assert again.stdout.count("done by another process since this sweep began: skipped") == 2
    assert typed("-m", "seed=0,1", "rerun=true").stdout.count("epoch 1/1") == 2


def test_a_batch_size_of_a_launcher_that_means_nothing_is_named(typed):
    done = typed("-m", "seed=0,1", "hydra.sweeper.max_batch_size=-1")
    assert done.returncode == 2 and "hydra.sweeper.max_batch_size=-1: must be a whole number" in done.stderr
