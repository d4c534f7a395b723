"""Which runs a sweep has, on disk before the first one starts: `<study>/.plans/*.json`. Imports no torch."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitbn.errors import InputError, describe
from vitbn.store import atomic
from vitbn.store.config_file import check_config
from vitbn.store.labels import flatten, labels
from vitbn.store.run import Run
from vitbn.store.search import read_search
from vitbn.store.text_file import read_json

log = logging.getLogger("vitbn")


def write_plan(study: Path, runs: Sequence[Run]) -> None:
    """Record a sweep's runs: what all their configurations share, what differs, and the labels that tell them apart."""
    configs = {run.id: flatten(run.config) for run in runs}
    first, *others = configs.values()
    shared = {key: value for key, value in first.items() if all(_equal(other.get(key), value) for other in others)}
    differing = {
        run_id: {key: value for key, value in config.items() if key not in shared} for run_id, config in configs.items()
    }
    named = dict(zip(configs, labels(list(configs.values())), strict=True))
    name = hashlib.sha256(" ".join(sorted(configs)).encode()).hexdigest()[:12] + ".json"
    (study / ".plans").mkdir(parents=True, exist_ok=True)
    atomic.write_json(study / ".plans" / name, {"shared": shared, "runs": differing, "labels": named})


def _equal(a: Any, b: Any) -> bool:
    """1 is not 1.0: so many batches, or that share of them."""
    return type(a) is type(b) and a == b


def planned_configs(study: Path) -> dict[str, dict[str, Any]]:
    """Run id -> flat configuration of every run that a sweep of the study has or had."""
    return {run_id: config for plan in _plans(study) for run_id, config in plan.configs.items()}


def hyperparameters(run: Run) -> dict[str, Any]:
    """What tells the run from the others of its sweep, for loggers: model, data, depth, lr, what else varies, seed."""
    for plan in _plans(run.study):
        if run.id in plan.labels:
            return plan.labels[run.id]
    config = flatten(run.config)
    searched = read_search(run.study).get("space", [])
    return labels([config])[0] | {key: config[key] for key in searched if key in config}


@dataclass(frozen=True)
class _Plan:
    configs: dict[str, dict[str, Any]]
    labels: dict[str, dict[str, Any]]


def _plans(study: Path) -> list[_Plan]:
    """The study's plans, latest first; one that cannot be read is named and counts as missing."""
    found = []
    for path in study.glob(".plans/*.json"):
        try:
            found.append((path.stat().st_mtime, _read_plan(path)))
        except (InputError, OSError) as error:
            log.warning(f"{describe(error)}; taken for missing")
    return [plan for _, plan in sorted(found, key=lambda entry: -entry[0])]


def _read_plan(path: Path) -> _Plan:
    plan = read_json(path)
    if "shared" not in plan:  # written by an earlier version: run id -> labels
        plan = {"shared": {}, "runs": {run_id: _of_labels(named) for run_id, named in plan.items()}, "labels": {}}
    parts = [plan["shared"], *(plan.get(part) for part in ("runs", "labels"))]
    if not all(isinstance(part, dict) for part in parts):
        raise InputError(f"{path}: no plan of runs")
    for entry in (*plan["runs"].values(), *plan["labels"].values()):
        if not isinstance(entry, dict):
            raise InputError(f"{path}: no plan of runs")
    configs = {run_id: flatten(plan["shared"] | differing) for run_id, differing in plan["runs"].items()}
    for config in configs.values():
        check_config(config, path)
    return _Plan(configs, plan["labels"])


def _of_labels(named: Any) -> Any:
    """A flat configuration of what an earlier version recorded of a planned run."""
    names = {"model": ("model.name",), "data": ("data.name",), "depth": ("depth", "model.depth")}
    if not isinstance(named, dict):
        return named
    return {key: value for name, value in named.items() for key in names.get(name, (name,))}
