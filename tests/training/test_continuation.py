"""A longer run goes on from a finished shorter one and ends as if it had been trained in one go, bit for bit."""

import logging
import shutil

import pytest
import torch

from vitbn.store import checkpoint_file
from vitbn.training.continuation import checkpoint_to_go_on_from
from vitbn.training.outcome import attempt
from vitbn.training.train import train

STEPS = 6  # per epoch: 300 images, batch 50
OPTIONS = ("model=vitbn", "model.dropout=0.1", "log_every=4")
SWA = "+callbacks.swa"
TORCHS = ("+schedule._target_=torch.optim.lr_scheduler.StepLR", "+schedule.step_size=1", "+schedule.gamma=0.5")


def best_weights(run):
    return torch.load(run.checkpoints / "best.ckpt", weights_only=True)["state_dict"]


@pytest.mark.parametrize("schedule", [(), ("schedule=step", "schedule.every=1"), TORCHS], ids=["-", "step", "torch"])
@pytest.mark.slow
def test_it_ends_as_the_uninterrupted_run(make_run, outcome, undisturbed, schedule, caplog):
    caplog.set_level(logging.INFO)
    options = (*OPTIONS, *schedule)
    shorter, longer = (make_run(*options, f"epochs={epochs}", "study=more") for epochs in (2, 3))
    attempt(shorter, train)
    attempt(longer, train)
    assert f"{longer.folder}: goes on from {shorter.id}, epochs 3 and later" in caplog.text
    assert outcome(longer) == undisturbed(make_run, *options, "epochs=3")
    whole = make_run(*options, "epochs=3", "study=undisturbed")
    if whole.folder.exists():  # the fixture trains it once per session
        weights, expected = best_weights(longer), best_weights(whole)
        assert all(torch.equal(weights[name], expected[name]) for name in expected)


@pytest.fixture
def finished(make_run):
    """A finished run of 2 epochs, and the one of 5 that could go on from it."""

    def make(*options):
        shorter = make_run(*options, "epochs=2")
        attempt(shorter, train)
        return shorter, make_run(*options, "epochs=5")

    return make


@pytest.mark.slow
def test_the_nearest_that_can_be_used_is_taken(finished, make_run, caplog):
    caplog.set_level(logging.INFO)
    shorter, longer = finished()
    nearer = make_run("epochs=3")
    attempt(nearer, train)
    assert checkpoint_to_go_on_from(longer, STEPS) == nearer.checkpoints / "last.ckpt"
    (nearer.checkpoints / "last.ckpt").write_bytes(b"cut")
    assert checkpoint_to_go_on_from(longer, STEPS) == shorter.checkpoints / "last.ckpt"
    assert checkpoint_file.is_valid(longer.checkpoints / "best.ckpt")
    (shorter.checkpoints / "last.ckpt").unlink()
    assert checkpoint_to_go_on_from(longer, STEPS) is None
    assert (
        f"{nearer.id} (3 epochs): its last.ckpt is damaged; {shorter.id} (2 epochs): its last.ckpt was" in caplog.text
    )
    assert checkpoint_to_go_on_from(make_run("epochs=5", "seed=1"), STEPS) is None
    assert checkpoint_to_go_on_from(make_run("epochs=1"), STEPS) is None


@pytest.mark.parametrize(
    ("options", "reason"),
    [(("schedule=cosine",), "learning rates differ"), (("schedule.warmup=0.1",), "learning rates differ"),
     ((*TORCHS[:1], "+schedule.step_size=steps", "+schedule.interval=step"), "learning rates differ"),
     ((*TORCHS[:1], "+schedule.step_size=${epochs}"), "learning rates differ"),
     (("stop_stuck=1", "lr=1e-9"), "ended early, after 1 epochs"), (("lr=1e30", "norm=none"), "it is diverged"),
     (("checkpoint.keep=best",), "last.ckpt was not kept"),
     (("norm.ffn_in=prep_batch",), "norm.ffn_in changes with the share of the training that is over"),
     ((f"{SWA}._target_=pytorch_lightning.callbacks.StochasticWeightAveraging", f"{SWA}.swa_lrs=0.01"),
      "StochasticWeightAveraging depends on the number of epochs")],
)  # fmt: skip
@pytest.mark.slow
def test_why_it_begins_anew_is_said(finished, options, reason, caplog):
    caplog.set_level(logging.INFO)
    shorter, longer = finished(*options)
    assert checkpoint_to_go_on_from(longer, STEPS) is None
    assert f"{longer.folder}: begins with epoch 1, it cannot go on from {shorter.id} (2 epochs)" in caplog.text
    assert reason in caplog.text


@pytest.mark.slow
def test_steps_csv_that_would_have_a_gap_and_rerun_begin_anew(finished, make_run, caplog):
    caplog.set_level(logging.INFO)
    _, longer = finished()
    assert checkpoint_to_go_on_from(make_run("epochs=5", "log_every=2"), STEPS) is None
    assert "log_every differs" in caplog.text
    assert checkpoint_to_go_on_from(make_run("epochs=5", "rerun=true"), STEPS) is None
    assert checkpoint_to_go_on_from(longer, STEPS + 1) is None  # other images


@pytest.mark.slow
def test_a_moved_study_keeps_its_best_checkpoint(make_run, kill):
    """Killed after its best epoch, moved, resumed: the later epochs are worse than the best so far."""
    options = ("epochs=3", "lr=0.02", "data.augment=false")
    whole = make_run(*options, "study=whole")
    attempt(whole, train)
    run = make_run(*options, "study=here")
    kill(run, "on_train_batch_start", 2 * STEPS + 1)
    moved = make_run(*options, "study=there")
    shutil.move(run.study, moved.study)
    attempt(moved, train)
    for checkpoint in ("best.ckpt", "last.ckpt"):
        state = torch.load(moved.checkpoints / checkpoint, weights_only=True)["callbacks"]
        best = next(value for value in state.values() if isinstance(value, dict) and value.get("monitor") == "val/acc")
        assert best["dirpath"] == str(moved.checkpoints.resolve())
    expected = torch.load(whole.checkpoints / "last.ckpt", weights_only=True)["callbacks"]
    scores = [
        value["best_model_score"] for value in expected.values() if isinstance(value, dict) and "monitor" in value
    ]
    assert best["best_model_score"] in scores
    assert all(torch.equal(best_weights(moved)[name], value) for name, value in best_weights(whole).items())


def test_a_damaged_checkpoint_does_not_take_the_place_of_the_whole_one_before(make_run, kill):
    run = make_run("checkpoint.every_minutes=1e-9", "study=killed")
    kill(run, "on_train_batch_start", 5)
    last = run.checkpoints / "last.ckpt"
    last.write_bytes(last.read_bytes()[:-1])
    previous = checkpoint_to_go_on_from(run, 6)
    assert previous == run.checkpoints / "previous.ckpt" and not last.exists()
