"""How far a study is: what is planned, what became of it, and how long the rest will take. Imports no torch."""

import csv
import hashlib
import json
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitbn.errors import InputError
from vitbn.store import atomic as durable
from vitbn.store.lock import is_owned
from vitbn.store.run import Run, read_result, run_folders

STATES = ("done", "running", "interrupted", "missing", "failed", "diverged")


def write_plan(study: Path, runs: list[Run]) -> None:
    """Remember which runs a sweep is made of, so that missing ones can be told. One file per sweep: no races."""
    plan = {run.id: {**run.labels, "epochs": run.config["epochs"]} for run in runs}
    name = hashlib.sha256(" ".join(sorted(plan)).encode()).hexdigest()[:12] + ".json"
    (study / ".plans").mkdir(parents=True, exist_ok=True)
    durable.write_json(study / ".plans" / name, plan)


@dataclass(frozen=True)
class Progress:
    """One run: its state, its finished and planned epochs and the seconds an epoch of it took (None: not known)."""

    id: str
    labels: dict[str, Any]
    state: str
    epochs_done: int
    epochs: int
    seconds: float | None

    @property
    def epochs_left(self) -> int:
        return 0 if self.state in ("done", "diverged") else max(0, self.epochs - self.epochs_done)


def progress(study: Path) -> list[Progress]:
    """Every run that was planned or begun; InputError if there is none."""
    plans: dict[str, dict[str, Any]] = {}
    for file in sorted(study.glob(".plans/*.json")):
        plans |= json.loads(file.read_text())
    folders = {folder.name: folder for folder in run_folders(study)}
    if not plans and not folders:
        raise InputError(f"{study}: no study there")
    return [_progress(study / name, plans.get(name)) for name in sorted({*plans, *folders})]


def seconds_left(runs: list[Progress]) -> float | None:
    """Seconds until all is done, with as many at once as run now; None if no epoch was ever timed.

    A run that has no epoch yet is given the median of the runs of its model and depth, else of all, by depth.
    """
    known = [run for run in runs if run.seconds is not None]
    if not known:
        return None

    def per_epoch(run: Progress) -> float:
        if run.seconds is not None:
            return run.seconds
        alike = [k.seconds for k in known if all(k.labels.get(x) == run.labels.get(x) for x in ("model", "depth"))]
        per_depth = [k.seconds / k.labels.get("depth", 1) for k in known if k.seconds is not None]
        return _median(alike) if alike else _median(per_depth) * run.labels.get("depth", 1)

    total = sum(per_epoch(run) * run.epochs_left for run in runs)
    return total / max(1, sum(run.state == "running" for run in runs))


def print_status(study: Path) -> None:
    """The counts, the time left and a table of the runs that are not done."""
    from rich.console import Console
    from rich.table import Table

    runs = progress(study)
    counts = {state: sum(run.state == state for run in runs) for state in STATES}
    console = Console()
    found = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    console.print(f"[bold]{study}[/]  {len(runs)} runs: {found}", soft_wrap=True)
    if any(run.epochs_left for run in runs):
        left = seconds_left(runs)
        console.print(f"time left: {'not known before the first epoch ends' if left is None else spoken(left)}")
    table = Table("run", "state", "epochs")
    for run in runs:
        if run.state != "done":
            table.add_row(run.id, run.state, f"{run.epochs_done}/{run.epochs}")
    if table.row_count:
        console.print(table)


def spoken(seconds: float) -> str:
    """About how long, in words."""
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 1.5 * size:
            return f"about {seconds / size:.1f} {unit}"
    return f"about {seconds:.0f} seconds"


def _progress(folder: Path, plan: dict[str, Any] | None) -> Progress:
    result = read_result(folder)
    epochs = _epoch_seconds(folder / "metrics.csv")
    if plan is None:
        plan = _plan_of(folder, result)
    if result is not None:
        state = result["status"]
    elif is_owned(folder):
        state = "running"
    else:
        state = "interrupted" if folder.exists() else "missing"
    seconds = _median(epochs) if epochs else None
    return Progress(folder.name, plan, state, len(epochs), plan["epochs"], seconds)


def _plan_of(folder: Path, result: dict[str, Any] | None) -> dict[str, Any]:
    if result and result["status"] == "done":  # says the same, and JSON is read a hundred times as fast
        return {**result["run"], "epochs": result["epochs"]}
    import yaml

    config = yaml.safe_load((folder / "config.yaml").read_text())
    return {**Run(config).labels, "epochs": config["epochs"]}


def _epoch_seconds(path: Path) -> list[float]:
    try:
        with path.open() as file:
            return [float(row["seconds"]) for row in csv.DictReader(file)]
    except FileNotFoundError:
        return []


def _median(values: Iterable[float | None]) -> float:
    return statistics.median(value for value in values if value is not None)
