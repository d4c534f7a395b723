import math

import numpy as np
import pytest
from scipy import stats as oracle

from vitbn.analysis.stats import (
    epochs_to,
    mean_interval,
    onset,
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


def test_mean_interval_equals_scipys_paired_test():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.9, 0.01, 12), rng.normal(0.88, 0.01, 12)
    for n in (3, 12):
        expected = oracle.ttest_rel(a[:n], b[:n]).confidence_interval(0.99)
        found = mean_interval(a[:n] - b[:n], level=0.99)
        assert found.method == "t"
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize("n", [3, 5, 10, 20])
@pytest.mark.parametrize(("draw", "least"), [("normal", 0.94), ("t", 0.93)])
def test_coverage_over_20000_studies(n, draw, least, reach):
    rng = np.random.default_rng(n)
    studies = rng.standard_normal((20_000, n)) if draw == "normal" else rng.standard_t(3, (20_000, n))
    covered = abs(studies.mean(axis=1)) <= reach(n) * studies.std(axis=1, ddof=1)
    assert covered.mean() >= least


def test_single_seed_has_no_interval():
    found = mean_interval([0.3])
    assert (found.estimate, found.low, found.high, found.method) == (0.3, None, None, "single seed")
    assert mean_interval([]).n == 0


@pytest.mark.parametrize("n", [3, 12])
def test_equal_values_are_as_sure_as_their_resolution(n):
    found = mean_interval([0.25] * n, resolution=0.0001)
    assert (found.low, found.high) == pytest.approx((0.2499, 0.2501), abs=1e-12)
    wide = [0.2, 0.3, 0.25]
    assert mean_interval(wide, resolution=0.0001) == mean_interval(wide)


def test_share_interval():
    found = share_interval([0] * 20)
    assert found.low == 0 and found.high == pytest.approx(1 - 0.025 ** (1 / 20))  # exact, closed form at 0 hits
    expected = oracle.binomtest(5, 20).proportion_ci(0.99, method="exact")
    found = share_interval([1] * 5 + [0] * 15, level=0.99)
    assert (found.estimate, found.n) == (0.25, 20)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert share_interval([1] * 3).high == 1 and share_interval([]).n == 0


@pytest.mark.parametrize("share", [0.02, 0.1, 0.25, 0.5])
@pytest.mark.parametrize("dependence", ["the seed decides", "some seeds are worse", "each run for itself"])
def test_coverage_of_shares_whose_runs_share_a_seed(share, dependence):
    rng = np.random.default_rng(0)
    for n in (3, 5, 10, 20):
        of_seed = {
            "the seed decides": (rng.random((5_000, n, 1)) < share) * 1.0,
            "some seeds are worse": rng.beta(share / 2 / (1 - share), 0.5, (5_000, n, 1)),
            "each run for itself": np.full((5_000, n, 1), share),
        }[dependence]
        diverged = (rng.random((5_000, n, 4)) < of_seed).sum(axis=(1, 2))  # of 4 runs per seed
        intervals = [share_interval([hits / (4 * n)] * n) for hits in range(4 * n + 1)]
        low, high = (np.array([getattr(interval, end) for interval in intervals])[diverged] for end in ("low", "high"))
        assert ((low <= share) & (share <= high)).mean() >= 0.95


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


def test_overtaking_is_asked_at_the_first_and_the_last_x():
    noise = np.array([0.0, 0.002, -0.002])
    behind_later = {epoch: lead + noise for epoch, lead in enumerate((0.1, -0.05, 0.02, 0.05, 0.08), start=1)}
    assert onset(behind_later).low == 3 and not onset(behind_later).overtakes
    assert onset(behind_later | {1: -0.1 + noise}).overtakes
    assert not onset(behind_later | {1: noise}).overtakes, "may be ahead at first"
    assert not onset(behind_later | {1: -0.1 + noise, 5: noise}).overtakes, "may be level at last"


@pytest.mark.parametrize("epochs", [10, 30])
@pytest.mark.parametrize("memory", [0.0, 0.9])
def test_equal_curves_overtake_in_few_of_120_studies(epochs, memory):
    rng = np.random.default_rng(epochs)
    leads = rng.standard_normal((epochs, 120, 5))
    for epoch in range(1, epochs):  # autocorrelated: an epoch resembles the one before
        leads[epoch] = memory * leads[epoch - 1] + math.sqrt(1 - memory**2) * leads[epoch]
    found = [onset({epoch: leads[epoch, study] for epoch in range(epochs)}) for study in range(120)]
    assert np.mean([lead.overtakes for lead in found]) <= 0.05


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


def test_a_rank_correlation_of_runs_that_share_seeds_is_as_sure_as_its_seeds():
    x, y = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0] * 2, [2.0, 1.0, 4.0, 3.0, 30.0, 5.0] * 2
    of_seeds, of_runs = rank_correlation(x, y, seeds=6), rank_correlation(x, y)
    assert (of_seeds.estimate, of_seeds.n, of_runs.n) == (of_runs.estimate, 6, 12)
    reach = 1.959964 * math.sqrt((1 + of_seeds.estimate**2 / 2) / 3)
    assert of_seeds.low == pytest.approx(math.tanh(math.atanh(of_seeds.estimate) - reach))
    assert rank_correlation(x, y, seeds=3) is None


def test_no_rank_correlation_of_few_or_equal_values():
    assert rank_correlation([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]) is None
    assert rank_correlation([1.0] * 5, [1.0, 2.0, 3.0, 4.0, 5.0]) is None
    assert rank_correlation([1.0, 2.0, 3.0, math.inf, math.nan], [1.0, 2.0, 3.0, 4.0, 5.0]) is None
