import math

import pytest

from vitbn.analysis.formatting import accuracy_text, cell_text, effect_texts, expectation, onset_text, plain, signed
from vitbn.analysis.stats import Interval, Onset


def test_numbers():
    assert signed(-1.234, 2) == "−1.23" and signed(0.5, 1) == "+0.5"
    assert [plain(None), plain(0.003), plain(4)] == ["–", "0.003", "4"]
    assert cell_text(4, 0.003) == "depth 4 lr 0.003" and cell_text(None, 0.01) == "lr 0.01"


def test_an_accuracy_stays_between_0_and_100():
    assert accuracy_text(Interval(0.99, 0.97, 1.01, 3, "t")) == "99.0 % [97.0, 100.0]"
    assert accuracy_text(Interval(0.99, None, None, 1, "single seed")) == "99.0 %"


def test_an_onset_beyond_what_was_tried():
    assert onset_text(Onset(math.inf, 6, math.inf, 3, 4, 7)) == ">7 [6, >7]"
    assert onset_text(Onset(5, None, None, 1, 4, 7)) == "5 (no interval)"


@pytest.mark.parametrize(
    ("kind", "keys", "effect", "expected"),
    [
        ("difference", {}, "+1.00 points", "a − b > 0"),
        ("difference", {"metric": "val/loss", "expect": "less"}, "+0.010", "a − b < 0"),
        ("difference", {"expect": "equal"}, "+1.00 points", "a − b: −1.00 to +1.00 points"),
        ("level", {"than": 0.97}, "1.0 %", "a > 97.0 %"),
        ("critical_depth", {"expect": "reached"}, "0.01 layers", "a ahead of b from some depth on"),
    ],
)
def test_the_unit_is_the_parts(part, kind, keys, effect, expected):
    claimed = part(kind, **keys)
    assert effect_texts(claimed, Interval(0.01, None, None, 1, ""))[0] == effect and expectation(claimed) == expected
