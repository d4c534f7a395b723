"""What a verdict promises, over simulated studies with a fixed generator."""

import numpy as np
import pytest

from vitbn.analysis.looks import LOOKS, look_level, looks_taken, seeds_judged

STUDIES = 20_000


def test_what_so_many_seeds_allow():
    assert [looks_taken(n) for n in (0, 2, 3, 4, 5, 39, 40, 41)] == [0, 0, 1, 1, 2, 4, 5, 5]
    assert [seeds_judged(n) for n in (0, 2, 3, 4, 5, 39, 40, 41)] == [0, 0, 3, 3, 5, 20, 40, 40]
    assert [look_level(ways) for ways in (1, 2, 4)] == pytest.approx([0.99, 0.99, 0.995])


@pytest.fixture
def decided(reach):
    """For studies (study, part, seed) on the edge 0: wholly above it at a look, wholly below, at this level."""

    def at_any_look(studies, ways=1):
        above = below = np.zeros(studies.shape[:2], dtype=bool)
        for n in LOOKS:
            seen = studies[:, :, :n]
            mean, width = seen.mean(axis=2), reach(n, look_level(ways)) * seen.std(axis=2, ddof=1)
            above, below = above | (mean - width > 0), below | (mean + width < 0)
        return above, below

    return at_any_look


@pytest.mark.parametrize("draw", ["normal", "t"])
def test_a_claim_on_the_edge_is_decided_in_at_most_5_percent_of_studies(draw, decided):
    rng = np.random.default_rng(0)
    size = (STUDIES, 1, LOOKS[-1])
    above, below = decided(rng.standard_normal(size) if draw == "normal" else rng.standard_t(3, size))
    assert 0.01 < (above | below).mean() <= 0.05
    assert max(above.mean(), below.mean()) <= 0.025


@pytest.mark.parametrize("half", [0.2, 1.0, 5.0])  # of the region, in standard deviations of a seed
def test_a_claim_of_equality_on_its_edge_is_decided_in_at_most_5_percent_of_studies(half, reach):
    studies = half + np.random.default_rng(0).standard_normal((STUDIES, LOOKS[-1]))
    decided = np.zeros(STUDIES, dtype=bool)
    for n in LOOKS:
        mean, width = studies[:, :n].mean(axis=1), reach(n, look_level()) * studies[:, :n].std(axis=1, ddof=1)
        low, high = mean - width, mean + width
        decided |= ((low > -half) & (high < half)) | (low >= half) | (high <= -half)
    assert decided.mean() <= 0.05


@pytest.mark.parametrize("parts", [1, 2, 3, 5])
@pytest.mark.parametrize("alike", [0.0, 0.5, 0.9])  # correlation of the parts
def test_a_claim_of_several_parts_is_refuted_in_at_most_5_percent_of_studies(parts, alike, decided):
    rng = np.random.default_rng(parts)
    shared = rng.standard_normal((5_000, 1, LOOKS[-1]))
    studies = alike**0.5 * shared + (1 - alike) ** 0.5 * rng.standard_normal((5_000, parts, LOOKS[-1]))
    refuted = decided(studies, ways=parts)[1].any(axis=1)
    supported = decided(studies)[0].all(axis=1)
    assert (refuted | supported).mean() <= 0.05 and supported.mean() <= 0.025
