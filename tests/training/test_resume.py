"""An interrupted and resumed run equals an undisturbed one, bit for bit."""

import os
import signal

import pytest
import torch

from vitbn.errors import InputError
from vitbn.store import checkpoint_file
from vitbn.training.outcome import Signals, attempt
from vitbn.training.schedule import make_factor
from vitbn.training.train import train

STEPS = 6  # per epoch: 300 images, batch 50
EVERY_STEP = "checkpoint.every_minutes=1e-9"
OPTIONS = ("epochs=3", "model=vitbn", "model.dropout=0.1", "log_every=4")
SCHEDULED = (*OPTIONS, "schedule=cosine", "schedule.warmup=0.3")


@pytest.mark.parametrize("step", [1, 2, STEPS - 1, STEPS, STEPS + 1, STEPS + 4, 3 * STEPS - 1, 3 * STEPS])
@pytest.mark.slow
def test_killed_after_a_step(make_run, kill, outcome, undisturbed, step):
    run = make_run(*OPTIONS, EVERY_STEP, "study=killed")
    kill(run, "on_train_batch_start", step)
    attempt(run, train)
    assert outcome(run) == undisturbed(make_run, *OPTIONS)


@pytest.mark.parametrize(
    ("hook", "n"),
    [("on_validation_batch_start", 2), ("on_validation_end", 2), ("on_train_epoch_end", 2), ("on_test_batch_end", 1)],
)
@pytest.mark.slow
def test_killed_between_steps(make_run, kill, outcome, undisturbed, hook, n):
    run = make_run(*OPTIONS, EVERY_STEP, "study=killed")
    kill(run, hook, n)
    attempt(run, train)
    assert outcome(run) == undisturbed(make_run, *OPTIONS)


@pytest.mark.slow
def test_killed_three_times(make_run, kill, outcome, undisturbed):
    run = make_run(*OPTIONS, EVERY_STEP, "study=killed")
    for hook, n in (("on_train_batch_start", 4), ("on_validation_end", 1), ("on_train_batch_start", 7)):
        kill(run, hook, n)
    attempt(run, train)
    assert outcome(run) == undisturbed(make_run, *OPTIONS)


def test_only_the_checkpoint_at_the_epochs_end(make_run, kill, outcome, undisturbed):
    run = make_run(*OPTIONS, "study=killed")
    kill(run, "on_train_batch_start", STEPS + 3)
    attempt(run, train)
    assert outcome(run) == undisturbed(make_run, *OPTIONS)


@pytest.mark.parametrize(
    ("number", "hook", "n"),
    [(signal.SIGTERM, "on_train_batch_start", 1), (signal.SIGINT, "on_train_batch_start", 5),
     (signal.SIGTERM, "on_train_batch_start", 6), (signal.SIGINT, "on_validation_start", 2),
     (signal.SIGTERM, "on_train_batch_start", 3 * STEPS), (signal.SIGTERM, "on_validation_start", 3),
     (signal.SIGINT, "on_test_batch_start", 1)],
)  # fmt: skip
@pytest.mark.slow
def test_signals_end_with_a_checkpoint_and_their_status(make_run, at, outcome, undisturbed, number, hook, n, caplog):
    caplog.set_level("INFO")
    run = make_run(*OPTIONS, "study=signal")
    at(hook, n, lambda: os.kill(os.getpid(), number))
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as exit:
        attempt(run, train)
    assert exit.value.code == 128 + number and run.result() is None
    assert signal.getsignal(number) == before
    assert f"interrupted by {number.name}; the same command goes on" in caplog.text
    ckpt = torch.load(run.checkpoints / "last.ckpt", weights_only=True)
    done = {"on_train_batch_start": n, "on_validation_start": n * STEPS, "on_test_batch_start": 3 * STEPS}[hook]
    assert ckpt["global_step"] == done
    attempt(run, train)
    assert outcome(run) == undisturbed(make_run, *OPTIONS)


