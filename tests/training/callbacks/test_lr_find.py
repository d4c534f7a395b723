"""`callbacks=lr_find`: the run is the one of the rate that was found."""

import pytest
import torch

from vitbn.config.checks import check
from vitbn.errors import InputError
from vitbn.store.run import config_hash
from vitbn.training.outcome import attempt
from vitbn.training.train import train

FIND = ("callbacks=lr_find", "callbacks.lr_find.num_training_steps=30", "callbacks.lr_find.min_lr=1e-4")
OPTIONS = ("model=vitbn", "model.dropout=0.1", "epochs=6", "schedule=cosine", "schedule.warmup=0.2", "log_every=4",
           "checkpoint.every_minutes=1e-9")  # fmt: skip


def weights(run):
    return torch.load(run.checkpoints / "last.ckpt", weights_only=True)["state_dict"]


def curves(run):
    lines = [line.split(",") for line in (run.folder / "metrics.csv").read_text().splitlines()]
    return [[cell for name, cell in zip(lines[0], line, strict=True) if name != "seconds"] for line in lines]


@pytest.fixture
def found(make_run, caplog):
    """A run that looks for its rate; its result, and what it said."""
    caplog.set_level("INFO")
    run = make_run(*OPTIONS, *FIND)
    result = attempt(run, train)
    assert result["status"] == "done"
    return run, result["lr_found"], caplog.text


def test_the_run_is_that_of_the_rate_found(found, make_run):
    run, rate, said = found
    assert 1e-4 < rate < 1 and f"{run.folder}: learning rate {rate:.3g} found" in said
    assert not list(run.folder.glob(".lr_find*"))
    plain = make_run(*OPTIONS, f"lr={rate!r}", "study=plain")
    assert "lr_found" not in attempt(plain, train)
    assert all(torch.equal(value, weights(plain)[name]) for name, value in weights(run).items())
    assert curves(run) == curves(plain)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_run_on_a_gpu_goes_on_after_the_search(make_run):
    assert attempt(make_run(*OPTIONS, *FIND, "trainer=gpu"), train)["status"] == "done"


@pytest.mark.parametrize("killed_at", [3, 9])
@pytest.mark.slow
def test_a_resumed_run_keeps_the_rate(found, make_run, kill, caplog, killed_at):
    whole, rate, _ = found
    run = make_run(*OPTIONS, *FIND, "study=killed")
    kill(run, "on_train_batch_start", killed_at)
    caplog.clear()
    assert attempt(run, train)["lr_found"] == rate and "found" not in caplog.text
    assert all(torch.equal(value, weights(whole)[name]) for name, value in weights(run).items())
    assert curves(run) == curves(whole)


@pytest.mark.slow
def test_the_search_is_as_long_as_asked_for_however_short_the_run(found, make_run):
    result = attempt(make_run(*OPTIONS, *FIND, "epochs=1"), train)
    assert result["lr_found"] == found[1] and result["epochs"] == 1


def test_the_epoch_that_was_searched_in_is_logged(make_run):
    run = make_run(*FIND, "batch_size=10", "callbacks.lr_find.num_training_steps=20", "epochs=1")
    assert attempt(run, train)["metrics"]["train/loss"] is not None


def test_it_is_part_of_the_runs_name(make_run):
    assert config_hash(make_run(*FIND).config) != config_hash(make_run().config)


def test_what_does_not_go_together_is_said_before_the_run(make_run):
    with pytest.raises(InputError, match=r"callbacks.lr_find schedule.max_lr=0.003: the schedule sets the rate"):
        check(make_run(*FIND, "schedule=one_cycle").config)
    lightnings = "callbacks.lr_find._target_=pytorch_lightning.callbacks.LearningRateFinder"
    with pytest.raises(InputError, match="callbacks.lr_find: .* callbacks=lr_find is the same"):
        check(make_run(*FIND, lightnings).config)
    check(make_run(*FIND, "callbacks=[lr_find,lr_monitor]", "schedule=cosine").config)


def test_losses_that_tell_nothing_end_the_run_in_one_line(make_run, caplog):
    run = make_run("callbacks=lr_find", "callbacks.lr_find.num_training_steps=5")
    assert attempt(run, train)["status"] == "failed"
    assert "callbacks.lr_find: no learning rate found" in caplog.text


def test_norms_with_a_schedule_are_at_their_beginning_during_the_search(make_run, monkeypatch):
    told = []
    monkeypatch.setattr("vitbn.training.module.set_progress", lambda net, progress: told.append(progress))
    attempt(make_run(*FIND, "norm.ffn_in=batch_renorm"), train)
    assert told[:30] == [0] * 30 and told[-1] > 0.9 and min(told) == 0
