"""Curves of what the runs have logged beyond the metrics that every run has."""

import csv

import pytest

from vitbn.analysis.arms import group
from vitbn.analysis.curves import over_epochs
from vitbn.analysis.records import read_study
from vitbn.plotting import style


@pytest.fixture
def further(tmp_path, write):
    """Two seeds of one arm with a metric that was measured every second epoch."""
    for seed in (0, 1):
        write(tmp_path / "study", seed=seed)
    for path in (tmp_path / "study").glob("*/metrics.csv"):
        rows = list(csv.DictReader(path.open()))
        for row in rows:
            row["sharpness, mean"] = 2.5 * int(row["epoch"]) if int(row["epoch"]) % 2 == 0 else ""
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    return tmp_path / "study"


def test_a_further_metric_has_a_figure_of_the_epochs_that_measured_it(further):
    with style():
        drawn = {picture.name: picture for picture in over_epochs(group(read_study(further)))}
    picture = drawn["metric-sharpness--mean"]
    assert len(drawn) == 3 and picture.title == "sharpness, mean over epochs"
    bold = next(line for line in picture.figure.axes[0].lines if line.get_linewidth() == 2.0)
    assert [list(axis) for axis in bold.get_data()] == [[2, 4, 6, 8, 10], [5, 10, 15, 20, 25]]


def test_one_epoch_is_a_point(run, study):
    run(epochs=1)
    with style():
        accuracy = over_epochs(group(read_study(study)))[0]
    (bold,) = (line for line in accuracy.figure.axes[0].lines if line.get_linewidth() == 2.0)
    assert bold.get_marker() == "o"
