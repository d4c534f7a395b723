"""The tables that every run writes."""

import csv

import pytest
import torch

from vitbn.training.outcome import attempt
from vitbn.training.train import train


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_steps_file_averages_the_training_loss(make_run):
    runs = [make_run("optimizer=sgd", f"log_every={n}", f"study=every{n}") for n in (1, 4)]
    for run in runs:
        attempt(run, train)
    singles, fours = (rows(run.folder / "steps.csv") for run in runs)
    losses = [float(row["train/loss"]) for row in singles]
    assert [row["step"] for row in singles] == [str(step) for step in range(1, 13)]
    assert [row["step"] for row in fours] == ["4", "8", "12"]
    assert [float(row["train/loss"]) for row in fours] == pytest.approx([sum(losses[i : i + 4]) / 4 for i in (0, 4, 8)])
    epochs = [float(row["train/loss"]) for row in rows(runs[0].folder / "metrics.csv")]
    assert epochs == pytest.approx([sum(losses[:6]) / 6, sum(losses[6:]) / 6], rel=1e-5)
    assert runs[0].id == runs[1].id  # how it is logged changes no result


@pytest.mark.parametrize("before", [0, 3])
@pytest.mark.slow
def test_rows_are_named_by_their_last_step_also_where_log_every_has_changed(make_run, kill, before):
    options = ("optimizer=sgd", "checkpoint.every_minutes=1e-9", "study=changed")
    kill(make_run(*options, f"log_every={before}"), "on_train_batch_start", 5)
    attempt(run := make_run(*options, "log_every=2"), train)
    attempt(whole := make_run("optimizer=sgd", "log_every=1", "study=whole"), train)
    losses = {int(row["step"]): float(row["train/loss"]) for row in rows(whole.folder / "steps.csv")}
    found = {int(row["step"]): float(row["train/loss"]) for row in rows(run.folder / "steps.csv")}
    first = {0: [], 3: [3]}[before]  # of the window that was full before the interruption
    assert list(found) == [*first, 6, 8, 10, 12]
    for step in (6, 8, 10, 12):
        assert found[step] == pytest.approx((losses[step - 1] + losses[step]) / 2)


@pytest.mark.slow
def test_a_window_across_an_interruption_has_the_precision_of_the_training(make_run, kill):
    options = ("trainer.precision=64-true", "log_every=5", "checkpoint.every_minutes=1e-9")
    kill(run := make_run(*options, "study=killed"), "on_train_batch_start", 4)
    attempt(run, train)
    attempt(whole := make_run(*options), train)
    assert (run.folder / "steps.csv").read_text() == (whole.folder / "steps.csv").read_text()


@pytest.mark.parametrize("killed_at", [6, 12])
@pytest.mark.slow
def test_a_validation_before_an_interruption_still_counts(make_run, kill, killed_at):
    shrinks = ("schedule=plateau", "schedule.patience=0", "+schedule.threshold=9", "schedule.factor=0.5")
    options = (*shrinks, "trainer.val_check_interval=0.7", "checkpoint.every_minutes=1e-9")
    kill(run := make_run(*options, "study=killed"), "on_train_batch_start", killed_at)
    attempt(run, train)
    attempt(whole := make_run(*options), train)
    for name in ("train/loss", "val/acc", "lr"):
        assert [row[name] for row in rows(run.folder / "metrics.csv")] == [
            row[name] for row in rows(whole.folder / "metrics.csv")
        ]
    best = [torch.load(each.checkpoints / "best.ckpt", weights_only=True)["epoch"] for each in (run, whole)]
    assert best[0] == best[1]
