import math

import numpy as np
import pytest
from scipy import stats as oracle

from vitbn.analysis.stats import (
    epochs_to,
    mean_interval,
    onset,
    paired_interval,
    rank_correlation,
    seconds_to,
    share_interval,
)


def test_mean_interval_by_hand():
    # mean 2, standard error 1/sqrt(3), t(0.975, 2) = 4.302653
    found = mean_interval([1, 2, 3])
    assert (found.estimate, found.n, found.method) == (2, 3, "t")
    assert found.low == pytest.approx(2 - 4.302653 / math.sqrt(3), abs=1e-6)
    assert found.high == pytest.approx(2 + 4.302653 / math.sqrt(3), abs=1e-6)


def test_paired_interval_equals_scipys_paired_test():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.9, 0.01, 5), rng.normal(0.88, 0.01, 5)
    expected = oracle.ttest_rel(a, b).confidence_interval(0.95)
    found = paired_interval(a - b)
    assert found.method == "t"
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_bootstrap_from_ten_seeds():
    rng = np.random.default_rng(1)
    differences = rng.exponential(0.01, 10)
    found = paired_interval(differences)
    expected = oracle.bootstrap((differences,), np.mean, rng=np.random.default_rng(7)).confidence_interval
    assert found.method == "bootstrap" and paired_interval(differences[:9]).method == "t"
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=0.05)
    assert paired_interval(differences) == found, "the same runs must give the same interval"


def test_single_seed_has_no_interval():
    found = paired_interval([0.3])
    assert (found.estimate, found.low, found.high, found.method) == (0.3, None, None, "single seed")
    assert mean_interval([]).n == 0


@pytest.mark.parametrize("n", [3, 12])
def test_equal_values_have_an_interval_without_width(n):
    found = paired_interval([0.25] * n)
    assert (found.low, found.high) == (0.25, 0.25)


def test_share_interval():
    found = share_interval(0, 20)
    assert found.low == 0 and found.high == pytest.approx(1 - 0.025 ** (1 / 20))  # exact, closed form at 0 hits
    assert share_interval(5, 20).estimate == 0.25


def test_onset_needs_every_later_x():
    exact = {1: [0.1] * 3, 2: [-0.1] * 3, 3: [0.1] * 3, 4: [0.2] * 3}
    found = onset(exact)
    assert (found.estimate, found.low, found.high, found.n) == (3, 3, 3, 3)
    assert onset(exact, margin=0.15).estimate == 4
    assert onset(exact, margin=0.5).estimate == math.inf
    assert onset({1: [0.1] * 3, 2: [0.1] * 3}).estimate == 1


def test_onset_interval_inverts_the_intervals_of_each_x():
    noisy = [-0.1, 0.0, 0.2]  # mean positive, interval across 0
    found = onset({4: [-0.1, -0.1, -0.11], 5: noisy, 6: [0.1, 0.1, 0.11], 7: [0.2, 0.2, 0.21]})
    assert (found.estimate, found.low, found.high) == (5, 5, 6)
    never = onset({4: [-0.1, -0.1, -0.11], 5: noisy})
    assert (never.estimate, never.low, never.high, never.last) == (5, 5, math.inf, 5)


def test_onset_with_a_single_seed_somewhere_has_no_interval():
    found = onset({1: [-0.1, -0.2], 2: [0.3]})
    assert (found.estimate, found.low, found.n) == (2, None, 1)


def test_time_to_threshold():
    epochs, accuracy = np.array([1.0, 2, 3, 4]), np.array([0.5, 0.9, 0.85, 0.95])
    seconds = np.array([10.0, 5, 5, 5])
    assert epochs_to(epochs, accuracy, 0.9) == 2 and seconds_to(seconds, accuracy, 0.9) == 15
    assert epochs_to(epochs, accuracy, 0.97) == math.inf and seconds_to(seconds, accuracy, 0.97) == math.inf


def test_rank_correlation_and_its_interval():
    x, y = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [2.0, 1.0, 4.0, 3.0, 30.0, 5.0]
    r = 1 - 6 * (1 + 1 + 1 + 1 + 1 + 1) / (6 * 35)  # squared differences of the ranks
    reach = 1.959964 * math.sqrt((1 + r**2 / 2) / 3)
    found = rank_correlation(x, y)
    assert found.estimate == pytest.approx(r) and found.n == 6
    assert (found.low, found.high) == pytest.approx(
        (math.tanh(math.atanh(r) - reach), math.tanh(math.atanh(r) + reach))
    )
    equal = rank_correlation(x, x)
    low = math.tanh(math.atanh(1 - 6 / 210) - 1.959964 * math.sqrt(1.5 / 3))  # as if half an exchange short of it
    assert equal.estimate == equal.high == 1 and equal.low == pytest.approx(low)
    opposite = rank_correlation(x, x[::-1])
    assert (opposite.low, opposite.high) == pytest.approx((-1, -equal.low))


def test_no_rank_correlation_of_few_or_equal_values():
    assert rank_correlation([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]) is None
    assert rank_correlation([1.0] * 5, [1.0, 2.0, 3.0, 4.0, 5.0]) is None
    assert rank_correlation([1.0, 2.0, 3.0, math.inf, math.nan], [1.0, 2.0, 3.0, 4.0, 5.0]) is None
