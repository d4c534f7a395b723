"""Runs grouped into arms: which settings a study varies, how its arms are called, which runs pair up."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from vitbn.analysis.records import RunRecord
from vitbn.models.placements import Slot
from vitbn.plotting import look
from vitbn.store.labels import AXES, NAMES, placements, short_names, short_value, varying


@dataclass(frozen=True)
class Arm:
    """Runs that differ in depth, learning rate and seed only."""

    placement: str  # the network and where its norms differ from its own, "ViTBN ffn_hidden=none"
    setting: str  # every other key that the study varies, "pool=mean"; mostly empty
    runs: list[RunRecord]

    @property
    def name(self) -> str:
        """The arm in tables."""
        return f"{self.placement} {self.setting}".strip()

    def at(self, depth: Any, lr: Any) -> list[RunRecord]:
        """Its runs at one depth and learning rate."""
        return self._cells.get((depth, lr), [])

    @cached_property
    def _cells(self) -> dict[tuple[Any, Any], list[RunRecord]]:
        runs_at: dict[tuple[Any, Any], list[RunRecord]] = {}
        for run in self.runs:
            runs_at.setdefault((run.depth, run.lr), []).append(run)
        return runs_at


MOST_PLACEMENTS = 4  # of one setting that are all paired with each other
_MISSING = object()
COMPUTED = "matmul_precision"  # how a run was computed: an earlier version chose it by itself
PLACEMENT_KEYS = ("model.name", "model.norm")


def group(runs: Iterable[RunRecord]) -> list[Arm]:
    """Arms in a fixed order: ViT, ViTBNFFN, ViTBN, then by name."""
    readable = [run for run in runs if run.status != "unreadable"]
    by_model: dict[Any, list[RunRecord]] = {}
    for run in readable:
        by_model.setdefault(run.config["model.name"], []).append(run)
    # by model: what differs between two models only is a difference to be named beside the comparison
    keys = sorted({key for members in by_model.values() for key in varying(run.compared for run in members)})
    if not _are_alike_but_for(COMPUTED, readable, keys):
        keys = [key for key in keys if key != COMPUTED]
    names = short_names(keys)
    flags = {key for run in readable for key, value in run.compared.items() if value is True}
    members_of: dict[tuple[str, str], list[RunRecord]] = {}
    for placement, run in zip(placements([run.config for run in readable]), readable, strict=True):
        config = run.compared
        setting = [
            f"{name}={short_value(key, config.get(key, False))}"
            for key, name in names.items()
            if key in config or key in flags
        ]
        members_of.setdefault((placement, " ".join(setting)), []).append(run)
    order = {name: index for index, name in enumerate(NAMES.values())}

    def rank(arm: Arm) -> tuple:
        known = NAMES.get(arm.runs[0].config.get("model.name", ""), "")
        return order.get(known, len(order)), len(arm.placement), arm.placement, arm.setting

    return sorted((Arm(*names, members) for names, members in members_of.items()), key=rank)


def _are_alike_but_for(key: str, runs: Sequence[RunRecord], keys: Sequence[str]) -> bool:
    """Whether two runs differ in this key alone: then it is studied, or else to be named beside a comparison."""
    others = [*PLACEMENT_KEYS, *AXES, *(other for other in keys if other != key)]
    places = [f"model.placement.{slot}" for slot in Slot]
    alike = Counter(tuple(str(run.config.get(other)) for other in (*others, *places)) for run in runs)
    return max(alike.values(), default=1) > 1


def cells(arms: Iterable[Arm]) -> list[tuple[Any, Any]]:
    """Every (depth, learning rate) that occurs, by rate and then by depth."""
    occurring = {(run.depth, run.lr) for arm in arms for run in arm.runs}
    return sorted(occurring, key=lambda cell: tuple((value is None, value or 0) for value in reversed(cell)))


def placement_pairs(arms: list[Arm]) -> list[tuple[Arm, Arm]]:
    """(reference, other) for every two arms that differ in placement only.

    Of more than MOST_PLACEMENTS in one setting, each is paired with the first alone: sixteen would make 120 pairs.
    """
    settings: dict[Any, list[Arm]] = {}
    for arm in arms:
        settings.setdefault(arm.setting, []).append(arm)
    return [
        (first, second)
        for members in settings.values()
        for index, first in enumerate(members if len(members) <= MOST_PLACEMENTS else members[:1])
        for second in members[index + 1 :]
        if first.placement != second.placement
    ]


def looks(arms: list[Arm]) -> dict[str, dict[str, Any]]:
    """A look for every placement, the same in all pictures of a report."""
    return {name: look(index) for index, name in enumerate(dict.fromkeys(arm.placement for arm in arms))}


def paired(first: Iterable[RunRecord], second: Iterable[RunRecord]) -> list[tuple[RunRecord, RunRecord]]:
    """Finished runs (done or diverged) of equal seed, one pair per seed."""
    others = {run.seed: run for run in finished(second)}
    return [(run, others[run.seed]) for run in finished(first) if run.seed in others]


def finished(runs: Iterable[RunRecord]) -> list[RunRecord]:
    """Runs with an outcome, sorted by seed: done or diverged, neither failed nor still going."""
    return sorted((run for run in runs if run.status in ("done", "diverged")), key=lambda run: run.seed)


class FinishedRuns:
    """The finished runs of a study, indexed by the values of their configuration's keys."""

    def __init__(self, runs: Iterable[RunRecord]) -> None:
        self.runs = finished(runs)
        self._index: dict[str, dict[Any, set[int]]] = {}  # key -> value -> indices of the runs with it

    def fitting(self, wanted: Mapping[str, Any]) -> list[RunRecord]:
        """Those whose configuration has these values, sorted by seed; a list stands for any of its values."""
        every = set(range(len(self.runs)))
        fitting = every.intersection(*(self._with_value(key, value) for key, value in wanted.items()))
        return [self.runs[index] for index in sorted(fitting)]

    def _with_value(self, key: str, wanted: Any) -> set[int]:
        if key not in self._index:
            self._index[key] = {}
            for index, run in enumerate(self.runs):
                self._index[key].setdefault(run.config.get(key, _MISSING), set()).add(index)
        return set().union(*(indices for value, indices in self._index[key].items() if _equal(value, wanted)))


def _equal(value: Any, wanted: Any) -> bool:
    if isinstance(wanted, list):
        return any(_equal(value, choice) for choice in wanted)
    if isinstance(value, bool) != isinstance(wanted, bool):
        return False  # True is no 1
    if isinstance(wanted, float) and isinstance(value, (int, float)):
        return math.isclose(value, wanted, rel_tol=1e-9)
    return value == wanted
