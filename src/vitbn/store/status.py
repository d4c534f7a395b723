"""Status of a study: planned and finished runs, and the time left. Imports no torch."""

import csv
import hashlib
import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitbn.errors import InputError
from vitbn.store import atomic
from vitbn.store.lock import is_locked
from vitbn.store.run import Run, read_result, run_folders
from vitbn.store.yaml_file import read_yaml

STATES = ("done", "running", "interrupted", "missing", "failed", "diverged")


def write_plan(study: Path, runs: list[Run]) -> None:
    """Record the runs of a sweep, so that the missing ones are known. One file per sweep: no races."""
    plan = {run.id: {**run.labels, "epochs": run.config["epochs"]} for run in runs}
    name = hashlib.sha256(" ".join(sorted(plan)).encode()).hexdigest()[:12] + ".json"
    (study / ".plans").mkdir(parents=True, exist_ok=True)
    atomic.write_json(study / ".plans" / name, plan)


@dataclass(frozen=True)
class Progress:
    """One run: its state, its finished and planned epochs and its median seconds per epoch (None: not known)."""

    id: str
    labels: dict[str, Any]
    state: str
    epochs_done: int
    epochs: int
    epoch_seconds: float | None

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

    For a run without a finished epoch: the median of the runs of its model and depth, else of all per unit of depth.
    """
    timed = [(run.labels, run.epoch_seconds) for run in runs if run.epoch_seconds is not None]
    if not timed:
        return None

    def estimate(labels: dict[str, Any]) -> float:
        depth = labels.get("depth", 1)
        alike = [s for other, s in timed if (other.get("model"), other.get("depth")) == (labels.get("model"), depth)]
        if alike:
            return statistics.median(alike)
        return depth * statistics.median(seconds / other.get("depth", 1) for other, seconds in timed)

    total = sum(
        run.epochs_left * (estimate(run.labels) if run.epoch_seconds is None else run.epoch_seconds) for run in runs
    )
    return total / max(1, sum(run.state == "running" for run in runs))


def print_status(study: Path) -> None:
    """The counts, the time left and a table of the runs that are not done."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    runs = progress(study)
    counts = {state: sum(run.state == state for run in runs) for state in STATES}
    console = Console()
    listed = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    console.print(f"[bold]{escape(str(study))}[/]  {len(runs)} runs: {listed}", soft_wrap=True)
    if any(run.epochs_left for run in runs):
        left = seconds_left(runs)
        console.print(
            f"time left: {'not known before the first epoch ends' if left is None else humanize_seconds(left)}"
        )
    table = Table("run", "state", "epochs")
    for run in runs:
        if run.state != "done":
            table.add_row(escape(run.id), run.state, f"{run.epochs_done}/{run.epochs}")
    if table.row_count:
        console.print(table)


def humanize_seconds(seconds: float) -> str:
    """Such as "about 2.5 hours"."""
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 1.5 * size:
            return f"about {seconds / size:.1f} {unit}"
    return f"about {seconds:.0f} seconds"


def _progress(folder: Path, plan: dict[str, Any] | None) -> Progress:
    result = read_result(folder)
    seconds = _epoch_seconds(folder / "metrics.csv")
    if plan is None:
        plan = _plan_of(folder, result)
    if result is not None:
        state = result["status"]
    elif is_locked(folder):
        state = "running"
    else:
        state = "interrupted" if folder.exists() else "missing"
    median = statistics.median(seconds) if seconds else None
    return Progress(folder.name, plan, state, len(seconds), plan["epochs"], median)


def _plan_of(folder: Path, result: dict[str, Any] | None) -> dict[str, Any]:
    if result and result["status"] == "done":  # says the same, and JSON is read a hundred times as fast
        return {**result["run"], "epochs": result["epochs"]}
    config = read_yaml(folder / "config.yaml")
    return {**Run(config).labels, "epochs": config["epochs"]}


def _epoch_seconds(path: Path) -> list[float]:
    try:
        with path.open() as file:
            return [float(row["seconds"]) for row in csv.DictReader(file)]
    except FileNotFoundError:
        return []
