"""summary.csv: one row per run, the swept keys beside what came out."""

import csv
import io
from typing import Any

from vitbn.analysis.arms import Arm
from vitbn.analysis.records import RunRecord

# the first thirteen as training writes them while a sweep is going
COLUMNS = (
    "run_id", "status", "data", "model", "depth", "lr", "pool", "pos_emb", "seed", "epochs", "val/acc",
    "test/acc", "seconds", "arm", "label", "train/loss", "val/loss", "test/loss", "parameters", "hardware",
    "error",
)  # fmt: skip


def row(run: RunRecord, arm: str = "") -> dict[str, Any]:
    """One run as a row of COLUMNS."""
    result = run.result
    keys = {column: run.config.get(column) for column in ("depth", "lr", "pool", "pos_emb", "seed")}
    metrics = {column: run.last(column) for column in COLUMNS if "/" in column}
    return {
        "run_id": run.run_id,
        "status": run.status,
        "data": run.config.get("data.name"),
        "model": run.config.get("model.name"),
        **keys,
        "epochs": len(run.rows.get("epoch", ())),
        **metrics,
        "seconds": result.get("seconds"),
        "arm": arm,
        "label": result.get("label"),
        "parameters": run.fingerprint.get("parameters"),
        "hardware": result.get("hardware"),
        "error": run.notes[0] if run.status == "unreadable" else _last_line(result.get("error")),
    }


def summary_csv(runs: list[RunRecord], arms: list[Arm]) -> str:
    """The whole file, runs to be compared next to each other."""
    names = {id(run): arm.name for arm in arms for run in arm.runs}
    rows = [row(run, names.get(id(run), "")) for run in runs]
    keys = ("data", "depth", "lr", "pool", "pos_emb", "seed", "model")
    rows.sort(key=lambda row: [(row[key] is None, 0 if row[key] is None else row[key]) for key in keys])
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _last_line(text: Any) -> str:
    return str(text).strip().splitlines()[-1] if text else ""
