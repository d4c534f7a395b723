"""Looks: the numbers of seeds at which a claim is judged, and the level at which its verdict holds over all of them.

Whoever adds seeds until an interval leaves zero finds one that does. A verdict therefore counts the seeds of the last
look only, and each of the five looks may err in a fifth of 5 % of studies (docs/report.md, "Looks").
"""

from bisect import bisect_right

LOOKS = (3, 5, 10, 20, 40)  # seeds
ERROR = 0.05  # of studies in which a claim on the edge of its region is ever decided


def looks_taken(seeds: int) -> int:
    """How many looks so many seeds have allowed."""
    return bisect_right(LOOKS, seeds)


def seeds_judged(seeds: int) -> int:
    """How many of so many seeds a verdict counts; 0 before the first look."""
    taken = looks_taken(seeds)
    return LOOKS[taken - 1] if taken else 0


def look_level(ways: int = 1) -> float:
    """The level of an interval at one look; `ways` is in how many ways its claim can be refuted.

    Each tail of one interval errs in half of ERROR over all looks, so two ways stay below ERROR as they are; more
    share it.
    """
    return 1 - ERROR / len(LOOKS) * min(1, 2 / ways)
