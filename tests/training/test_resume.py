"""An interrupted and resumed run equals an undisturbed one, bit for bit."""

import csv
import json
import os
import signal

import pytest
import torch
from pytorch_lightning.callbacks import Callback

from vitbn.store.run import Run
from vitbn.training.callbacks import checkpoint
from vitbn.training.outcome import Signals, attempt
from vitbn.training.schedule import make_factor
from vitbn.training.train import train

STEPS = 6  # per epoch: 300 images, batch 50


class Stop(Callback):
    """Calls `action` when a hook of that name runs for the n-th time."""

    def __init__(self, hook, n, action):
        self.n, self.action, self.count = n, action, 0
        setattr(self, hook, self.tick)

    def tick(self, *args, **kwargs):
        self.count += 1
        if self.count == self.n:
            self.action()


@pytest.fixture
def disturb(monkeypatch):
    """Adds a callback to the next training."""

    def add(hook, n, action):
        monkeypatch.setattr(checkpoint, "callbacks", with_callback(checkpoint.callbacks, Stop(hook, n, action)))

    def with_callback(original, callback):
        def callbacks(*args):
            monkeypatch.setattr(checkpoint, "callbacks", original)  # the resumed training is undisturbed
            return [callback, *original(*args)]

        return callbacks

    return add


def state(run: Run):
    """Everything a run leaves that must not depend on interruptions."""
    rows = [
        {k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader((run.folder / "metrics.csv").open())
    ]
    result = {k: v for k, v in json.loads((run.folder / "result.json").read_text()).items() if k != "seconds"}
    ckpt = torch.load(run.checkpoints / "last.ckpt", weights_only=True)
    return (rows, (run.folder / "steps.csv").read_text()), result, ckpt


def assert_equal(a, b):
    assert a[0] == b[0] and a[1] == b[1]
    weights, others = a[2]["state_dict"], b[2]["state_dict"]
    assert weights.keys() == others.keys() and all(torch.equal(weights[k], others[k]) for k in weights)
    moments, others = (x[2]["optimizer_states"][0]["state"] for x in (a, b))
    assert all(torch.equal(moments[i][k], others[i][k]) for i in moments for k in moments[i])
    assert (a[2]["epoch"], a[2]["global_step"]) == (b[2]["epoch"], b[2]["global_step"])


class Killed(BaseException):
    """Stands for kill -9: nothing below the training sees it."""


def kill():
    raise Killed


def killed(run):
    with pytest.raises(Killed):
        attempt(run, train)
    assert run.result() is None


OPTIONS = (
    "epochs=3",
    "model=vitbn",
    "model.dropout=0.1",
    "checkpoint.every_minutes=1e-9",
    "log_every=4",
)  # a checkpoint every step


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return {}


@pytest.fixture
def reference(make_run, undisturbed):
    if not undisturbed:
        run = make_run(*OPTIONS, "study=reference")
        attempt(run, train)
        undisturbed["state"] = state(run)
    return undisturbed["state"]


@pytest.mark.parametrize("step", range(1, 3 * STEPS + 1))
def test_killed_after_any_step(make_run, disturb, reference, step):
    run = make_run(*OPTIONS, f"study=killed{step}")
    disturb("on_train_batch_start", step, kill)
    killed(run)
    attempt(run, train)
    assert_equal(state(run), reference)


@pytest.mark.parametrize(
    "hook", ["on_validation_batch_start", "on_validation_end", "on_train_epoch_end", "on_test_batch_end"]
)
def test_killed_between_steps(make_run, disturb, reference, hook):
    run = make_run(*OPTIONS, f"study=killed-{hook}")
    disturb(hook, 1 if "test" in hook else 2, kill)
    killed(run)
    attempt(run, train)
    assert_equal(state(run), reference)


def test_killed_three_times(make_run, disturb, reference):
    run = make_run(*OPTIONS, "study=killed-thrice")
    for hook, n in (("on_train_batch_start", 4), ("on_validation_end", 1), ("on_train_batch_start", 7)):
        disturb(hook, n, kill)
        killed(run)
    attempt(run, train)
    assert_equal(state(run), reference)


def test_only_the_checkpoint_at_the_epochs_end(make_run, disturb, reference):
    run = make_run(*OPTIONS, "checkpoint.every_minutes=10", "study=epochs")
    disturb("on_train_batch_start", STEPS + 3, kill)
    killed(run)
    attempt(run, train)
    assert_equal(state(run), reference)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    ("hook", "n"),
    [("on_train_batch_start", 1), ("on_train_batch_start", 5), ("on_train_batch_start", 6), ("on_validation_start", 2),
     ("on_train_batch_start", 3 * STEPS), ("on_validation_start", 3), ("on_test_batch_start", 1)],
)  # fmt: skip
def test_signals_end_with_a_checkpoint_and_their_status(make_run, disturb, reference, number, hook, n, caplog):
    caplog.set_level("INFO")
    run = make_run(*OPTIONS, "checkpoint.every_minutes=10", f"study={number.name}-{hook}-{n}")
    disturb(hook, n, lambda: os.kill(os.getpid(), number))
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
    assert_equal(state(run), reference)


