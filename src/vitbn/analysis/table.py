"""A study as a table: in the terminal at the end of a sweep and from `vitbn table`, and as summary.csv."""

import logging
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vitbn.analysis.formatting import DASH, accuracy_text, plain
from vitbn.analysis.stats import mean_interval
from vitbn.errors import InputError, describe
from vitbn.store import atomic
from vitbn.store.config_file import read_config
from vitbn.store.labels import FlatConfig, labels
from vitbn.store.plan import planned_configs
from vitbn.store.run import last_line, read_result, run_folders
from vitbn.store.status import run_state
from vitbn.terminal import print_text, terminal_table

log = logging.getLogger("vitbn")
MAX_TABLE_ROWS = 200  # above, a table has the means over seeds only
SUMMARY_SECONDS = 30  # while a sweep is going, summary.csv is refreshed at most this often
RESULT_COLUMNS = ("epochs_done", "val/acc", "test/acc", "seconds", "label", "train/loss", "val/loss", "test/loss")
LAST_COLUMNS = ("parameters", "hardware", "matmul_precision", "error")
AXES = ("model", "data", "depth", "lr", "seed")
WORDS = ("model", "data", "changes", "status")  # columns that read from the left, as text does


def study_configs(study: Path) -> dict[Path, FlatConfig]:
    """Folder -> flat configuration of every run that was planned or begun; empty for one that cannot be read."""
    configs: dict[Path, FlatConfig] = {study / run_id: config for run_id, config in planned_configs(study).items()}
    for folder in run_folders(study):
        if folder not in configs:
            configs[folder] = _config_of(folder)
    if not configs:
        raise InputError(f"{study}: no study there")
    return configs


def _config_of(folder: Path) -> FlatConfig:
    try:
        return read_config(folder / "config.yaml")
    except InputError as error:
        log.warning(str(error))
        return {}


def table_rows(configs: Mapping[Path, FlatConfig]) -> list[dict[str, Any]]:
    """A row per run: run_id, status, labels, what came out; those to be compared stand together."""
    readable = {folder: config for folder, config in configs.items() if config}
    named = dict(zip(readable, labels(list(readable.values())), strict=True))
    rows = [_row(folder, named.get(folder)) for folder in configs]
    keys = ("data", "depth", "lr", *swept(rows), "seed", "model")
    return sorted(rows, key=lambda row: [(row.get(key) is None, _sortable(row.get(key))) for key in keys])


def _row(folder: Path, named: Mapping[str, Any] | None) -> dict[str, Any]:
    result = read_result(folder) or {}
    metrics, fingerprint = result.get("metrics"), result.get("fingerprint")
    row: dict[str, Any] = {"run_id": folder.name, "status": run_state(folder, result) if named else "unreadable"}
    row |= named or dict.fromkeys(AXES)
    row |= {column: result.get(column) for column in (*RESULT_COLUMNS, *LAST_COLUMNS)}
    row |= {name: metrics.get(name) for name in RESULT_COLUMNS if "/" in name} if isinstance(metrics, Mapping) else {}
    row["epochs_done"] = result.get("epochs")
    row["parameters"] = fingerprint.get("parameters") if isinstance(fingerprint, Mapping) else None
    row["error"] = last_line(result.get("error"))
    return row


def _sortable(value: Any) -> tuple[bool, Any]:
    """Numbers before words; of what is neither the text counts."""
    return (False, value) if isinstance(value, int | float) else (True, str(value))


