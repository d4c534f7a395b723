import pytest

from vitbn.analysis.arms import group
from vitbn.analysis.records import read_study
from vitbn.analysis.sections import headline
from vitbn.analysis.speed_sections import critical_section, crossover_section, threshold_section


def test_time_to_thresholds(run, study):
    run(seed=0, values=[0.5, 0.91, 0.96], epochs=3)
    run(seed=1, values=[0.5, 0.89, 0.92], epochs=3)
    run(seed=2, values=[0.5, 0.93, 0.98], epochs=3)
    (row,) = threshold_section(group(read_study(study))).tables[0].rows
    assert row[4:] == ["2 ep., 8 s", "3 ep., 13 s (2 of 3)", "not reached (1 of 3)"]


def test_seconds_of_different_hardware_are_not_averaged(run, study):
    run(seed=0, values=[0.5, 0.91], epochs=2, result={"hardware": "AMD EPYC, 1 threads"})
    run(seed=1, values=[0.5, 0.91], epochs=2, result={"hardware": "NVIDIA H200"})
    arms = group(read_study(study))
    assert threshold_section(arms).tables[0].rows[0][4] == "2 ep."
    assert headline(arms).tables[0].rows[0][-1] == "–"


@pytest.mark.parametrize(
    ("curve", "course"),
    [
        ([0.8, 0.85, 0.9], "ViTBNFFN ahead throughout"),
        ([0.5, 0.6, 0.65], "ViT ahead throughout"),
        ([0.5, 0.85, 0.9], "ViTBNFFN overtakes ViT at epoch 2 [2, 2]"),
        ([0.8, 0.65, 0.6], "ViT overtakes ViTBNFFN at epoch 2 [2, 2]"),
        ([0.7, 0.7, 0.7], "neither is ahead at the end"),
    ],
)
def test_crossover(run, study, curve, course):
    for seed in range(2):
        run(model="vit", seed=seed, values=[0.7, 0.7, 0.7], epochs=3)
        run(model="vitbnffn", seed=seed, values=curve, epochs=3)
    (row,) = crossover_section(group(read_study(study))).tables[0].rows
    assert row[-1] == course


def test_critical_depth(run, study):
    for depth, ahead in ((2, -0.02), (3, 0.03), (4, 0.1)):
        for seed in range(2):
            run(model="vit", depth=depth, seed=seed, final=0.8)
            run(model="vitbnffn", depth=depth, seed=seed, final=0.8 + ahead)
    (row,) = critical_section(group(read_study(study))).tables[0].rows
    assert row == ["ViTBNFFN over ViT", "0.003", "2", "2 to 4", "3 [3, 3]"]
