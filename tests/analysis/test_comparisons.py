import math
from dataclasses import replace

import pytest

from vitbn.analysis.arms import group
from vitbn.analysis.comparisons import differences, metric_value, resolution
from vitbn.analysis.records import read_study


def test_diverged_runs_score_as_guesses(run, study):
    run(status="diverged", values=[0.5, 0.6])
    (found,) = read_study(study)
    assert metric_value(found, "val/acc") == 0.1 and metric_value(found, "val/loss") == pytest.approx(math.log(10))
    assert metric_value(found, "val/acc", 2) == 0.6 and metric_value(found, "val/acc", 3) == 0.1


def test_differences_keep_diverged_pairs_and_count_them(run, study):
    for seed in (0, 1):
        run(model="vit", seed=seed, final=0.8, status="diverged" if seed else "done")
        run(model="vitbnffn", seed=seed, final=0.9)
    (row,) = differences(*group(read_study(study)))
    assert row.values == pytest.approx([0.1, 0.8]) and row.diverged == 1


def test_an_accuracy_is_known_to_one_of_the_images_it_was_measured_on(run, study):
    run(seed=0)
    (found,) = read_study(study)
    tested = {"confusion": [[30, 10], [0, 40]]}
    silent, tested, held_out = (replace(found, result=each) for each in ({}, tested, tested | {"val_images": 20}))
    assert [resolution("val/acc", [each]) for each in (silent, tested, held_out)] == [0.01, 1 / 80, 1 / 20]
    assert resolution("test/acc", [held_out]) == 1 / 80
