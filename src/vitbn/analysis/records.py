"""Run folders as records: what `runs/<study>/<run_id>/` holds, read tolerantly and named when broken."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from vitbn.analysis.instruments import Measured, read_instruments
from vitbn.analysis.run_files import checked_result, read_table
from vitbn.errors import InputError
from vitbn.store.config_file import RETRAIN, read_config
from vitbn.store.labels import data_name, depth_of, flatten, without_repetitions
from vitbn.store.lock import is_locked
from vitbn.store.run import RESULT_STATUSES, is_set

EPOCH_METRICS = ("train/loss", "train/acc", "val/loss", "val/acc")
FINAL_METRICS = ("test/acc", "test/loss")
METRICS = EPOCH_METRICS + FINAL_METRICS
STATUSES = (*RESULT_STATUSES, "running", "interrupted", "unreadable")
# Of result.json: what came out and what is compared piece by piece. All else there tells how it was computed.
OUTCOMES = (
    "status", "label", "metrics", "confusion", "val_images", "classes", "epochs", "seconds", "step", "error",
    "run", "config_hash", "fingerprint",
)  # fmt: skip


@dataclass(frozen=True)
class RunRecord:
    """One training: its flat configuration (`model.name`), its epochs as columns, its result."""

    path: Path
    config: dict[str, Any]
    rows: dict[str, np.ndarray]
    result: dict[str, Any]
    status: str
    notes: tuple[str, ...] = field(default=())

    @property
    def run_id(self) -> str:
        """The folder's name."""
        return self.path.name

    @property
    def seed(self) -> int:
        """What the two arms of a paired comparison share."""
        return self.config.get("seed", 0)

    @property
    def depth(self) -> int | None:
        """Encoder blocks; None for a network that has none."""
        return depth_of(self.config)

    @property
    def lr(self) -> float | None:
        """The learning rate."""
        return self.config.get("lr")

    @property
    def classes(self) -> int:
        """Number of classes, 10 where the configuration does not say."""
        return self.config.get("model.num_classes") or 10

    @property
    def fingerprint(self) -> dict[str, Any]:
        """Hashes of initial weights, order and validation draw, and the parameter count."""
        return self.result.get("fingerprint") or {}

    @cached_property
    def environment(self) -> dict[str, Any]:
        """How the run was computed, flat: matmul precision, versions, hardware with its threads, anything recorded."""
        recorded = {key: value for key, value in self.result.items() if key not in OUTCOMES}
        if recorded.get("precision") == self.config.get("trainer.precision"):
            recorded.pop("precision", None)  # older results do not repeat the configuration
        probed = recorded.pop("matmul", None)  # of results from when a run chose by itself
        recorded["matmul_precision"] = self.config.get("matmul_precision") or recorded.get("matmul_precision") or probed
        return {key: value for key, value in flatten(recorded).items() if is_set(value)}

    @cached_property
    def compared(self) -> dict[str, Any]:
        """The configuration without what cannot change a result and without repetitions."""
        return without_repetitions(self.config)

    @cached_property
    def instruments(self) -> Measured | None:
        """What was measured inside of the network; None where nothing was."""
        return read_instruments(self.path / "instruments.csv")

    def last(self, metric: str) -> float | None:
        """The metric after the last epoch, None where it was not measured."""
        value = (self.result.get("metrics") or {}).get(metric)
        if value is None and metric in self.rows and len(self.rows[metric]):
            value = self.rows[metric][-1]
        return None if value is None or np.isnan(value) else float(value)

    def at_epoch(self, metric: str, epoch: int) -> float | None:
        """The metric after that epoch (from 1), None where it was not measured."""
        values = self.rows.get(metric, np.empty(0))[self.rows.get("epoch", np.empty(0)) == epoch]
        return float(values[0]) if len(values) and not np.isnan(values[0]) else None

    def steps(self) -> dict[str, np.ndarray]:
        """Columns of steps.csv (`step`, `train/loss`); empty where the run kept none."""
        path = self.path / "steps.csv"
        return read_table(path, ended=self.status in RESULT_STATUSES)[0] if path.exists() else {}


def on_one_hardware(runs: Iterable[RunRecord]) -> bool:
    """Whether the runs' seconds can be averaged."""
    return len({run.environment.get("hardware") for run in runs}) == 1


