import numpy as np

from vitbn.analysis.charts import most_confused


def test_most_confused():
    counts = [[90, 10, 0], [4, 95, 1], [0, 0, 50]]
    assert most_confused(np.array(counts), 2) == [(0, 1, 10, 0.1), (1, 0, 4, 0.04)]
    assert len(most_confused(np.array(counts))) == 3
