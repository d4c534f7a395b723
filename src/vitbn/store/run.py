"""A study on disk: how a run is named, what is in its folder, and the table of all runs. Imports no torch.

runs/<study>/<run_id>/{config.yaml, metrics.csv, result.json, checkpoints/, events.out.tfevents.*}
"""

import csv
import hashlib
import io
import json
import math
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from vitbn.store import atomic as durable

# What cannot change a result is not part of a run's identity.
OMITTED = (
    "study", "runs", "rerun", "fail_fast", "logger", "log_every", "checkpoint",
    "data.root", "data.cache", "trainer.accelerator", "trainer.devices", "trainer.strategy", "trainer.sync_batchnorm",
)  # fmt: skip
FINISHED = ("done", "diverged")  # outcomes; a failed run is tried again
TABLE_ROWS = 200  # runs; above, a sweep ends with counts instead of a table
SUMMARY_SECONDS = 30  # summary.csv is refreshed at most this often while a sweep is going


def config_hash(config: dict[str, Any]) -> str:
    """Eight hex digits of everything in the configuration that affects results.

    A key that is null or false counts as absent, and so does a group of nothing else: one that is added later with
    such a default leaves the identity of the runs on disk alone.
    """

    def kept(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
        left = {
            key: kept(value, f"{prefix}{key}.") if isinstance(value, dict) else value
            for key, value in tree.items()
            if f"{prefix}{key}" not in OMITTED
        }
        return {key: value for key, value in left.items() if says_something(value) and value != {}}

    identity = kept(config)
    trainer = config.get("trainer", {})
    if trainer.get("devices", 1) > 1 and trainer.get("sync_batchnorm") is False:
        identity["each of so many processes normalises alone"] = trainer["devices"]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]


def says_something(value: Any) -> bool:
    """Whether a key of this value differs from an absent one: null and false do not."""
    return value is not None and value is not False


def run_id(config: dict[str, Any]) -> str:
    """<model>-d<depth>-lr<lr>-s<seed>-<hash>: readable, and different whenever a result could be."""
    model, depth, lr, seed = config["model"]["name"], config["depth"], config["lr"], config["seed"]
    return f"{model}-d{depth}-lr{lr:g}-s{seed}-{config_hash(config)}"


@dataclass(frozen=True)
class Run:
    """One training: its configuration (plain dicts) and its folder."""

    config: dict[str, Any]

    @cached_property
    def id(self) -> str:
        return run_id(self.config)

    @property
    def study(self) -> Path:
        return Path(self.config["runs"]) / self.config["study"]

    @property
    def folder(self) -> Path:
        return self.study / self.id

    @property
    def labels(self) -> dict[str, Any]:
        """The keys people sweep, flat."""
        typed = {key: self.config[key] for key in ("depth", "lr", "pool", "pos_emb", "seed")}
        return {"model": self.config["model"]["name"], "data": self.config["data"]["name"], **typed}

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    def result(self) -> dict[str, Any] | None:
        """What result.json says; None as long as there is none."""
        return read_result(self.folder)

    def begin(self) -> None:
        """Make the folder and forget the earlier ending; with `rerun=true`, everything an earlier training left."""
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        stale = ["result.json", "traceback.txt", f"**/{durable.TEMPORARY}"]
        if self.config["rerun"]:
            stale += ["mlflow_run_id", "metrics.csv", "csv/*/*", "events.out.tfevents.*", "**/*.ckpt"]
        for path in (path for pattern in stale for path in self.folder.glob(pattern)):
            path.unlink()
        durable.write_text(self.folder / "config.yaml", yaml.safe_dump(self.config, sort_keys=False))

    def finish(self, status: str, **content: Any) -> dict[str, Any]:
        """Write result.json, return what it says, and bring the study's summary up to date if that is due."""
        result = {"status": status, **content, "config_hash": config_hash(self.config), "run": self.labels}
        result = finite(result)
        durable.write_json(self.folder / "result.json", result)
        summary = self.study / "summary.csv"
        if not summary.exists() or time.time() - summary.stat().st_mtime > SUMMARY_SECONDS:
            write_summary(self.study)
        return result


def read_result(folder: Path) -> dict[str, Any] | None:
    """The run's result.json, or None if it has none."""
    try:
        return json.loads((folder / "result.json").read_text())
    except FileNotFoundError:
        return None


def finite(tree: Any) -> Any:
    """The same tree with NaN and infinities as None: JSON has no word for them."""
    if isinstance(tree, dict):
        return {key: finite(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [finite(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


COLUMNS = (
    "run_id", "status", "data", "model", "depth", "lr", "pool", "pos_emb", "seed",
    "epochs", "val/acc", "test/acc", "seconds",
)  # fmt: skip


def row(folder: Path) -> dict[str, Any]:
    """One run as a row of COLUMNS; a run without a result is `unfinished`."""
    result = read_result(folder) or {"status": "unfinished"}
    flat = {"run_id": folder.name, **result, **result.get("run", {}), **(result.get("metrics") or {})}
    return {column: flat.get(column) for column in COLUMNS}


def rows(folders: Iterable[Path]) -> list[dict[str, Any]]:
    """Rows of several runs, those to be compared next to each other."""
    keys = ("data", "depth", "lr", "pool", "pos_emb", "seed", "model")
    return sorted(map(row, folders), key=lambda r: [(r[k] is None, r[k] if r[k] is not None else 0) for k in keys])


def run_folders(study: Path) -> list[Path]:
    """The folders of a study that hold a run."""
    return sorted(path.parent for path in study.glob("*/config.yaml"))


def write_summary(study: Path) -> None:
    """summary.csv: one row per run of the study."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows(run_folders(study)))
    durable.write_text(study / "summary.csv", text.getvalue())


def print_table(study: Path, folders: Iterable[Path]) -> None:
    """The runs as a table in the terminal; columns in which nothing differs are named once above it.

    More than TABLE_ROWS are only counted.
    """
    from rich.console import Console
    from rich.table import Table

    found = rows(folders)
    names = ["model", "data", "depth", "lr", "pool", "pos_emb", "seed"]
    shown = [n for n in names if n == "model" or len({r[n] for r in found}) > 1]
    constant = ", ".join(f"{n}={found[0][n]}" for n in names if n not in shown and found[0][n] is not None)
    console, table = Console(), Table()
    console.print(f"[bold]{study}[/]  {constant}", soft_wrap=True)
    if len(found) > TABLE_ROWS:
        counts = Counter(r["status"] for r in found)
        told = ", ".join(f"{count:,} {status}" for status, count in counts.most_common())
        console.print(f"{len(found):,} runs: {told}; a row for each in {study / 'summary.csv'}", soft_wrap=True)
        return
    columns = (*shown, "status", "val/acc", "test/acc", "seconds")
    words = ("model", "data", "pool", "pos_emb", "status")
    formats = {"val/acc": "{:.2%}", "test/acc": "{:.2%}", "seconds": "{:.1f}"}
    for column in columns:
        table.add_column(column, justify="left" if column in words else "right")
    for r in found:
        table.add_row(*("–" if r[c] is None else formats.get(c, "{}").format(r[c]) for c in columns))
    console.print(table)