def read_study(folder: Path | str) -> list[RunRecord]:
    """Every run of one study, sorted by run id; InputError where there is none."""
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give a study such as runs/article{_siblings(folder)}")
    runs = [read_run(path.parent) for path in sorted(folder.glob("*/config.yaml"))]
    if not runs:
        studies = sorted({path.parents[1].name for path in folder.glob("*/*/config.yaml")})
        hint = f"it holds the studies {', '.join(studies)}: name one" if studies else "is it a study's folder?"
        raise InputError(f"{folder}: no runs in this folder (no */config.yaml); {hint}")
    if all(run.status == "unreadable" for run in runs):
        raise InputError(f"{folder}: none of its {len(runs)} runs can be read; first: {runs[0].notes[0]}")
    return runs


def read_studies(folders: Iterable[Path | str]) -> tuple[list[RunRecord], list[str]]:
    """Runs of several studies and a warning line per oddity; one configuration met twice counts once."""
    runs: dict[str, RunRecord] = {}
    warnings: list[str] = []
    for folder in folders:
        for run in read_study(folder):
            identity = str(sorted(run.compared.items())) if run.config else run.run_id  # a copy has another name
            other = runs.get(identity)
            if other is None or (other.status not in RESULT_STATUSES and run.status in RESULT_STATUSES):
                runs[identity] = run
            if other is not None:
                warnings.append(f"{run.path}: the same run as {other.path}; counted once")
            warnings += run.notes
    return list(runs.values()), warnings


def by_data(runs: Iterable[RunRecord]) -> dict[str, list[RunRecord]]:
    """The runs of each data set, since no figure may mix them; the names say where two data sets differ."""
    groups: dict[tuple, list[RunRecord]] = {}
    for run in runs:
        values = {key: run.config.get(key) or None for key in ("data.name", "data.augment", "data.holdout")}
        content = run.config.get("data.content") or data_name(run.config)  # wherever it lies
        groups.setdefault((*values.items(), ("data.content", content)), []).append(run)
    names = Counter(data_name(members[0].config) for members in groups.values())
    differing = {key for entries in zip(*groups, strict=True) for key, _ in entries if len(set(entries)) > 1}
    said = [key for key in ("data.augment", "data.holdout") if key in differing]
    named: dict[str, list[RunRecord]] = {}
    for entries, members in groups.items():
        name = data_name(members[0].config)
        if names[name] > 1:
            name = " ".join([str(name), *(f"{key}={dict(entries)[key] or False}" for key in said)])
        if name in named:
            name = f"{name} {members[0].config.get('data.content') or len(named) + 1}"
        named[str(name)] = members
    return named


def read_run(folder: Path) -> RunRecord:
    """One run folder; without result.json `running` or `interrupted`, with a broken file `unreadable`."""
    config: dict[str, Any] = {}
    try:
        config = read_config(folder / "config.yaml")
        result = checked_result(folder / "result.json")
        status = result.get("status") if result else "running" if is_locked(folder) else "interrupted"
        if status not in (*RESULT_STATUSES, "running", "interrupted"):
            raise InputError(f"{folder / 'result.json'}: status {status!r} is none of {', '.join(RESULT_STATUSES)}")
        rows, notes = _epoch_rows(folder / "metrics.csv", status)
    except InputError as error:
        return RunRecord(folder, config, {}, {}, "unreadable", (str(error),))
    return RunRecord(folder, config, rows, result, status, notes)


def _epoch_rows(path: Path, status: str) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    if not path.exists():
        if status == "done":
            raise InputError(f"{path}: missing although the run is done; {RETRAIN}")
        return {}, ()
    rows, notes = read_table(path, ended=status in RESULT_STATUSES)
    missing = [name for name in ("epoch", *EPOCH_METRICS) if name not in rows]
    if missing and (rows or status == "done"):
        raise InputError(f"{path}: no column {', '.join(missing)}; {RETRAIN}")
    return rows, notes


def shortened(names: list[str], most: int = 3) -> str:
    """The first few names and how many more."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _siblings(folder: Path) -> str:
    names = sorted(path.name for path in folder.parent.glob("*") if path.is_dir()) if folder.parent.is_dir() else []
    return f" (there: {shortened(names, 8)})" if names else ""