@pytest.mark.parametrize("step", [3, 8])
def test_slurms_requeue_signal_is_answered_by_lightning_and_continues_exactly(
    make_run, disturb, reference, monkeypatch, tmp_path, step
):
    (tmp_path / "scontrol").write_text(f"#!/bin/sh\necho $@ >> {tmp_path}/asked\n")
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    slurm = {"JOB_ID": "77", "JOB_NAME": "study", "NTASKS": "1", "NNODES": "1", "NTASKS_PER_NODE": "1"}
    for name, value in {**slurm, "LOCALID": "0", "NODEID": "0", "PROCID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    run = make_run(*OPTIONS, "checkpoint.every_minutes=10", f"study=requeued{step}")
    disturb("on_before_optimizer_step", step, lambda: os.kill(os.getpid(), signal.SIGUSR1))
    disturb("on_train_batch_start", step + 2, kill)
    killed(run)
    assert (tmp_path / "asked").read_text() == "requeue 77\n"
    assert torch.load(run.checkpoints / "last.ckpt", weights_only=True)["global_step"] == step
    assert not list(run.folder.glob("hpc_ckpt_*"))
    attempt(run, train)
    assert_equal(state(run), reference)


def test_a_second_signal_does_not_wait(monkeypatch):
    from vitbn.training.outcome import Interruption

    signals = Signals()
    with signals.handled(), pytest.raises(Interruption), signals.deferred():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("still running")


@pytest.mark.parametrize("step", [3, STEPS + 1, 2 * STEPS + 4])
def test_the_learning_rate_goes_on_where_it_was(make_run, disturb, scheduled, step):
    run = make_run(*OPTIONS, "schedule=cosine", "schedule.warmup=0.3", f"study=scheduled{step}")
    disturb("on_train_batch_start", step, kill)
    killed(run)
    attempt(run, train)
    assert_equal(state(run), scheduled)
    ours, others = (x[2]["lr_schedulers"][0] for x in (state(run), scheduled))
    assert ours == others and ours["last_epoch"] == 3 * STEPS


@pytest.fixture
def scheduled(make_run, undisturbed):
    if "scheduled" not in undisturbed:
        run = make_run(*OPTIONS, "schedule=cosine", "schedule.warmup=0.3", "study=scheduled")
        attempt(run, train)
        undisturbed["scheduled"] = state(run)
    return undisturbed["scheduled"]


def test_the_learning_rate_that_is_written_is_that_of_the_epochs_last_step(scheduled):
    factor = make_factor({"name": "cosine", "warmup": 0.3, "floor": 0.0}, epochs=3, steps_per_epoch=STEPS)
    written = [float(row["lr"]) for row in scheduled[0][0]]
    assert written == pytest.approx([0.003 * factor(STEPS * epoch - 1) for epoch in (1, 2, 3)])


@pytest.fixture
def in_chunks(make_run):
    run = make_run(*OPTIONS, "study=chunks", "chunk=4")
    attempt(run, train)
    return state(run)


def test_chunks_of_steps_train_the_same_network(reference, in_chunks):
    (rows, steps), result, ckpt = in_chunks
    weights = ckpt["state_dict"]
    names = [name for name in weights if name.startswith("net.")]
    assert all(torch.equal(weights[name], reference[2]["state_dict"][name]) for name in names)
    assert ckpt["global_step"] == reference[2]["global_step"] == 3 * STEPS and steps == reference[0][1]
    for row, expected in zip(rows, reference[0][0], strict=True):
        assert {k: float(v) for k, v in row.items()} == pytest.approx({k: float(v) for k, v in expected.items()})


@pytest.mark.parametrize("chunk", [4, 1, 5])
def test_a_run_in_chunks_resumes_in_its_own_chunks(make_run, disturb, in_chunks, chunk):
    """Lightning counts chunks: a run that began on a GPU and goes on on a CPU must not count anew."""
    run = make_run(*OPTIONS, "study=killed-chunks", "chunk=4")
    disturb("on_train_batch_start", 4, kill)
    killed(run)
    run.config["chunk"] = chunk
    attempt(run, train)
    assert_equal(state(run), in_chunks)
