import numpy as np

from vitbn.analysis.arms import group
from vitbn.analysis.charts import accuracy_against, most_confused
from vitbn.analysis.records import read_study
from vitbn.plotting import style


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
