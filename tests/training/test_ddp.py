"""A run in two processes against the same run in one."""

import atexit
import os
import signal

import pytest
from pytorch_lightning import Callback

from vitbn.training import ddp
from vitbn.training import train as training
from vitbn.training.outcome import attempt
from vitbn.training.train import train

pytestmark = pytest.mark.slow

ALONE, PAIR = ["study=alone"], ["study=pair", "trainer.devices=2", "trainer.strategy=ddp"]
EXACT = ["trainer.precision=64-true", "log_every=1", "epochs=5", "data.holdout=50"]  # 250 training images


def steps(run):
    return [float(line.split(",")[1]) for line in (run.folder / "steps.csv").read_text().splitlines()[1:]]


def trained(run):
    result = attempt(run, train)
    assert result["status"] == "done", (run.folder / "traceback.txt").read_text()
    return result


@pytest.mark.parametrize("overrides", [["model=vit", "batch_size=25"],
                                       ["model=vitbn", "batch_size=27", "recalibrate_bn=true"],
                                       ["model=vitbn_scalar", "batch_size=249"]],
                         ids=lambda overrides: overrides[0])  # fmt: skip
def test_two_processes_train_like_one(make_run, overrides):
    """Losses of every step, and all that is reported, in float64; with unequal shares and an empty one."""
    alone, pair = make_run(*EXACT, *overrides, *ALONE), make_run(*EXACT, *overrides, *PAIR)
    assert alone.id == pair.id
    results = [trained(run) for run in (alone, pair)]
    assert len(steps(alone)) > 9 and steps(pair) == pytest.approx(steps(alone), rel=1e-9)
    assert results[1]["metrics"] == pytest.approx(results[0]["metrics"], rel=1e-6)
    assert results[1]["confusion"] == results[0]["confusion"]
    assert results[1]["fingerprint"] == results[0]["fingerprint"] and "2 times " in results[1]["hardware"]


def test_without_synchronized_statistics_it_is_another_training_of_another_name(make_run):
    overrides = [*EXACT, "model=vitbn", "batch_size=25", *PAIR]
    pair, split = make_run(*overrides), make_run(*overrides, "trainer.sync_batchnorm=false")
    assert make_run(*overrides, "trainer.sync_batchnorm=true").id == pair.id != split.id
    assert make_run(*overrides, "trainer.sync_batchnorm=false", "trainer.devices=1").id == pair.id
    alone = make_run(*EXACT, "model=vitbn", "batch_size=25", *ALONE)
    for run in (alone, split):
        trained(run)
    assert steps(split) != pytest.approx(steps(alone), rel=1e-3)


def send_signal_at_step_7(run, signals):
    """`train_process`, in which rank 1 sends a signal to its parent, or dies."""

    class Send(Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            number = int(os.environ["SIGNAL_AT_7"])
            if trainer.global_step == 7 and trainer.global_rank == 1:
                os.kill(os.getppid() if number == signal.SIGTERM else os.getpid(), number)
            if trainer.global_step == 7 and number == signal.SIGTERM:
                while not signals.received:  # it comes by way of the parent
                    pass

    callbacks = training.checkpoint_callbacks
    training.checkpoint_callbacks = lambda *args: [Send(), *callbacks(*args)]
    return training.train_process(run, signals)


def disturbed(run, signals):
    return ddp.train_in_processes(send_signal_at_step_7, run, signals)


def test_a_signal_ends_all_processes_with_one_checkpoint_from_which_one_process_goes_on(make_run, monkeypatch):
    overrides = [*EXACT, "model=vitbn", "batch_size=27"]
    monkeypatch.setenv("SIGNAL_AT_7", str(int(signal.SIGTERM)))
    run, alone = make_run(*overrides, *PAIR), make_run(*overrides, *ALONE)
    with pytest.raises(SystemExit) as end:
        attempt(run, disturbed)
    assert end.value.code == 128 + 15 and run.result() is None
    metrics = [trained(each)["metrics"] for each in (make_run(*overrides, *PAIR[:1]), alone)]
    assert metrics[0] == pytest.approx(metrics[1], rel=1e-6)
    assert steps(run) == pytest.approx(steps(alone), rel=1e-9)


def test_the_death_of_one_process_fails_the_run_and_ends_the_others(make_run, monkeypatch):
    monkeypatch.setenv("SIGNAL_AT_7", str(int(signal.SIGKILL)))
    run = make_run(*EXACT, *PAIR, "batch_size=25")
    result = attempt(run, disturbed)
    assert result["status"] == "failed" and "process 1 of the run died (-9)" in result["error"]
    assert len(trained(run)["metrics"]) == 6


def ends_and_aborts(run, signals):
    """A training whose interpreter aborts when it is torn down, as gloo's threads can make it."""
    atexit.register(os.abort)
    if run.config["seed"] == int(os.environ["LOCAL_RANK"]):
        raise ValueError("of the training")
    return {"status": "done"}


@pytest.mark.parametrize(("seed", "outcome"), [(9, "done"), (1, "ValueError: of the training")])
def test_what_a_process_has_left_counts_not_how_it_was_torn_down(make_run, seed, outcome):
    result = attempt(make_run(*PAIR, f"seed={seed}"), lambda *args: ddp.train_in_processes(ends_and_aborts, *args))
    assert result["status" if seed == 9 else "error"] == outcome


def test_divergence_is_an_outcome_with_its_step(make_run):
    overrides = ["log_every=1", "batch_size=25", "lr=1e30", "norm=none"]
    results = [attempt(make_run(*overrides, *where), train) for where in (ALONE, PAIR)]
    assert [result["status"] for result in results] == ["diverged"] * 2
    assert results[0]["step"] == results[1]["step"] and results[0]["error"] == results[1]["error"]


def test_an_error_is_that_of_the_process_with_its_traceback(make_run):
    run = make_run(*PAIR, "data.holdout=300")
    result = attempt(run, train)
    assert result["error"].startswith("InputError: data.holdout=300: must lie between 1 and ")
    assert "splits.py" in (run.folder / "traceback.txt").read_text()