def swept(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The columns that a study has beyond those of every study: the further keys that it varies."""
    known = {"run_id", "status", *AXES, *RESULT_COLUMNS, *LAST_COLUMNS}
    return list(dict.fromkeys(key for row in rows for key in row if key not in known))


def write_summary(target: Path, configs: Mapping[Path, FlatConfig] | None = None) -> None:
    """<target>/summary.csv: a row per run of the study, or per run of `configs`; a warning if it cannot be written.

    Whoever writes looks afterwards whether a result has come in meanwhile: of several commands the last one to end
    leaves a complete file.
    """
    chosen, written = configs, None
    try:
        while (stamp := _results_stamp(target if configs is None else configs)) != written:
            chosen = study_configs(target) if configs is None else configs
            rows = table_rows(chosen)
            columns = ["run_id", "status", *AXES[:-1], *swept(rows), "seed", *RESULT_COLUMNS, *LAST_COLUMNS]
            atomic.write_csv(target / "summary.csv", columns, rows)
            written = stamp
    except (OSError, InputError) as error:  # the latter where the study's folder has been removed
        log.warning(f"{target / 'summary.csv'}: not written: {describe(error)}")


def _results_stamp(runs: Path | Mapping[Path, Any]) -> list[tuple[str, int]]:
    """Changes whenever a result is written or taken away."""
    files = runs.glob("*/result.json") if isinstance(runs, Path) else [folder / "result.json" for folder in runs]
    return sorted((str(path), path.stat().st_mtime_ns) for path in files if path.exists())


def refresh_summary(study: Path) -> None:
    """Write summary.csv of a sweep that is going, unless it is fresh."""
    path = study / "summary.csv"
    if not path.exists() or time.time() - path.stat().st_mtime > SUMMARY_SECONDS:
        write_summary(study)


def print_table(study: Path, configs: Mapping[Path, FlatConfig]) -> None:
    """A row per run, then the means over seeds; columns in which nothing differs are named once above.

    More than MAX_TABLE_ROWS runs are counted instead of listed. In a terminal too narrow for a column per key that was
    varied, one column names what differs from most runs.
    """
    from rich.console import Console

    rows = table_rows(configs)
    console = Console()
    keys = [*AXES[:-1], *swept(rows), "seed"]
    values = {key: {str(row.get(key)) for row in rows} for key in keys}
    varying = [key for key in keys if key == "model" or len(values[key]) > 1]
    constant = [f"{key}={rows[0][key]}" for key in keys if key not in varying and rows[0].get(key) is not None]
    print_text(f"{study}  {', '.join(constant)}")
    unlimited = console.options.update(max_width=10_000)
    if console.measure(_runs_table(rows, varying), options=unlimited).maximum > console.width:
        rows, varying = _with_changes(rows, varying)
    if len(rows) > MAX_TABLE_ROWS:
        counts = Counter(row["status"] for row in rows).most_common()
        listed = ", ".join(f"{count:,} {status}" for status, count in counts)
        print_text(f"{len(rows):,} runs: {listed}; a row for each in {study / 'summary.csv'}")
    else:
        console.print(_runs_table(rows, varying))
    means = _means(rows, [key for key in varying if key != "seed"])
    if any(count > 1 for *_, count, _, _ in means):
        console.print(_means_table(means, [key for key in varying if key != "seed"]))


def _with_changes(rows: list[dict[str, Any]], varying: list[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows and columns with `changes` in place of the further keys: where a run differs from most."""
    further = [key for key in varying if key not in AXES]
    usual = {key: Counter(str(row.get(key)) for row in rows).most_common(1)[0][0] for key in further}
    for row in rows:
        differing = [f"{key}={row.get(key)}" for key in further if str(row.get(key)) != usual[key]]
        row["changes"] = "\n".join(differing) or DASH
    axes = [key for key in varying if key in AXES and key != "seed"]
    return rows, [*axes, *(["changes"] if further else []), *(key for key in varying if key == "seed")]


def _runs_table(rows: Sequence[Mapping[str, Any]], varying: Sequence[str]) -> Any:
    formats = {"val/acc": "{:.2%}", "test/acc": "{:.2%}", "seconds": "{:.1f}"}
    columns = (*varying, "status", *formats)
    lines = [[_cell(row.get(column), formats.get(column, "{}")) for column in columns] for row in rows]
    return terminal_table(columns, lines, WORDS)


def _cell(value: Any, form: str) -> str:
    return DASH if value is None else form.format(value) if isinstance(value, int | float) else str(value)


def _means(rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> list[tuple[tuple, int, str, str]]:
    """Per group of runs that differ in their seed alone: its labels, how many are done, both accuracies."""
    groups: dict[tuple, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["status"] != "unreadable":
            groups.setdefault(tuple(row.get(key) for key in keys), []).append(row)
    means = []
    for group, members in groups.items():
        done = list({row.get("seed"): row for row in members if row["status"] == "done"}.values())  # a copy counts once
        val, test = (
            accuracy_text(mean_interval([row[metric] for row in done if isinstance(row.get(metric), int | float)]))
            for metric in ("val/acc", "test/acc")
        )
        means.append((group, len(done), val, test))
    return means


def _means_table(means: Sequence[tuple[tuple, int, str, str]], keys: Sequence[str]) -> Any:
    lines = [[*map(plain, group), str(n), val, test] for group, n, val, test in means]
    return terminal_table((*keys, "done", "mean val/acc [95 %]", "mean test/acc [95 %]"), lines, WORDS)
