"""Status of a study: planned and finished runs, and the time left. Imports no torch."""

import csv
import logging
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitbn.errors import InputError, describe
from vitbn.store.config_file import RETRAIN, read_config
from vitbn.store.labels import FlatConfig, depth_of
from vitbn.store.lock import is_locked
from vitbn.store.plan import planned_configs
from vitbn.store.run import read_result, run_folders
from vitbn.store.text_file import read_text
from vitbn.terminal import print_text, terminal_table

log = logging.getLogger("vitbn")
STATES = ("done", "running", "interrupted", "missing", "failed", "diverged", "unreadable")


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
        return 0 if self.state in ("done", "diverged", "unreadable") else max(0, self.epochs - self.epochs_done)


def progress(study: Path) -> list[Progress]:
    """Every run that was planned or begun; InputError if there is none."""
    planned = planned_configs(study)
    folders = {folder.name: folder for folder in run_folders(study)}
    if not planned and not folders:
        raise InputError(f"{study}: no study there")
    return [_progress(study / name, planned.get(name)) for name in sorted({*planned, *folders})]


def seconds_left(runs: list[Progress]) -> float | None:
    """Seconds until all is done, with as many at once as run now; None if no epoch was ever timed.

    For a run without a finished epoch: the median of the runs of its model and depth, else of all per unit of depth.
    """
    timed = [(run.labels, run.epoch_seconds) for run in runs if run.epoch_seconds is not None]
    if not timed:
        return None

    def estimate(labels: dict[str, Any]) -> float:
        alike = [seconds for other, seconds in timed if other == labels]
        if alike:
            return statistics.median(alike)
        depths = [other.get("depth") or 1 for other, _ in timed]
        per_block = statistics.median(seconds / depth for depth, (_, seconds) in zip(depths, timed, strict=True))
        return (labels.get("depth") or 1) * per_block

    total = sum(
        run.epochs_left * (estimate(run.labels) if run.epoch_seconds is None else run.epoch_seconds) for run in runs
    )
    return total / max(1, sum(run.state == "running" for run in runs))


def study_folder(name: str, runs: Path = Path("runs")) -> Path:
    """The folder of a study that is given by its name or its path."""
    return Path(name) if Path(name).is_dir() and not (runs / name).is_dir() else runs / name


def study_folders(runs: Path) -> list[Path]:
    """The studies in a folder, latest first."""
    folders = {path.parents[1] for pattern in ("*/*/config.yaml", "*/.plans/*.json") for path in runs.glob(pattern)}
    return sorted(folders, key=lambda folder: -folder.stat().st_mtime)


def print_studies(runs: Path) -> None:
    """A line per study: how many runs are in which state."""
    studies = study_folders(runs)
    if not studies:
        raise InputError(f"{runs}: no studies there; vitbn train starts one")
    for study in studies:
        found = progress(study)
        print_text(f"{study}  {_counts(found)}{_left(found)}")


def print_status(study: Path) -> None:
    """The counts, the time left and a table of the runs that are not done."""
    from rich.console import Console

    runs = progress(study)
    print_text(f"{study}  {_counts(runs)}")
    if any(run.epochs_left for run in runs):
        print_text(_left(runs).removeprefix("; "))
    lines = [(run.id, run.state, f"{run.epochs_done}/{run.epochs}") for run in runs if run.state != "done"]
    if lines:
        Console().print(terminal_table(("run", "state", "epochs"), lines, words=("run", "state")))


def _counts(runs: list[Progress]) -> str:
    counts = {state: sum(run.state == state for run in runs) for state in STATES}
    listed = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    return f"{len(runs)} run{'s' if len(runs) != 1 else ''}: {listed}"


def _left(runs: list[Progress]) -> str:
    if not any(run.epochs_left for run in runs):
        return ""
    left = seconds_left(runs)
    return f"; time left: {'not known before the first epoch ends' if left is None else humanize_seconds(left)}"


def humanize_seconds(seconds: float) -> str:
    """Such as "about 2.5 hours"."""
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 1.5 * size:
            return f"about {seconds / size:.1f} {unit}"
    return f"about {seconds:.0f} seconds"


def _progress(folder: Path, config: FlatConfig | None) -> Progress:
    """A file that cannot be read is named and makes its run `unreadable`."""
    try:
        config = read_config(folder / "config.yaml") if config is None else config
        seconds = _epoch_seconds(folder / "metrics.csv")
    except (InputError, OSError) as error:
        log.warning(describe(error))
        return Progress(folder.name, {}, "unreadable", 0, 0, None)
    state = run_state(folder, read_result(folder))
    labels = {"model": config.get("model.name"), "depth": depth_of(config)}
    median = statistics.median(seconds) if seconds else None
    return Progress(folder.name, labels, state, len(seconds), config.get("epochs") or 0, median)


def run_state(folder: Path, result: dict[str, Any] | None) -> str:
    """How a run ended, as its result says, or else what has become of it."""
    if result:
        return result["status"]
    if is_locked(folder):
        return "running"
    return "interrupted" if folder.exists() else "missing"


def _epoch_seconds(path: Path) -> list[float]:
    try:
        lines = read_text(path).splitlines()
        return [float(row["seconds"]) for row in csv.DictReader(lines)]
    except FileNotFoundError:
        return []
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: no column of seconds in every line; {RETRAIN}") from None