@pytest.mark.parametrize("step", [3, 8])
def test_slurms_requeue_signal_is_answered_by_lightning_and_continues_exactly(
    make_run, at, kill, outcome, undisturbed, monkeypatch, tmp_path, step
):
    (tmp_path / "scontrol").write_text(f"#!/bin/sh\necho $@ >> {tmp_path}/asked\n")
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    slurm = {"JOB_ID": "77", "JOB_NAME": "study", "NTASKS": "8", "NNODES": "2"}
    for name, value in {**slurm, "LOCALID": "1", "NODEID": "1", "PROCID": "5"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    run = make_run(*OPTIONS, "study=requeued")
    at("on_before_optimizer_step", step, lambda: os.kill(os.getpid(), signal.SIGUSR1))
    kill(run, "on_train_batch_start", step + 2)
    assert (tmp_path / "asked").read_text() == "requeue 77\n"
    assert torch.load(run.checkpoints / "last.ckpt", weights_only=True)["global_step"] == step
    assert not list(run.folder.glob("hpc_ckpt_*"))
    attempt(run, train)
    assert outcome(run) == undisturbed(make_run, *OPTIONS)


@pytest.mark.parametrize("step", [3, STEPS + 1, 2 * STEPS + 4])
@pytest.mark.slow
def test_the_learning_rate_goes_on_where_it_was(make_run, kill, outcome, undisturbed, step):
    run = make_run(*SCHEDULED, EVERY_STEP, "study=scheduled")
    kill(run, "on_train_batch_start", step)
    attempt(run, train)
    assert outcome(run) == undisturbed(make_run, *SCHEDULED)


def test_the_learning_rate_that_is_written_is_that_of_the_epochs_last_step(make_run, undisturbed):
    factor = make_factor({"name": "cosine", "warmup": 0.3, "floor": 0.0}, epochs=3, steps_per_epoch=STEPS)
    rows, _ = undisturbed(make_run, *SCHEDULED).tables
    assert [float(row["lr"]) for row in rows] == pytest.approx([0.003 * factor(STEPS * n - 1) for n in (1, 2, 3)])


@pytest.mark.parametrize(("hook", "n"), [("on_train_batch_start", 9), ("on_validation_batch_start", 2),
                                         ("on_train_epoch_end", 1), ("on_test_batch_end", 1)])  # fmt: skip
@pytest.mark.slow
def test_with_recalibrated_statistics(make_run, kill, outcome, undisturbed, hook, n):
    options = ("model=vitbn", "log_every=4", "recalibrate_bn=true")
    run = make_run(*options, EVERY_STEP, "study=killed")
    kill(run, hook, n)
    attempt(run, train)
    assert outcome(run) == undisturbed(make_run, *options)


SHRINKS = ("schedule=plateau", "schedule.patience=0", "+schedule.threshold=9", "schedule.factor=0.5")
ONE_CYCLE = ("schedule=one_cycle", "optimizer=sgd", "optimizer._target_=torch.optim.RMSprop")
BY_EPOCH = (
    "schedule.warmup=0.3",
    "+schedule._target_=torch.optim.lr_scheduler.MultiStepLR",
    "+schedule.milestones=[1]",
)
BY_STEP = ("schedule.warmup=0.3", "+schedule._target_=torch.optim.lr_scheduler.CosineAnnealingWarmRestarts",
           "+schedule.T_0=steps", "+schedule.interval=step", "mixup=0.8", "cutmix=1",
           "label_smoothing=0.1")  # fmt: skip


@pytest.mark.parametrize(
    ("options", "hook", "n"),
    [(SHRINKS, "on_train_batch_start", STEPS + 1),
     (ONE_CYCLE, "on_train_batch_start", STEPS + 3),
     (BY_EPOCH, "on_train_batch_start", 4),
     (BY_STEP, "on_train_batch_start", STEPS + 3)],
    ids=["plateau", "one cycle", "by epoch", "by step"],
)  # fmt: skip
@pytest.mark.slow
def test_any_scheduler_optimizer_and_mix_goes_on_exactly(make_run, kill, outcome, undisturbed, options, hook, n):
    run = make_run(*OPTIONS, *options, EVERY_STEP, "study=any")
    kill(run, hook, n)
    attempt(run, train)
    assert outcome(run) == undisturbed(make_run, *OPTIONS, *options)
    if options[0] == "schedule=plateau":  # the loss never improves by as much as is asked for
        assert [float(row["lr"]) for row in outcome(run).tables[0]] == [0.003, 0.0015, 0.00075]


@pytest.mark.parametrize(
    "content",
    [{"a": 1}, {"state_dict": {}, "epoch": 0, "global_step": 0}, "another network"],
    ids=["no training", "nothing in it", "another network"],
)
def test_a_whole_checkpoint_of_something_else_is_named(make_run, content):
    run = make_run(*OPTIONS, "study=other")
    if content == "another network":
        larger = make_run(*OPTIONS, "study=larger", "model.dim=24", "epochs=1")
        attempt(larger, train)
        content = torch.load(larger.checkpoints / "last.ckpt", weights_only=True)
    run.begin()
    path = run.checkpoints / "last.ckpt"
    checkpoint_file.save(content, path)
    with pytest.raises(InputError, match=f"{path}: not a checkpoint of this training; remove it"):
        train(run, Signals())


def test_an_interruption_without_a_checkpoint_says_so(make_run, caplog):
    run = make_run("study=unsaved", "trainer.enable_checkpointing=false")
    at_once = "interrupted by SIGTERM; the same command begins anew, nothing was saved"

    def interrupted(run, signals):
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit):
        attempt(run, interrupted)
    assert at_once in caplog.text
