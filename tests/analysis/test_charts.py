import numpy as np
import pytest
from matplotlib.colors import to_rgb

from vitbn.analysis.arms import group
from vitbn.analysis.charts import OPEN, accuracy_against, most_confused, paired_differences
from vitbn.analysis.records import read_study
from vitbn.plotting import COLOURS, style


def test_most_confused():
    counts = [[90, 10, 0], [4, 95, 1], [0, 0, 50]]
    assert most_confused(np.array(counts), 2) == [(0, 1, 10, 0.1), (1, 0, 4, 0.04)]
    assert len(most_confused(np.array(counts))) == 3


def test_networks_with_and_without_a_depth_share_a_study(run, study):
    for depth in (2, 3):
        run(depth=depth)
    run(model="resnet34", depth=6)
    with style():
        (picture,) = accuracy_against("depth", group(read_study(study)))
    assert [list(ax.get_xticks()) for ax in picture.figure.axes] == [[2, 3]]


@pytest.mark.parametrize(("ends", "colour"), [((0.9, 0.91), COLOURS[1]), ((0.7, 0.71), COLOURS[0]), ((0.7, 0.9), OPEN)])
def test_only_an_interval_off_zero_has_the_colour_of_a_leader(run, study, ends, colour):
    for seed, end in enumerate(ends):
        run(model="vit", seed=seed, final=0.8)
        run(model="vitbnffn", seed=seed, final=end)
    (picture,) = paired_differences(group(read_study(study)))
    _, mean, _ = picture.figure.axes[0].lines  # seeds, mean, zero
    assert (mean.get_color(), picture.figure.axes[0].collections[0].get_color()[0].tolist()) == (
        colour,
        [*to_rgb(colour), 1],
    )
