"""How a training ends before its last epoch."""

from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning import Callback

from vitbn.training.callbacks.metrics_file import MetricsFile
from vitbn.training.callbacks.stopping import StopWhenStuck, chance_level, require_finite
from vitbn.training.module import Classifier
from vitbn.training.outcome import Diverged, attempt
from vitbn.training.train import train


def test_divergence_is_an_outcome_with_its_step(make_run, monkeypatch):
    """The loss is made infinite at step 8, in epoch 2."""
    training_step, steps = Classifier.training_step, []

    def poisoned(self, batch, batch_idx):
        steps.append(1)
        return training_step(self, batch, batch_idx) * (float("inf") if len(steps) == 8 else 1)

    monkeypatch.setattr(Classifier, "training_step", poisoned)
    run = make_run("epochs=3")
    result = attempt(run, train)
    assert result["status"] == "diverged" and result["step"] == 8 and len(steps) == 8
    assert result["epochs"] == 1 and result["metrics"]["val/acc"] is not None
    assert result["error"] == "loss not finite at step 8"
    assert result["fingerprint"] and result["versions"] and result["hardware"]  # as of a run that ends well
    assert "NaN" not in (run.folder / "result.json").read_text()


def test_a_huge_learning_rate_diverges_by_itself(make_run):
    result = attempt(make_run("lr=1e30", "norm=none"), train)
    assert result["status"] == "diverged" and result["step"] >= 1


def test_weights_or_validation_that_end_not_finite_diverge(make_run):
    """The loss of a step is that before it: one step with a huge learning rate leaves nothing in it to see."""
    result = attempt(make_run("lr=1e30", "batch_size=300", "epochs=1"), train)
    assert (result["status"], result["step"], result["epochs"]) == ("diverged", 1, 1)
    assert result["error"] in ("val/loss not finite at step 1", "weights not finite at step 1")
    with pytest.raises(Diverged, match="weights not finite at step 3"):
        require_finite(torch.nn.ParameterList([torch.tensor([1.0, float("nan")])]), 0.1, 3)
    with pytest.raises(Diverged, match="val/loss not finite at step 3"):
        require_finite(torch.nn.Linear(1, 1), float("inf"), 3)
    require_finite(torch.nn.Linear(1, 1), None, 3)


def test_chance_level_is_the_most_frequent_class_and_its_noise():
    labels = torch.arange(10_000) % 10
    assert chance_level(labels) == pytest.approx(0.1 + 3 * (0.1 * 0.9 / 10_000) ** 0.5)
    assert chance_level(torch.tensor([0, 0, 0, 1])) > 0.75


@pytest.mark.slow
def test_a_run_at_chance_level_is_done_and_stuck(make_run):
    result = attempt(make_run("lr=1e-9", "epochs=1"), train)
    assert result["status"] == "done" and result["label"] == "stuck"
    learned = attempt(make_run("epochs=20", "data.augment=false", "lr=0.02", "batch_size=20"), train)
    assert learned["label"] is None


@pytest.mark.slow
def test_stuck_runs_are_stopped_only_if_asked_to(make_run):
    assert attempt(make_run("lr=1e-9", "epochs=4"), train)["epochs"] == 4
    stopped = attempt(make_run("lr=1e-9", "epochs=4", "stop_stuck=2"), train)
    assert stopped["epochs"] == 2 and stopped["status"] == "done" and stopped["label"] == "stuck"


def test_stuck_counts_validated_epochs_in_a_row(tmp_path):
    trainer, metrics_file = SimpleNamespace(should_stop=False), MetricsFile(tmp_path / "metrics.csv")
    stuck, stops = StopWhenStuck(0.12, 2, metrics_file), []
    for accuracy in (0.1, 0.5, 0.11, None, 0.12):
        metrics_file.rows.append({"val/acc": accuracy})
        stuck.on_train_epoch_end(trainer, None)
        stops.append(trainer.should_stop)
    assert stops == [False, False, False, False, True]


def test_a_training_that_was_stopped_stays_stopped_when_it_is_resumed(make_run, kill):
    options = ("lr=1e-9", "epochs=4", "stop_stuck=2")
    run = make_run(*options)
    kill(run, "on_test_batch_end", 1)
    assert attempt(run, train)["epochs"] == 2


def test_lightning_state_has_names_that_survive_a_move_of_code(make_run, kill):
    run = make_run("recalibrate_bn=true", "model=vitbn", "log_every=1", "stop_stuck=9")
    attempt(run, train)
    checkpoint = torch.load(run.checkpoints / "last.ckpt", weights_only=True)
    ours = {name for name in checkpoint["callbacks"] if not name.startswith("ModelCheckpoint")}
    assert ours == {"metrics", "steps", "stuck", "recalibrate_bn"}
    assert issubclass(StopWhenStuck, Callback)
