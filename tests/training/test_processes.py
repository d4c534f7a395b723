"""A run in two processes against the same run in one."""

import os
import signal

import pytest

from vitbn.data.batches import share
from vitbn.training.ddp import spread
from vitbn.training.outcome import attempt
from vitbn.training.train import train

ALONE, PAIR = ["study=alone"], ["study=pair", "trainer.devices=2", "trainer.strategy=ddp"]
EXACT = ["trainer.precision=64-true", "log_every=1", "epochs=5", "data.holdout=50"]  # 250 training images


def steps(run):
    return [float(line.split(",")[1]) for line in (run.folder / "steps.csv").read_text().splitlines()[1:]]


def trained(run):
    result = attempt(run, spread(train))
    assert result["status"] == "done", (run.folder / "traceback.txt").read_text()
    return result


@pytest.mark.parametrize("words", [["model=vit", "batch_size=25"],
                                   ["model=vitbn", "batch_size=27", "chunk=3", "recalibrate_bn=true"],
                                   ["model=vitbn_scalar", "model.dropout=0.2", "batch_size=249"]],
                         ids=lambda words: words[0])  # fmt: skip
def test_two_processes_train_like_one(make_run, words):
    """Losses of every step, and all that is reported, in float64; with unequal shares and an empty one."""
    alone, pair = make_run(*EXACT, *words, *ALONE), make_run(*EXACT, *words, *PAIR)
    assert alone.id == pair.id
    results = [trained(run) for run in (alone, pair)]
    assert len(steps(alone)) > 9 and steps(pair) == pytest.approx(steps(alone), rel=1e-9)
    assert results[1]["metrics"] == pytest.approx(results[0]["metrics"], rel=1e-6)
    assert results[1]["confusion"] == results[0]["confusion"]
    assert results[1]["fingerprint"] == results[0]["fingerprint"] and "2 times " in results[1]["hardware"]


def test_without_synchronized_statistics_it_is_another_training_of_another_name(make_run):
    words = [*EXACT, "model=vitbn", "batch_size=25", *PAIR]
    pair, split = make_run(*words), make_run(*words, "trainer.sync_batchnorm=false")
    assert make_run(*words, "trainer.sync_batchnorm=true").id == pair.id != split.id
    assert make_run(*words, "trainer.sync_batchnorm=false", "trainer.devices=1").id == pair.id
    alone = make_run(*EXACT, "model=vitbn", "batch_size=25", *ALONE)
    for run in (alone, split):
        trained(run)
    assert steps(split) != pytest.approx(steps(alone), rel=1e-3)


def test_shares_are_even_and_cover_the_batch():
    rows = list(range(10))
    assert [rows[share(10, rank, 4)] for rank in range(4)] == [[0, 1, 2], [3, 4, 5], [6, 7], [8, 9]]
    assert [rows[share(1, rank, 2)] for rank in range(2)] == [[0], []]


def end_at_step_7(run, signals):
    """`train`, in which one of the processes gets a signal or dies."""
    from pytorch_lightning import Callback

    from vitbn.training import assembly
    from vitbn.training.callbacks import metrics as recording

    class Disturb(Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            if trainer.global_step == 7 and trainer.global_rank == 1:
                number = int(os.environ["SIGNAL_AT_7"])
                os.kill(os.getppid() if number == signal.SIGTERM else os.getpid(), number)
            if trainer.global_step == 7 and os.environ["SIGNAL_AT_7"] == "15":
                while not signals.received:  # it comes by way of the first process
                    pass

    recording.progress = Disturb
    assert assembly.recording is recording
    return train(run, signals)


def test_a_signal_ends_all_processes_with_one_checkpoint_from_which_one_process_goes_on(make_run, monkeypatch):
    words = [*EXACT, "model=vitbn", "batch_size=27", "model.dropout=0.1"]
    monkeypatch.setenv("SIGNAL_AT_7", str(int(signal.SIGTERM)))
    run, alone = make_run(*words, *PAIR), make_run(*words, *ALONE)
    with pytest.raises(SystemExit) as end:
        attempt(run, spread(end_at_step_7))
    assert end.value.code == 128 + 15 and run.result() is None
    metrics = [trained(each)["metrics"] for each in (make_run(*words, *PAIR[:1]), alone)]
    assert metrics[0] == pytest.approx(metrics[1], rel=1e-6)
    assert steps(run) == pytest.approx(steps(alone), rel=1e-9)


def test_the_death_of_one_process_fails_the_run_and_ends_the_others(make_run, monkeypatch):
    monkeypatch.setenv("SIGNAL_AT_7", str(int(signal.SIGKILL)))
    run = make_run(*EXACT, *PAIR, "batch_size=25")
    result = attempt(run, spread(end_at_step_7))
    assert result["status"] == "failed" and "exit code -9" in result["error"]
    assert len(trained(run)["metrics"]) == 6


def test_divergence_is_an_outcome_with_its_step(make_run):
    words = ["log_every=1", "batch_size=25", "lr=1e30", "norm=none"]
    results = [attempt(make_run(*words, *where), spread(train)) for where in (ALONE, PAIR)]
    assert [result["status"] for result in results] == ["diverged"] * 2
    assert results[0]["step"] == results[1]["step"] and results[0]["error"] == results[1]["error"]


def test_an_error_is_that_of_the_process_with_its_traceback(make_run):
    run = make_run(*PAIR, "data.holdout=300")
    result = attempt(run, spread(train))
    assert result["error"] == "InputError: data.holdout=300: must lie between 1 and 299"
    assert "splits.py" in (run.folder / "traceback.txt").read_text()
