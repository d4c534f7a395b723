"""The tables that every run writes."""

import csv

import pytest

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
