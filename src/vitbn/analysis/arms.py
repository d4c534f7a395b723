"""Runs grouped into arms: which settings a study varies, how its arms are called, which runs pair up."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from vitbn.analysis.records import RunRecord, within
from vitbn.models.placements import PLACEMENTS, Slot, complete
from vitbn.plotting import look

AXES = ("depth", "lr", "seed")
PLACEMENT = ("norm", "model.name", "model._target_", "model.placement", "model.norm", "model.batch_norm")
NAMES = {
    "vit": "ViT", "vitbnffn": "ViTBNFFN", "vitbn": "ViTBN", "vitbn_scalar": "ViTBN scalar",
    "dnn": "DNN", "dnn_bn": "DNN + BN",
    "mlp": "MLP", "mlp_bn": "MLP + BN",
}  # fmt: skip


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


_MISSING = object()


def group(runs: Iterable[RunRecord]) -> list[Arm]:
    """Arms in a fixed order: ViT, ViTBNFFN, ViTBN, then by name."""
    by_model: dict[str, list[tuple[RunRecord, dict[str, Any]]]] = {}
    for run in runs:
        if run.status != "unreadable":
            by_model.setdefault(str(run.config.get("model.name")), []).append((run, run.compared))
    varying = {model: _varying(config for _, config in members) for model, members in by_model.items()}
    settings = sorted({key for keys in varying.values() for key in keys if not within(key, PLACEMENT)})
    flags = {key for members in by_model.values() for _, config in members for key in config if config[key] is True}
    members_of: dict[tuple[str, str], list[RunRecord]] = {}
    for model, members in by_model.items():
        for run, config in members:
            placement, setting = _placement(model, run.config), " ".join(_named(config, settings, flags))
            members_of.setdefault((placement, setting), []).append(run)
    order = {name: index for index, name in enumerate(NAMES.values())}

    def rank(arm: Arm) -> tuple:
        known = NAMES.get(arm.runs[0].config.get("model.name", ""), "")
        return order.get(known, len(order)), len(arm.placement), arm.placement, arm.setting

    return sorted((Arm(*names, members) for names, members in members_of.items()), key=rank)


def _placement(model: str, config: dict[str, Any]) -> str:
    """The network's name, and where its norms differ from its own: `norm=vitbn_scalar`, `ffn_in=batch`."""
    name = NAMES.get(model, model)
    if model not in PLACEMENTS or "model.placement.final" not in config:
        return name
    kinds = {str(slot): config.get(f"model.placement.{slot}", "none") for slot in Slot}
    own = complete(PLACEMENTS[model])
    if kinds == own:
        return name
    same = [other for other, placement in PLACEMENTS.items() if complete(placement) == kinds]
    changes = [f"{slot}={kind}" for slot, kind in kinds.items() if own[Slot(slot)] != kind]
    return " ".join([name, *([f"norm={same[0]}"] if same else changes)])


def _varying(configs: Iterable[dict[str, Any]]) -> list[str]:
    """Keys other than the axes with more than one value (or present only at times)."""
    configs = list(configs)
    keys = {key for config in configs for key in config} - set(AXES)
    return sorted(key for key in keys if len({str(config.get(key)) for config in configs}) > 1)


def _named(config: dict[str, Any], keys: Iterable[str], flags: set[str]) -> list[str]:
    return [f"{key.rsplit('.', 1)[-1]}={config.get(key, False)}" for key in keys if key in config or key in flags]


def cells(arms: Iterable[Arm]) -> list[tuple[Any, Any]]:
    """Every (depth, learning rate) that occurs, by rate and then by depth."""
    occurring = {(run.depth, run.lr) for arm in arms for run in arm.runs}
    return sorted(occurring, key=lambda cell: tuple((value is None, value or 0) for value in reversed(cell)))


def placement_pairs(arms: list[Arm]) -> list[tuple[Arm, Arm]]:
    """(reference, other) for every two arms that differ in placement only."""
    return [
        (first, second)
        for index, first in enumerate(arms)
        for second in arms[index + 1 :]
        if first.setting == second.setting and first.placement != second.placement
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
    if isinstance(wanted, float) and isinstance(value, (int, float)) and not isinstance(value, bool):
        return math.isclose(value, wanted, rel_tol=1e-9)
    return value == wanted
